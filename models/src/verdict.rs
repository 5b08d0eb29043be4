//! Whether an answer is accepted, or the program abstains, and why: one rule for the trainer's figures and the appliance's reports.

use crate::bundle::{Calibration, Ranges};
use crate::measures::generated::repetition;
use crate::prepare::colours::MEASURES;

/// Share of stained tissue below which there is nothing to judge.
const LEAST_TISSUE: f64 = 0.1;
/// A side or scale may lie outside of the training's range by this factor.
const BEYOND: f64 = 1.25;
/// Share of repeated 4-grams above which a description runs in circles.
const REPEATED: f64 = 0.5;

/// What is known about one image and its answer; what is absent is not judged.
#[derive(Clone, Debug, Default)]
pub struct Evidence<'a> {
    /// softmax(logits / temperature), fused.
    pub probabilities: &'a [f64],
    /// The class that leads in the opinion of the image alone.
    pub image_leading: Option<usize>,
    /// Distance of the fused features to those of the training images.
    pub novelty: Option<f64>,
    /// How it is stained ([`crate::prepare::colours::measures`]).
    pub colours: Option<[f64; MEASURES]>,
    /// Share of the pixels that show stained tissue, 0 to 1 ([`crate::prepare::tissue::share`]).
    pub tissue_share: Option<f64>,
    /// Width and height of the image as it was given, in pixels.
    pub image_size: Option<[usize; 2]>,
    /// Micrometres a pixel, if the file states them.
    pub microns_per_pixel: Option<f64>,
    /// A part of the file was perhaps never written.
    pub blank_tail: bool,
    /// The decoder found damage that it read past.
    pub damaged: bool,
    /// The text that the describer wrote and the classifier read.
    pub text: Option<Text<'a>>,
}

/// A generated description.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Its words.
    pub words: &'a str,
    /// Whether the model ended it, rather than the limit on its length.
    pub finished: bool,
}

/// The decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The leading class is the answer.
    Accepted,
    /// No class is named.
    Abstain,
    /// Without a calibration nobody knows how often such an answer is right.
    NotAssessed,
}

/// Why an answer was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// There is no calibration.
    NotCalibrated,
    /// No threshold kept the promised risk.
    NoThreshold,
    /// The top probability lies below the threshold.
    LowConfidence,
    /// The image alone leads to another class.
    ImageDisagrees,
    /// The features lie far from those of the training images.
    FarFromTraining,
    /// Stained unlike the training images.
    UnusualColours,
    /// Hardly any stained tissue.
    NoTissue,
    /// Much smaller or larger than the training images.
    UnusualSize,
    /// Another magnification than the training images.
    UnusualMagnification,
    /// The description was cut at its longest length.
    DescriptionUnfinished,
    /// The description is one that is written for many images, repeats itself, or is empty.
    DescriptionGeneric,
    /// A part of the file was perhaps never written.
    ImageUnfinished,
    /// The file is damaged.
    ImageDamaged,
}

impl Decision {
    /// Its name in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            Decision::Accepted => "accepted",
            Decision::Abstain => "abstain",
            Decision::NotAssessed => "not_assessed",
        }
    }
}

impl Reason {
    /// All of them, in the order in which they are told.
    pub const ALL: [Reason; 13] = [
        Reason::NotCalibrated,
        Reason::NoThreshold,
        Reason::LowConfidence,
        Reason::ImageDisagrees,
        Reason::FarFromTraining,
        Reason::UnusualColours,
        Reason::NoTissue,
        Reason::UnusualSize,
        Reason::UnusualMagnification,
        Reason::DescriptionUnfinished,
        Reason::DescriptionGeneric,
        Reason::ImageUnfinished,
        Reason::ImageDamaged,
    ];

    /// Its code in JSON and tables.
    pub fn code(self) -> &'static str {
        match self {
            Reason::NotCalibrated => "not_calibrated",
            Reason::NoThreshold => "no_threshold",
            Reason::LowConfidence => "low_confidence",
            Reason::ImageDisagrees => "image_disagrees",
            Reason::FarFromTraining => "far_from_training",
            Reason::UnusualColours => "unusual_colours",
            Reason::NoTissue => "no_tissue",
            Reason::UnusualSize => "unusual_size",
            Reason::UnusualMagnification => "unusual_magnification",
            Reason::DescriptionUnfinished => "description_unfinished",
            Reason::DescriptionGeneric => "description_generic",
            Reason::ImageUnfinished => "image_unfinished",
            Reason::ImageDamaged => "image_damaged",
        }
    }

    /// What a pathologist reads, one sentence.
    pub fn words(self) -> &'static str {
        match self {
            Reason::NotCalibrated => {
                "This bundle was not calibrated on validation data, so nobody knows how often a probability like this is right."
            }
            Reason::NoThreshold => {
                "No threshold could be found on validation data at which this bundle is reliable enough, so it abstains from every verdict."
            }
            Reason::LowConfidence => "The probability lies below the threshold that was set on validation data.",
            Reason::ImageDisagrees => "The image alone leads to another class than image and text together.",
            Reason::FarFromTraining => "The patch looks unlike the patches that the model was trained on.",
            Reason::UnusualColours => {
                "The patch is stained unlike the patches that the model was trained on: another stain or scanner, or no such tissue."
            }
            Reason::NoTissue => "Hardly any stained tissue is on the patch.",
            Reason::UnusualSize => "The patch is much smaller or larger than the patches that the model was trained on.",
            Reason::UnusualMagnification => {
                "The file states another magnification than that of the patches that the model was trained on."
            }
            Reason::DescriptionUnfinished => "The description reached its longest length and ends in the middle.",
            Reason::DescriptionGeneric => {
                "The description says nothing about this patch: it is empty, repeats itself, or is written for many different patches."
            }
            Reason::ImageUnfinished => {
                "A part of the image file was perhaps never written: it is only reserved, or its end is only zeros."
            }
            Reason::ImageDamaged => "The image file is damaged; parts of the picture may be wrong.",
        }
    }

    /// The reason with a code; none for one of another version.
    pub fn with_code(code: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

/// The index of the largest value, the first of equal ones; none without values or with one that is no number.
pub fn leading(values: &[f64]) -> Option<usize> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    (0..values.len()).reduce(|best, at| if values[at] > values[best] { at } else { best })
}

