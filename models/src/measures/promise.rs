//! The threshold of abstention and its promise: of the accepted answers at most a share is wrong.
//!
//! Patches of one patient fail together, so patients are what is counted: each enters with the share of wrong ones among its accepted answers, and
//! weighs as many of these as it has. The upper bound is Gaffke's (2005; Learned-Miller and Thomas 2020): a quantile of the mean when the
//! weights are drawn anew (a Bayesian bootstrap) and one more patient with as many answers as the largest that was seen, all of them wrong, stands beside
//! these. For patients of one size that are wholly right or wholly wrong, and for single items, it is Clopper and Pearson's. It asks nothing of how errors
//! cluster within patients, and another error never lowers it. What it cannot know: patients with many more patches than any that was seen.
//!
//! Thresholds are tested from strict to loose, each only when the one before it held (a fixed sequence), so that no share of the confidence is lost to
//! the number of thresholds.

use super::beta::quantile;
use super::{MeasureError, same_length};
use crate::bundle::Guarantee;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::f64::consts::PI;

/// The thresholds that are tried, fixed in advance: 0.40, 0.42, .. 0.98.
const THRESHOLDS: usize = 30;
/// Where sequences start: at the strictest threshold that this share of the answers reaches. Half is always one of them, a smaller share
/// where twice as many patients reach it as a promise needs at the least.
const STARTS: [f64; 3] = [0.125, 0.25, 0.5];
/// Default of the largest share of errors among accepted answers.
pub const RISK: f64 = 0.10;
/// Default of the confidence with which the share holds.
pub const CONFIDENCE: f64 = 0.95;
/// Step of the inversion in the logarithm of the frequency, the least contribution to it that counts, and how exactly a bound is found.
const STEP: f64 = 0.0625;
const NEGLIGIBLE: f64 = 27.0;
const EXACT: f64 = 1e-10;

/// An answer of the calibration part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer<'a> {
    /// Probability of its class, at the temperature that is served.
    pub confidence: f64,
    /// Whether it is the true class.
    pub correct: bool,
    /// The patient; none: it stands for itself.
    pub patient: Option<&'a str>,
    /// Whether another reason than its confidence declines it: then it is never accepted, and nothing is promised about it.
    pub declined: bool,
}

/// The threshold of abstention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Abstention {
    /// Least confidence of an accepted answer; null: none kept the promise, everything abstains.
    pub threshold: Option<f64>,
    /// What it promises, for patients like those of the calibration part.
    pub guarantee: Option<Guarantee>,
    /// Calibration items that other reasons decline: they do not count.
    #[serde(default)]
    pub declined: u64,
    /// Every threshold of the grid.
    pub grid: Vec<Tried>,
    /// Why there is none.
    pub reason: Option<String>,
}

/// One threshold on the calibration items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Least confidence.
    pub threshold: f64,
    /// Items that reach it, and that no other reason declines.
    pub items: u64,
    /// Wrong ones among them.
    pub errors: u64,
    /// Patients of equal weight that they are worth (Kish 1965).
    pub effective_items: f64,
    /// Upper bound of the share of errors, at `level`.
    pub bound: f64,
    /// The confidence at which it was tested; null: not tested, and the bound is told at the plain confidence.
    #[serde(default)]
    pub level: Option<f64>,
}

/// Accepted answers of one patient, and the wrong ones among them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Patient {
    answers: f64,
    errors: f64,
    /// Answers at any confidence: the patient's size.
    size: f64,
}

