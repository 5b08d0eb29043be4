//! The trainer: networks of [`mmlnb_models`] read with libtorch, and both stages of MMLNB trained with them.
//!
//! [`start`] comes first in every program: it loads the CUDA part if there is one and refuses a libtorch of another version. [`torch`] turns a
//! graph and its weights into a plan that runs forward and, for training, backward.

pub mod ablate;
pub mod classify;
pub mod commands;
pub mod compare;
pub mod data;
pub mod describe;
pub mod diagnostics;
pub mod error;
pub mod evaluate;
pub mod generate;
pub mod import;
pub mod optimiser;
pub mod phantom;
pub mod report;
pub mod run;
pub mod spelling;
pub mod start;
pub mod torch;
