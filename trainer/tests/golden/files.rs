//! The reference data: where it lies and how it is read.

use mmlnb_models::prepare::decode::{Limits, Rgb8Image, decode};
use serde_json::Value;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};
use tch::Tensor;

/// A family's folder below MMLNB_GOLDEN or the project's own copy; an absent one is reported and skipped.
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

/// The entries of a list; an empty or absent list fails, so that no loop over it passes for nothing.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let items = value[key].as_array().unwrap_or_else(|| panic!("no list `{key}`"));
    assert!(!items.is_empty(), "`{key}` is empty");
    items
}

pub fn integers(value: &Value) -> Vec<i64> {
    let items = value.as_array().unwrap_or_else(|| panic!("no list: {value}"));
    items.iter().map(|one| one.as_i64().unwrap()).collect()
}

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {value}"))
}

pub fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {value}"))
}

pub fn tolerance(cases: &Value, key: &str) -> f64 {
    number(&cases["tolerance"], key)
}

pub fn picture(file: &Path) -> Rgb8Image {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let limits = Limits { min_side: 1, ..Limits::default() };
    decode(&bytes, &limits).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The tensors of one safetensors file.
pub struct Tensors {
    file: PathBuf,
    all: HashMap<String, Tensor>,
}

impl Tensors {
    pub fn read(file: PathBuf) -> Tensors {
        let all = Tensor::read_safetensors(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Tensors { file, all: all.into_iter().collect() }
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.all.get(name).unwrap_or_else(|| panic!("{} has no {name}", self.file.display()))
    }

    /// `None` where a file may lack a tensor.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.all.get(name)
    }

    pub fn integers(&self, name: &str) -> Vec<i64> {
        Vec::<i64>::try_from(self.get(name).flatten(0, -1)).unwrap()
    }

    /// Tensors whose names begin with `prefix.`, without it; at least one.
    pub fn below(&self, prefix: &str) -> Vec<(&str, &Tensor)> {
        let start = format!("{prefix}.");
        let mut found: Vec<(&str, &Tensor)> =
            self.all.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(&start)?, tensor))).collect();
        assert!(!found.is_empty(), "{} has nothing below {prefix}", self.file.display());
        found.sort_by_key(|(name, _)| *name);
        found
    }
}
