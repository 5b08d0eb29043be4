//! The tensors on the way from an image to its answers, for checking: `--trace`.
#![expect(clippy::disallowed_methods, reason = "the operator's own file")]

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

/// One tensor of a trace.
#[derive(Clone, PartialEq, Debug)]
pub enum Values {
    /// Floats.
    F32(Vec<f32>),
    /// Integers.
    I64(Vec<i64>),
}

/// Tensors by name, with their shapes.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Trace {
    tensors: BTreeMap<String, (Vec<usize>, Values)>,
}

impl Trace {
    /// Adds f32 values of `shape`.
    pub fn put_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.put(name, shape, Values::F32(values.to_vec()));
    }

    /// Adds i64 values of `shape`.
    pub fn put_i64(&mut self, name: &str, shape: &[usize], values: &[i64]) {
        self.put(name, shape, Values::I64(values.to_vec()));
    }

    fn put(&mut self, name: &str, shape: &[usize], values: Values) {
        self.tensors.insert(name.to_string(), (shape.to_vec(), values));
    }

    /// Shape and values of a tensor.
    pub fn get(&self, name: &str) -> Option<(&[usize], &Values)> {
        self.tensors.get(name).map(|(shape, values)| (shape.as_slice(), values))
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Takes over all tensors of `other`, each with `prefix` before its name.
    pub fn absorb(&mut self, prefix: &str, other: Trace) {
        self.tensors.extend(other.tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
    }

    /// Writes a safetensors file.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let views = self.tensors.iter().map(|(name, (shape, values))| {
            let (dtype, bytes): (Dtype, &[u8]) = match values {
                Values::F32(values) => (Dtype::F32, bytemuck::cast_slice(values)),
                Values::I64(values) => (Dtype::I64, bytemuck::cast_slice(values)),
            };
            TensorView::new(dtype, shape.clone(), bytes).map(|view| (name.as_str(), view))
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(std::io::Error::other)?;
        let bytes = safetensors::serialize(views, None).map_err(std::io::Error::other)?;
        std::fs::write(path, bytes)
    }
}
