//! BLEU (Papineni et al. 2002) as sacrebleu computes it: tokenizer 13a, case kept, up to four words, exponential smoothing.

use super::{is_space, shared, words};

const ORDER: usize = 4;
/// sacrebleu's logarithm of zero.
const LOG_OF_ZERO: f64 = -9_999_999_999.0;

/// BLEU with what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Bleu {
    /// 0 to 100.
    pub score: f64,
    /// Smoothed precision of 1 to 4 words, in percent.
    pub precisions: [f64; ORDER],
    /// 1 for a text at least as long as its reference.
    pub brevity_penalty: f64,
    /// n-grams found in the reference.
    pub counts: [u64; ORDER],
    /// All n-grams of the text.
    pub totals: [u64; ORDER],
    /// Tokens of the texts.
    pub candidate_length: u64,
    /// Tokens of the references.
    pub reference_length: u64,
}

/// BLEU of a corpus of (text, reference): n-grams are summed before the precisions are taken.
pub fn bleu(pairs: &[(&str, &str)]) -> Bleu {
    score(pairs, false)
}

/// BLEU of one text, with the orders that it is long enough for (effective order).
pub fn sentence_bleu(text: &str, reference: &str) -> Bleu {
    score(&[(text, reference)], true)
}

fn score(pairs: &[(&str, &str)], effective_order: bool) -> Bleu {
    let (mut counts, mut totals) = ([0; ORDER], [0; ORDER]);
    let (mut candidate_length, mut reference_length) = (0, 0);
    for (text, reference) in pairs {
        let (text, reference) = (tokens_13a(text), tokens_13a(reference));
        for order in 0..ORDER {
            counts[order] += shared(reference.windows(order + 1), text.windows(order + 1));
            totals[order] += (text.len() as u64).saturating_sub(order as u64);
        }
        candidate_length += text.len() as u64;
        reference_length += reference.len() as u64;
    }
    let brevity_penalty = match (candidate_length, reference_length) {
        (text, reference) if text >= reference => 1.0,
        (0, _) => 0.0,
        (text, reference) => (1.0 - reference as f64 / text as f64).exp(),
    };
    let (precisions, orders) = precisions(&counts, &totals, effective_order);
    let logarithm = |precision: &f64| if *precision == 0.0 { LOG_OF_ZERO } else { precision.ln() };
    let mean = precisions[..orders].iter().map(logarithm).sum::<f64>() / orders as f64;
    let nothing_shared = counts.iter().all(|count| *count == 0);
    let score = if nothing_shared { 0.0 } else { brevity_penalty * mean.exp() };
    Bleu { score, precisions, brevity_penalty, counts, totals, candidate_length, reference_length }
}

/// Each order without a match counts half of the one before it (NIST's smoothing), and the number of orders that are averaged.
fn precisions(counts: &[u64; ORDER], totals: &[u64; ORDER], effective_order: bool) -> ([f64; ORDER], usize) {
    let mut precisions = [0.0; ORDER];
    let mut orders = ORDER;
    if counts.iter().all(|count| *count == 0) {
        return (precisions, orders);
    }
    let mut halved = 1.0;
    for order in 0..ORDER {
        if totals[order] == 0 {
            break;
        }
        if effective_order {
            orders = order + 1;
        }
        precisions[order] = if counts[order] == 0 {
            halved *= 2.0;
            100.0 / (halved * totals[order] as f64)
        } else {
            100.0 * counts[order] as f64 / totals[order] as f64
        };
    }
    (precisions, orders)
}

/// Tokens as NIST's mteval-v13a cuts them: around punctuation, but not inside numbers and not at hyphens and apostrophes.
pub fn tokens_13a(text: &str) -> Vec<String> {
    let mut line = text.trim_end_matches(is_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if line.contains('&') {
        for (entity, letter) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
            line = line.replace(entity, letter);
        }
    }
    let spaced: Vec<char> = format!(" {line} ").chars().flat_map(around_symbols).collect();
    let cut = after_digits(&before_others(&after_others(&spaced)));
    words(&cut.into_iter().collect::<String>()).into_iter().map(str::to_string).collect()
}

fn around_symbols(letter: char) -> Vec<char> {
    let symbol = matches!(letter, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/');
    if symbol { vec![' ', letter, ' '] } else { vec![letter] }
}

/// `([^0-9])([.,])` becomes `\1 \2 `.
fn after_others(letters: &[char]) -> Vec<char> {
    replaced(letters, |one, other| !one.is_ascii_digit() && is_stop(other), |one, other| vec![one, ' ', other, ' '])
}

/// `([.,])([^0-9])` becomes ` \1 \2`.
fn before_others(letters: &[char]) -> Vec<char> {
    replaced(letters, |one, other| is_stop(one) && !other.is_ascii_digit(), |one, other| vec![' ', one, ' ', other])
}

/// `([0-9])(-)` becomes `\1 \2 `.
fn after_digits(letters: &[char]) -> Vec<char> {
    replaced(letters, |one, other| one.is_ascii_digit() && other == '-', |one, other| vec![one, ' ', other, ' '])
}

fn is_stop(letter: char) -> bool {
    matches!(letter, '.' | ',')
}

/// Replaces pairs of neighbours from the left, without overlap, as a regular expression would.
fn replaced(letters: &[char], fits: impl Fn(char, char) -> bool, by: impl Fn(char, char) -> Vec<char>) -> Vec<char> {
    let mut result = Vec::with_capacity(letters.len() + 8);
    let mut place = 0;
    while place < letters.len() {
        match letters.get(place + 1) {
            Some(next) if fits(letters[place], *next) => {
                result.extend(by(letters[place], *next));
                place += 2;
            }
            _ => {
                result.push(letters[place]);
                place += 1;
            }
        }
    }
    result
}
