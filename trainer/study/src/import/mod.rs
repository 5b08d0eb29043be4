//! Weights that others saved with `torch.save`, made into ours.
//!
//! An encoder's state dict (torchvision's VGG16 and Swin, transformers' BERT) becomes a `.safetensors` file under its own names; the model that the
//! authors of MMLNB released becomes a classifier's folder.

mod encoder;
mod pickle;
mod released;
mod state_dict;

pub use state_dict::StateDict;

use crate::error::TrainError;
use safetensors::{Dtype, tensor::TensorView};
use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
};

/// What came of an import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// The file or folder.
    pub path: PathBuf,
    /// What it is, in words.
    pub what: String,
    /// Number of tensors.
    pub tensors: usize,
}

/// Imports a file of `torch.save`; `text` is a folder with BERT's `config.json` and tokenizer, which the authors' file lacks.
///
/// # Errors
/// A file that is no state dict of a known network, and an output that cannot be written or is there already.
pub fn import(file: &Path, output: &Path, text: Option<&Path>) -> Result<Imported, TrainError> {
    if output.exists() {
        return Err(TrainError::Asked(format!("{} is there already; name another --output or remove it", output.display())));
    }
    let state = StateDict::read(file)?;
    if released::is_released(&state) {
        let text = text.ok_or_else(|| {
            TrainError::Asked(
                "this is the authors' released model, which has no tokenizer; give --text, a folder with config.json and tokenizer of \
                 the BERT that it was trained with (bert-base-uncased)"
                    .into(),
            )
        })?;
        return released::write(&state, output, text);
    }
    if text.is_some() {
        return Err(TrainError::Asked("--text belongs to the authors' released model, but this file is another".into()));
    }
    encoder::write(&state, output)
}

/// A tensor on its way into a file.
type Named<'s> = (String, Dtype, Vec<usize>, Cow<'s, [u8]>);

fn write_safetensors(tensors: &[Named<'_>], file: &Path) -> Result<(), TrainError> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, dtype, shape, bytes) in tensors {
        let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(|error| TrainError::File {
            path: file.to_path_buf(),
            problem: format!("the tensor {name} cannot be written: {error}"),
        })?;
        views.push((name.clone(), view));
    }
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views, Some(format), file)
        .map_err(|error| TrainError::io("write", file)(std::io::Error::other(error)))
}
