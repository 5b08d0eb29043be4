//! Adam's arithmetic in one pass over memory: weights, gradient and both moments are read once, weights and moments written once. libtorch's operators
//! need ten passes, and on a CPU memory is what an optimiser waits for.

use std::thread::scope;
use tch::{Device, Kind, Tensor};

/// Numbers below which other threads are not worth their start.
const WORTH_A_THREAD: usize = 1 << 18;

/// What a step does with each number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// `1 - learning_rate * decay` of AdamW; 1 for none.
    pub shrink: f32,
    /// Adam's decay, added to the gradient.
    pub decay: f32,
    /// `learning_rate / (1 - beta1^t)`.
    pub step: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    pub root: f32,
}

/// The four tensors of a step.
pub(super) struct Parts<'t> {
    pub weights: &'t Tensor,
    pub gradient: &'t Tensor,
    pub first: &'t Tensor,
    pub second: &'t Tensor,
}

impl Parts<'_> {
    /// Makes the step here; false when the tensors do not lie on the CPU in f32, one number after the other in the same order.
    pub fn step(&self, rates: Rates) -> bool {
        let all = [self.weights, self.gradient, self.first, self.second];
        let fits = |t: &&Tensor| {
            t.device() == Device::Cpu && t.kind() == Kind::Float && t.is_contiguous() && t.size() == self.weights.size()
        };
        if !all.iter().all(fits) {
            return false;
        }
        let count = self.weights.numel();
        // SAFETY: each tensor is contiguous f32 on the CPU with `count` numbers, lives as long as `self`, and is one of four different allocations: a
        // weight, its gradient, and moments that only the optimiser holds. Nothing else touches them: steps need `&mut Optimiser`.
        let (weights, gradient, first, second) = unsafe {
            (
                std::slice::from_raw_parts_mut(self.weights.data_ptr().cast::<f32>(), count),
                std::slice::from_raw_parts(self.gradient.data_ptr().cast::<f32>().cast_const(), count),
                std::slice::from_raw_parts_mut(self.first.data_ptr().cast::<f32>(), count),
                std::slice::from_raw_parts_mut(self.second.data_ptr().cast::<f32>(), count),
            )
        };
        let threads = (tch::get_num_threads().max(1) as usize).min(count.div_ceil(WORTH_A_THREAD)).max(1);
        let each = count.div_ceil(threads).max(1);
        if threads == 1 {
            one_pass(weights, gradient, first, second, rates);
            return true;
        }
        scope(|scope| {
            let pieces =
                weights.chunks_mut(each).zip(gradient.chunks(each)).zip(first.chunks_mut(each)).zip(second.chunks_mut(each));
            for (((weights, gradient), first), second) in pieces {
                scope.spawn(move || one_pass(weights, gradient, first, second, rates));
            }
        });
        true
    }
}

fn one_pass(weights: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], rates: Rates) {
    let Rates { beta1, beta2, eps, shrink, decay, step, root } = rates;
    for (((w, g), m), v) in weights.iter_mut().zip(gradient).zip(first).zip(second) {
        let g = g + decay * *w;
        *m += (1.0 - beta1) * (g - *m);
        *v = beta2 * *v + (1.0 - beta2) * (g * g);
        *w = shrink * *w - step * *m / (v.sqrt() * root + eps);
    }
}
