//! One step: the gradients of a window of micro-batches, clipped, and what AdamW makes of them.

use super::{describer::Describer, sample::Batch};
use crate::{error::TrainError, optimiser::Optimiser, torch::Randomness};
use tch::{Kind, TchError, Tensor};

/// What a step did.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Stepped {
    /// Negative log-likelihood a labelled token, before the step.
    pub loss: f64,
    /// Length of the gradient before clipping.
    pub gradient_norm: f64,
    /// Labelled tokens.
    pub answer_tokens: usize,
    /// All tokens, padding left out.
    pub tokens: usize,
}

/// One step on a window of micro-batches: every labelled token of the window counts alike, whatever micro-batch it is in. `seed` and `first`, the number of the
/// window's first micro-batch in the run, key the dropout.
///
/// # Errors
/// A loss or gradient that is not finite (nothing was moved then); what libtorch refuses.
pub fn step(
    describer: &Describer,
    optimiser: &mut Optimiser,
    window: &[Batch],
    (learning_rate, clip): (f64, f64),
    (seed, first): (u64, u64),
) -> Result<Stepped, TrainError> {
    let leaves = describer.trained_leaves();
    leaves.iter().for_each(|leaf| clear(&leaf.tensor));
    let answer_tokens: usize = window.iter().map(|batch| batch.targets.len()).sum();
    let mut sum = 0.0;
    for (number, batch) in window.iter().enumerate() {
        sum += describer.learn(batch, answer_tokens, Randomness { seed, step: first + number as u64 })?;
    }
    let loss = sum / answer_tokens as f64;
    let gradients: Vec<Tensor> = leaves.iter().map(|leaf| leaf.tensor.grad()).filter(Tensor::defined).collect();
    let gradient_norm = clip_to(&gradients, clip)?;
    if !loss.is_finite() || !gradient_norm.is_finite() {
        return Err(TrainError::Failed(format!(
            "the loss is {loss} and the gradient's length {gradient_norm}: training has diverged; lower learning_rate, or set base_dtype = \"f32\""
        )));
    }
    optimiser.step(leaves, learning_rate)?;
    Ok(Stepped { loss, gradient_norm, answer_tokens, tokens: window.iter().map(Batch::seen).sum() })
}

/// Names of trained tensors that the last step gave no gradient.
pub fn without_gradient(describer: &Describer) -> Vec<String> {
    let leaves = describer.trained_leaves().into_iter().filter(|leaf| !leaf.tensor.grad().defined());
    leaves.map(|leaf| leaf.name.clone()).collect()
}

/// Scales gradients by `min(1, most / (length + 1e-6))`, as PyTorch does; their length before. `most` 0: left as they are.
fn clip_to(gradients: &[Tensor], most: f64) -> Result<f64, TchError> {
    let _constant = tch::no_grad_guard();
    let norms: Result<Vec<Tensor>, TchError> =
        gradients.iter().map(|gradient| gradient.f_norm()?.f_to_kind(Kind::Double)).collect();
    let norms = norms?;
    let length = if norms.is_empty() { 0.0 } else { Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])? };
    let factor = most / (length + 1e-6);
    if most > 0.0 && factor < 1.0 {
        for gradient in gradients {
            let _ = gradient.shallow_clone().f_mul_scalar_(factor)?;
        }
    }
    Ok(length)
}

fn clear(tensor: &Tensor) {
    let mut gradient = tensor.grad();
    if gradient.defined() {
        let _ = gradient.detach_().zero_();
    }
}
