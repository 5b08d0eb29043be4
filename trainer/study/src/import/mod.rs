//! Weights that others saved with `torch.save`, made into ours.
//!
//! An encoder's state dict (torchvision's VGG16 and Swin, transformers' BERT) becomes a `.safetensors` file under its own names; the model that the
//! authors of MMLNB released becomes a classifier's folder.

mod encoder;
mod pickle;
mod released;
mod state_dict;
mod written;

pub use state_dict::StateDict;
pub use written::Imported;

use crate::error::StudyError;
use std::path::Path;

/// Imports a file of `torch.save`; `text` is a folder with BERT's `config.json` and tokenizer, which the authors' file lacks.
///
/// # Errors
/// A file that is no state dict of a known network, and an output that cannot be written or is there already.
pub fn import(file: &Path, output: &Path, text: Option<&Path>) -> Result<Imported, StudyError> {
    if output.exists() {
        return Err(StudyError::Asked(format!("{} is there already; name another --output or remove it", output.display())));
    }
    let state = StateDict::read(file)?;
    if released::is_released(&state) {
        let text = text.ok_or_else(|| {
            StudyError::Asked(
                "this is the authors' released model, which has no tokenizer; give --text, a folder with config.json and tokenizer of \
                 the BERT that it was trained with (bert-base-uncased)"
                    .into(),
            )
        })?;
        return released::write(&state, output, text);
    }
    if text.is_some() {
        return Err(StudyError::Asked("--text belongs to the authors' released model, but this file is another".into()));
    }
    encoder::write(&state, output)
}
