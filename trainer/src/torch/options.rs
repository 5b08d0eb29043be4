//! How a plan is made.

use tch::{Device, Kind};

/// Which leaves get gradients. Bases of adapters never do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trainable {
    /// None: inference.
    Nothing,
    /// The adapter's.
    Adapters,
    /// All.
    All,
}

/// What becomes of an adapter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adapters {
    /// A branch beside the base, which can be trained.
    Live,
    /// One matrix, evaluated once.
    Merged,
}

/// How a plan is made.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PlanOptions {
    /// Where it computes.
    pub device: Device,
    /// The type in which it computes. Weights are kept in it too, except those that are trained, which are f32.
    pub kind: Kind,
    /// Which leaves get gradients at the start; later the leaves of a plan decide by their own `set_requires_grad`.
    pub trainable: Trainable,
    /// What becomes of an adapter.
    pub adapters: Adapters,
    /// Dropout before an adapter's A while training, 0 for none.
    pub adapter_dropout: f64,
}

impl PlanOptions {
    /// Inference in f32 with adapters live.
    pub fn inference(device: Device) -> PlanOptions {
        PlanOptions { device, kind: Kind::Float, trainable: Trainable::Nothing, adapters: Adapters::Live, adapter_dropout: 0.0 }
    }
}
