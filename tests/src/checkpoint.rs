//! Checkpoints with a fault: the tensors of a `.safetensors` file, read, edited and written back.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// One tensor of a file.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// Its key.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, little-endian.
    pub bytes: Vec<u8>,
}

impl StoredTensor {
    /// The elements of an F32 tensor.
    ///
    /// # Panics
    /// If it has another type.
    pub fn f32(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32, "{}", self.name);
        self.bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
    }
}

/// All tensors of a file, sorted by key.
///
/// # Panics
/// If the file is no safetensors file.
pub fn read_tensors(file: &Path) -> Vec<StoredTensor> {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let stored = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut tensors: Vec<StoredTensor> = stored
        .iter()
        .map(|(name, view)| StoredTensor {
            name: name.to_owned(),
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

/// Rewrites `model.safetensors` of a checkpoint's folder.
///
/// # Panics
/// On I/O errors.
pub fn edit_checkpoint(folder: &Path, edit: impl FnOnce(&mut Vec<StoredTensor>)) {
    edit_tensors(&folder.join("model.safetensors"), edit);
}

/// Rewrites a file of tensors.
///
/// # Panics
/// On I/O errors.
pub fn edit_tensors(file: &Path, edit: impl FnOnce(&mut Vec<StoredTensor>)) {
    let mut tensors = read_tensors(file);
    edit(&mut tensors);
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).expect("shape and bytes agree");
        (tensor.name.clone(), view)
    });
    safetensors::serialize_to_file(views, None, file).expect("the copy is writable");
}
