//! Checkpoints and adapters: memory-mapped files behind canonical keys, and weights evaluated by rows.
//!
//! A [`Checkpoint`] knows every key style of its network and gives the tensors under one canonical name each; an [`Adapter`] is PEFT's folder;
//! [`Weights`] evaluates the expressions of [`crate::graph::Weight`] over both. Nothing here holds a whole model: tensors stay in the mapped files.

mod adapter;
mod adapter_config;
mod adapter_targets;
mod adapter_write;
mod checkpoint;
mod error;
mod evaluate;
mod foreign;
mod keys;
mod mapped;
mod merge;
mod merged;
mod stored;

pub use adapter::{Adapter, AdapterTensors};
pub use adapter_config::{AdapterConfig, Layers, Targets};
pub use checkpoint::Checkpoint;
pub use error::{Mismatch, WeightError};
pub use evaluate::{Blocks, Weights};
pub(crate) use foreign::told_quantised;
pub use keys::{KeyStyle, Naming};
pub use merged::{check_merged, write_changed, write_merged};
pub use stored::{DType, Stored};
