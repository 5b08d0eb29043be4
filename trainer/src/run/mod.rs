//! A run's folder: what decides its result, its state, its metrics, and what it has made so far.
//!
//! At any moment the folder holds what a later `--resume` needs, even if the process is killed there: every file and folder appears whole or not at
//! all ([`files`]), the state names how much of the metrics belongs to it, and whatever was written after the state is cut away on resume.

mod folder;
mod state;

pub use folder::{Opened, RunFolder};
pub use mmlnb_study::run::{Decided, Kind, Progress, announce, files, listen, memory_used, predictions, spelled, stop_requested};
pub use state::State;
