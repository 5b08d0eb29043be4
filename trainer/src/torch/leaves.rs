//! Weights as tensors: loaded once, addressed by number.

use super::{Adapters, PlanOptions, TorchError, Trainable, first_line, widen::factor};
use mmlnb_models::{
    graph::{Graph, Weight},
    weights::{DType, Stored, WeightError, Weights},
};
use std::collections::HashMap;
use tch::{Device, Kind, TchError, Tensor};

/// Bytes of the checkpoint that are copied at one time.
const PIECE: usize = 1 << 22;

/// A tensor that a plan owns. Its gradient, if it is trained, is `tensor.grad()`.
#[derive(Debug)]
pub struct Leaf {
    /// The checkpoint key, or `MODULE.lora_A`, `MODULE.lora_B`, `MODULE.lora_magnitude_vector` of an adapter.
    pub name: String,
    /// The numbers, on the plan's device.
    pub tensor: Tensor,
}

/// How a node's weight is made of leaves.
#[derive(Debug)]
pub(super) enum Parameter {
    /// This leaf.
    Leaf(usize),
    /// This leaf as a matrix `[first size, all others]`.
    Matrix(usize),
    /// A matrix with a low-rank branch beside it.
    Adapted { base: Box<Parameter>, branch: Branch },
    /// Rows of several, one below the other.
    Stack(Vec<Parameter>),
}

/// A LoRA or DoRA branch: leaves A `[rank, inputs]`, B `[outputs, rank]`, lengths of rows `[outputs]`.
#[derive(Debug)]
pub(super) struct Branch {
    pub a: usize,
    pub b: usize,
    pub magnitude: Option<Magnitude>,
    pub scale: f64,
}

/// DoRA's lengths, and the squared lengths of the frozen base's rows in f32.
#[derive(Debug)]
pub(super) struct Magnitude {
    pub leaf: usize,
    pub base_squares: Tensor,
}

/// All tensors of a plan.
#[derive(Debug)]
pub(super) struct Leaves {
    pub all: Vec<Leaf>,
    known: HashMap<Weight, usize>,
    /// What weights are computed in; those that are trained are kept in f32.
    kind: Kind,
}

impl Leaves {
    /// The leaves of a graph, and for every node its weights in the order of `Op::weights`. What `others` hold is taken from them.
    pub fn load(
        graph: &Graph,
        weights: &Weights<'_>,
        options: &PlanOptions,
        others: &[&Leaves],
    ) -> Result<(Leaves, Vec<Vec<Parameter>>), TorchError> {
        let mut leaves = Leaves { all: Vec::new(), known: HashMap::new(), kind: options.kind };
        let mut loader = Loader { leaves: &mut leaves, weights, options, others };
        let mut parameters = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            let own: Result<Vec<Parameter>, TorchError> = node.op.weights().iter().map(|w| loader.parameter(w)).collect();
            parameters.push(own?);
        }
        Ok((leaves, parameters))
    }

    /// The tensor of a leaf.
    pub fn leaf(&self, number: usize) -> &Tensor {
        &self.all[number].tensor
    }

    /// A weight as one tensor, whatever it is made of.
    pub fn whole(&self, parameter: &Parameter) -> Result<Tensor, TchError> {
        match parameter {
            Parameter::Leaf(leaf) => self.leaf(*leaf).f_to_kind(self.kind),
            Parameter::Matrix(leaf) => self.leaf(*leaf).f_to_kind(self.kind)?.f_flatten(1, -1),
            Parameter::Adapted { base, branch } => {
                let base = self.whole(base)?;
                let product = self.leaf(branch.b).f_matmul(self.leaf(branch.a))?.f_mul_scalar(branch.scale)?;
                let sum = base.f_to_kind(Kind::Float)?.f_add(&product)?;
                let merged = match &branch.magnitude {
                    None => sum,
                    Some(_) => sum.f_mul(&self.row_factors(&base, branch)?.f_unsqueeze(1)?)?,
                };
                merged.f_to_kind(base.kind())
            }
            Parameter::Stack(parts) => {
                let parts: Result<Vec<Tensor>, TchError> = parts.iter().map(|part| self.whole(part)).collect();
                Tensor::f_cat(&parts?, 0)
            }
        }
    }

    /// DoRA's factor of each row, `m / |W + s B A|` in f32, without making B A; the length counts as constant in the backward pass.
    ///
    /// The branch must have a magnitude; without one the factors are 1.
    pub fn row_factors(&self, base: &Tensor, branch: &Branch) -> Result<Tensor, TchError> {
        let (a, b) = (self.leaf(branch.a), self.leaf(branch.b));
        let Some(Magnitude { leaf, base_squares }) = &branch.magnitude else {
            return Tensor::f_ones([b.size()[0]], (Kind::Float, b.device()));
        };
        let lengths = {
            let _constant = tch::no_grad_guard();
            let across =
                factor(base)?.f_matmul(&factor(&a.f_to_kind(base.kind())?)?.f_transpose(0, 1)?)?.f_to_kind(Kind::Float)?;
            let mixed = across.f_mul(b)?.f_sum_dim_intlist(1, false, Kind::Float)?.f_mul_scalar(2.0 * branch.scale)?;
            let inner = b.f_matmul(&a.f_matmul(&a.f_transpose(0, 1)?)?)?;
            let own = inner.f_mul(b)?.f_sum_dim_intlist(1, false, Kind::Float)?.f_mul_scalar(branch.scale * branch.scale)?;
            base_squares.f_add(&mixed)?.f_add(&own)?.f_sqrt()?
        };
        self.leaf(*leaf).f_div(&lengths)
    }
}

