//! The reference data: where it lies and how it is read.

#![allow(dead_code, missing_docs, reason = "every test binary uses a part of it")]

use std::path::{Path, PathBuf};

use mmlnb_models::prepare::decode::{Decoded, Limits, Rgb8Image, examine};
use safetensors::SafeTensors;
use serde_json::Value;

/// A family's folder below MMLNB_GOLDEN or the project's own copy; absent ones are reported.
pub fn family(name: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let folder = std::env::var_os("MMLNB_GOLDEN").map_or(own, PathBuf::from).join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: {} is absent", folder.display());
    None
}

pub fn json(file: &Path) -> Value {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Every entry of a JSON list; an empty or absent list fails, so that no loop over it passes for nothing.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let items = value[key].as_array().unwrap_or_else(|| panic!("no list `{key}`"));
    assert!(!items.is_empty(), "`{key}` is empty");
    items
}

pub fn integer(value: &Value, key: &str) -> i64 {
    value[key].as_i64().unwrap_or_else(|| panic!("no integer `{key}` in {value}"))
}

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {value}"))
}

pub fn integers(value: &Value, key: &str) -> Vec<i64> {
    value[key].as_array().unwrap_or_else(|| panic!("no list `{key}`")).iter().map(|one| one.as_i64().unwrap()).collect()
}

pub fn picture(file: &Path) -> Rgb8Image {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    // The reference takes the first of several pages, which `decode` refuses.
    let found = examine(&bytes, &Limits { min_side: 1, ..Limits::default() }).and_then(Decoded::undamaged);
    found.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// One safetensors file in memory.
pub struct Tensors {
    file: PathBuf,
    bytes: Vec<u8>,
}

impl Tensors {
    pub fn read(file: PathBuf) -> Self {
        let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Tensors { file, bytes }
    }

    fn data(&self, name: &str, dtype: safetensors::Dtype) -> (Vec<usize>, Vec<u8>) {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap_or_else(|error| panic!("{} {name}: {error}", self.file.display()));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }

    pub fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).unwrap().tensor(name).is_ok()
    }

    pub fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.bytes).unwrap().names().into_iter().map(str::to_string).collect()
    }

    pub fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, data) = self.data(name, safetensors::Dtype::F32);
        (shape, data.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect())
    }

    pub fn i64(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        let (shape, data) = self.data(name, safetensors::Dtype::I64);
        (shape, data.chunks_exact(8).map(|eight| i64::from_le_bytes(eight.try_into().unwrap())).collect())
    }

    pub fn u8(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        self.data(name, safetensors::Dtype::U8)
    }
}

/// Largest |a - b|; lengths must agree and nothing may be NaN.
pub fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "number of values");
    assert!(found.iter().all(|value| value.is_finite()), "a value is not finite");
    found.iter().zip(expected).fold(0.0, |most, (one, other)| f32::max(most, (one - other).abs()))
}
