//! The learning rate over a run.

use serde::{Deserialize, Serialize};

/// Its shape after the warm-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Falls in a straight line to 0 after the last step.
    Linear,
    /// Falls in half a cosine wave to 0 after the last step.
    Cosine,
    /// Stays.
    Constant,
}

/// A schedule, as transformers counts it: the first step of a warm-up has rate 0.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Schedule {
    /// Highest learning rate.
    pub peak: f64,
    /// Steps in which it rises.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
    /// After the warm-up.
    pub shape: Shape,
}

impl Schedule {
    /// The learning rate of step `step`, from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let rest = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / rest).min(1.0);
        self.peak
            * match self.shape {
                Shape::Linear => 1.0 - done,
                Shape::Cosine => (1.0 + (std::f64::consts::PI * done).cos()) / 2.0,
                Shape::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall_as_transformers_has_them() {
        let schedule = |shape| Schedule { peak: 2.0, warmup: 2, steps: 6, shape };
        let rates = |shape| (0..7).map(|step| schedule(shape).rate(step)).collect::<Vec<_>>();
        assert_eq!(rates(Shape::Linear), [0.0, 1.0, 2.0, 1.5, 1.0, 0.5, 0.0]);
        assert_eq!(rates(Shape::Constant), [0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]);
        let cosine = rates(Shape::Cosine);
        assert!((cosine[4] - 1.0).abs() < 1e-12 && cosine[6].abs() < 1e-12 && cosine[3] > 1.5, "{cosine:?}");
    }
}
