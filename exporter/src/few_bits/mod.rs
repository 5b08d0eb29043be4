//! What is decided of a network before its matrices are written in few bits: which factors go from one layer to its neighbour, how much each input channel
//! counts, which matrices stay at 8 bits, and which convolutions are in few bits at all.

mod calibration;
mod convolutions;
mod equalise;
mod sensitive;

pub use calibration::{Calibration, check_calibration};
pub use convolutions::Convolutions;
pub use sensitive::Kept;

use crate::{
    error::ExportError,
    export::Step,
    lower::fused,
    numbers::{Factors, Numbers},
    policy::{Policy, Storage},
};
use mmlnb_models::{
    bundle::Precision,
    graph::{Graph, Op, Weight},
    statistics::{Statistics, module},
    weights::Weights,
};
use std::collections::{BTreeMap, BTreeSet};

/// What is decided of one network at one precision; nothing for floats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FewBits {
    factors: Factors,
    /// Mean square of what is multiplied with each column, by module.
    importance: BTreeMap<String, Vec<f32>>,
    kept: Vec<Kept>,
    convolutions: Convolutions,
}

impl FewBits {
    /// Decides, from weights alone or with statistics of what goes into the layers.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn decide(
        graph: &Graph,
        weights: &Weights<'_>,
        precision: Precision,
        statistics: Option<&Statistics>,
    ) -> Result<FewBits, ExportError> {
        FewBits::decide_telling(graph, weights, precision, statistics, ("", &|_| ()))
    }

    /// The same for a graph of this name; `progress` hears how far it is.
    ///
    /// # Errors
    /// As [`FewBits::decide`].
    pub fn decide_telling(
        graph: &Graph,
        weights: &Weights<'_>,
        precision: Precision,
        statistics: Option<&Statistics>,
        (name, progress): (&str, &dyn Fn(Step<'_>)),
    ) -> Result<FewBits, ExportError> {
        let policy = Policy::new(precision, graph);
        let mut decided = FewBits::default();
        if policy.matrices() == Storage::Float {
            return Ok(decided);
        }
        let fused = (policy.matrices() == Storage::Blocks { bits: 4 }).then(|| fused(graph, precision));
        let matrices = statistics.map_or(0, |_| equalise::matrices(graph)) + fused.as_ref().map_or(0, sensitive::matrices);
        if matrices == 0 {
            return Ok(decided);
        }
        progress(Step::Decide { name, matrices });
        let tell = |matrices| progress(Step::Decided(matrices));
        let mut all = || -> Result<(), ExportError> {
            if let Some(statistics) = statistics {
                decided.factors = equalise::factors(graph, weights, policy.matrices(), statistics, &tell)?;
                decided.importance = importance(graph, statistics, &decided.factors);
            }
            if let Some(fused) = &fused {
                let numbers = Numbers { weights, factors: &decided.factors };
                decided.kept = sensitive::kept(fused, &numbers, &|weight| decided.importance(weight), &tell)?;
            }
            Ok(())
        };
        let done = all();
        progress(Step::End);
        done.map(|()| decided)
    }

    /// The same, with what is known of the network's convolutions.
    pub fn with_convolutions(self, convolutions: Convolutions) -> FewBits {
        FewBits { convolutions, ..self }
    }

    /// How its convolutions are stored.
    pub fn convolutions(&self) -> &Convolutions {
        &self.convolutions
    }

    /// What one step of each ReLU's codes is worth, by the module of the convolution before it.
    pub(crate) fn steps(&self) -> BTreeMap<String, f32> {
        self.convolutions.steps()
    }

    /// Mean of what goes into a convolution in whole numbers, one for each channel.
    pub(crate) fn means(&self, weight: &Weight) -> Option<&[f32]> {
        self.convolutions.means(weight)
    }

    /// Factors of rows and columns.
    pub(crate) fn factors(&self) -> &Factors {
        &self.factors
    }

    /// Mean square of what is multiplied with each column of a matrix, if statistics say.
    pub(crate) fn importance(&self, weight: &Weight) -> Option<&[f32]> {
        self.importance.get(module(weight)).map(Vec::as_slice)
    }

    /// Matrices that stay at 8 bits, the one with the largest error first.
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// The names of those matrices.
    pub(crate) fn kept_names(&self) -> BTreeSet<String> {
        self.kept.iter().map(|kept| kept.name.clone()).collect()
    }
}

/// Mean squares as the factors leave them. A channel that calibration never saw active counts a little all the same.
fn importance(graph: &Graph, statistics: &Statistics, factors: &Factors) -> BTreeMap<String, Vec<f32>> {
    const LEAST: f32 = 1e-4;
    let layers = graph.nodes.iter().filter_map(|node| {
        let Op::Linear { weight, .. } = &node.op else { return None };
        let channels = statistics.layers.get(module(weight))?;
        let columns = weight.keys().first().and_then(|key| factors.columns.get(*key));
        let squares = channels.mean_square.iter().enumerate();
        let squares: Vec<f32> =
            squares.map(|(channel, square)| columns.map_or(*square, |all| square / all[channel] / all[channel])).collect();
        let least = LEAST * squares.iter().sum::<f32>() / squares.len() as f32;
        Some((module(weight).to_string(), squares.iter().map(|square| square + least).collect()))
    });
    layers.collect()
}

/// At most so many rows of a matrix, spread evenly over it, and its width.
fn some_rows(numbers: &Numbers<'_>, weight: &Weight, most: usize) -> Result<(Vec<f32>, usize), ExportError> {
    let shape = numbers.weights.shape(weight)?;
    let (rows, width) = (shape[0], shape[1..].iter().product());
    let count = rows.min(most);
    let mut values = Vec::with_capacity(count * width);
    for number in 0..count {
        let row = number * rows / count;
        values.extend(numbers.rows(weight, row..row + 1)?);
    }
    Ok((values, width))
}
