//! Evaluating weights: expressions over a checkpoint and an adapter, by rows, in f32.

use super::{Adapter, Checkpoint, Stored, WeightError, merge::merge};
use crate::graph::{Adaption, Weight};
use std::ops::Range;

/// A checkpoint with or without an adapter: what a reading takes its numbers from.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    adapter: Option<&'a Adapter>,
}

impl<'a> Weights<'a> {
    /// A checkpoint alone.
    pub fn new(checkpoint: &'a Checkpoint) -> Weights<'a> {
        Weights { checkpoint, adapter: None }
    }

    /// A checkpoint with an adapter.
    ///
    /// # Errors
    /// [`WeightError::Unmatched`] and [`WeightError::Partial`], see [`Adapter::check`].
    pub fn with_adapter(checkpoint: &'a Checkpoint, adapter: &'a Adapter) -> Result<Weights<'a>, WeightError> {
        adapter.check(checkpoint)?;
        Ok(Weights { checkpoint, adapter: Some(adapter) })
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The adapter.
    pub fn adapter(&self) -> Option<&'a Adapter> {
        self.adapter
    }

    /// Sizes of a weight.
    ///
    /// # Errors
    /// A key that the checkpoint does not have, or a stack of parts that do not fit.
    pub fn shape(&self, weight: &Weight) -> Result<Vec<usize>, WeightError> {
        match weight {
            Weight::Key(key) => Ok(self.tensor(key)?.shape),
            Weight::Matrix(key) => {
                let stored = self.tensor(key)?;
                Ok(vec![stored.rows(), stored.row_len()])
            }
            Weight::Adapted { base, .. } => self.shape(base),
            Weight::Stack(parts) => {
                let shapes = parts.iter().map(|part| self.shape(part)).collect::<Result<Vec<_>, _>>()?;
                let fits = |s: &Vec<usize>| !s.is_empty() && s[1..] == shapes[0][1..];
                if shapes.is_empty() || !shapes.iter().all(fits) {
                    return Err(failed(weight, format!("parts of the shapes {shapes:?} are no stack")));
                }
                let rows = shapes.iter().map(|s| s[0]).sum();
                Ok(std::iter::once(rows).chain(shapes[0][1..].iter().copied()).collect())
            }
        }
    }

    /// Rows `range` of a weight (all further sizes whole), row-major.
    ///
    /// # Errors
    /// A key that the checkpoint or the adapter does not have, rows outside of the weight.
    pub fn rows(&self, weight: &Weight, range: Range<usize>) -> Result<Vec<f32>, WeightError> {
        let rows = rows_of(&self.shape(weight)?);
        if range.start > range.end || range.end > rows {
            return Err(failed(weight, format!("rows {range:?} of {rows} were asked for")));
        }
        self.evaluate(weight, range)
    }

    /// All numbers of a weight, row-major. For large matrices see [`Weights::blocks`].
    ///
    /// # Errors
    /// As [`Weights::rows`].
    pub fn all(&self, weight: &Weight) -> Result<Vec<f32>, WeightError> {
        let rows = rows_of(&self.shape(weight)?);
        self.evaluate(weight, 0..rows)
    }

