//! The bundle's answers beside those that the trainer gave for the same images.

use std::collections::BTreeMap;
use std::path::Path;

use mmlnb_models::measures::classes::softmax;
use serde::Deserialize;
use serde_json::{Value, json};

use super::measure::{Answered, fraction};
use crate::error::{Exit, Failure};
use crate::verdict::leading;

/// The trainer's answers in a run's folder.
const PREDICTIONS: &str = "predictions.jsonl";

/// What is read of a line; the rest is the trainer's.
#[derive(Deserialize)]
pub struct Prediction {
    sha256: String,
    logits: Vec<f64>,
    description: Option<String>,
}

/// Reads a run's answers, by the image's hash.
///
/// # Errors
/// [`Exit::Usage`]: no such file, or a line that is no answer.
pub fn read(run: &Path) -> Result<BTreeMap<String, Prediction>, Failure> {
    let file = run.join(PREDICTIONS);
    let wrong =
        |what: String| Failure::new(Exit::Usage, what, file.display().to_string(), "give a finished run of mmlnb-train classify");
    let text = std::fs::read_to_string(&file).map_err(|error| wrong(format!("the trainer's answers cannot be read: {error}")))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| {
            let found: Prediction = serde_json::from_str(line).map_err(|error| wrong(format!("line {}: {error}", at + 1)))?;
            Ok((found.sha256.clone(), found))
        })
        .collect()
}

/// How many images both have answered, how often both lead to the same class and describe alike, and how far probabilities (at temperature 1) are apart.
pub fn compare(all: &[Answered<'_>], trainer: &BTreeMap<String, Prediction>) -> Value {
    let (mut compared, mut same_class, mut same_text, mut texts, mut farthest) = (0, 0, 0, 0, 0.0f64);
    for (_, item) in all {
        let Some((prediction, logits)) = trainer.get(&item.sha256).zip(item.logits.as_ref()) else { continue };
        compared += 1;
        same_class += usize::from(leading(&prediction.logits) == leading(logits));
        let apart =
            softmax(&prediction.logits, 1.0).into_iter().zip(softmax(logits, 1.0)).map(|(one, other)| (one - other).abs());
        farthest = apart.fold(farthest, f64::max);
        if let Some((theirs, ours)) = prediction.description.as_ref().zip(item.text.as_ref()) {
            texts += 1;
            same_text += usize::from(theirs.trim() == ours.words.trim());
        }
    }
    json!({
        "compared": compared,
        "same_class": fraction(same_class, compared),
        "same_description": fraction(same_text, texts),
        "largest_probability_difference": (compared > 0).then_some(farthest),
    })
}
