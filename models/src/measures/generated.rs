//! How a set of generated texts behaves: whether they differ, repeat themselves, end, and fit.

use super::MeasureError;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// Words of the repeated piece that is looked for.
const PIECE: usize = 4;

/// A generated text with what is known about its making.
#[derive(Clone, Copy, Debug, Default)]
pub struct Generated<'a> {
    /// The text.
    pub text: &'a str,
    /// Tokens that were generated.
    pub tokens: Option<usize>,
    /// Whether it ended by itself, instead of at the limit.
    pub stopped: Option<bool>,
    /// Tokens that the classifier's text encoder did not read.
    pub tokens_cut: Option<usize>,
}

/// What was found; shares are of all texts, and null where no text carries the information.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratedMeasures {
    /// Number of texts.
    pub texts: u64,
    /// Different texts among all of them.
    pub distinct: f64,
    /// How often the commonest text occurs.
    pub commonest: f64,
    /// That text, the first in alphabetical order among equals.
    pub commonest_text: String,
    /// Mean over the texts of 1 - different pieces of four words / pieces of four words; null when every text is shorter.
    pub repetition: Option<f64>,
    /// Texts that ended by themselves.
    pub stopped: Option<f64>,
    /// Mean length in tokens.
    pub tokens: Option<f64>,
    /// Texts of which the classifier reads only the beginning.
    pub cut: Option<f64>,
    /// Mean number of tokens lost in these.
    pub tokens_cut: Option<f64>,
}

/// Measures a set of texts.
pub fn measure(texts: &[Generated]) -> Result<GeneratedMeasures, MeasureError> {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for one in texts {
        *counts.entry(one.text.trim()).or_default() += 1;
    }
    let commonest = counts.iter().max_by(|one, other| one.1.cmp(other.1).then(other.0.cmp(one.0))).ok_or(MeasureError::Empty)?;
    let share = |count: u64| count as f64 / texts.len() as f64;
    let cut = || texts.iter().filter_map(|one| one.tokens_cut);
    Ok(GeneratedMeasures {
        texts: texts.len() as u64,
        distinct: share(counts.len() as u64),
        commonest: share(*commonest.1),
        commonest_text: commonest.0.to_string(),
        repetition: mean(texts.iter().filter_map(|one| repetition(one.text))),
        stopped: mean(texts.iter().filter_map(|one| one.stopped).map(|stopped| if stopped { 1.0 } else { 0.0 })),
        tokens: mean(texts.iter().filter_map(|one| one.tokens).map(|tokens| tokens as f64)),
        cut: mean(cut().map(|lost| if lost > 0 { 1.0 } else { 0.0 })),
        tokens_cut: mean(cut().filter(|lost| *lost > 0).map(|lost| lost as f64)),
    })
}

/// 1 - different pieces of four words / pieces of four words; nothing for a shorter text.
pub fn repetition(text: &str) -> Option<f64> {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    let pieces: HashSet<&[&str]> = words.windows(PIECE).collect();
    let total = words.windows(PIECE).count();
    (total > 0).then(|| (total - pieces.len()) as f64 / total as f64)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}
