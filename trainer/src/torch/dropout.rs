//! Dropout whose masks depend on a key, not on the order of execution: a block that is computed again drops the same numbers.

use std::sync::Mutex;
use tch::{TchError, Tensor};

/// Key of all random numbers of one training step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Randomness {
    /// The run's seed.
    pub seed: u64,
    /// Number of the step (count micro-batches, so that no two share their masks).
    pub step: u64,
}

impl Randomness {
    /// The key of one of several passes through the same graph in one step, as of each image of a micro-batch: no two share their masks, nor does one with
    /// a pass that has the step's own key.
    pub fn of_pass(self, number: u64) -> Randomness {
        Randomness { seed: mixed(self.seed ^ mixed(number.wrapping_add(1))), ..self }
    }

    /// Drops numbers with probability `p` and scales the others by `1 / (1 - p)`; `place` tells the graph's places apart.
    pub(super) fn dropout(self, x: &Tensor, p: f64, place: u64) -> Result<Tensor, TchError> {
        if p == 0.0 {
            return Ok(x.shallow_clone());
        }
        let kept = self.bernoulli(x, 1.0 - p, place)?;
        x.f_mul(&kept.f_mul_scalar(1.0 / (1.0 - p))?)
    }

    fn bernoulli(self, like: &Tensor, p: f64, place: u64) -> Result<Tensor, TchError> {
        // libtorch's generator is global: seeding and drawing must not be torn apart by another thread.
        static GENERATOR: Mutex<()> = Mutex::new(());
        let _drawing = GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _constant = tch::no_grad_guard();
        tch::manual_seed(self.key(place) as i64);
        like.f_empty_like()?.f_bernoulli_float_(p)
    }

    fn key(self, place: u64) -> u64 {
        [self.step, place].iter().fold(mixed(self.seed), |key, part| mixed(key ^ mixed(*part)))
    }
}

/// SplitMix64's finaliser (Steele et al., 2014).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn passes_of_one_step_have_masks_of_their_own() {
        let x = Tensor::ones([64, 64], (Kind::Float, Device::Cpu));
        let step = Randomness { seed: 7, step: 3 };
        let masks: Vec<Tensor> =
            [step, step.of_pass(0), step.of_pass(1)].iter().map(|key| key.dropout(&x, 0.25, 11).unwrap()).collect();
        assert!(masks[0] != masks[1] && masks[0] != masks[2] && masks[1] != masks[2]);
        assert_eq!(masks[2], step.of_pass(1).dropout(&x, 0.25, 11).unwrap());
    }

    #[test]
    fn masks_depend_on_the_key_alone() {
        let x = Tensor::ones([64, 64], (Kind::Float, Device::Cpu));
        let a = Randomness { seed: 7, step: 3 };
        let first = a.dropout(&x, 0.25, 11).unwrap();
        tch::manual_seed(1);
        assert_eq!(first, a.dropout(&x, 0.25, 11).unwrap());
        for (other, place) in [(Randomness { step: 4, ..a }, 11), (Randomness { seed: 8, ..a }, 11), (a, 12)] {
            assert_ne!(first, other.dropout(&x, 0.25, place).unwrap());
        }
        let kept = first.ne(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!((kept - 0.75).abs() < 0.03, "{kept} kept");
        assert!((first.mean(Kind::Double).double_value(&[]) - 1.0).abs() < 0.04);
    }
}
