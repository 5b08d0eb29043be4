//! ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) as rouge-score computes them, without a stemmer.

use super::shared;

/// Share of the text that is in the reference, of the reference that is in the text, and their harmonic mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overlap {
    /// Of the text.
    pub precision: f64,
    /// Of the reference.
    pub recall: f64,
    /// Harmonic mean; 0 when both are 0.
    pub f1: f64,
}

/// One text against its reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rouge {
    /// Single words.
    pub rouge1: Overlap,
    /// Pairs of words.
    pub rouge2: Overlap,
    /// Longest common subsequence.
    pub rouge_l: Overlap,
}

/// Compares lower-case words, cut at everything but a-z and 0-9.
pub fn rouge(text: &str, reference: &str) -> Rouge {
    let (text, reference) = (text.to_lowercase(), reference.to_lowercase());
    let (text, reference) = (words(&text), words(&reference));
    let of_order = |order: usize| {
        let grams = |length: usize| (length + 1).saturating_sub(order) as u64;
        overlap(shared(reference.windows(order), text.windows(order)), grams(text.len()), grams(reference.len()))
    };
    let common = longest_common_subsequence(&text, &reference);
    Rouge { rouge1: of_order(1), rouge2: of_order(2), rouge_l: overlap(common, text.len() as u64, reference.len() as u64) }
}

fn words(line: &str) -> Vec<&str> {
    line.split(|letter: char| !matches!(letter, 'a'..='z' | '0'..='9')).filter(|word| !word.is_empty()).collect()
}

fn overlap(common: u64, text: u64, reference: u64) -> Overlap {
    let (precision, recall) = (common as f64 / text.max(1) as f64, common as f64 / reference.max(1) as f64);
    let f1 = if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
    Overlap { precision, recall, f1 }
}

fn longest_common_subsequence(one: &[&str], other: &[&str]) -> u64 {
    let mut lengths = vec![0_u64; other.len() + 1];
    for word in one {
        let mut diagonal = 0;
        for (place, candidate) in other.iter().enumerate() {
            let above = lengths[place + 1];
            lengths[place + 1] = if word == candidate { diagonal + 1 } else { above.max(lengths[place]) };
            diagonal = above;
        }
    }
    lengths[other.len()]
}
