//! What a rank is worth: describers tuned with several, beside the classifiers that read their texts.

use crate::{error::TrainError, report::record::Record};
use serde::Serialize;
use std::{collections::BTreeMap, fs, path::Path};

/// What names a variation that reads the texts of a describer of some rank.
const PREFIX: &str = "rank-";

/// A tuned describer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rank {
    /// Its adapter's rank.
    pub rank: i64,
    /// Size of its adapter's file.
    pub adapter_bytes: u64,
    /// Measures on validation images at the epoch with the smallest loss: `nll`, `bleu`, `facts_f1`, `distinct` and others.
    pub measures: BTreeMap<String, f64>,
}

/// The variation's name for a rank.
pub fn variation_of(rank: i64) -> String {
    format!("{PREFIX}{rank}")
}

/// The rank that a variation's name holds.
pub fn rank_of(name: &str) -> Option<i64> {
    name.strip_prefix(PREFIX)?.parse().ok().filter(|rank| *rank > 0)
}

/// Reads the finished run of `describe` in `run`.
///
/// # Errors
/// A run without validation or adapter.
pub fn read(rank: i64, run: &Path) -> Result<Rank, TrainError> {
    let record = Record::read(run)?;
    let problem = "there is no validation in it: a rank cannot be judged without validation images".to_string();
    let best = record.best_validation().ok_or_else(|| TrainError::file(run, problem))?;
    let measures = best.measures().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect();
    let adapter = run.join("best/adapter_model.safetensors");
    let adapter_bytes = fs::metadata(&adapter).map_err(TrainError::io("read", &adapter))?.len();
    Ok(Rank { rank, adapter_bytes, measures })
}

/// The table of describers.
pub(super) fn table(ranks: &[Rank]) -> String {
    if ranks.is_empty() {
        return String::new();
    }
    let mut text = "\nDescribers by rank, on their validation images at their best epoch; the rows `rank-N` above are classifiers that read their texts.\n\n\
                    | rank | adapter | loss | BLEU | facts F1 | distinct texts |\n|---|---|---|---|---|---|\n"
        .to_string();
    for one in ranks {
        let measure = |name: &str| one.measures.get(name).map_or_else(|| "-".to_string(), |value| format!("{value:.3}"));
        let [loss, bleu, facts, distinct] = ["nll", "bleu", "facts_f1", "distinct"].map(measure);
        text +=
            &format!("| {} | {:.2} MB | {loss} | {bleu} | {facts} | {distinct} |\n", one.rank, one.adapter_bytes as f64 / 1e6);
    }
    text
}
