//! What an ablation trains: recipes, and a recipe with something taken away that it should need.

use super::ranks::rank_of;
use crate::{classify::Recipe, error::TrainError};
use std::path::PathBuf;
use toml::Table;

/// One way of training.
#[derive(Clone, Debug, PartialEq)]
pub struct Variation {
    /// A recipe's name, one of [`NULLS`], or `rank-N`: `paper` with the texts of a describer of rank N.
    pub name: String,
    /// The recipe with its changes, before the seed.
    pub recipe: Recipe,
    /// Who describes its images, if not the one that describes for all.
    pub describer: Option<PathBuf>,
}

/// Variations that are no recipe: name, recipe, key and value, what it shows.
pub const NULLS: [(&str, &str, &str, &str, &str); 3] = [
    (
        "shuffled-text",
        "paper",
        "null_text",
        "shuffled",
        "every image with the text of another patient: what a text is worth that says nothing",
    ),
    ("blank-image", "paper", "null_image", "blank", "every image white: what the text alone is worth within the fusion"),
    ("masked-text", "paper", "null_text", "masked", "words that name a class masked: whether the text is a copied label"),
];

/// What is trained unless told otherwise.
pub const USUAL: [&str; 10] = [
    "paper",
    "image-only",
    "text-only",
    "no-prmf-concat",
    "no-prmf-fixed-0.5",
    "no-curriculum",
    "slow",
    "shuffled-text",
    "blank-image",
    "masked-text",
];

/// Accuracies that could be read of the paper (arXiv 2503.12927), in percent. It does not say how it left PRMF out.
const PAPER: [(&str, f64); 8] = [
    ("paper", 80.73),
    ("swin-image-only", 78.27),
    ("image-only", 71.73),
    ("no-prmf-concat", 78.12),
    ("no-prmf-fixed-0.3", 78.12),
    ("no-prmf-fixed-0.5", 78.12),
    ("no-prmf-fixed-0.7", 78.12),
    ("no-curriculum", 78.67),
];

/// The paper's accuracy for a variation, 0 to 1.
pub fn published(name: &str) -> Option<f64> {
    PAPER.iter().find(|(known, _)| *known == name).map(|(_, percent)| percent / 100.0)
}

/// The variations of these names. `config` holds keys for all of them, and tables named like a variation with keys for it alone.
///
/// # Errors
/// Names and keys that do not exist, values that make no sense; all of them listed.
pub fn variations(names: &[String], config: &Table) -> Result<Vec<Variation>, TrainError> {
    let mut problems = Vec::new();
    let stray = config.iter().filter(|(key, value)| value.is_table() && !names.contains(key));
    problems.extend(
        stray.map(|(key, _)| format!("  [{key}] in --config: no such variation is trained here; there are {}", names.join(", "))),
    );
    let mut found: Vec<Variation> = Vec::new();
    for name in names {
        if found.iter().any(|other| other.name == *name) {
            problems.push(format!("  {name} is named twice"));
            continue;
        }
        match variation(name, config) {
            Ok(variation) => found.push(variation),
            Err(error) => problems.push(format!("  {name}: {error}")),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(TrainError::Asked(format!("nothing was started:\n{}", problems.join("\n")))) }
}

fn variation(name: &str, config: &Table) -> Result<Variation, TrainError> {
    let mut changes: Table =
        config.iter().filter(|(_, value)| !value.is_table()).map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(toml::Value::Table(own)) = config.get(name) {
        changes.extend(own.clone());
    }
    let null = NULLS.iter().find(|(null, ..)| *null == name);
    if let Some((_, _, key, value, _)) = null {
        changes.insert((*key).into(), (*value).into());
    }
    let own = if rank_of(name).is_some() { "paper" } else { name };
    let recipe = Recipe::with_changes(null.map_or(own, |(_, recipe, ..)| recipe), changes)?;
    Ok(Variation { name: name.into(), recipe, describer: None })
}
