//! A classifier's folder: configuration, weights, tokenizer, stored features.

use super::{network::Network, start::copy_tokenizer};
use crate::{
    data::{TrainingData, write_training_data},
    error::TrainError,
    torch::first_line,
};
use mmlnb_models::{
    bundle::Calibration,
    config::ClassifierConfig,
    json,
    measures::novelty::Neighbours,
    weights::{Checkpoint, Naming},
};
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tch::{Device, Tensor};

pub use mmlnb_models::bundle::NOVELTY;

/// What a folder says beside sizes and weights.
#[derive(Clone, Debug, Default)]
pub(super) struct Extras {
    /// All that decided the training.
    pub recipe: Map<String, Value>,
    pub calibration: Option<Calibration>,
    /// What was measured, in short.
    pub measures: Option<Value>,
    /// SHA-256 of the data, for a bundle's provenance.
    pub data_sha256: Option<String>,
    pub neighbours: Option<Neighbours>,
    /// What trained it.
    pub training_data: TrainingData,
}

/// Writes a classifier into an empty folder.
///
/// # Errors
/// What cannot be written.
pub(super) fn write(
    folder: &Path,
    config: &ClassifierConfig,
    tensors: &[(String, Tensor)],
    tokenizer: Option<&Path>,
    extras: &Extras,
) -> Result<(), TrainError> {
    let mut settings = config.to_json();
    let mut recipe = extras.recipe.clone();
    recipe.insert("dropout".into(), json!(config.dropout));
    settings["recipe"] = Value::Object(recipe);
    if let Some(calibration) = &extras.calibration {
        settings["calibration"] = serde_json::to_value(calibration).map_err(|error| TrainError::Failed(error.to_string()))?;
    }
    if let Some(data) = &extras.data_sha256 {
        settings["data_sha256"] = data.as_str().into();
    }
    if let Some(measures) = &extras.measures {
        settings["measures"] = measures.clone();
    }
    let file = folder.join("config.json");
    let text = serde_json::to_string_pretty(&settings).map_err(|error| TrainError::Failed(error.to_string()))?;
    fs::write(&file, text + "\n").map_err(TrainError::io("write", &file))?;
    let file = folder.join("model.safetensors");
    let on_cpu: Vec<(&str, Tensor)> =
        tensors.iter().map(|(name, t)| (name.as_str(), t.to_device(Device::Cpu).contiguous())).collect();
    Tensor::write_safetensors(&on_cpu, &file).map_err(|error| TrainError::file(file, first_line(&error)))?;
    write_training_data(&extras.training_data, folder)?;
    if let Some(tokenizer) = tokenizer {
        copy_tokenizer(tokenizer, folder)?;
    }
    if let Some(neighbours) = &extras.neighbours {
        neighbours.write(&folder.join(NOVELTY)).map_err(|error| TrainError::Failed(error.to_string()))?;
    }
    Ok(())
}

/// A classifier read from its folder.
pub(super) struct Opened {
    pub network: Network,
    pub calibration: Option<Calibration>,
    pub neighbours: Option<Neighbours>,
    pub tokenizer: Option<PathBuf>,
}

/// Opens a classifier's folder.
///
/// # Errors
/// A folder that is no classifier, or whose calibration or stored features cannot be used.
pub(super) fn open(folder: &Path, device: Device) -> Result<Opened, TrainError> {
    let file = folder.join("config.json");
    let settings = json::read(&file)?;
    let config = ClassifierConfig::from_json(&file, &settings)?;
    let wrong = |problem: String| TrainError::file(&file, problem);
    let calibration: Option<Calibration> = match settings.get("calibration").filter(|value| !value.is_null()) {
        None => None,
        Some(value) => Some(serde_json::from_value(value.clone()).map_err(|error| wrong(format!("key `calibration`: {error}")))?),
    };
    let neighbours = match calibration.as_ref().and_then(|calibration| calibration.novelty.as_ref()) {
        None => None,
        Some(limit) => Some(
            Neighbours::read(&folder.join(NOVELTY), limit.neighbours).map_err(|error| TrainError::Failed(error.to_string()))?,
        ),
    };
    let checkpoint = Checkpoint::open(folder, Naming::Classifier)?;
    let network = Network::new(&config, &checkpoint, device, false)?;
    let tokenizer = config.text.as_ref().map(|_| folder.to_path_buf());
    Ok(Opened { network, calibration, neighbours, tokenizer })
}
