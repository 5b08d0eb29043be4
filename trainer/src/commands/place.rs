//! `--device` of every command that computes.

use crate::{error::TrainError, start};
use clap::Args;
use tch::Device;

/// Where a command computes.
#[derive(Args, Clone)]
pub(super) struct Place {
    /// Where to compute: cpu, cuda, cuda:N, or auto for a GPU if there is one
    #[arg(long = "device", default_value = "auto", value_name = "DEVICE")]
    name: String,
}

impl Place {
    /// The device; starts libtorch.
    ///
    /// # Errors
    /// As [`start::device`].
    pub fn device(&self) -> Result<Device, TrainError> {
        start::device(&self.name)
    }
}
