//! From logits to a confidence that means what it says, and the threshold below which a model should not answer.

use super::beta::{quantile, student_quantile};
use super::classes::softmax;
use super::{MeasureError, same_length};
use crate::bundle::Guarantee;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bounds of the temperature.
const COLDEST: f64 = 0.05;
const HOTTEST: f64 = 20.0;
/// Width in ln T at which the search ends.
const EXACT: f64 = 1e-6;
/// The thresholds that are tried, fixed in advance: 0.40, 0.42, .. 0.98.
const THRESHOLDS: usize = 30;
/// Default of the largest share of errors among accepted answers.
pub const RISK: f64 = 0.10;
/// Default of the confidence with which the share holds.
pub const CONFIDENCE: f64 = 0.95;

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

/// The threshold of abstention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Abstention {
    /// Least confidence of an accepted answer; null: none kept the promise, everything abstains.
    pub threshold: Option<f64>,
    /// What it promises, for patients like those of the calibration part.
    pub guarantee: Option<Guarantee>,
    /// Every threshold that was tried.
    pub grid: Vec<Tried>,
    /// Why there is none.
    pub reason: Option<String>,
}

/// One threshold on the calibration items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Least confidence.
    pub threshold: f64,
    /// Items that reach it.
    pub items: u64,
    /// Wrong ones among them.
    pub errors: u64,
    /// Independent items that they are worth.
    pub effective_items: f64,
    /// Upper bound of the share of errors.
    pub bound: f64,
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

/// The smallest threshold of a fixed grid at which the share of errors among accepted answers is at most `risk` with confidence `confidence`:
/// Clopper-Pearson's upper bound at 1 - (1 - confidence) / 30, valid for all thresholds at once by the union bound. With patients the counts are
/// Korn and Graubard's effective ones (1998), which makes the bound approximate.
pub fn abstention(
    confidences: &[f64],
    correct: &[bool],
    groups: &[Option<&str>],
    risk: f64,
    confidence: f64,
) -> Result<Abstention, MeasureError> {
    same_length("confidences", confidences.len(), "answers", correct.len())?;
    same_length("confidences", confidences.len(), "patients", groups.len())?;
    let grouped = groups.iter().all(Option::is_some) && !groups.is_empty();
    let level = 1.0 - (1.0 - confidence) / THRESHOLDS as f64;
    let grid: Vec<Tried> = (0..THRESHOLDS)
        .map(|step| {
            let threshold = (40 + 2 * step) as f64 / 100.0;
            let accepted = (0..confidences.len()).filter(|item| confidences[*item] >= threshold);
            let answers: Vec<(&str, bool)> = accepted.map(|item| (groups[item].unwrap_or_default(), correct[item])).collect();
            tried(threshold, &answers, grouped, confidence, level)
        })
        .collect();
    let best = grid.iter().find(|one| one.bound <= risk).copied();
    let patients = groups.iter().flatten().collect::<std::collections::BTreeSet<_>>().len() as u64;
    let guarantee = best.map(|best| Guarantee {
        risk,
        confidence,
        items: best.items,
        groups: grouped.then_some(patients),
        effective_items: best.effective_items,
        errors: best.errors,
    });
    let reason = best.is_none().then(|| none_passed(&grid, risk, confidence, confidences.len()));
    Ok(Abstention { threshold: best.map(|best| best.threshold), guarantee, grid, reason })
}

fn none_passed(grid: &[Tried], risk: f64, confidence: f64, items: usize) -> String {
    let least = ((1.0 - confidence) / THRESHOLDS as f64).ln() / (1.0 - risk).ln();
    let best = grid.iter().fold(1.0, |best: f64, one| best.min(one.bound));
    format!(
        "no threshold keeps the share of errors at or below {risk} with confidence {confidence}: the best upper bound on {items} calibration \
         items is {best:.3}; without any error {} independent accepted items would be needed. Everything abstains",
        least.ceil()
    )
}

fn tried(threshold: f64, answers: &[(&str, bool)], grouped: bool, confidence: f64, level: f64) -> Tried {
    let items = answers.len() as u64;
    let errors = answers.iter().filter(|(_, right)| !right).count() as u64;
    let effective_items = if grouped { effective(answers, errors, confidence) } else { items as f64 };
    let share = if items > 0 { errors as f64 / items as f64 } else { 1.0 };
    Tried { threshold, items, errors, effective_items, bound: upper_bound(share * effective_items, effective_items, level) }
}

/// Clopper and Pearson's one-sided upper bound of a share, for `errors` of `items` (which need not be whole), with confidence `level`.
pub fn upper_bound(errors: f64, items: f64, level: f64) -> f64 {
    if items <= 0.0 || errors >= items { 1.0 } else { quantile(level, errors + 1.0, items - errors) }
}

/// Korn and Graubard's effective number of independent items among answers clustered by patient.
fn effective(answers: &[(&str, bool)], errors: u64, confidence: f64) -> f64 {
    let items = answers.len() as f64;
    let mut patients: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (patient, right) in answers {
        let sums = patients.entry(patient).or_default();
        *sums = (sums.0 + 1.0, sums.1 + if *right { 0.0 } else { 1.0 });
    }
    let count = patients.len() as f64;
    if errors == 0 {
        return count;
    }
    if count < 2.0 {
        // One patient says nothing about others.
        return 0.0;
    }
    let share = errors as f64 / items;
    let spread: f64 = patients.values().map(|(items, errors)| (errors - share * items).powi(2)).sum();
    let variance = count / (count - 1.0) * spread / (items * items);
    let simple = if variance > 0.0 { (share * (1.0 - share) / variance).min(items) } else { items };
    simple * (student_quantile(confidence, items - 1.0) / student_quantile(confidence, count - 1.0)).powi(2)
}
