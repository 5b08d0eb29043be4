//! Where the numbers of a written graph come from: weights, by blocks of rows, with the factors that were moved between neighbouring layers.

use mmlnb_models::{
    graph::Weight,
    weights::{WeightError, Weights},
};
use std::{collections::BTreeMap, ops::Range};

/// Factors of the rows and columns of a checkpoint's tensors, by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Factors {
    /// One for each row; of a vector, for each number.
    pub rows: BTreeMap<String, Vec<f32>>,
    /// One for each column of a matrix.
    pub columns: BTreeMap<String, Vec<f32>>,
}

/// Weights with factors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers<'n> {
    pub weights: &'n Weights<'n>,
    pub factors: &'n Factors,
}

impl<'n> Numbers<'n> {
    /// Rows `range` of a weight, row-major.
    ///
    /// # Errors
    /// As [`Weights::rows`].
    pub fn rows(&self, weight: &Weight, range: Range<usize>) -> Result<Vec<f32>, WeightError> {
        let mut values = self.weights.rows(weight, range.clone())?;
        if !range.is_empty() {
            self.multiply(weight, range, &mut values)?;
        }
        Ok(values)
    }

    /// A weight in blocks of whole rows, in order, each of at most `bytes` in f32 (but at least one row).
    ///
    /// # Errors
    /// As [`Weights::shape`]; the blocks themselves as [`Weights::rows`].
    pub fn blocks<'b>(
        &'b self,
        weight: &'b Weight,
        bytes: usize,
    ) -> Result<impl Iterator<Item = Result<Vec<f32>, WeightError>> + use<'n, 'b>, WeightError> {
        let shape = self.weights.shape(weight)?;
        let rows = shape.first().copied().unwrap_or(1);
        let each = (bytes / (4 * shape.iter().skip(1).product::<usize>()).max(1)).max(1);
        Ok((0..rows).step_by(each).map(move |start| self.rows(weight, start..(start + each).min(rows))))
    }

    fn multiply(&self, weight: &Weight, range: Range<usize>, values: &mut [f32]) -> Result<(), WeightError> {
        let width = values.len() / range.len();
        match weight {
            Weight::Key(key) | Weight::Matrix(key) => {
                if let Some(factors) = self.factors.rows.get(key) {
                    for (row, factor) in values.chunks_exact_mut(width).zip(&factors[range]) {
                        row.iter_mut().for_each(|value| *value *= factor);
                    }
                }
                if let Some(factors) = self.factors.columns.get(key) {
                    for row in values.chunks_exact_mut(width) {
                        row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
                    }
                }
                Ok(())
            }
            Weight::Adapted { base, .. } => self.multiply(base, range, values),
            Weight::Stack(parts) => {
                let (mut first, mut rest) = (0, values);
                for part in parts {
                    let rows = self.weights.shape(part)?.first().copied().unwrap_or(1);
                    let local = range.start.max(first)..range.end.min(first + rows);
                    if local.start < local.end {
                        let (own, others) = rest.split_at_mut(local.len() * width);
                        self.multiply(part, local.start - first..local.end - first, own)?;
                        rest = others;
                    }
                    first += rows;
                }
                Ok(())
            }
        }
    }
}
