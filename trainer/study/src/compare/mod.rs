//! Several runs on the same test items: their measures side by side, and whether they differ.

mod items;
mod page;
mod told;

pub use items::{Item, Items, Run, read};
pub use page::page;
pub use told::{difference, estimate, lines, remarks, table};

use crate::error::StudyError;
use mmlnb_models::measures::{
    MeasureError,
    classes::Predictions,
    intervals::{self, Estimates, Units},
    paired::{self, Difference, McNemar},
};
use serde::Serialize;

/// What several runs are worth on the same items.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// test or validation.
    pub part: String,
    /// Number of items.
    pub items: usize,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// One a run, in the order given.
    pub runs: Vec<Measured>,
    /// Every run but the first, against the first.
    pub against: Vec<Against>,
}

/// A run's measures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The run's folder as it was given.
    pub run: String,
    /// Its recipe.
    pub recipe: String,
    /// Seed of its training.
    pub seed: Option<i64>,
    /// With intervals over the same draws for all runs.
    #[serde(flatten)]
    pub estimates: Estimates,
    /// Mean alpha_text.
    pub alpha_text: Option<f64>,
    /// Share of answers that were accepted.
    pub accepted: f64,
    /// Share of wrong ones among them.
    pub accepted_error: Option<f64>,
}

/// A run against the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Against {
    /// The first run.
    pub first: String,
    /// This run.
    pub second: String,
    /// This run's measures minus the first one's.
    pub differences: Vec<Difference>,
    /// Which items only one of them gets right.
    pub mcnemar: McNemar,
    /// McNemar's p after Holm's adjustment for the number of runs.
    pub holm: f64,
}

/// Compares runs that were read together.
///
/// # Errors
/// None that runs which [`read`] accepted can cause.
pub fn compare(items: &Items, runs: &[Run], seed: u64) -> Result<Comparison, StudyError> {
    let failed = |error: MeasureError| StudyError::Failed(format!("the runs cannot be compared: {error}"));
    let first = runs.first().ok_or_else(|| StudyError::Asked("there is no run to compare".into()))?;
    let units = items.units();
    let mut against = Vec::new();
    for run in &runs[1..] {
        let differences = paired::differences(&first.predictions, &run.predictions, &units, seed).map_err(failed)?;
        let mcnemar = paired::mcnemar(&first.predictions.correct(), &run.predictions.correct()).map_err(failed)?;
        against.push(Against { first: first.name.clone(), second: run.name.clone(), differences, mcnemar, holm: mcnemar.p });
    }
    let adjusted = paired::holm(&against.iter().map(|one| one.mcnemar.p).collect::<Vec<_>>());
    against.iter_mut().zip(adjusted).for_each(|(one, p)| one.holm = p);
    Ok(Comparison {
        part: items.part.to_string(),
        items: items.rows.len(),
        classes: items.classes.clone(),
        runs: runs.iter().map(|run| measured(run, &units, seed)).collect(),
        against,
    })
}

fn measured(run: &Run, units: &Units, seed: u64) -> Measured {
    let accepted: Vec<bool> =
        run.accepted.iter().zip(run.predictions.correct()).filter(|(taken, _)| **taken).map(|(_, right)| right).collect();
    Measured {
        run: run.name.clone(),
        recipe: run.recipe.clone(),
        seed: run.seed,
        estimates: intervals::of_classes(&run.predictions, units, seed),
        alpha_text: run.alpha,
        accepted: accepted.len() as f64 / run.accepted.len() as f64,
        accepted_error: (!accepted.is_empty())
            .then(|| accepted.iter().filter(|right| !**right).count() as f64 / accepted.len() as f64),
    }
}

/// Measures of one way of training over several seeds: the mean over the seeds, on a draw of the items.
pub fn mean_numbers(seeds: &[Predictions], counts: &[u32]) -> Vec<(&'static str, Option<f64>)> {
    let all: Vec<Vec<(&'static str, Option<f64>)>> = seeds.iter().map(|one| intervals::class_numbers(one, counts)).collect();
    let names = all.first().map(|one| one.iter().map(|(name, _)| *name).collect::<Vec<_>>()).unwrap_or_default();
    let mean = |place: usize| {
        let values: Option<Vec<f64>> = all.iter().map(|one| one[place].1).collect();
        values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
    };
    names.into_iter().enumerate().map(|(place, name)| (name, mean(place))).collect()
}

#[cfg(test)]
mod tests;
