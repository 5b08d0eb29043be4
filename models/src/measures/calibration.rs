//! From logits to a confidence that means what it says.

use super::beta::quantile;
use super::classes::softmax;
use super::{MeasureError, same_length};
use serde::{Deserialize, Serialize};

/// Bounds of the temperature.
const COLDEST: f64 = 0.05;
const HOTTEST: f64 = 20.0;
/// Width in ln T at which the search ends.
const EXACT: f64 = 1e-6;

/// A fitted temperature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Temperature {
    /// Divides the logits; 1 when none could be fitted.
    pub temperature: f64,
    /// Mean negative log likelihood with temperature 1.
    pub nll_before: f64,
    /// With the temperature.
    pub nll_after: f64,
    /// Why it was left at 1.
    pub warning: Option<String>,
}

/// The error among the most confident answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RiskCoverage {
    /// (share answered, share of these that is wrong), from the most confident answer to all.
    pub curve: Vec<[f64; 2]>,
    /// Mean of the curve's errors.
    pub aurc: f64,
}

/// The temperature that makes softmax(logits / T) most likely (Guo et al. 2017), by golden section over ln T. It never changes the leading class.
pub fn temperature(logits: &[Vec<f64>], labels: &[usize]) -> Result<Temperature, MeasureError> {
    same_length("rows of logits", logits.len(), "classes of items", labels.len())?;
    if labels.is_empty() {
        return Err(MeasureError::Empty);
    }
    for (item, (row, label)) in logits.iter().zip(labels).enumerate() {
        if *label >= row.len() || row.iter().any(|logit| !logit.is_finite()) {
            return Err(MeasureError::Item { item, problem: format!("class number {label} with logits {row:?}") });
        }
    }
    let nll = |temperature: f64| {
        let one = |(row, label): (&Vec<f64>, &usize)| -log_softmax(row, *label, temperature);
        logits.iter().zip(labels).map(one).sum::<f64>() / labels.len() as f64
    };
    let found = lowest(|log| nll(log.exp()), COLDEST.ln(), HOTTEST.ln()).exp();
    let nll_before = nll(1.0);
    let bound = [COLDEST, HOTTEST].into_iter().find(|bound| (found / bound).ln().abs() < 10.0 * EXACT);
    Ok(match bound {
        Some(bound) => {
            let warning = format!(
                "the likeliest temperature lies at or beyond the bound {bound}: these items do not determine it, so it stays 1"
            );
            Temperature { temperature: 1.0, nll_before, nll_after: nll_before, warning: Some(warning) }
        }
        None => Temperature { temperature: found, nll_before, nll_after: nll(found), warning: None },
    })
}

fn log_softmax(row: &[f64], label: usize, temperature: f64) -> f64 {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|logit| ((logit - most) / temperature).exp()).sum();
    (row[label] - most) / temperature - sum.ln()
}

/// Where a function with one valley is lowest, by golden section.
fn lowest(value: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut left, mut right) = (high - golden * (high - low), low + golden * (high - low));
    let (mut at_left, mut at_right) = (value(left), value(right));
    while high - low > EXACT {
        if at_left <= at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - golden * (high - low);
            at_left = value(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + golden * (high - low);
            at_right = value(right);
        }
    }
    f64::midpoint(low, high)
}

/// Probabilities and the confidence of the leading class at a temperature.
pub fn confidence(logits: &[f64], temperature: f64) -> f64 {
    softmax(logits, temperature).into_iter().fold(0.0, f64::max)
}

/// The error among the i most confident answers for every i. Equal confidences share their errors evenly, so the items' order does not matter.
pub fn risk_coverage(confidences: &[f64], correct: &[bool]) -> Result<RiskCoverage, MeasureError> {
    same_length("confidences", confidences.len(), "answers", correct.len())?;
    if confidences.is_empty() {
        return Err(MeasureError::Empty);
    }
    let mut ranked: Vec<(f64, bool)> = confidences.iter().copied().zip(correct.iter().copied()).collect();
    ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
    let total = ranked.len() as f64;
    let (mut errors, mut answered) = (0.0, 0.0);
    let mut curve = Vec::with_capacity(ranked.len());
    for tied in ranked.chunk_by(|one, other| one.0 == other.0) {
        let wrong = tied.iter().filter(|(_, right)| !right).count() as f64 / tied.len() as f64;
        for _ in tied {
            errors += wrong;
            answered += 1.0;
            curve.push([answered / total, errors / answered]);
        }
    }
    let aurc = curve.iter().map(|[_, risk]| risk).sum::<f64>() / total;
    Ok(RiskCoverage { curve, aurc })
}

/// Clopper and Pearson's one-sided upper bound of a share, for `errors` of `items` (which need not be whole), with confidence `level`.
pub fn upper_bound(errors: f64, items: f64, level: f64) -> f64 {
    if items <= 0.0 || errors >= items { 1.0 } else { quantile(level, errors + 1.0, items - errors) }
}
