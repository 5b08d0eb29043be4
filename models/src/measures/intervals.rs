//! How far a number can be trusted: the bootstrap over patients (Efron), percentile intervals of 95 %.
//!
//! Patches of one patient resemble each other, so patients are drawn with replacement and bring all of their items. Draw b of a seed is the same
//! for every measure and every model, which makes differences paired.

use super::classes::Predictions;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Draws of an interval.
pub const DRAWS: usize = 2000;
/// With fewer patients no interval is given.
pub const LEAST_UNITS: usize = 10;
/// How often a draw in which a measure is undefined is repeated before the measure gets no interval.
const ATTEMPTS: u64 = 200;
const LOW: f64 = 0.025;
const HIGH: f64 = 0.975;

/// What is drawn: patients with their items, or single items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Units {
    members: Vec<Vec<usize>>,
    items: usize,
    by_patient: bool,
}

/// A percentile interval of 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// 2.5 %.
    pub low: f64,
    /// 97.5 %.
    pub high: f64,
    /// Draws that were repeated because the measure was undefined in them, as when a class was missing.
    pub redraws: u64,
}

/// A number with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// On all items; null when undefined.
    pub value: Option<f64>,
    /// Null when there are too few patients, or the measure is undefined in nearly every draw.
    pub interval: Option<Interval>,
}

/// Numbers with intervals over the same draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimates {
    /// How the draws were made.
    #[serde(flatten)]
    pub draws: Basis,
    /// The numbers by name.
    pub measures: BTreeMap<String, Estimate>,
}

/// How draws were made, and what must be said beside the intervals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Basis {
    /// `patients` or `items`.
    pub unit: String,
    /// How many of them there are.
    pub units: u64,
    /// Number of draws.
    pub draws: u64,
    /// Of the random stream.
    pub seed: u64,
    /// Why there is no interval.
    pub no_interval: Option<String>,
    /// What makes the intervals too narrow.
    pub warning: Option<String>,
}

/// Values of several statistics over the draws; nothing for a statistic that was undefined too often.
pub(super) struct Draws {
    pub values: Vec<Option<Vec<f64>>>,
    pub redraws: Vec<u64>,
}

impl Units {
    /// Patients when every item names one, else the items themselves.
    pub fn new(groups: &[Option<&str>]) -> Self {
        let by_patient = groups.iter().all(Option::is_some);
        let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (item, group) in groups.iter().enumerate() {
            members.entry(group.unwrap_or_default()).or_default().push(item);
        }
        let members =
            if by_patient { members.into_values().collect() } else { (0..groups.len()).map(|item| vec![item]).collect() };
        Units { members, items: groups.len(), by_patient }
    }

    /// Number of patients or items.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Number of items.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Whether patients are drawn.
    pub fn by_patient(&self) -> bool {
        self.by_patient
    }

    /// How draws over these units are made, with what must be said about them.
    pub fn basis(&self, seed: u64) -> Basis {
        let unit = if self.by_patient { "patients" } else { "items" };
        let no_interval = (self.count() < LEAST_UNITS)
            .then(|| format!("{} {unit} are too few for an interval; at least {LEAST_UNITS} are needed", self.count()));
        let warning = (!self.by_patient).then(|| {
            "the data name no patients (column `group`): items were drawn as if independent, so intervals are too narrow"
                .to_string()
        });
        Basis { unit: unit.into(), units: self.count() as u64, draws: DRAWS as u64, seed, no_interval, warning }
    }

    /// How often each item occurs in a draw. Depends on nothing but the units, the seed and the numbers of draw and attempt.
    fn draw(&self, seed: u64, draw: u64, attempt: u64) -> Vec<u32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(attempt << 32 | draw);
        let mut counts = vec![0; self.items];
        for _ in 0..self.members.len() {
            let place = (u128::from(random.next_u64()) * self.members.len() as u128) >> 64;
            for item in &self.members[place as usize] {
                counts[*item] += 1;
            }
        }
        counts
    }

    /// Values of `statistics` over all draws. A statistic that is undefined in a draw gets another draw in its place.
    pub(super) fn draws(&self, seed: u64, wanted: &[bool], statistics: impl Fn(&[u32]) -> Vec<Option<f64>>) -> Draws {
        let mut values: Vec<Option<Vec<f64>>> = wanted.iter().map(|wanted| wanted.then(Vec::new)).collect();
        let mut redraws = vec![0; wanted.len()];
        for draw in 0..DRAWS {
            for attempt in 0..ATTEMPTS {
                let open = |one: &Option<Vec<f64>>| one.as_ref().is_some_and(|one| one.len() == draw);
                if !values.iter().any(open) {
                    break;
                }
                let found = statistics(&self.draw(seed, draw as u64, attempt));
                for ((list, value), redraws) in values.iter_mut().zip(found).zip(&mut redraws).filter(|((list, _), _)| open(list))
                {
                    match (list.as_mut(), value) {
                        (Some(list), Some(value)) => list.push(value),
                        _ => *redraws += 1,
                    }
                }
            }
            values.iter_mut().for_each(|list| *list = list.take().filter(|list| list.len() > draw));
        }
        Draws { values, redraws }
    }
}

impl Draws {
    /// The interval of one statistic.
    pub fn interval(&self, place: usize) -> Option<Interval> {
        let mut values = self.values[place].clone()?;
        values.sort_by(f64::total_cmp);
        Some(Interval { low: percentile(&values, LOW), high: percentile(&values, HIGH), redraws: self.redraws[place] })
    }
}

/// Numbers with intervals: `statistics` computes named numbers of a draw in which item i occurs `counts[i]` times.
pub fn estimate(units: &Units, seed: u64, statistics: impl Fn(&[u32]) -> Vec<(&'static str, Option<f64>)>) -> Estimates {
    let whole = statistics(&vec![1; units.items]);
    let basis = units.basis(seed);
    let wanted: Vec<bool> = whole.iter().map(|(_, value)| value.is_some() && basis.no_interval.is_none()).collect();
    let draws = units.draws(seed, &wanted, |counts| statistics(counts).into_iter().map(|(_, value)| value).collect());
    let estimate = |(place, (name, value)): (usize, (&'static str, Option<f64>))| {
        (name.to_string(), Estimate { value, interval: draws.interval(place) })
    };
    let measures = whole.into_iter().enumerate().map(estimate).collect();
    Estimates { draws: basis, measures }
}

/// Every measure of [`super::classes::ClassMeasures::numbers`] with its interval.
pub fn of_classes(predictions: &Predictions, units: &Units, seed: u64) -> Estimates {
    estimate(units, seed, |counts| class_numbers(predictions, counts))
}

/// The numbers of a draw; those that average over classes are undefined in a draw that lacks a class of the whole set.
pub fn class_numbers(predictions: &Predictions, counts: &[u32]) -> Vec<(&'static str, Option<f64>)> {
    let occurs = |class: usize, drawn: bool| {
        predictions.labels().iter().zip(counts).any(|(label, count)| *label == class && (*count > 0 || !drawn))
    };
    let lacks = (0..predictions.classes().len()).any(|class| occurs(class, false) && !occurs(class, true));
    let mut numbers = predictions.measure_counted(counts).numbers();
    for (name, value) in &mut numbers {
        if lacks && ["balanced_accuracy", "macro_f1"].contains(name) {
            *value = None;
        }
    }
    numbers
}

/// The value at `share` of sorted values, between neighbours in proportion.
pub(super) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}