/// The decision about an answer with every reason against it; [`Decision::Accepted`] without one.
///
/// Without a calibration the answer is [`Decision::NotAssessed`], for that reason alone.
pub fn verdict(evidence: &Evidence<'_>, calibration: Option<&Calibration>) -> (Decision, Vec<Reason>) {
    let Some(calibration) = calibration else { return (Decision::NotAssessed, vec![Reason::NotCalibrated]) };
    let fused = leading(evidence.probabilities);
    let confidence = fused.map_or(0.0, |class| evidence.probabilities[class]);
    let far = |novelty| calibration.novelty.as_ref().is_some_and(|limit| novelty > limit.threshold);
    let ranges = calibration.ranges.as_ref();
    let holds = |reason: &Reason| match reason {
        Reason::NotCalibrated => false,
        Reason::NoThreshold => calibration.threshold.is_none(),
        Reason::LowConfidence => calibration.threshold.is_some_and(|threshold| confidence < threshold),
        Reason::ImageDisagrees => evidence.image_leading.is_some() && evidence.image_leading != fused,
        Reason::FarFromTraining => evidence.novelty.is_some_and(far),
        Reason::UnusualColours => {
            calibration.colours.as_ref().zip(evidence.colours).is_some_and(|(limit, colours)| limit.is_exceeded(&colours))
        }
        Reason::NoTissue => evidence.tissue_share.is_some_and(|share| share < LEAST_TISSUE),
        Reason::UnusualSize => evidence.image_size.is_some_and(|size| unusual_size(size, ranges)),
        Reason::UnusualMagnification => evidence.microns_per_pixel.is_some_and(|scale| unusual_scale(scale, ranges)),
        Reason::DescriptionUnfinished => evidence.text.is_some_and(|text| !text.finished),
        Reason::DescriptionGeneric => evidence.text.is_some_and(|text| generic(text.words, &calibration.generic_texts)),
        Reason::ImageUnfinished => evidence.blank_tail,
        Reason::ImageDamaged => evidence.damaged,
    };
    let reasons: Vec<Reason> = Reason::ALL.into_iter().filter(holds).collect();
    let decision = if reasons.is_empty() { Decision::Accepted } else { Decision::Abstain };
    (decision, reasons)
}

fn unusual_size([width, height]: [usize; 2], ranges: Option<&Ranges>) -> bool {
    let range = ranges.and_then(|ranges| ranges.image_side);
    range.is_some_and(|range| outside(width.min(height) as f64, range) || outside(width.max(height) as f64, range))
}

fn unusual_scale(scale: f64, ranges: Option<&Ranges>) -> bool {
    ranges.and_then(|ranges| ranges.microns_per_pixel).is_some_and(|range| outside(scale, range))
}

fn outside(value: f64, [least, most]: [f64; 2]) -> bool {
    value < least / BEYOND || value > most * BEYOND
}

