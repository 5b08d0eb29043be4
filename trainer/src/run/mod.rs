//! A run's folder: what decides its result, its state, its metrics, and what it has made so far.
//!
//! At any moment the folder holds what a later `--resume` needs, even if the process is killed there: every file and folder appears whole or not at
//! all ([`files`]), the state names how much of the metrics belongs to it, and whatever was written after the state is cut away on resume.

mod decided;
pub mod files;
mod folder;
mod metrics;
pub mod predictions;
mod progress;
mod signals;
mod state;
pub mod tensorboard;

pub use decided::Decided;
pub use folder::{Opened, RunFolder};
pub use metrics::Kind;
pub use progress::{Progress, announce, memory_used, spelled};
pub use signals::{listen, stop_requested};
pub use state::State;
