//! How the weights of a network are stored and multiplied at a precision: one policy, asked for every linear layer and convolution.
//!
//! | precision | the language model on its cache | vision tower, BERT, Swin | convolutions between ReLUs | everything else |
//! |---|---|---|---|---|
//! | `f32`, `f16` | floats | floats | floats | floats |
//! | `bf16` | floats | floats, BERT and Swin f16 | f16 | f16, tables bf16 |
//! | `int8` | 7 bits a channel | 7 bits a channel | 7 bits a channel | f32, tables f16 |
//! | `int4` | 4 bits in blocks | 7 bits a channel | 7 bits a channel | f32, tables f16 |
//!
//! Convolutions are so where it is known how large their ReLUs' results become ([`crate::Convolutions`]), and f32 elsewhere.
//!
//! Of the matrices in 4 bits those that suffer most keep 8 bits in blocks ([`crate::FewBits`]).
//!
//! `int4+int8` is two readings of the language model: prompts as `int8`, steps as `int4`. Few bits win where memory is read for few rows, integer
//! products of whole matrices where there are many. Four bits are too coarse for a vision tower (cosine 0.88).

use crate::{few_bits::FewBits, nodes::Elem};
use mmlnb_models::{
    bundle::Precision,
    graph::{AttentionKind, Graph, Op, Weight},
    statistics::module,
};
use std::collections::{BTreeMap, BTreeSet};

/// Weights that share one scale in blocks.
pub const BLOCK: i64 = 128;

/// How a matrix is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Storage {
    /// Floats of the products' type.
    Float,
    /// Codes of 7 bits with one scale for each output, multiplied with activations of 8 bits a token in whole numbers.
    Channels,
    /// Codes of 4 or 8 bits with one scale for each [`BLOCK`] of an output's weights.
    Blocks {
        /// 4 or 8.
        bits: i64,
    },
}

/// What a network is for, as far as its weights' precision depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// One token after the other, on a cache.
    Generates,
    /// Whole inputs through blocks.
    Encodes,
    /// A table, convolutions, a few small layers.
    Other,
}

/// The policy of one network.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Policy {
    precision: Precision,
    purpose: Purpose,
    /// Whether activations lie unevenly around zero: behind layer norms, which add, and GELU.
    uneven: bool,
    /// Matrices that stay at 8 bits where the others have 4.
    kept: BTreeSet<String>,
    /// What one step of a ReLU's codes of 8 bits is worth, by the module of the convolution before it.
    steps: BTreeMap<String, f32>,
    /// Whether it is one of the describer's networks.
    describes: bool,
}

impl Policy {
    /// The policy of `graph` at `precision`.
    pub fn new(precision: Precision, graph: &Graph) -> Policy {
        let cached = |op: &Op| matches!(op, Op::Attention { kind: AttentionKind::Cached, .. });
        let purpose = if graph.nodes.iter().any(|node| cached(&node.op)) {
            Purpose::Generates
        } else if graph.nodes.iter().any(|node| node.region.is_some()) {
            Purpose::Encodes
        } else {
            Purpose::Other
        };
        let any = |is: fn(&Op) -> bool| graph.nodes.iter().any(|node| is(&node.op));
        let uneven = any(|op| matches!(op, Op::LayerNorm { .. } | Op::AddLayerNorm { .. }));
        let describes = any(|op| matches!(op, Op::RmsNorm { .. } | Op::AddRmsNorm { .. }))
            || (any(|op| matches!(op, Op::Embedding { .. })) && !uneven);
        Policy { precision, purpose, describes, uneven, kept: BTreeSet::new(), steps: BTreeMap::new() }
    }

    /// The same, with what was decided of the network's weights.
    pub fn deciding(self, few: &FewBits) -> Policy {
        Policy { kept: few.kept_names(), steps: few.steps(), ..self }
    }

    /// Type of activations in products and in the cache.
    pub fn compute(&self) -> Elem {
        match self.precision {
            Precision::Bf16 if self.describes => Elem::Bf16,
            // The classifier's networks stay where bf16 loses more than it wins, and its pools have no kernel for it.
            Precision::F16 | Precision::Bf16 => Elem::F16,
            Precision::F32 | Precision::Int8 | Precision::Int4 | Precision::Int4Int8 => Elem::F32,
        }
    }

    /// Type of norms and of the residual stream: f32 but in bf16, which has the same range.
    pub fn stream(&self) -> Elem {
        if self.compute() == Elem::Bf16 { Elem::Bf16 } else { Elem::F32 }
    }

    /// Type of a table whose rows are looked up.
    pub fn table(&self) -> Elem {
        match self.precision {
            Precision::F32 => Elem::F32,
            Precision::Bf16 => self.compute(),
            Precision::F16 | Precision::Int8 | Precision::Int4 | Precision::Int4Int8 => Elem::F16,
        }
    }

    /// How the matrix of a linear layer is stored.
    pub fn storage(&self, weight: &Weight) -> Storage {
        match self.matrices() {
            Storage::Blocks { bits: 4 } if self.kept.contains(&weight.name()) => Storage::Blocks { bits: 8 },
            usual => usual,
        }
    }

    /// What one step of the codes is worth in which the results of a convolution leave the ReLU that alone reads them; `None`: they stay floats.
    pub fn step(&self, weight: &Weight) -> Option<f32> {
        self.steps.get(module(weight)).copied()
    }

    /// Whether the codes of a token's activations go from its least to its largest number, and not as far above zero as below it.
    pub fn offset(&self) -> bool {
        self.uneven
    }

    /// How the matrices of linear layers are stored, but for those that are kept at 8 bits.
    pub fn matrices(&self) -> Storage {
        match (self.precision, self.purpose) {
            (Precision::F32 | Precision::F16 | Precision::Bf16, _) | (_, Purpose::Other) => Storage::Float,
            (Precision::Int4 | Precision::Int4Int8, Purpose::Generates) => Storage::Blocks { bits: 4 },
            (Precision::Int8, Purpose::Generates) | (_, Purpose::Encodes) => Storage::Channels,
        }
    }

    /// Least linear layers of one input that become one product. With scales a channel, gate and up stay apart: to split their wide result takes
    /// longer than one product saves.
    pub fn stacked_from(&self) -> usize {
        if self.matrices() == Storage::Channels { 3 } else { 2 }
    }
}
