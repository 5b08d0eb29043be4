//! Checkpoints of any size with random weights: for the demo, for tests, and for measuring memory and time without real weights.

mod bytes;
mod classifier;
mod describer;
mod random;
mod tokenizer;

pub use classifier::{ClassifierOptions, write_classifier};
pub use describer::{DescriberOptions, Shape, write_describer};

use anyhow::{Context, Result};
use serde_json::Value;
use std::{fs, path::Path};

/// What random values a tensor gets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fill {
    /// About normal, mean 0, with this standard deviation.
    Normal(f32),
    /// This value everywhere.
    Constant(f32),
}

/// One tensor to write.
#[derive(Debug, Clone, PartialEq)]
struct Tensor {
    key: String,
    shape: Vec<usize>,
    fill: Fill,
}

impl Tensor {
    fn new(key: impl Into<String>, shape: impl Into<Vec<usize>>, fill: Fill) -> Self {
        Self { key: key.into(), shape: shape.into(), fill }
    }

    fn elements(&self) -> u64 {
        self.shape.iter().map(|side| *side as u64).product()
    }
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("{} cannot be made", path.display()))
}

fn write_json(folder: &Path, name: &str, value: &Value) -> Result<()> {
    write_text(folder, name, &format!("{value:#}\n"))
}

fn write_text(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
}
