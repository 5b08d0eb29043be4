//! Which convolutions are brought to 8 bits: those of a network for which it is known how large the results of their ReLUs become.

use crate::{
    error::ExportError,
    source::{Network, Source},
};
use mmlnb_models::{
    activations::{ACTIVATIONS, Activations, rectified},
    bundle::Precision,
    graph::{Op, Weight},
    record::RecordError,
    statistics::module,
};
use std::collections::BTreeMap;

/// Highest code of an activation; the lowest, zero, is the ReLU's.
const HIGHEST: f32 = 255.0;
/// The largest activation that is assumed at least: a layer that was silent in all images still gets a step that can be divided by.
const LEAST: f32 = 1e-6;

/// How the convolutions of a network are stored in few bits.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Convolutions {
    /// There are none, or nothing is in few bits.
    #[default]
    None,
    /// Floats: no ReLU follows them, so their results have signs and no fixed limit.
    Signed,
    /// Floats: nobody recorded how large their results become.
    Unrecorded,
    /// Those whose input is a ReLU's result in codes; steps by these activations.
    Codes(Activations),
}

impl Convolutions {
    /// Looks into the folder of a network's weights.
    ///
    /// # Errors
    /// Activations that cannot be read, of other weights, or of other layers.
    pub fn open(source: &Source, network: Network, precision: Precision) -> Result<Convolutions, ExportError> {
        let graph = source.graph(network)?;
        if !precision.few_bits() || !graph.nodes.iter().any(|node| matches!(node.op, Op::Conv2d { .. })) {
            return Ok(Convolutions::None);
        }
        if rectified(&graph).next().is_none() {
            return Ok(Convolutions::Signed);
        }
        let wrong = |error: RecordError| ExportError::Checkpoint { path: error.file, problem: error.problem };
        let Some(activations) = Activations::read(source.dir()).map_err(wrong)? else {
            return Ok(Convolutions::Unrecorded);
        };
        activations.check(&graph, source.checkpoint().sha256()?, source.dir()).map_err(wrong)?;
        Ok(Convolutions::Codes(activations))
    }

    /// What one step of each ReLU's codes is worth, by the module of the convolution before it.
    pub(super) fn steps(&self) -> BTreeMap<String, f32> {
        let Convolutions::Codes(activations) = self else { return BTreeMap::new() };
        activations.layers.iter().map(|(module, layer)| (module.clone(), layer.largest.max(LEAST) / HIGHEST)).collect()
    }

    /// Mean of what goes into a convolution, one for each channel.
    pub(super) fn means(&self, weight: &Weight) -> Option<&[f32]> {
        let Convolutions::Codes(activations) = self else { return None };
        activations.layers.get(module(weight)).map(|layer| layer.means.as_slice())
    }

    /// What the user should know before the graph is used.
    pub fn warning(&self) -> Option<String> {
        match self {
            Convolutions::None | Convolutions::Codes(_) => None,
            Convolutions::Signed | Convolutions::Unrecorded => self.told().map(|told| format!("convolutions stay {told}")),
        }
    }

    /// How they are stored, for whoever reads the graph; nothing where that is not in question.
    pub fn told(&self) -> Option<String> {
        match self {
            Convolutions::None => None,
            Convolutions::Signed => Some("f32: no ReLU follows, which would give codes a fixed range".into()),
            Convolutions::Unrecorded => Some(format!(
                "f32: there is no {ACTIVATIONS} beside the weights; mmlnb-train calibrate --classifier writes it for a classifier's folder"
            )),
            Convolutions::Codes(Activations { images, data_sha256, .. }) => Some(format!(
                "7 bits, but f32 where pixels go in; by the activations of {images} images (data of SHA-256 {data_sha256})"
            )),
        }
    }
}
