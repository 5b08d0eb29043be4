//! What an import writes.

use crate::error::StudyError;
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

/// A tensor on its way into a file.
pub(super) type Named<'s> = (String, Dtype, Vec<usize>, Cow<'s, [u8]>);

pub(super) fn write_safetensors(tensors: &[Named<'_>], file: &Path) -> Result<(), StudyError> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, dtype, shape, bytes) in tensors {
        let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(|error| StudyError::File {
            path: file.to_path_buf(),
            problem: format!("the tensor {name} cannot be written: {error}"),
        })?;
        views.push((name.clone(), view));
    }
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views, Some(format), file)
        .map_err(|error| StudyError::io("write", file)(std::io::Error::other(error)))
}
