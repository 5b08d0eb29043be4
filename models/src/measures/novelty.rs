//! How far the fused features of an input lie from those of the training data.
//!
//! Two scores: the distance to the k-th nearest stored training item after L2 normalisation (Sun et al. 2022), which is what the appliance uses,
//! and the Mahalanobis distance to the nearest class mean (Lee et al. 2018) for comparison. A threshold comes from items like the training's
//! that were not trained on: at most a stated share of such items exceeds it.

use super::{MeasureError, same_length};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Stored items in all.
pub const MOST_STORED: usize = 2000;
/// Stored items of one patient.
pub const MOST_OF_A_PATIENT: usize = 20;
/// The default of k.
pub const NEIGHBOURS: usize = 10;
/// The tensor's name in `novelty.safetensors`.
const FEATURES: &str = "features";

/// A file of stored features that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NoveltyError {
    /// It cannot be read or written.
    #[error("stored features {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// It does not hold what it should.
    #[error("stored features {}: {problem}; train or export the classifier again", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Stored training items, each of length 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbours {
    features: Vec<f32>,
    hidden: usize,
    neighbours: usize,
}

impl Neighbours {
    /// Stores at most [`MOST_STORED`] of the training items, at most [`MOST_OF_A_PATIENT`] of a patient, chosen by `seed`: every patient's
    /// first item before any second one. `features` are rows of fused features before the ReLU.
    pub fn fit(features: &[Vec<f32>], groups: &[Option<&str>], seed: u64) -> Result<Self, MeasureError> {
        same_length("rows of features", features.len(), "patients", groups.len())?;
        let hidden = features.first().ok_or(MeasureError::Empty)?.len();
        if let Some(item) = features.iter().position(|row| row.len() != hidden || row.iter().any(|value| !value.is_finite())) {
            return Err(MeasureError::Item { item, problem: format!("its features are not {hidden} finite numbers") });
        }
        let stored = chosen(groups, seed).into_iter().flat_map(|item| normalised(&features[item])).collect();
        Ok(Neighbours { features: stored, hidden, neighbours: NEIGHBOURS })
    }

    /// Number of stored items.
    pub fn stored(&self) -> usize {
        self.features.len() / self.hidden
    }

    /// Width of a row of features.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// k.
    pub fn neighbours(&self) -> usize {
        self.neighbours
    }

    /// The distance (0 to 2) of `features` `[hidden]` to the k-th nearest stored item, the farthest one when fewer are stored.
    ///
    /// # Panics
    /// When `features` is not [`Neighbours::hidden`] wide.
    pub fn score(&self, features: &[f32]) -> f64 {
        assert_eq!(features.len(), self.hidden, "width of the features");
        let own = normalised(features);
        let distance = |row: &[f32]| row.iter().zip(&own).map(|(one, other)| (one - other) * (one - other)).sum::<f32>();
        let mut distances: Vec<f32> = self.features.chunks_exact(self.hidden).map(distance).collect();
        let place = self.neighbours.min(distances.len()) - 1;
        let (_, squared, _) = distances.select_nth_unstable_by(place, f32::total_cmp);
        f64::from(*squared).sqrt()
    }

