//! Overlap of a text with its reference: BLEU, chrF and ROUGE, with the numbers of sacrebleu and rouge-score.

mod bleu;
mod chrf;
mod rouge;

pub use bleu::{Bleu, bleu, sentence_bleu, tokens_13a};
pub use chrf::{chrf, corpus_chrf};
pub use rouge::{Overlap, Rouge, rouge};

use super::{MeasureError, same_length};
use serde::{Deserialize, Serialize};

/// How much generated texts share with their references. BLEU and chrF are in percent, ROUGE in shares, as is usual.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextMeasures {
    /// Number of pairs.
    pub pairs: u64,
    /// BLEU of the corpus, signature `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp`.
    pub bleu: f64,
    /// chrF of the corpus: character n-grams up to 6, beta 2, without spaces.
    pub chrf: f64,
    /// chrF++ of the corpus: the same with words and pairs of words.
    pub chrf_plus_plus: f64,
    /// Mean F1 of shared words.
    pub rouge1: f64,
    /// Mean F1 of shared pairs of words.
    pub rouge2: f64,
    /// Mean F1 of the longest common subsequence.
    #[serde(rename = "rougeL")]
    pub rouge_l: f64,
}

/// Measures texts against their references, one each.
pub fn measure<T: AsRef<str>, R: AsRef<str>>(texts: &[T], references: &[R]) -> Result<TextMeasures, MeasureError> {
    same_length("texts", texts.len(), "references", references.len())?;
    if texts.is_empty() {
        return Err(MeasureError::Empty);
    }
    let pairs: Vec<(&str, &str)> = texts.iter().map(AsRef::as_ref).zip(references.iter().map(AsRef::as_ref)).collect();
    let rouges: Vec<Rouge> = pairs.iter().map(|(text, reference)| rouge(text, reference)).collect();
    let mean = |f1: fn(&Rouge) -> f64| rouges.iter().map(f1).sum::<f64>() / rouges.len() as f64;
    Ok(TextMeasures {
        pairs: pairs.len() as u64,
        bleu: bleu(&pairs).score,
        chrf: corpus_chrf(&pairs, 0),
        chrf_plus_plus: corpus_chrf(&pairs, 2),
        rouge1: mean(|one| one.rouge1.f1),
        rouge2: mean(|one| one.rouge2.f1),
        rouge_l: mean(|one| one.rouge_l.f1),
    })
}

/// Whitespace as Python's `str.split` sees it, which the reference programs rely on.
fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

fn words(text: &str) -> Vec<&str> {
    text.split(is_space).filter(|word| !word.is_empty()).collect()
}

/// How many n-grams two lists share, each counted at most as often as it occurs in both.
fn shared<K: std::hash::Hash + Eq>(one: impl Iterator<Item = K>, other: impl Iterator<Item = K>) -> u64 {
    let mut counts = std::collections::HashMap::new();
    for gram in one {
        *counts.entry(gram).or_insert(0_u64) += 1;
    }
    let mut common = 0;
    for gram in other {
        if let Some(count) = counts.get_mut(&gram).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    common
}
