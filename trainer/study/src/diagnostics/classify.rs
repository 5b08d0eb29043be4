//! Diagnostics of stage 2.

use super::{Diagnostic, latest, loss_not_finite, news};
use serde::{Deserialize, Serialize};

/// How many epochs in a row must show a thing before it is told.
const IN_A_ROW: usize = 3;
/// Alpha's mean this near to one half, and its spread this small, mean that the confidence net has learned nothing.
const ALPHA_BAND: f64 = 0.02;
/// Loss above this many times the least so far has diverged.
const DIVERGED: f64 = 1.5;
/// Differences of accuracy below this are not worth a word, however many items there are.
const LEAST_GAP: f64 = 0.1;
/// Training accuracy this far above validation accuracy is memorising.
const MEMORISED: f64 = 0.25;
/// The text alone closes more than this share of the distance from always saying the commonest class to always being right.
const STRONG_TEXT: f64 = 0.5;

/// What stage 2 knows after an epoch; serialisable, because a resumed run goes on judging with the epochs before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifyEpoch {
    /// From 0.
    pub epoch: u64,
    /// Weight of the fused loss.
    pub lambda: f64,
    /// Mean training loss.
    pub loss: f64,
    /// Accuracy of the fused head on the training items, measured as they passed.
    pub train_accuracy: f64,
    /// Accuracy on the validation part.
    pub accuracy: f64,
    /// Accuracy of the text alone on the validation part, where the network has text.
    pub text_accuracy: Option<f64>,
    /// Accuracy of the image alone on the validation part, where the network has an image head.
    pub image_accuracy: Option<f64>,
    /// Mean of alpha_text on the validation part, where the network learns it.
    pub alpha_mean: Option<f64>,
    /// Standard deviation of alpha_text on the validation part.
    pub alpha_std: Option<f64>,
    /// Validation items of each class.
    pub truth: Vec<usize>,
    /// Validation items given to each class.
    pub predicted: Vec<usize>,
}

impl ClassifyEpoch {
    /// Twice the standard error of an accuracy measured on the validation part.
    fn noise(&self, accuracy: f64) -> f64 {
        let items: usize = self.truth.iter().sum();
        2.0 * (accuracy * (1.0 - accuracy) / items.max(1) as f64).sqrt()
    }

    /// Share of the commonest class.
    fn commonest(&self) -> f64 {
        let items: usize = self.truth.iter().sum();
        self.truth.iter().copied().max().unwrap_or(0) as f64 / items.max(1) as f64
    }
}

/// What the last of `epochs` brought to light; `planned`: epochs of the whole run; `classes`: names.
pub fn after_classify_epoch(epochs: &[ClassifyEpoch], planned: u64, classes: &[String]) -> Vec<Diagnostic> {
    news(epochs, |epochs| {
        let Some(last) = epochs.last() else { return Vec::new() };
        let found = [
            loss_not_finite(last.epoch, &[last.loss]),
            divergence(epochs, last),
            alpha_undecided(epochs),
            training_behind(epochs),
            memorising(epochs),
            text_strong_early(last, planned),
            classes_never_predicted(epochs, classes),
        ];
        found.into_iter().flatten().collect()
    })
}

fn divergence(epochs: &[ClassifyEpoch], last: &ClassifyEpoch) -> Option<Diagnostic> {
    let least = epochs.iter().map(|epoch| epoch.loss).fold(f64::INFINITY, f64::min);
    let half_of_guessing = 0.5 * (last.truth.len() as f64).ln();
    (last.loss.is_finite() && last.loss > DIVERGED * least && last.loss > half_of_guessing).then(|| Diagnostic {
        code: "divergence",
        message: format!(
            "The loss grows: {:.3} in epoch {} (lambda {:.2}) after {least:.3} at its least.",
            last.loss, last.epoch, last.lambda
        ),
        remedy: "lower the first lambda (lambda_start), so that the image branch stands before the fusion counts; if it grows with lambda at its start \
                 value, lower the learning rate.",
    })
}

fn alpha_undecided(epochs: &[ClassifyEpoch]) -> Option<Diagnostic> {
    let idle = |epoch: &ClassifyEpoch| match (epoch.alpha_mean, epoch.alpha_std) {
        (Some(mean), Some(std)) => (mean - 0.5).abs() < ALPHA_BAND && std < ALPHA_BAND,
        _ => false,
    };
    let recent = latest(epochs, IN_A_ROW)?;
    let last = recent.last().filter(|_| recent.iter().all(idle))?;
    Some(Diagnostic {
        code: "alpha_undecided",
        message: format!(
            "alpha_text stays at one half for every image (mean {:.3}, spread {:.3}): text and image are averaged, not weighed.",
            last.alpha_mean?, last.alpha_std?
        ),
        remedy: "give it more epochs with both encoders free, or confidence_hidden = 256; look whether the texts tell images apart at all, and whether \
                 no-prmf-fixed-0.5 in `ablate` is any worse.",
    })
}

