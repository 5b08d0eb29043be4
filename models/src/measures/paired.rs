//! Whether two models differ on the same items.

use super::beta::half_binomial_tail;
use super::classes::Predictions;
use super::intervals::{Interval, Units, class_numbers};
use super::{MeasureError, same_length};
use serde::{Deserialize, Serialize};

/// A measure of two models over the same draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The measure.
    pub measure: String,
    /// Of the first model.
    pub first: Option<f64>,
    /// Of the second model.
    pub second: Option<f64>,
    /// Second minus first; null when one is undefined.
    pub difference: Option<f64>,
    /// Of the difference.
    pub interval: Option<Interval>,
    /// Share of draws in which the second is not above the first.
    pub not_above: Option<f64>,
    /// Share of draws in which the second is not below the first.
    pub not_below: Option<f64>,
}

/// McNemar's exact test on which items only one of two models gets right. It takes items as independent: with several items a patient
/// the bootstrap over patients decides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Items that only the first gets right.
    pub only_first: u64,
    /// Items that only the second gets right.
    pub only_second: u64,
    /// min(1, 2 P(X <= the smaller)), X ~ Bin(both, 1/2).
    pub p: f64,
}

/// Differences of every measure, second minus first, with intervals over the draws that both share.
pub fn differences(first: &Predictions, second: &Predictions, units: &Units, seed: u64) -> Result<Vec<Difference>, MeasureError> {
    same_length("predictions of the first model", first.items(), "predictions of the second", second.items())?;
    let differing = first.labels().iter().zip(second.labels()).position(|(one, other)| one != other);
    if let Some(item) = differing {
        let problem = "its true class differs between the two models, so they were not measured on the same items".into();
        return Err(MeasureError::Item { item, problem });
    }
    let numbers = |model: &Predictions, counts: &[u32]| class_numbers(model, counts);
    Ok(compare(units, seed, |counts| numbers(first, counts), |counts| numbers(second, counts)))
}

/// The same for any named numbers of a draw in which item i occurs `counts[i]` times.
pub fn compare(
    units: &Units,
    seed: u64,
    first: impl Fn(&[u32]) -> Vec<(&'static str, Option<f64>)>,
    second: impl Fn(&[u32]) -> Vec<(&'static str, Option<f64>)>,
) -> Vec<Difference> {
    let whole = vec![1; units.items()];
    let (ours, theirs) = (first(&whole), second(&whole));
    let difference = |one: Option<f64>, other: Option<f64>| Some(other? - one?);
    let possible = units.basis(seed).no_interval.is_none();
    let wanted: Vec<bool> =
        ours.iter().zip(&theirs).map(|(one, other)| possible && difference(one.1, other.1).is_some()).collect();
    let draws = units.draws(seed, &wanted, |counts| {
        first(counts).into_iter().zip(second(counts)).map(|(one, other)| difference(one.1, other.1)).collect()
    });
    let row = |place: usize, one: &(&str, Option<f64>), other: &(&str, Option<f64>)| Difference {
        measure: one.0.to_string(),
        first: one.1,
        second: other.1,
        difference: difference(one.1, other.1),
        interval: draws.interval(place),
        not_above: share(&draws.values[place], |value| value <= 0.0),
        not_below: share(&draws.values[place], |value| value >= 0.0),
    };
    ours.iter().zip(&theirs).enumerate().map(|(place, (one, other))| row(place, one, other)).collect()
}

fn share(values: &Option<Vec<f64>>, kind: fn(f64) -> bool) -> Option<f64> {
    values.as_ref().map(|values| values.iter().filter(|value| kind(**value)).count() as f64 / values.len() as f64)
}

/// McNemar's exact test from which items each model gets right.
pub fn mcnemar(first: &[bool], second: &[bool]) -> Result<McNemar, MeasureError> {
    same_length("answers of the first model", first.len(), "answers of the second", second.len())?;
    let count = |wanted: (bool, bool)| first.iter().zip(second).filter(|(one, other)| (**one, **other) == wanted).count() as u64;
    let (only_first, only_second) = (count((true, false)), count((false, true)));
    let tail = half_binomial_tail(only_first.min(only_second), only_first + only_second);
    Ok(McNemar { only_first, only_second, p: (2.0 * tail).min(1.0) })
}

/// Holm's adjustment of the p-values of several comparisons, in the order given.
pub fn holm(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|one, other| values[*one].total_cmp(&values[*other]));
    let mut adjusted = vec![0.0; values.len()];
    let mut most = 0.0_f64;
    for (rank, place) in order.into_iter().enumerate() {
        most = most.max((values[place] * (values.len() - rank) as f64).min(1.0));
        adjusted[place] = most;
    }
    adjusted
}