struct Loader<'l, 'w, 'c> {
    leaves: &'l mut Leaves,
    weights: &'w Weights<'c>,
    options: &'w PlanOptions,
    others: &'w [&'w Leaves],
}

impl Loader<'_, '_, '_> {
    fn parameter(&mut self, weight: &Weight) -> Result<Parameter, TorchError> {
        let trained = self.options.trainable == Trainable::All;
        if self.options.adapters == Adapters::Merged && has_adapter(weight) {
            return self.computed(weight, trained);
        }
        match weight {
            Weight::Key(_) => self.stored(weight, trained).map(Parameter::Leaf),
            Weight::Matrix(key) => self.stored(&Weight::Key(key.clone()), trained).map(Parameter::Matrix),
            Weight::Adapted { base, module, scale_bits, .. } => self.adapted(base, module, f64::from_bits(*scale_bits)),
            Weight::Stack(_) if self.options.trainable == Trainable::Nothing && !has_adapter(weight) => {
                self.computed(weight, false)
            }
            Weight::Stack(parts) => parts.iter().map(|part| self.parameter(part)).collect::<Result<_, _>>().map(Parameter::Stack),
        }
    }

    /// A weight that has to be evaluated, as a leaf of its own.
    fn computed(&mut self, weight: &Weight, trained: bool) -> Result<Parameter, TorchError> {
        if let Some(stored) = self.weights.stored(weight) {
            return self.leaf(weight, trained, |kind| tensor(&stored, kind)).map(Parameter::Leaf);
        }
        let shape: Vec<i64> = self.weights.shape(weight)?.iter().map(|size| *size as i64).collect();
        let values = self.weights.all(weight)?;
        self.leaf(weight, trained, |kind| Tensor::f_from_slice(&values)?.f_reshape(&shape)?.f_to_kind(kind)).map(Parameter::Leaf)
    }

    /// A tensor of the checkpoint.
    fn stored(&mut self, weight: &Weight, trained: bool) -> Result<usize, TorchError> {
        let problem = || "the checkpoint has no such tensor, or in a type that is not supported".to_string();
        let stored = self
            .weights
            .stored(weight)
            .ok_or_else(|| WeightError::Evaluation { weight: weight.to_string(), problem: problem() })?;
        self.leaf(weight, trained, |kind| tensor(&stored, kind))
    }

    /// The base is frozen whatever is trained beside it: that is what an adapter is for.
    fn adapted(&mut self, base: &Weight, module: &str, scale: f64) -> Result<Parameter, TorchError> {
        let base = match base {
            Weight::Matrix(key) => Parameter::Matrix(self.stored(&Weight::Key(key.clone()), false)?),
            Weight::Key(_) => Parameter::Leaf(self.stored(base, false)?),
            Weight::Adapted { .. } | Weight::Stack(_) => {
                let problem = "an adapter stands beside one matrix of the checkpoint".to_string();
                return Err(WeightError::Evaluation { weight: base.to_string(), problem }.into());
            }
        };
        let tensors = self.weights.adapter().and_then(|adapter| adapter.tensors(module)).ok_or_else(|| {
            WeightError::Evaluation { weight: module.into(), problem: "the adapter's tensors are not given".into() }
        })?;
        let [rank, inputs, outputs] = [tensors.rank, tensors.inputs, tensors.outputs].map(|size| size as i64);
        let a = self.branch_leaf(module, "lora_A", &tensors.a, &[rank, inputs])?;
        let b = self.branch_leaf(module, "lora_B", &tensors.b, &[outputs, rank])?;
        let magnitude = match &tensors.magnitude {
            None => None,
            Some(values) => Some(Magnitude {
                leaf: self.branch_leaf(module, "lora_magnitude_vector", values, &[outputs])?,
                base_squares: self.squares(&base, module)?,
            }),
        };
        Ok(Parameter::Adapted { base: Box::new(base), branch: Branch { a, b, magnitude, scale } })
    }

    fn squares(&self, base: &Parameter, module: &str) -> Result<Tensor, TorchError> {
        let _constant = tch::no_grad_guard();
        let squares = self
            .leaves
            .whole(base)
            .and_then(|base| base.f_to_kind(Kind::Float)?.f_square()?.f_sum_dim_intlist(1, false, Kind::Float));
        squares.map_err(|error| TorchError::Loading { weight: module.into(), problem: first_line(&error) })
    }

    /// Adapters stay in f32: their steps are too small for 16 bits.
    fn branch_leaf(&mut self, module: &str, part: &str, values: &[f32], shape: &[i64]) -> Result<usize, TorchError> {
        let trained = matches!(self.options.trainable, Trainable::Adapters | Trainable::All);
        let key = Weight::Key(format!("{module}.{part}"));
        self.leaf(&key, trained, |_| Tensor::f_from_slice(values)?.f_reshape(shape))
    }

    fn leaf(
        &mut self,
        weight: &Weight,
        trained: bool,
        make: impl FnOnce(Kind) -> Result<Tensor, TchError>,
    ) -> Result<usize, TorchError> {
        if let Some(number) = self.leaves.known.get(weight) {
            return Ok(*number);
        }
        let held = self.others.iter().find_map(|leaves| leaves.known.get(weight).map(|number| leaves.leaf(*number)));
        let kind = if trained { Kind::Float } else { self.options.kind };
        if let (None, Some(error)) = (&held, self.weights.not_finite(weight)) {
            return Err(error.into());
        }
        let tensor = match held {
            Some(held) => held.shallow_clone(),
            None => make(kind)
                .and_then(|t| t.f_to_device(self.options.device))
                .and_then(|t| t.f_set_requires_grad(trained))
                .map_err(|error| TorchError::Loading { weight: weight.to_string(), problem: first_line(&error) })?,
        };
        // The checkpoint is mapped: what was copied from it would stay in memory a second time.
        self.weights.give_back(weight);
        let number = self.leaves.all.len();
        self.leaves.all.push(Leaf { name: weight.name(), tensor });
        self.leaves.known.insert(weight.clone(), number);
        Ok(number)
    }
}