/// The smallest threshold of a fixed grid at which the share of errors among accepted answers is at most `risk` with confidence `confidence`.
///
/// # Errors
/// A confidence that is no number.
pub fn abstention(answers: &[Answer<'_>], risk: f64, confidence: f64) -> Result<Abstention, MeasureError> {
    if let Some(item) = answers.iter().position(|answer| !answer.confidence.is_finite()) {
        return Err(MeasureError::Item { item, problem: "the confidence is no number".into() });
    }
    let open: Vec<&Answer<'_>> = answers.iter().filter(|answer| !answer.declined).collect();
    let steps = accepted(&open);
    let levels = levels(&steps, open.len(), risk, confidence);
    let best = levels.iter().position(|level| level.is_some_and(|(_, holds)| holds));
    let mut grid: Vec<Tried> = Vec::with_capacity(THRESHOLDS);
    for (step, patients) in steps.iter().enumerate() {
        let level = levels[step].map(|(level, _)| level);
        let sums = total(patients);
        let same = grid.last().filter(|last| step > 0 && steps[step - 1] == *patients && last.level == level);
        let bound = same.map_or_else(|| bound(patients, level.unwrap_or(confidence)), |last| last.bound);
        grid.push(Tried {
            threshold: threshold(step),
            items: sums.answers as u64,
            errors: sums.errors as u64,
            effective_items: effective(patients),
            bound,
            level,
        });
    }
    let named: Option<std::collections::BTreeSet<&str>> = answers.iter().map(|answer| answer.patient).collect();
    let guarantee = best.map(|best| Guarantee {
        risk,
        confidence,
        items: grid[best].items,
        groups: named.map(|patients| patients.len() as u64),
        effective_items: grid[best].effective_items,
        errors: grid[best].errors,
    });
    let reason = best.is_none().then(|| none_passed(&grid, risk, confidence, open.len(), answers.len()));
    let declined = (answers.len() - open.len()) as u64;
    Ok(Abstention { threshold: best.map(threshold), guarantee, declined, grid, reason })
}

/// Fewest patients (single items, where none are named) that can carry a promise: with no error in any of them.
pub fn least_patients(risk: f64, confidence: f64) -> f64 {
    ((1.0 - confidence).ln() / (1.0 - risk).ln()).ceil()
}

/// Upper bound of the share of errors among answers, at a level, with each patient's number of answers and of wrong ones among them.
///
/// # Errors
/// Lists of different lengths.
pub fn patients_bound(answers: &[u64], errors: &[u64], level: f64) -> Result<f64, MeasureError> {
    same_length("patients' answers", answers.len(), "patients' errors", errors.len())?;
    let patient =
        |(answers, errors): (&u64, &u64)| Patient { answers: *answers as f64, errors: *errors as f64, size: *answers as f64 };
    let patients: Vec<Patient> = answers.iter().zip(errors).map(patient).filter(|patient| patient.answers > 0.0).collect();
    Ok(bound(&patients, level))
}

fn threshold(step: usize) -> f64 {
    (40 + 2 * step) as f64 / 100.0
}

/// For each threshold the answers at or above it by patient; answers without a patient stand for themselves.
fn accepted(answers: &[&Answer<'_>]) -> Vec<Vec<Patient>> {
    let mut numbers: BTreeMap<(Option<&str>, usize), usize> = BTreeMap::new();
    let mut of = Vec::with_capacity(answers.len());
    for (place, answer) in answers.iter().enumerate() {
        let next = numbers.len();
        of.push(*numbers.entry((answer.patient, if answer.patient.is_some() { 0 } else { place })).or_insert(next));
    }
    let at = |threshold: f64| {
        let mut patients = vec![Patient::default(); numbers.len()];
        of.iter().for_each(|number| patients[*number].size += 1.0);
        for (answer, number) in answers.iter().zip(&of).filter(|(answer, _)| answer.confidence >= threshold) {
            patients[*number].answers += 1.0;
            patients[*number].errors += if answer.correct { 0.0 } else { 1.0 };
        }
        patients.retain(|patient| patient.answers > 0.0);
        patients
    };
    (0..THRESHOLDS).map(threshold).map(at).collect()
}

/// For each threshold that was tested the level of its test, and whether it held.
///
/// Sequences share the error that is allowed; one that holds hands its own on to the next looser threshold (Wiens' fallback, 2003).
fn levels(steps: &[Vec<Patient>], items: usize, risk: f64, confidence: f64) -> Vec<Option<(f64, bool)>> {
    let least = least_patients(risk, confidence);
    let reached = |share: f64, patients: f64| {
        let enough = |step: &Vec<Patient>| total(step).answers >= share * items as f64 && step.len() as f64 >= patients;
        steps.iter().rposition(enough)
    };
    let mut starts: Vec<usize> = Vec::new();
    for share in STARTS {
        let patients = if share < 0.5 { 2.0 * least } else { least };
        starts.extend(reached(share, patients).filter(|start| !starts.contains(start)));
    }
    let each = (1.0 - confidence) / starts.len().max(1) as f64;
    let mut found = vec![None; steps.len()];
    let (mut handed, mut certainty) = (0.0, 0.0);
    for step in (0..steps.len()).rev() {
        let allowed = handed + if starts.contains(&step) { each } else { 0.0 };
        handed = 0.0;
        if allowed > 0.0 {
            // Thresholds between two confidences accept the same answers.
            if steps.get(step + 1) != Some(&steps[step]) || found[step + 1].is_none() {
                // Far from certain where the errors alone, one more patient among them, are not fewer than promised.
                let sums = total(&steps[step]);
                let (worth, share) = (effective(&steps[step]), sums.errors / sums.answers);
                let more = unseen(&steps[step]);
                let hopeless = (worth * share + more) / (worth + more) >= risk;
                certainty = if hopeless { 0.0 } else { below(&steps[step], risk) };
            }
            let holds = certainty >= 1.0 - allowed;
            found[step] = Some((1.0 - allowed, holds));
            handed = if holds { allowed } else { 0.0 };
        }
    }
    found
}

fn none_passed(grid: &[Tried], risk: f64, confidence: f64, open: usize, items: usize) -> String {
    // Of those that were not tested the bound holds at the plain confidence only, and may lie below the risk without a promise.
    let tested = grid.iter().filter(|one| one.level.is_some());
    let best = tested.map(|one| one.bound).fold(1.0, f64::min);
    let declined = if open < items { format!(", of which other reasons decline {}", items - open) } else { String::new() };
    format!(
        "no threshold keeps the share of errors at or below {risk} with confidence {confidence}: thresholds are tested from strict to loose as \
         long as each holds, and the best upper bound of those that were, on {items} calibration items{declined}, is {best:.3}; at least {} independent patients (items, where no patients are named) without any error are needed, \
         and more with errors. Everything abstains",
        least_patients(risk, confidence)
    )
}

fn total(patients: &[Patient]) -> Patient {
    patients.iter().fold(Patient::default(), |sum, one| Patient {
        answers: sum.answers + one.answers,
        errors: sum.errors + one.errors,
        size: sum.size + one.size,
    })
}

/// Patients of equal weight with the same variance: (sum of weights)^2 / sum of their squares.
fn effective(patients: &[Patient]) -> f64 {
    let squares: f64 = patients.iter().map(|one| one.answers.powi(2)).sum();
    if squares > 0.0 { total(patients).answers.powi(2) / squares } else { 0.0 }
}

/// The weight of the patient beside those that were seen, in patients of the effective number: that of the largest, by all of its answers. That few of
/// an equal number are accepted makes none small.
fn unseen(patients: &[Patient]) -> f64 {
    let largest = patients.iter().map(|one| one.size).fold(0.0, f64::max);
    (effective(patients) * largest / total(patients).size).max(1.0)
}

/// The share that the random mean stays below with probability `level`.
fn bound(patients: &[Patient], level: f64) -> f64 {
    let worth = effective(patients);
    let sums = total(patients);
    if worth == 0.0 || sums.errors >= sums.answers {
        return 1.0;
    }
    if patients.iter().all(|one| one.errors == 0.0 || one.errors == one.answers) {
        let wrong = worth * sums.errors / sums.answers;
        return quantile(level, wrong + unseen(patients), worth - wrong);
    }
    let (mut low, mut high) = (0.0, 1.0);
    while high - low > EXACT {
        let middle = f64::midpoint(low, high);
        if below(patients, middle) < level { low = middle } else { high = middle }
    }
    high
}

/// Probability that the random mean is at most `share`: that a sum of gamma variables, one a patient and one of the patient beside them, each times its
/// distance from `share`, is not positive. By inversion of its characteristic function (Gil-Pelaez 1951) in the logarithm of the frequency, where the
/// trapezoid rule converges geometrically.
fn below(patients: &[Patient], share: f64) -> f64 {
    let (worth, answers) = (effective(patients), total(patients).answers);
    if worth == 0.0 {
        return 0.0;
    }
    // Patients of one share of errors are one gamma variable.
    let mut shapes: BTreeMap<u64, f64> = BTreeMap::new();
    for one in patients {
        *shapes.entry((one.errors / one.answers).to_bits()).or_default() += worth * one.answers / answers;
    }
    let mut terms: Vec<(f64, f64)> = shapes.into_iter().map(|(bits, shape)| (shape, f64::from_bits(bits) - share)).collect();
    terms.push((unseen(patients), 1.0 - share));
    let scale = terms.iter().map(|(shape, distance)| shape * distance * distance).sum::<f64>().sqrt();
    if scale == 0.0 {
        return 1.0;
    }
    let mut logarithm = -scale.ln() - NEGLIGIBLE;
    let mut sum = 0.0;
    loop {
        let frequency = logarithm.exp();
        let (mut angle, mut damping) = (0.0, 0.0);
        for (shape, distance) in &terms {
            let product = frequency * distance;
            angle += shape * product.atan();
            damping += 0.5 * shape * (product * product).ln_1p();
        }
        if damping > NEGLIGIBLE {
            break;
        }
        sum += angle.sin() * (-damping).exp();
        logarithm += STEP;
    }
    (0.5 - sum * STEP / PI).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests;
