//! A training run's folder and what is logged into it.

pub mod predictions;
pub mod tensorboard;