fn training_behind(epochs: &[ClassifyEpoch]) -> Option<Diagnostic> {
    let behind = |epoch: &ClassifyEpoch| epoch.accuracy - epoch.train_accuracy > LEAST_GAP.max(epoch.noise(epoch.accuracy));
    let recent = latest(epochs, IN_A_ROW)?;
    let last = recent.last().filter(|_| recent.iter().all(behind))?;
    Some(Diagnostic {
        code: "training_behind_validation",
        message: format!(
            "Validation accuracy {:.2} lies far above training accuracy {:.2}: the model cannot fit what it is shown.",
            last.accuracy, last.train_accuracy
        ),
        remedy: "raise the rank of the describer's adapter (its texts are too poor), lower dropout and augmentation; and check that the validation part is \
                 not easier or a copy of training images (split by patient).",
    })
}

fn memorising(epochs: &[ClassifyEpoch]) -> Option<Diagnostic> {
    let ahead = |epoch: &ClassifyEpoch| epoch.train_accuracy - epoch.accuracy > MEMORISED.max(epoch.noise(epoch.accuracy));
    let recent = latest(epochs, IN_A_ROW)?;
    let last = recent.last().filter(|_| recent.iter().all(ahead))?;
    Some(Diagnostic {
        code: "memorising",
        message: format!(
            "Training accuracy {:.2} lies far above validation accuracy {:.2}: the training images are being memorised.",
            last.train_accuracy, last.accuracy
        ),
        remedy: "use the recipe robust (augmentation, weight decay), pretrained encoders instead of random ones, or more patients.",
    })
}

fn text_strong_early(last: &ClassifyEpoch, planned: u64) -> Option<Diagnostic> {
    let (text, image) = (last.text_accuracy?, last.image_accuracy?);
    let base = last.commonest();
    let strong = text - base > STRONG_TEXT * (1.0 - base) && text - image > LEAST_GAP.max(last.noise(text));
    (3 * last.epoch < planned && strong).then(|| Diagnostic {
        code: "text_strong_early",
        message: format!("The text alone already reaches {text:.2} in epoch {} (image alone: {image:.2}).", last.epoch),
        remedy: "the curriculum, which protects a weak text branch, is not needed here: compare with no-curriculum. And check that the descriptions do not \
                 simply name the class.",
    })
}

