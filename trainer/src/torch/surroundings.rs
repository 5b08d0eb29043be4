//! What an operator works with.

use super::{
    Randomness,
    leaves::{Leaves, Parameter},
};
use tch::{Device, Kind, TchError, Tensor, kind::Element};

/// What an operator sees beside its inputs.
pub(super) struct Surroundings<'p> {
    /// The plan's tensors.
    pub leaves: &'p Leaves,
    /// The node's weights, in the order of `Op::weights`.
    pub weights: &'p [Parameter],
    /// The type that passes between operators.
    pub kind: Kind,
    /// Set while training: then dropout drops.
    pub randomness: Option<Randomness>,
    /// Dropout before an adapter's A.
    pub adapter_dropout: f64,
    /// The node's number.
    pub node: usize,
}

impl Surroundings<'_> {
    /// One of the node's weights as a tensor.
    pub fn weight(&self, number: usize) -> Result<Tensor, TchError> {
        self.leaves.whole(&self.weights[number])
    }

    /// Drops numbers while training; `part` tells several places of one node apart.
    pub fn dropout(&self, x: &Tensor, p: f64, part: usize) -> Result<Tensor, TchError> {
        match self.randomness {
            Some(randomness) => randomness.dropout(x, p, ((self.node as u64) << 16) | part as u64),
            None => Ok(x.shallow_clone()),
        }
    }
}

/// Numbers of the reading's own as a tensor, on the device of the tensors that they meet.
pub(super) fn on<T: Element>(values: &[T], device: Device) -> Result<Tensor, TchError> {
    Tensor::f_from_slice(values)?.f_to_device(device)
}

/// Size of the last axis; 1 for a single number.
pub(super) fn last(x: &Tensor) -> i64 {
    x.size().last().copied().unwrap_or(1)
}
