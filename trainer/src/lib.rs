//! The trainer: networks of [`mmlnb_models`] read with libtorch.
//!
//! [`start`] comes first in every program: it loads the CUDA part if there is one and refuses a libtorch of another version. [`torch`] turns a
//! graph and its weights into a plan that runs forward and, for training, backward.

pub mod start;
pub mod torch;
