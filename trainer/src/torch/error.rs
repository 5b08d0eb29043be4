//! What can go wrong in the tch reading.

use mmlnb_models::{graph::Node, weights::WeightError};
use tch::{TchError, Tensor};

/// A plan cannot be made or run.
#[derive(Debug, thiserror::Error)]
pub enum TorchError {
    /// The weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// A weight cannot become a tensor (memory, device).
    #[error("the weight {weight} cannot be loaded: {problem}")]
    Loading {
        /// The expression.
        weight: String,
        /// First line of libtorch's message.
        problem: String,
    },
    /// An input is missing, unknown or does not fit.
    #[error("input `{name}`: {problem}")]
    Input {
        /// Its name.
        name: String,
        /// What does not fit.
        problem: String,
    },
    /// The network has no such output.
    #[error("the network has no output `{name}`; it has {known}")]
    Output {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// An operator failed.
    #[error("`{node}` ({op}, made at {at}) on {inputs}: {problem}")]
    Node {
        /// Name of the node.
        node: String,
        /// The operator.
        op: String,
        /// The line of the network that made it.
        at: String,
        /// Kinds and sizes of its inputs.
        inputs: String,
        /// First line of libtorch's message.
        problem: String,
    },
    /// The backward pass failed.
    #[error("backward pass, {part}: {problem}")]
    Backward {
        /// Which part of it.
        part: String,
        /// First line of libtorch's message.
        problem: String,
    },
}

/// libtorch's message without the C++ stack that follows it.
pub(crate) fn first_line(error: &TchError) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("Internal torch error: ").unwrap_or(line).to_string()
}

/// What went wrong at a node.
pub(super) fn failed(node: &Node, inputs: &[&Tensor], error: &TchError) -> TorchError {
    let inputs: Vec<String> = inputs.iter().map(|t| format!("{:?} {:?}", t.kind(), t.size())).collect();
    TorchError::Node {
        node: node.name.to_string(),
        op: node.op.title(),
        at: node.at.to_string(),
        inputs: inputs.join(", "),
        problem: first_line(error),
    }
}
