//! The curriculum: which parts train in which epoch, and how much the fused loss weighs (facts: MMLNB, arXiv 2503.12927, section on the curriculum).

use serde::{Deserialize, Serialize};

/// How lambda goes from its start to its end between the two boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LambdaSchedule {
    /// In a straight line.
    Linear,
    /// In five equal stairs of which the first stands at the start: the released code's schedule.
    Stairs,
    /// The end's value in every epoch.
    Constant,
    /// In a straight line from the start in the first epoch to the end in the last, whatever the boundaries are.
    #[serde(rename = "zero-to-one")]
    OverAll,
}

/// Stairs between the boundaries in [`LambdaSchedule::Stairs`].
const STAIRS: usize = 5;

/// Encoders that do not learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The image encoder.
    pub image: bool,
    /// The text encoder.
    pub text: bool,
}

/// Stages and weights of the losses. Epochs count from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curriculum {
    /// Epochs in all.
    pub epochs: usize,
    /// First epoch in which the text encoder learns.
    pub text_from: usize,
    /// First epoch in which both encoders are frozen.
    pub encoders_until: usize,
    /// lambda before `text_from`.
    pub start: f64,
    /// lambda from `encoders_until` on.
    pub end: f64,
    /// How it goes from one to the other.
    pub schedule: LambdaSchedule,
}

impl Curriculum {
    /// Weight of the fused loss; the image loss weighs `1 - lambda`.
    pub fn lambda(&self, epoch: usize) -> f64 {
        let (first, second) = (self.text_from, self.encoders_until);
        let (first, second) = match self.schedule {
            LambdaSchedule::Constant => return self.end,
            LambdaSchedule::OverAll => (0, self.epochs.saturating_sub(1)),
            LambdaSchedule::Linear | LambdaSchedule::Stairs => (first, second),
        };
        let rise = self.end - self.start;
        match epoch {
            _ if epoch >= second => self.end,
            _ if epoch < first => self.start,
            _ if self.schedule == LambdaSchedule::Stairs => {
                let width = ((second - first) / STAIRS).max(1);
                let stair = ((epoch - first) / width).min(STAIRS);
                self.start + stair as f64 * rise / STAIRS as f64
            }
            _ => self.start + rise * (epoch - first) as f64 / (second - first) as f64,
        }
    }

    /// Which encoders do not learn in this epoch.
    pub fn frozen(&self, epoch: usize) -> Frozen {
        let late = epoch >= self.encoders_until;
        Frozen { image: late, text: late || epoch < self.text_from }
    }

    /// The stage, 1 to 3: text frozen, all learn, both encoders frozen.
    pub fn stage(&self, epoch: usize) -> usize {
        match self.frozen(epoch) {
            Frozen { image: true, .. } => 3,
            Frozen { text: true, .. } => 1,
            Frozen { .. } => 2,
        }
    }
}