fn has_adapter(weight: &Weight) -> bool {
    match weight {
        Weight::Key(_) | Weight::Matrix(_) => false,
        Weight::Adapted { .. } => true,
        Weight::Stack(parts) => parts.iter().any(has_adapter),
    }
}

/// The numbers of a tensor in the checkpoint, in a type.
///
/// The whole is allocated before its pieces: memory that a copy left free below it would not be used again (glibc's aligned allocations find no room in a gap of
/// their own size), so that in the end copies of everything would stand beside the weights.
fn tensor(stored: &Stored<'_>, kind: Kind) -> Result<Tensor, TchError> {
    let from = match stored.dtype {
        DType::F32 => Kind::Float,
        DType::F16 => Kind::Half,
        DType::BF16 => Kind::BFloat16,
    };
    let shape: Vec<i64> = stored.shape.iter().map(|size| *size as i64).collect();
    let whole = Tensor::f_empty([stored.byte_len() as i64 / stored.dtype.size() as i64], (kind, Device::Cpu))?;
    let mut at = 0;
    for bytes in stored.parts.iter().flat_map(|part| part.chunks(PIECE)) {
        let count = (bytes.len() / stored.dtype.size()) as i64;
        whole.f_narrow(0, at, count)?.f_copy_(&Tensor::f_from_data_size(bytes, &[count], from)?)?;
        at += count;
    }
    whole.f_reshape(&shape)
}