    /// Reads `novelty.safetensors`; `neighbours` is the k that its threshold was found with.
    pub fn read(file: &Path, neighbours: usize) -> Result<Self, NoveltyError> {
        let bytes = std::fs::read(file).map_err(|source| NoveltyError::Io { file: file.to_path_buf(), source })?;
        let content = |problem: String| NoveltyError::Content { file: file.to_path_buf(), problem };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| content(error.to_string()))?;
        let tensor = tensors.tensor(FEATURES).map_err(|_| content(format!("no tensor `{FEATURES}`")))?;
        let &[rows, hidden] = tensor.shape() else { return Err(content(format!("shape {:?}", tensor.shape()))) };
        if tensor.dtype() != Dtype::F32 || rows == 0 || hidden == 0 || neighbours == 0 {
            return Err(content(format!("{:?} {:?} with {neighbours} neighbours", tensor.dtype(), tensor.shape())));
        }
        let features: Vec<f32> =
            tensor.data().chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
        if features.iter().any(|value| !value.is_finite()) {
            return Err(content("a value is not finite".into()));
        }
        Ok(Neighbours { features, hidden, neighbours })
    }

    /// Writes `novelty.safetensors`: `features` f32 [stored, hidden].
    pub fn write(&self, file: &Path) -> Result<(), NoveltyError> {
        let bytes: Vec<u8> = self.features.iter().flat_map(|value| value.to_le_bytes()).collect();
        let content =
            |error: safetensors::SafeTensorError| NoveltyError::Content { file: file.to_path_buf(), problem: error.to_string() };
        let tensor = TensorView::new(Dtype::F32, vec![self.stored(), self.hidden], &bytes).map_err(content)?;
        let bytes = safetensors::serialize([(FEATURES, tensor)], None).map_err(content)?;
        std::fs::write(file, bytes).map_err(|source| NoveltyError::Io { file: file.to_path_buf(), source })
    }
}

/// The threshold that at most a share `false_alarm` of further items like these exceeds: the score at rank ceil((n + 1)(1 - a)).
/// Nothing when there are too few scores for that rank (19 for 5 %).
pub fn threshold(scores: &[f64], false_alarm: f64) -> Option<f64> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    // Below a billionth, so that (n + 1)(1 - a) that should be whole is not pushed over it.
    let rank = ((sorted.len() + 1) as f64 * (1.0 - false_alarm) - 1e-9).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}

fn normalised(row: &[f32]) -> Vec<f32> {
    let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 { row.iter().map(|value| (f64::from(*value) / length) as f32).collect() } else { row.to_vec() }
}

/// Items in the order in which they are stored; an item without a patient is a patient of its own.
fn chosen(groups: &[Option<&str>], seed: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut shuffled: Vec<(u64, usize)> = (0..groups.len()).map(|item| (random.next_u64(), item)).collect();
    shuffled.sort_unstable();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, usize)> = Vec::new();
    for (_, item) in shuffled {
        let rank = groups[item].map_or(0, |patient| {
            let count = seen.entry(patient).or_default();
            *count += 1;
            *count - 1
        });
        ranked.push((rank, item));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().take_while(|(rank, _)| *rank < MOST_OF_A_PATIENT).take(MOST_STORED).map(|(_, item)| item).collect()
}

/// Class means and one shared covariance, shrunk towards a multiple of the identity by Ledoit and Wolf's amount (2004).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mahalanobis {
    means: Vec<Vec<f64>>,
    /// The lower Cholesky factor of the covariance, row by row.
    factor: Vec<Vec<f64>>,
    shrinkage: f64,
}

impl Mahalanobis {
    /// Fits rows of features with their classes. Needs an item and some spread.
    pub fn fit(features: &[Vec<f32>], labels: &[usize]) -> Result<Self, MeasureError> {
        same_length("rows of features", features.len(), "classes of items", labels.len())?;
        let hidden = features.first().ok_or(MeasureError::Empty)?.len();
        if let Some(item) = features.iter().position(|row| row.len() != hidden) {
            return Err(MeasureError::Item { item, problem: format!("it has not {hidden} features") });
        }
        let means = class_means(features, labels, hidden);
        let centred: Vec<Vec<f64>> = features
            .iter()
            .zip(labels)
            .map(|(row, label)| row.iter().zip(&means[label]).map(|(value, mean)| f64::from(*value) - mean).collect())
            .collect();
        let (covariance, shrinkage) = shrunk(&centred, hidden);
        let factor = cholesky(covariance).ok_or_else(|| MeasureError::Item {
            item: 0,
            problem: "the features do not vary within the classes, so that no distance can be measured".into(),
        })?;
        Ok(Mahalanobis { means: means.into_values().collect(), factor, shrinkage })
    }

    /// Ledoit and Wolf's share of the identity.
    pub fn shrinkage(&self) -> f64 {
        self.shrinkage
    }

