//! What an ablation finds.

use super::{alphas::Alphas, ranks::Rank};
use mmlnb_models::measures::{
    intervals::{Basis, Estimates},
    paired::Difference,
};
use serde::Serialize;

/// The table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ablation {
    /// test or validation.
    pub part: String,
    /// Number of items in it.
    pub items: usize,
    /// How the draws were made.
    pub draws: Basis,
    /// One a variation that was trained, the first one first.
    pub rows: Vec<Row>,
    /// Why there is no p-value, or not for all.
    pub no_p: Option<String>,
    /// Runs that could not be trained, with the reason.
    pub failed: Vec<String>,
    /// The describers of the rank sweep.
    pub ranks: Vec<Rank>,
    /// How alpha answers to worse texts, over the first variation's seeds; none where it has no alpha.
    pub alphas: Option<Alphas>,
}

/// One variation over its seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// The paper's accuracy, where it could be read.
    pub published: Option<f64>,
    /// Seeds that were trained.
    pub seeds: Vec<Option<i64>>,
    /// Means over the seeds, with intervals over draws of seeds and of patients.
    pub measures: Estimates,
    /// The lowest and highest accuracy of a seed.
    pub accuracy_range: [f64; 2],
    /// Mean alpha_text.
    pub alpha_text: Option<f64>,
    /// To the first variation, over the same draws of patients; empty in its own row.
    pub differences: Vec<Difference>,
    /// Two-sided p of the difference in accuracy from the draws, after Holm's adjustment for the number of rows; none with fewer than five seeds.
    pub p: Option<f64>,
}
