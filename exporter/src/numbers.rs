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

#[cfg(test)]
mod tests {
    use super::*;
    use mmlnb_models::weights::{Checkpoint, DType, Naming};

    /// However a stack is cut into rows, also in the midst of its parts, each number has the factors of its tensor's row and column.
    #[test]
    fn factors_follow_their_tensors_through_any_cut() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = |count: u8| DType::F32.encode(&(0..count).map(f32::from).collect::<Vec<_>>());
        let [a, b] = [bytes(15), bytes(6)];
        let view = |rows, bytes| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![rows, 3], bytes).unwrap();
        let file = folder.path().join("model.safetensors");
        safetensors::serialize_to_file([("a.weight", view(5, &a)), ("b.weight", view(2, &b))], None, &file).unwrap();
        let checkpoint = Checkpoint::open(folder.path(), Naming::Bert).unwrap();
        let weights = Weights::new(&checkpoint);
        let (rows, columns) = (vec![1.0, 2.0, 4.0, 8.0, 16.0], vec![1.0, 0.5, 0.25]);
        let factors = Factors {
            rows: BTreeMap::from([("a.weight".to_string(), rows.clone())]),
            columns: BTreeMap::from([("a.weight".to_string(), columns.clone()), ("b.weight".to_string(), vec![3.0; 3])]),
        };
        let numbers = Numbers { weights: &weights, factors: &factors };
        let stack = Weight::Stack(["a.weight", "b.weight"].map(|key| Weight::Key(key.into())).to_vec());
        let first = (0..15).map(|index| index as f32 * rows[index / 3] * columns[index % 3]);
        let expected: Vec<f32> = first.chain((0..6).map(|index| index as f32 * 3.0)).collect();
        for each in 1..8 {
            let blocks: Vec<Vec<f32>> = numbers.blocks(&stack, each * 12).unwrap().map(Result::unwrap).collect();
            assert_eq!((blocks.len(), blocks.concat()), (7_usize.div_ceil(each), expected.clone()), "{each} rows at a time");
        }
        let plain = Numbers { weights: &weights, factors: &Factors::default() };
        assert_eq!(plain.rows(&stack, 4..6).unwrap(), weights.rows(&stack, 4..6).unwrap());
    }
}
