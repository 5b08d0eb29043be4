//! The files of a run's folder: what decides its result, its metrics, what it said of each item, and how it is followed from outside.
//!
//! Every file and folder appears whole or not at all ([`files`]).

pub mod decided;
pub mod files;
pub mod metrics;
pub mod predictions;
pub mod progress;
pub mod signals;
pub mod tensorboard;

pub use decided::Decided;
pub use metrics::Kind;
pub use progress::{Progress, announce, memory_used, spelled};
pub use signals::{listen, stop_requested};
