//! A whole checkpoint with tuned weights, in the base's own files, names and types.

use crate::{error::TrainError, torch::Leaf};
use mmlnb_models::{
    config::QwenConfig,
    weights::{Checkpoint, WeightError, write_changed},
};
use std::{fs, path::Path};
use tch::{Device, Kind, TchError};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Fills `folder` with the base's configuration and tokenizer and with its weights, those of `leaves` as they have become.
///
/// # Errors
/// What libtorch or the operating system refuses.
pub fn write(folder: &Path, base: &Checkpoint, leaves: &[&Leaf]) -> Result<(), TrainError> {
    copy_all_but_weights(base.path(), folder)?;
    let tied = QwenConfig::from_dir(base.path())?.text.tied;
    let values = |leaf: &Leaf| -> Result<Vec<f32>, TchError> {
        let flat = leaf.tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_flatten(0, -1)?;
        Vec::<f32>::try_from(&flat)
    };
    let mut changed = |key: &str| {
        let name = if tied && key == HEAD { EMBEDDING } else { key };
        let leaf = leaves.iter().find(|leaf| leaf.name == name);
        leaf.map(|leaf| values(leaf))
            .transpose()
            .map_err(|error| WeightError::Evaluation { weight: key.to_string(), problem: error.to_string() })
    };
    Ok(write_changed(base, folder, &mut changed, &mut |_, _| {})?)
}

/// Configuration, tokenizer, chat template, index: everything at the top of the folder that is no weights.
fn copy_all_but_weights(from: &Path, to: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(from).map_err(TrainError::io("read", from))? {
        let path = entry.map_err(TrainError::io("read", from))?.path();
        let wanted = ["json", "jinja", "txt", "model"];
        let kind = path.extension().and_then(|extension| extension.to_str());
        if let (true, Some(name)) = (path.is_file() && kind.is_some_and(|kind| wanted.contains(&kind)), path.file_name()) {
            fs::copy(&path, to.join(name)).map_err(TrainError::io("write", &to.join(name)))?;
        }
    }
    Ok(())
}