    /// Whether it measures rows of this width, as one that was read from a file need not.
    pub fn measures(&self, width: usize) -> bool {
        let finite = |row: &Vec<f64>| row.len() == width && row.iter().all(|value| value.is_finite());
        let factor = self.factor.iter().enumerate().all(|(place, row)| finite(row) && row[place] > 0.0);
        !self.means.is_empty() && self.means.iter().all(finite) && self.factor.len() == width && factor
    }

    /// The squared distance to the nearest class mean.
    ///
    /// # Panics
    /// When `features` are not as wide as what it was fitted on ([`Mahalanobis::measures`]).
    pub fn score(&self, features: &[f32]) -> f64 {
        self.means.iter().map(|mean| self.squared(features, mean)).fold(f64::INFINITY, f64::min)
    }

    /// |L^-1 (x - mean)|^2 by forward substitution.
    fn squared(&self, features: &[f32], mean: &[f64]) -> f64 {
        let mut solved: Vec<f64> = Vec::with_capacity(mean.len());
        for (place, row) in self.factor.iter().enumerate() {
            let known: f64 = row[..place].iter().zip(&solved).map(|(factor, value)| factor * value).sum();
            solved.push((f64::from(features[place]) - mean[place] - known) / row[place]);
        }
        solved.iter().map(|value| value * value).sum()
    }
}

fn class_means(features: &[Vec<f32>], labels: &[usize], hidden: usize) -> BTreeMap<usize, Vec<f64>> {
    let mut sums: BTreeMap<usize, (f64, Vec<f64>)> = BTreeMap::new();
    for (row, label) in features.iter().zip(labels) {
        let (count, sum) = sums.entry(*label).or_insert_with(|| (0.0, vec![0.0; hidden]));
        *count += 1.0;
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums.into_iter().map(|(label, (count, sum))| (label, sum.into_iter().map(|value| value / count).collect())).collect()
}

/// The covariance of centred rows, shrunk, and the amount of shrinkage, as scikit-learn's `LedoitWolf(assume_centered=True)` has it.
fn shrunk(centred: &[Vec<f64>], hidden: usize) -> (Vec<Vec<f64>>, f64) {
    let (items, width) = (centred.len() as f64, hidden as f64);
    let mut covariance = vec![vec![0.0; hidden]; hidden];
    for row in centred {
        for (one, sums) in covariance.iter_mut().enumerate() {
            let factor = row[one];
            sums[..=one].iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
        }
    }
    covariance.iter_mut().flatten().for_each(|sum| *sum /= items);
    let trace: f64 = (0..hidden).map(|place| covariance[place][place]).sum();
    let mean = trace / width;
    let off: f64 =
        covariance.iter().enumerate().map(|(one, row)| row[..one].iter().map(|value| value * value).sum::<f64>()).sum();
    let squared = 2.0 * off + (0..hidden).map(|place| covariance[place][place].powi(2)).sum::<f64>();
    let fourth: f64 = centred.iter().map(|row| row.iter().map(|value| value * value).sum::<f64>().powi(2)).sum::<f64>() / items;
    let distance = (squared - width * mean * mean) / width;
    let noise = ((fourth - squared) / (width * items)).min(distance);
    let shrinkage = if noise > 0.0 { noise / distance } else { 0.0 };
    for (one, row) in covariance.iter_mut().enumerate() {
        row.iter_mut().for_each(|value| *value *= 1.0 - shrinkage);
        row[one] += shrinkage * mean;
    }
    (covariance, shrinkage)
}

/// The lower factor of a symmetric matrix given by its lower half; nothing unless it is positive definite.
fn cholesky(mut matrix: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    for row in 0..matrix.len() {
        for column in 0..=row {
            let (above, below) = matrix.split_at(row);
            let other = if column == row { &below[0] } else { &above[column] };
            let known: f64 = below[0][..column].iter().zip(&other[..column]).map(|(one, other)| one * other).sum();
            let rest = below[0][column] - known;
            let value = if column == row { rest.sqrt() } else { rest / other[column] };
            if !value.is_finite() || column == row && value <= 0.0 {
                return None;
            }
            matrix[row][column] = value;
        }
    }
    Some(matrix)
}
