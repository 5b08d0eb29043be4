//! Descriptions before training and at the best epoch beside the expert's: `examples.jsonl`, for the run's page.

use super::validate::Validation;
use crate::{error::TrainError, report::record::Example, run::RunFolder};
use std::{fs, path::Path};

/// What the base writes about the fixed validation subset, kept until the run ends.
const BASE: &str = "base_texts.json";

/// Writes down what the describer says before its first step.
///
/// # Errors
/// What libtorch or the operating system refuses.
pub fn keep_base(run: &mut RunFolder, validation: &Validation<'_>) -> Result<(), TrainError> {
    if validation.training.recipe.validation_texts == 0 || validation.training.validation.is_empty() {
        return Ok(());
    }
    let texts = validation.texts()?.texts;
    run.write(BASE, &serde_json::to_vec(&texts).map_err(|error| TrainError::Failed(error.to_string()))?)
}

/// Writes the examples anew with the texts of a better epoch.
///
/// # Errors
/// What the operating system refuses.
pub fn write(run: &mut RunFolder, validation: &Validation<'_>, tuned: &[String]) -> Result<(), TrainError> {
    let base = base(run.path())?;
    let mut lines = String::new();
    for (number, (item, tuned)) in validation.subset().into_iter().zip(tuned).enumerate() {
        let file = item.image.strip_prefix(validation.training.images).unwrap_or(&item.image);
        let example = Example {
            file_name: file.to_string_lossy().into_owned(),
            reference: item.description.clone(),
            base: base.get(number).cloned(),
            tuned: tuned.clone(),
        };
        lines += &serde_json::to_string(&example).map_err(|error| TrainError::Failed(error.to_string()))?;
        lines.push('\n');
    }
    run.write("examples.jsonl", lines.as_bytes())
}

fn base(run: &Path) -> Result<Vec<String>, TrainError> {
    let path = run.join(BASE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).map_err(TrainError::io("read", &path))?;
    serde_json::from_str(&text).map_err(|error| TrainError::file(path, format!("no list of texts: {error}")))
}
