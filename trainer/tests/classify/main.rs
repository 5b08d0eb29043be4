//! Stage 2 as a whole, at tiny sizes.

mod data;
mod runs;