    /// A weight in blocks of whole rows, in order, each of at most `bytes` in f32 (but at least one row), so that a large matrix is never in
    /// memory as a whole.
    ///
    /// # Errors
    /// As [`Weights::shape`]; the blocks themselves as [`Weights::rows`].
    pub fn blocks<'w>(&self, weight: &'w Weight, bytes: usize) -> Result<Blocks<'a, 'w>, WeightError> {
        let shape = self.shape(weight)?;
        let row_bytes = 4 * shape.iter().skip(1).product::<usize>();
        let rows_each = (bytes / row_bytes.max(1)).max(1);
        Ok(Blocks { weights: *self, weight, rows_each, next: 0, rows: rows_of(&shape) })
    }

    /// The bytes of a weight as they lie in the files: for a key, a matrix, or a stack of those in one type. `None` when the weight has to be
    /// computed or its key is absent.
    pub fn stored(&self, weight: &Weight) -> Option<Stored<'a>> {
        match weight {
            Weight::Key(key) => self.checkpoint.tensor(key),
            Weight::Matrix(key) => {
                let stored = self.checkpoint.tensor(key)?;
                Some(Stored { shape: vec![stored.rows(), stored.row_len()], ..stored })
            }
            Weight::Adapted { .. } => None,
            Weight::Stack(parts) => {
                let stored = parts.iter().map(|part| self.stored(part)).collect::<Option<Vec<_>>>()?;
                let dtype = stored.first()?.dtype;
                let shape = self.shape(weight).ok()?;
                let one_type = stored.iter().all(|part| part.dtype == dtype);
                one_type.then(|| Stored { dtype, shape, parts: stored.into_iter().flat_map(|part| part.parts).collect() })
            }
        }
    }

    /// The first number of a weight's tensors in the checkpoint that is NaN or an infinity, as an error with the tensor's name; `None` when all are
    /// finite. (An adapter's own numbers are looked at when it is opened.)
    pub fn not_finite(&self, weight: &Weight) -> Option<WeightError> {
        weight.keys().into_iter().find_map(|key| self.checkpoint.not_finite(key))
    }

    /// Takes the pages of a weight's tensors in the checkpoint out of this process's memory: for whoever has made a copy of them. They are mapped, so
    /// that they come from the file again when they are read, and until then count twice.
    pub fn give_back(&self, weight: &Weight) {
        weight.keys().into_iter().for_each(|key| self.checkpoint.give_back(key));
    }

    /// Whether two weights of one shape differ in any number, by bytes of f32.
    pub(super) fn differ(&self, a: &Weight, b: &Weight) -> Result<bool, WeightError> {
        const BLOCK: usize = 1 << 18;
        let (a, b) = (self.blocks(a, BLOCK)?, self.blocks(b, BLOCK)?);
        for (a, b) in a.zip(b) {
            let (a, b) = (a?, b?);
            if a.iter().zip(&b).any(|(a, b)| a.to_bits() != b.to_bits()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `range` lies within the weight.
    fn evaluate(&self, weight: &Weight, range: Range<usize>) -> Result<Vec<f32>, WeightError> {
        match weight {
            Weight::Key(key) | Weight::Matrix(key) => Ok(self.tensor(key)?.decode(range)),
            Weight::Adapted { base, module, rank, scale_bits, magnitude } => {
                let scale = f64::from_bits(*scale_bits);
                let asked = Adaption { rank: *rank, scale, magnitude: *magnitude };
                let Some(adapter) = self.adapter.filter(|adapter| adapter.adaption(module) == Some(asked)) else {
                    return Err(failed(weight, "the adapter that the network was adapted with is not given".into()));
                };
                let mut values = self.evaluate(base, range.clone())?;
                merge(adapter, module, scale, range, &mut values)?;
                Ok(values)
            }
            Weight::Stack(parts) => {
                let mut values = Vec::new();
                let mut first = 0;
                for part in parts {
                    let rows = rows_of(&self.shape(part)?);
                    let local = range.start.max(first)..range.end.min(first + rows);
                    if local.start < local.end {
                        values.extend(self.evaluate(part, local.start - first..local.end - first)?);
                    }
                    first += rows;
                }
                Ok(values)
            }
        }
    }

    fn tensor(&self, key: &str) -> Result<Stored<'a>, WeightError> {
        let problem = || format!("{} has no such tensor, or in a type that is not supported", self.checkpoint.path().display());
        self.checkpoint.tensor(key).ok_or_else(|| WeightError::Evaluation { weight: key.to_string(), problem: problem() })
    }
}

/// Blocks of rows of a weight, see [`Weights::blocks`].
#[derive(Clone, Debug)]
pub struct Blocks<'a, 'w> {
    weights: Weights<'a>,
    weight: &'w Weight,
    rows_each: usize,
    next: usize,
    rows: usize,
}

impl Iterator for Blocks<'_, '_> {
    type Item = Result<Vec<f32>, WeightError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.rows {
            return None;
        }
        let range = self.next..(self.next + self.rows_each).min(self.rows);
        self.next = range.end;
        Some(self.weights.evaluate(self.weight, range))
    }
}

fn rows_of(shape: &[usize]) -> usize {
    shape.first().copied().unwrap_or(1)
}

fn failed(weight: &Weight, problem: String) -> WeightError {
    WeightError::Evaluation { weight: weight.to_string(), problem }
}
