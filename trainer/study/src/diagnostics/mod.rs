//! Live diagnostics: what a stage can see going wrong after an epoch, each with what to do about it.
//!
//! Pure functions over what the stage knows; a stage prints what is new and logs it with the kind `diagnostic`.

mod classify;
mod describe;
mod learnt_texts;
mod texts;

pub use classify::{ClassifyEpoch, after_classify_epoch};
pub use describe::{DescribeEpoch, after_describe_epoch};
pub use learnt_texts::{SideFacts, TextFacts};
pub use texts::{cut_texts, generic_texts};

use std::fmt;

/// Something that a run's user should know now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable name.
    pub code: &'static str,
    /// What was seen, with its figures.
    pub message: String,
    /// What to change.
    pub remedy: &'static str,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} What to do: {}", self.code, self.message, self.remedy)
    }
}

/// What `judge` finds in all epochs and did not find without the last one: a finding is told when it appears, not again each epoch.
fn news<E>(epochs: &[E], judge: impl Fn(&[E]) -> Vec<Diagnostic>) -> Vec<Diagnostic> {
    let Some((_, before)) = epochs.split_last() else { return Vec::new() };
    let known = judge(before);
    judge(epochs).into_iter().filter(|found| known.iter().all(|told| told.code != found.code)).collect()
}

/// The last `count` of `epochs`, or nothing while there are fewer.
fn latest<E>(epochs: &[E], count: usize) -> Option<&[E]> {
    epochs.len().checked_sub(count).map(|from| &epochs[from..])
}

/// The one that fits every stage: after it, no further step makes sense.
fn loss_not_finite(epoch: u64, losses: &[f64]) -> Option<Diagnostic> {
    losses.iter().any(|loss| !loss.is_finite()).then(|| Diagnostic {
        code: "loss_not_finite",
        message: format!("The loss of epoch {epoch} is not a finite number."),
        remedy: "go back to the last saved epoch with a learning rate ten times smaller; with f16 or bf16 weights, try base_dtype = \"f32\".",
    })
}
