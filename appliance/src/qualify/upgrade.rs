//! Bundles of format 1, where an earlier qualification was written into the manifest and the model card.

use mmlnb_models::bundle::{Bundle, CLASSIFIER, Calibration, FORMAT, Manifest};
use serde_json::Value;

use super::answers::OURS;
use crate::error::{Exit, Failure};

/// The manifest as the maker left it, in the present format: of a bundle in that format the manifest itself.
///
/// # Errors
/// The classifier's config.json, which has what the trainer found, cannot be read.
pub fn upgraded(bundle: &Bundle) -> Result<Manifest, Failure> {
    let mut manifest = bundle.manifest.clone();
    manifest.format = FORMAT;
    if manifest.qualification.take().is_some() {
        manifest.files.retain(|name, _| !name.starts_with(OURS));
        manifest.known_answers.retain(|answer| !answer.image.starts_with(OURS));
        if let Some(part) = &mut manifest.classifier {
            part.calibration = trainers(bundle)?;
        }
    }
    Ok(manifest)
}

fn trainers(bundle: &Bundle) -> Result<Option<Calibration>, Failure> {
    let file = bundle.path(&format!("{CLASSIFIER}/config.json"));
    let bytes = std::fs::read(&file).map_err(|error| Failure::io("the classifier's settings cannot be read", &file, &error))?;
    let calibration =
        serde_json::from_slice::<Value>(&bytes).and_then(|config| serde_json::from_value(config["calibration"].clone()));
    calibration.map_err(|error| {
        Failure::new(Exit::Configuration, error.to_string(), file.display().to_string(), "export the bundle again")
    })
}
