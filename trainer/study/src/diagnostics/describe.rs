//! Diagnostics of stage 1.

use super::{Diagnostic, generic_texts, latest, loss_not_finite, news};
use serde::{Deserialize, Serialize};

/// Training loss above this many times the least so far has diverged.
const DIVERGED: f64 = 1.5;
/// Validation loss above this many times its least, twice in a row, is memorising.
const MEMORISED: f64 = 1.05;
/// Fewer texts than this share stop by themselves: something is wrong with the end token.
const LEAST_STOPPED: f64 = 0.5;
/// A higher share of repeated 4-grams is called repetition.
const MOST_REPEATED: f64 = 0.3;

/// What stage 1 knows after an epoch; serialisable, because a resumed run goes on judging with the epochs before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DescribeEpoch {
    /// From 0.
    pub epoch: u64,
    /// Mean training loss a token.
    pub loss: f64,
    /// Validation loss a token; absent without a validation part.
    pub nll: Option<f64>,
    /// Texts generated for the fixed validation subset; empty when none were.
    pub texts: Vec<String>,
    /// Share of them that stopped by themselves.
    pub stopped: Option<f64>,
    /// 1 - distinct 4-grams / 4-grams.
    pub repetition: Option<f64>,
}

/// What the last of `epochs` brought to light.
pub fn after_describe_epoch(epochs: &[DescribeEpoch]) -> Vec<Diagnostic> {
    news(epochs, |epochs| {
        let Some(last) = epochs.last() else { return Vec::new() };
        let losses: Vec<f64> = [Some(last.loss), last.nll].into_iter().flatten().collect();
        let found = [
            loss_not_finite(last.epoch, &losses),
            divergence(epochs, last),
            memorising(epochs),
            generic_texts(last.texts.iter().map(String::as_str)),
            never_stops(last),
            repeats(last),
        ];
        found.into_iter().flatten().collect()
    })
}

fn divergence(epochs: &[DescribeEpoch], last: &DescribeEpoch) -> Option<Diagnostic> {
    let least = epochs.iter().map(|epoch| epoch.loss).fold(f64::INFINITY, f64::min);
    (last.loss.is_finite() && last.loss > DIVERGED * least && last.loss > 0.5).then(|| Diagnostic {
        code: "divergence",
        message: format!("The training loss grows: {:.3} in epoch {} after {least:.3} at its least.", last.loss, last.epoch),
        remedy: "lower the learning rate or lengthen the warm-up; with a high rank, use_rslora = false or a smaller alpha.",
    })
}

fn memorising(epochs: &[DescribeEpoch]) -> Option<Diagnostic> {
    let (best, least) =
        epochs.iter().filter_map(|epoch| Some((epoch.epoch, epoch.nll?))).min_by(|(_, one), (_, other)| one.total_cmp(other))?;
    let recent = latest(epochs, 2)?;
    let above = |epoch: &DescribeEpoch| epoch.nll.is_some_and(|nll| nll > MEMORISED * least);
    recent.iter().all(above).then(|| Diagnostic {
        code: "memorising",
        message: format!("The validation loss has grown since epoch {best} (least {least:.3}): the training texts are being memorised."),
        remedy: "nothing is lost, best/ holds the better epoch; stop here, or use fewer epochs, a lower rank, more dropout, or more pairs.",
    })
}

fn never_stops(last: &DescribeEpoch) -> Option<Diagnostic> {
    let stopped = last.stopped.filter(|share| *share < LEAST_STOPPED)?;
    Some(Diagnostic {
        code: "never_stops",
        message: format!("Only {:.0} % of the generated texts stop by themselves.", 100.0 * stopped),
        remedy: "train longer, since the end token is learned late; raise max_new_tokens if the references are longer than it; check the end of a sample with \
                 --dry-run.",
    })
}

fn repeats(last: &DescribeEpoch) -> Option<Diagnostic> {
    let repetition = last.repetition.filter(|share| *share > MOST_REPEATED)?;
    Some(Diagnostic {
        code: "repetition",
        message: format!("{:.0} % of the 4-grams in the generated texts are repetitions.", 100.0 * repetition),
        remedy: "train longer, or raise repetition_penalty in the generation settings (1.05 to 1.2).",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(epoch: u64) -> DescribeEpoch {
        let texts = (0..10).map(|number| format!("{number} rosettes")).collect();
        let loss = 2.0 / (1.0 + epoch as f64);
        DescribeEpoch { epoch, loss, nll: Some(loss + 0.1), texts, stopped: Some(1.0), repetition: Some(0.02) }
    }

    fn told(change: impl Fn(&mut DescribeEpoch)) -> Vec<(usize, &'static str)> {
        let epochs: Vec<DescribeEpoch> = (0..5)
            .map(|number| {
                let mut epoch = good(number);
                change(&mut epoch);
                epoch
            })
            .collect();
        let after = |count: usize| after_describe_epoch(&epochs[..count]).into_iter().map(move |found| (count - 1, found.code));
        (1..=epochs.len()).flat_map(after).collect()
    }

    #[test]
    fn a_run_that_goes_well_is_left_in_peace() {
        assert_eq!(told(|_| ()), []);
        assert_eq!(after_describe_epoch(&[]), []);
    }

    #[test]
    fn the_same_text_for_every_image_is_told() {
        assert_eq!(
            told(|epoch| if epoch.epoch >= 2 {
                epoch.texts = vec!["Small cells.".into(); 10]
            }),
            [(2, "generic_descriptions")]
        );
    }

    #[test]
    fn growing_losses_are_told_apart() {
        assert_eq!(told(|epoch| epoch.loss = if epoch.epoch < 3 { 1.0 } else { 1.8 }), [(3, "divergence")]);
        assert_eq!(told(|epoch| epoch.nll = Some(1.0 + 0.1 * epoch.epoch as f64)), [(2, "memorising")]);
        assert_eq!(told(|epoch| epoch.nll = None), []);
        assert_eq!(
            told(|epoch| if epoch.epoch == 1 {
                epoch.loss = f64::NAN
            }),
            [(1, "loss_not_finite")]
        );
    }

    #[test]
    fn texts_that_run_on_or_repeat_are_told() {
        assert_eq!(told(|epoch| epoch.stopped = Some(0.3)), [(0, "never_stops")]);
        assert_eq!(told(|epoch| epoch.repetition = Some(0.6)), [(0, "repetition")]);
        assert_eq!(told(|epoch| (epoch.stopped, epoch.repetition) = (None, None)), []);
    }
}
