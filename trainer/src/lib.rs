//! The trainer: networks of [`mmlnb_models`] read with libtorch, and both stages of MMLNB trained with them.
//!
//! [`start`] comes first in every program: it loads the CUDA part if there is one and refuses a libtorch of another version. [`torch`] turns a
//! graph and its weights into a plan that runs forward and, for training, backward. What never touches libtorch stands in [`mmlnb_study`] and
//! [`mmlnb_phantom`].

pub mod ablate;
pub mod calibrate;
pub mod classify;
pub mod commands;
pub mod describe;
pub mod error;
pub mod evaluate;
pub mod generate;
pub mod libtorch;
pub mod optimiser;
pub mod recipe;
pub mod run;
pub mod start;
pub mod threads;
pub mod torch;

pub use mmlnb_study::{compare, data, diagnostics, import, report, spelling};
