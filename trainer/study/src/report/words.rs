//! Sentences that stand on the page and on the card alike: what must be known before a figure is believed.

use super::{measured, record::Record};
use crate::data::Part;

/// Warnings about how the figures came about.
pub fn marks(record: &Record, phantoms: bool) -> Vec<String> {
    let mut marks = Vec::new();
    if phantoms {
        marks.push("PHANTOMS: these are procedural test images, not tissue. The figures say nothing about patients.".to_owned());
    }
    if !record.predictions.is_empty() && record.reported() == Part::Validation {
        marks.push(no_test_part(record));
    }
    if let Some(calibration) = &record.calibration {
        if calibration.patient_split == Some(false) {
            marks.push("NOT SPLIT BY PATIENT: images of one patient may be on both sides, so the figures are too good and the intervals too narrow. Give the column `group`.".into());
        }
        if calibration.protocol.as_deref() == Some("paper") {
            marks.push("Protocol of the paper: a random split into two, the best epoch chosen on the fifth that is reported. Such figures are too good.".into());
        }
        if calibration.describer_overlap {
            marks.push(
                "OVERLAP: the describer was tuned on images that are tested here (--allow-overlap). The figures are too good."
                    .into(),
            );
        }
    }
    if record.calibration.as_ref().is_some_and(|calibration| calibration.describer_unknown) {
        marks.push(
            "UNKNOWN: nobody recorded what the describer of the texts was tuned on. Images that are tested here may be among it, and the figures then too good."
                .into(),
        );
    }
    marks.extend(measured::remarks(record, &record.reported().to_string()).into_iter().map(|remark| capital(&remark) + "."));
    marks
}

/// What the model must not be trusted with.
pub fn limits(record: &Record) -> Vec<String> {
    let mut limits = vec![
        "Research only. Nothing here may decide about a patient; a pathologist looks at every patch.".to_owned(),
        "Only H&E patches of untreated, Schwannian stroma-poor neuroblastoma. After chemotherapy, in ganglioneuroblastoma and in other tumours the classes do not apply.".into(),
        "A patch is a sample: the grading rule speaks about the tumour. No slide or patient is graded.".into(),
        "Descriptions are written by a model and may be wrong; shares in them (\u{201c}about 8 %\u{201d}) are words, not counts.".into(),
        "\u{3b1} is a weight inside the model, not a measure of certainty.".into(),
        "Other scanners, stains and hospitals than those of the training data are not covered by these figures.".into(),
    ];
    match record.calibration.as_ref().map(|calibration| calibration.threshold) {
        Some(Some(_)) => limits.push(
            "The promise about accepted answers holds for patients like the calibration patients, and for no others.".into(),
        ),
        Some(None) => limits.push(
            "No threshold kept the promised error on the calibration part: the appliance will abstain from every answer.".into(),
        ),
        None => {}
    }
    limits
}

/// What the figures of a run without a test part are worth.
fn no_test_part(record: &Record) -> String {
    let roles = &record.measures["roles"];
    let counts = ["chosen", "fitted", "reported"].map(|role| roles[role].as_u64());
    match (counts, roles["shared"].as_str()) {
        ([Some(chosen), Some(fitted), Some(reported)], None) => format!(
            "No test part: the validation patients were dealt into three. {chosen} images chose the best epoch, {fitted} calibrated, and the \
             figures are those of the other {reported}."
        ),
        _ => "No test part: the figures are those of the validation part, on which the best epoch was chosen, and therefore too good.".into(),
    }
}

/// The promise of the threshold in one sentence.
pub fn promise(record: &Record) -> Option<String> {
    let calibration = record.calibration.as_ref()?;
    let Some(threshold) = calibration.threshold else {
        return Some("No threshold kept the promise on the calibration part; everything abstains.".into());
    };
    let Some(promise) = &calibration.guarantee else {
        return Some(format!("Answers below {threshold:.2} abstain; nothing is promised about the others."));
    };
    let patients = match promise.groups {
        Some(groups) => {
            format!("{} items; {groups} patients, who count for {:.0} of equal weight", promise.items, promise.effective_items)
        }
        None => format!("{} items, taken as independent", promise.items),
    };
    Some(format!(
        "With confidence {:.0} %, at most {:.0} % of the answers at or above {threshold:.2} are wrong, for patients like the calibration patients ({patients}, {} wrong).",
        100.0 * promise.confidence,
        100.0 * promise.risk,
        promise.errors
    ))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
