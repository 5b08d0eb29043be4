//! Stage 1 on a tiny checkpoint and a few small images.

#[path = "../common/mod.rs"]
mod shared;

mod bench;
mod gradients;
mod memory;
mod runs;
mod samples;
