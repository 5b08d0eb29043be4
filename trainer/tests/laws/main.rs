//! Laws of the readings, on networks of random sizes with random weights. Every failure names its seed.

#[path = "../common/mod.rs"]
mod shared;

mod adapters;
mod errors;
mod onnx;
mod precision;
mod random;
mod readings;
mod rewrites;
mod rows;
mod training;
