//! The tch reading: a graph and its weights become a [`Plan`] that libtorch runs.
//!
//! ```text
//! Plan::new(&graph, &weights, &options)?.forward(&[("pixel_values", pixels)])?.get("image_features")?
//! ```
//!
//! For training, [`Plan::forward_for_training`] keeps only what stands between blocks, and [`Pass::backward`] computes each block again
//! when its gradients are due. Norms, softmax and rotary angles are computed in f32 whatever the plan's precision is.

mod attention;
mod blocked;
mod dense;
mod dropout;
mod error;
mod inputs;
mod leaves;
mod norm;
mod options;
mod partition;
mod plan;
mod recompute;
mod rotary;
mod rows;
mod run;
mod step;
mod surroundings;
mod swin;
mod widen;

pub(crate) use blocked::in_rows;
pub use dropout::Randomness;
pub use error::TorchError;
pub(crate) use error::first_line;
pub use leaves::Leaf;
pub use options::{Adapters, PlanOptions, Trainable};
pub use plan::{Outputs, Plan, Watch};
pub use recompute::Pass;
pub use widen::is_widened;
