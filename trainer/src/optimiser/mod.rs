//! Adam and AdamW (Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101), number for number as PyTorch's.
//!
//! A tensor without a gradient is left alone: neither it nor its moments nor its step count move. Each tensor counts its own steps.

mod fused;
#[cfg(test)]
mod tests;

use crate::torch::Leaf;
use fused::{Parts, Rates};
use std::collections::BTreeMap;
use tch::{Kind, TchError, Tensor};

/// Settings of one optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimiserOptions {
    /// Decay of the first and of the second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decay of the weights.
    pub weight_decay: f64,
    /// AdamW: the decay acts on the weights themselves; else it is added to the gradient.
    pub decoupled: bool,
}

/// Moments and step counts of named tensors.
#[derive(Debug)]
pub struct Optimiser {
    options: OptimiserOptions,
    moments: BTreeMap<String, Moments>,
}

#[derive(Debug)]
struct Moments {
    first: Tensor,
    second: Tensor,
    steps: i64,
}

impl Optimiser {
    /// An optimiser that has not made a step.
    pub fn new(options: OptimiserOptions) -> Optimiser {
        Optimiser { options, moments: BTreeMap::new() }
    }

    /// One step on every leaf that has a gradient.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn step<'l>(&mut self, leaves: impl IntoIterator<Item = &'l Leaf>, learning_rate: f64) -> Result<(), TchError> {
        let _constant = tch::no_grad_guard();
        for leaf in leaves {
            let gradient = leaf.tensor.grad();
            if leaf.tensor.requires_grad() && gradient.defined() {
                self.move_one(leaf, &gradient, learning_rate)?;
            }
        }
        Ok(())
    }

    fn move_one(&mut self, leaf: &Leaf, gradient: &Tensor, learning_rate: f64) -> Result<(), TchError> {
        let OptimiserOptions { betas: (beta1, beta2), eps, weight_decay, decoupled } = self.options;
        if !self.moments.contains_key(&leaf.name) {
            let zeros = || Tensor::f_zeros_like(&leaf.tensor);
            self.moments.insert(leaf.name.clone(), Moments { first: zeros()?, second: zeros()?, steps: 0 });
        }
        let moments = self.moments.get_mut(&leaf.name).expect("it was put there above");
        moments.steps += 1;
        let corrected = |beta: f64| 1.0 - beta.powi(moments.steps as i32);
        let rates = Rates {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            eps: eps as f32,
            shrink: if decoupled { (1.0 - learning_rate * weight_decay) as f32 } else { 1.0 },
            decay: if decoupled { 0.0 } else { weight_decay as f32 },
            step: (learning_rate / corrected(beta1)) as f32,
            root: (1.0 / corrected(beta2).sqrt()) as f32,
        };
        let parts = Parts { weights: &leaf.tensor, gradient, first: &moments.first, second: &moments.second };
        if parts.step(rates) {
            return Ok(());
        }
        let mut weights = leaf.tensor.shallow_clone();
        let mut gradient = gradient.shallow_clone();
        if weight_decay != 0.0 && decoupled {
            let _ = weights.f_mul_scalar_(1.0 - learning_rate * weight_decay)?;
        } else if weight_decay != 0.0 {
            gradient = gradient.f_add(&weights.f_mul_scalar(weight_decay)?)?;
        }
        let _ = moments.first.f_lerp_(&gradient, 1.0 - beta1)?;
        let squares = gradient.f_mul(&gradient)?.f_mul_scalar(1.0 - beta2)?;
        let _ = moments.second.f_mul_scalar_(beta2)?.f_add_(&squares)?;
        let root = moments.second.f_sqrt()?.f_div_scalar(corrected(beta2).sqrt())?.f_add_scalar(eps)?;
        let update = moments.first.f_div(&root)?.f_mul_scalar(-learning_rate / corrected(beta1))?;
        weights.f_add_(&update).map(|_| ())
    }

    /// Its state as named tensors, for a checkpoint: `NAME.first`, `NAME.second`, `NAME.steps` (i64).
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let parts = |(name, m): (&String, &Moments)| {
            let steps = Tensor::from_slice(&[m.steps]);
            [("first", m.first.shallow_clone()), ("second", m.second.shallow_clone()), ("steps", steps)]
                .map(|(part, tensor)| (format!("{name}.{part}"), tensor))
        };
        self.moments.iter().flat_map(parts).collect()
    }

    /// Takes back what [`Optimiser::state`] gave, onto the devices of the leaves.
    ///
    /// # Errors
    /// A leaf's state that is there in part, or in another size.
    pub fn restore<'l>(
        &mut self,
        leaves: impl IntoIterator<Item = &'l Leaf>,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<(), String> {
        self.moments.clear();
        for leaf in leaves {
            let part = |part: &str| state.get(&format!("{}.{part}", leaf.name));
            let (first, second, steps) = match (part("first"), part("second"), part("steps")) {
                (None, None, None) => continue,
                (Some(first), Some(second), Some(steps)) => (first, second, steps),
                _ => return Err(format!("the optimiser's state of {} is not whole", leaf.name)),
            };
            if [first, second].iter().any(|t| t.size() != leaf.tensor.size()) {
                return Err(format!("the optimiser's state of {} has another size than the weight", leaf.name));
            }
            let there = |t: &Tensor| t.to_device(leaf.tensor.device()).to_kind(Kind::Float).copy();
            let moments = Moments { first: there(first), second: there(second), steps: steps.int64_value(&[0]) };
            self.moments.insert(leaf.name.clone(), moments);
        }
        Ok(())
    }
}
