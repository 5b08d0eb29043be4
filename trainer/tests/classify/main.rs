//! Stage 2 as a whole, at tiny sizes.

mod ablations;
mod data;
mod runs;
