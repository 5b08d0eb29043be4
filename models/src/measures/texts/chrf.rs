//! chrF and chrF++ (Popović 2015, 2017) as sacrebleu computes them: character n-grams up to 6, beta 2, no spaces, effective order.

use super::{is_space, shared, words};

const LETTERS: usize = 6;
const BETA_SQUARED: f64 = 4.0;

/// n-grams of one order: in the text, in the reference, in both.
#[derive(Clone, Copy, Default)]
struct Matches {
    text: u64,
    reference: u64,
    both: u64,
}

/// chrF of one text, 0 to 100; `word_order` 0, or 2 for chrF++.
pub fn chrf(text: &str, reference: &str, word_order: usize) -> f64 {
    corpus_chrf(&[(text, reference)], word_order)
}

/// chrF of a corpus of (text, reference): n-grams are summed before the shares are taken.
pub fn corpus_chrf(pairs: &[(&str, &str)], word_order: usize) -> f64 {
    let mut sums = vec![Matches::default(); LETTERS + word_order];
    for (text, reference) in pairs {
        for (sum, one) in sums.iter_mut().zip(matches(text, reference, word_order)) {
            sum.text += one.text;
            sum.reference += one.reference;
            sum.both += one.both;
        }
    }
    score(&sums)
}

fn matches(text: &str, reference: &str, word_order: usize) -> Vec<Matches> {
    let letters = |line: &str| line.chars().filter(|letter| !is_space(*letter)).collect::<Vec<char>>();
    let (text_letters, reference_letters) = (letters(text), letters(reference));
    let (text_words, reference_words) = (without_punctuation(text), without_punctuation(reference));
    let of_letters = (1..=LETTERS).map(|order| of_order(&text_letters, &reference_letters, order));
    of_letters.chain((1..=word_order).map(|order| of_order(&text_words, &reference_words, order))).collect()
}

fn of_order<K: std::hash::Hash + Eq>(text: &[K], reference: &[K], order: usize) -> Matches {
    let grams = |length: usize| (length + 1).saturating_sub(order) as u64;
    let in_reference = grams(reference.len());
    Matches {
        // sacrebleu leaves an order out for a pair whose reference is too short for it.
        text: if in_reference > 0 { grams(text.len()) } else { 0 },
        reference: in_reference,
        both: shared(reference.windows(order), text.windows(order)),
    }
}

/// F-beta of the mean precision and mean recall over the orders that occur on both sides.
fn score(sums: &[Matches]) -> f64 {
    let used: Vec<&Matches> = sums.iter().filter(|one| one.text > 0 && one.reference > 0).collect();
    let mean = |total: fn(&Matches) -> u64| {
        used.iter().map(|one| one.both as f64 / total(one) as f64).sum::<f64>() / used.len().max(1) as f64
    };
    let (precision, recall) = (mean(|one| one.text), mean(|one| one.reference));
    if precision + recall == 0.0 {
        return 0.0;
    }
    100.0 * (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
}

/// Words with one mark of punctuation cut off at the end, or else at the beginning.
fn without_punctuation(line: &str) -> Vec<&str> {
    let mut cut = Vec::new();
    for word in words(line) {
        let (first, last) = (word.chars().next(), word.chars().next_back());
        match (first, last) {
            (Some(_), Some(last)) if last.is_ascii_punctuation() && word.len() > 1 => {
                cut.extend([&word[..word.len() - 1], &word[word.len() - 1..]]);
            }
            (Some(first), _) if first.is_ascii_punctuation() && word.len() > 1 => cut.extend([&word[..1], &word[1..]]),
            _ => cut.push(word),
        }
    }
    cut
}