/// Whether a description says nothing about its image: empty, among `known` but for spaces and case, or running in circles.
pub fn generic(text: &str, known: &[String]) -> bool {
    let plain = |text: &str| text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>();
    let words = plain(text);
    words.is_empty() || repetition(text).is_some_and(|share| share > REPEATED) || known.iter().any(|other| plain(other) == words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{ColourLimit, NoveltyLimit};
    use crate::measures::novelty::Mahalanobis;

    fn calibration() -> Calibration {
        Calibration {
            temperature: 1.0,
            threshold: Some(0.6),
            novelty: Some(NoveltyLimit { threshold: 0.5, false_alarm: 0.05, neighbours: 10 }),
            colours: Some(colours()),
            ranges: Some(Ranges { image_side: Some([200.0, 256.0]), microns_per_pixel: Some([0.25, 0.5]) }),
            generic_texts: vec!["Small round cells.".to_string()],
            ..Calibration::default()
        }
    }

    const USUAL: [f64; MEASURES] = [0.2, 0.15, 0.02, 0.15, 0.08, 0.8, 0.35];

    /// Of images around [`USUAL`].
    fn colours() -> ColourLimit {
        let image = |at: usize| {
            USUAL.iter().enumerate().map(move |(n, value)| (value + 0.01 * ((at * (n + 2) * 7) % 11) as f64 - 0.05) as f32)
        };
        let images: Vec<Vec<f32>> = (0..80).map(|at| image(at).collect()).collect();
        let distance = Mahalanobis::fit(&images, &[0; 80]).unwrap();
        ColourLimit { distance, threshold: 30.0, false_alarm: 0.05 }
    }

    fn good() -> Evidence<'static> {
        Evidence {
            probabilities: &[0.1, 0.7, 0.2],
            image_leading: Some(1),
            novelty: Some(0.5),
            colours: Some(USUAL),
            tissue_share: Some(0.9),
            image_size: Some([224, 256]),
            microns_per_pixel: Some(0.4),
            blank_tail: false,
            damaged: false,
            text: Some(Text { words: "Sheets of small cells with scant neuropil.", finished: true }),
        }
    }

    #[test]
    fn a_familiar_confident_answer_is_accepted() {
        assert_eq!(verdict(&good(), Some(&calibration())), (Decision::Accepted, vec![]));
    }

    #[test]
    fn each_piece_of_evidence_has_its_own_reason() {
        let text = |words, finished| Some(Text { words, finished });
        let cases: [(Evidence<'_>, Reason); 15] = [
            (Evidence { probabilities: &[0.3, 0.59, 0.11], ..good() }, Reason::LowConfidence),
            (Evidence { image_leading: Some(2), ..good() }, Reason::ImageDisagrees),
            (Evidence { novelty: Some(0.51), ..good() }, Reason::FarFromTraining),
            (Evidence { colours: Some(USUAL.map(|value| 1.5 * value)), ..good() }, Reason::UnusualColours),
            (Evidence { tissue_share: Some(0.05), ..good() }, Reason::NoTissue),
            (Evidence { image_size: Some([224, 321]), ..good() }, Reason::UnusualSize),
            (Evidence { image_size: Some([159, 224]), ..good() }, Reason::UnusualSize),
            (Evidence { microns_per_pixel: Some(1.0), ..good() }, Reason::UnusualMagnification),
            (Evidence { microns_per_pixel: Some(0.1), ..good() }, Reason::UnusualMagnification),
            (Evidence { text: text("Sheets of", false), ..good() }, Reason::DescriptionUnfinished),
            (Evidence { text: text(" small  round\ncells. ", true), ..good() }, Reason::DescriptionGeneric),
            (Evidence { text: text("", true), ..good() }, Reason::DescriptionGeneric),
            (Evidence { text: text("a b c d a b c d a b c d a b c d", true), ..good() }, Reason::DescriptionGeneric),
            (Evidence { blank_tail: true, ..good() }, Reason::ImageUnfinished),
            (Evidence { damaged: true, ..good() }, Reason::ImageDamaged),
        ];
        for (evidence, reason) in cases {
            assert_eq!(verdict(&evidence, Some(&calibration())), (Decision::Abstain, vec![reason]), "{evidence:?}");
        }
    }

    #[test]
    fn all_reasons_are_told_and_without_calibration_only_that() {
        let bad = Evidence { probabilities: &[0.4, 0.3, 0.3], novelty: Some(9.0), tissue_share: Some(0.0), ..good() };
        let reasons = vec![Reason::LowConfidence, Reason::ImageDisagrees, Reason::FarFromTraining, Reason::NoTissue];
        assert_eq!(verdict(&bad, Some(&calibration())), (Decision::Abstain, reasons));
        assert_eq!(verdict(&bad, None), (Decision::NotAssessed, vec![Reason::NotCalibrated]));
        let none = Calibration { threshold: None, ..calibration() };
        assert_eq!(verdict(&good(), Some(&none)), (Decision::Abstain, vec![Reason::NoThreshold]));
    }

    #[test]
    fn what_a_calibration_lacks_is_not_judged() {
        let bare = Calibration { temperature: 1.0, threshold: Some(0.5), ..Calibration::default() };
        let odd = Evidence {
            novelty: Some(9.0),
            colours: Some([9.0; MEASURES]),
            image_size: Some([9, 9]),
            microns_per_pixel: Some(3.0),
            ..good()
        };
        assert_eq!(verdict(&odd, Some(&bare)).0, Decision::Accepted);
        let silent = Evidence { probabilities: &[0.2, 0.8], ..Evidence::default() };
        assert_eq!(verdict(&silent, Some(&calibration())).0, Decision::Accepted);
    }

    #[test]
    fn codes_are_unique_and_found_again() {
        for reason in Reason::ALL {
            assert_eq!(Reason::with_code(reason.code()), Some(reason));
        }
        assert_eq!(Reason::with_code("of_the_future"), None);
        assert_eq!((leading(&[1.0, 3.0, 3.0]), leading(&[]), leading(&[f64::NAN])), (Some(1), None, None));
    }
}