fn classes_never_predicted(epochs: &[ClassifyEpoch], classes: &[String]) -> Option<Diagnostic> {
    let recent = latest(epochs, IN_A_ROW)?;
    let never = |class: &usize| recent.iter().all(|epoch| epoch.truth[*class] > 0 && epoch.predicted[*class] == 0);
    let names: Vec<&str> = (0..classes.len()).filter(never).map(|class| classes[class].as_str()).collect();
    (!names.is_empty()).then(|| Diagnostic {
        code: "class_never_predicted",
        message: format!("No validation image was given to {} in the last {IN_A_ROW} epochs.", names.join(", ")),
        remedy: "set class_weights = \"balanced\" or balanced sampling, or train longer; with only a handful of its images, add patients of that class.",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An epoch of a run that goes well, 90 validation items.
    fn good(epoch: u64) -> ClassifyEpoch {
        ClassifyEpoch {
            epoch,
            lambda: 0.3,
            loss: 1.0 / (1.0 + epoch as f64),
            train_accuracy: 0.8,
            accuracy: 0.75,
            text_accuracy: Some(0.6),
            image_accuracy: Some(0.7),
            alpha_mean: Some(0.42),
            alpha_std: Some(0.1),
            truth: vec![30, 30, 30],
            predicted: vec![28, 31, 31],
        }
    }

    /// Codes told after each of six epochs, every epoch changed by `change`.
    fn told(change: impl Fn(&mut ClassifyEpoch)) -> Vec<(usize, &'static str)> {
        let classes: Vec<String> = ["UD", "PD", "D"].map(String::from).to_vec();
        let epochs: Vec<ClassifyEpoch> = (0..6)
            .map(|number| {
                let mut epoch = good(number);
                change(&mut epoch);
                epoch
            })
            .collect();
        let after = |count: usize| {
            after_classify_epoch(&epochs[..count], 30, &classes).into_iter().map(move |found| (count - 1, found.code))
        };
        (1..=epochs.len()).flat_map(after).collect()
    }

    #[test]
    fn a_run_that_goes_well_is_left_in_peace() {
        assert_eq!(told(|_| ()), []);
        assert_eq!(after_classify_epoch(&[], 30, &[]), []);
    }

    #[test]
    fn alpha_at_one_half_without_spread_is_told_once() {
        let idle = |epoch: &mut ClassifyEpoch| (epoch.alpha_mean, epoch.alpha_std) = (Some(0.511), Some(0.004));
        assert_eq!(told(idle), [(2, "alpha_undecided")]);
        assert_eq!(told(|epoch| (epoch.alpha_mean, epoch.alpha_std) = (Some(0.5), Some(0.2))), [], "a wide spread is a decision");
        assert_eq!(told(|epoch| (epoch.alpha_mean, epoch.alpha_std) = (None, None)), [], "image-only has no alpha");
    }

    #[test]
    fn growing_loss_is_divergence_and_names_the_first_lambda() {
        let growing = |epoch: &mut ClassifyEpoch| epoch.loss = if epoch.epoch < 4 { 0.6 } else { 1.4 };
        assert_eq!(told(growing), [(4, "divergence")]);
        let mut epochs: Vec<ClassifyEpoch> = (0..2).map(good).collect();
        epochs[1].loss = 2.0;
        let found = after_classify_epoch(&epochs, 30, &["a".into(), "b".into(), "c".into()]);
        assert!(found[0].remedy.contains("lower the first lambda"), "{}", found[0]);
        let small = |epoch: &mut ClassifyEpoch| epoch.loss = 0.01 * (1.0 + epoch.epoch as f64);
        assert_eq!(told(small), [], "a loss near zero may double");
    }

    #[test]
    fn a_loss_that_is_no_number_is_told_as_such() {
        assert_eq!(
            told(|epoch| if epoch.epoch == 3 {
                epoch.loss = f64::NAN
            }),
            [(3, "loss_not_finite")]
        );
        assert_eq!(
            told(|epoch| if epoch.epoch == 3 {
                epoch.loss = f64::INFINITY
            }),
            [(3, "loss_not_finite")]
        );
    }

    #[test]
    fn validation_far_above_training_asks_for_a_higher_rank() {
        assert_eq!(told(|epoch| epoch.train_accuracy = 0.5), [(2, "training_behind_validation")]);
        let few = |epoch: &mut ClassifyEpoch| (epoch.train_accuracy, epoch.truth) = (0.5, vec![4, 3, 3]);
        assert_eq!(told(few), [], "with ten items the difference is noise");
        let epochs = (0..3).map(|number| ClassifyEpoch { train_accuracy: 0.5, ..good(number) }).collect::<Vec<_>>();
        let found = after_classify_epoch(&epochs, 30, &["a".into(), "b".into(), "c".into()]);
        assert!(found[0].remedy.contains("raise the rank"), "{}", found[0]);
    }

    #[test]
    fn training_far_above_validation_is_memorising() {
        assert_eq!(told(|epoch| (epoch.train_accuracy, epoch.accuracy) = (0.99, 0.55)), [(2, "memorising")]);
    }

    #[test]
    fn a_text_that_is_strong_in_the_first_third_makes_the_curriculum_needless() {
        let strong = |epoch: &mut ClassifyEpoch| (epoch.text_accuracy, epoch.image_accuracy) = (Some(0.9), Some(0.5));
        assert_eq!(told(strong), [(0, "text_strong_early")]);
        let late = |epoch: &mut ClassifyEpoch| {
            strong(epoch);
            epoch.epoch += 10;
        };
        assert_eq!(told(late), [], "later it is what the curriculum is for");
    }

    #[test]
    fn a_class_that_is_never_predicted_is_named() {
        assert_eq!(told(|epoch| epoch.predicted = vec![50, 0, 40]), [(2, "class_never_predicted")]);
        assert_eq!(told(|epoch| (epoch.truth, epoch.predicted) = (vec![50, 0, 40], vec![50, 0, 40])), [], "it has no item there");
        let epochs = (0..3).map(|number| ClassifyEpoch { predicted: vec![50, 0, 40], ..good(number) }).collect::<Vec<_>>();
        let found = after_classify_epoch(&epochs, 30, &["UD".into(), "PD".into(), "D".into()]);
        assert!(found[0].message.contains("given to PD in"), "{}", found[0]);
    }
}
