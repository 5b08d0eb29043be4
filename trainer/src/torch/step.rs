//! One operator: the match from paper level to libtorch.

use super::{
    Plan, Randomness, TorchError, Watch, attention, blocked, dense,
    error::failed,
    norm, rotary, rows,
    surroundings::{Surroundings, last},
    swin,
};
use mmlnb_models::graph::{AttentionKind, Op};
use tch::{Kind, TchError, Tensor};

impl Plan {
    /// The results of one node, whose inputs `watch` sees first.
    pub(super) fn step(
        &self,
        number: usize,
        values: &[Option<Tensor>],
        randomness: Option<Randomness>,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Tensor>, TorchError> {
        let node = &self.graph.nodes[number];
        let inputs: Vec<&Tensor> =
            node.inputs.iter().map(|v| values[self.slots.of(*v)].as_ref().expect("nodes come after their inputs")).collect();
        let surroundings = Surroundings {
            leaves: &self.leaves,
            weights: &self.parameters[number],
            kind: self.options.kind,
            randomness,
            adapter_dropout: self.options.adapter_dropout,
            node: number,
        };
        let mut results = || {
            watch(node, &inputs)?;
            let brought: Vec<Option<Tensor>> =
                inputs.iter().map(|x| blocked::brought(x, &node.op, self.options.kind)).collect::<Result<_, _>>()?;
            let fitting: Vec<&Tensor> = inputs.iter().zip(&brought).map(|(x, brought)| brought.as_ref().unwrap_or(x)).collect();
            apply(&node.op, &fitting, &surroundings)
        };
        results().map_err(|error| failed(node, &inputs, &error))
    }
}

fn apply(op: &Op, inputs: &[&Tensor], s: &Surroundings<'_>) -> Result<Vec<Tensor>, TchError> {
    let x = inputs.first().copied();
    let x = x.ok_or_else(|| TchError::Shape("an operator without inputs cannot run; the graph's inputs are given".into()))?;
    let one = |result: Tensor| Ok(vec![result]);
    match op {
        Op::Input(_) => Err(TchError::Shape("an input is given, not computed".into())),
        Op::Embedding { .. } => one(dense::embedding(x, s)?),
        Op::AddPositions { .. } => one(dense::add_positions(x, s)?),
        Op::AddRow { row, .. } => one(x.f_add(&s.weight(0)?.f_select(0, *row)?)?),
        Op::Linear { bias, .. } => one(dense::linear(x, bias.is_some(), s)?),
        Op::Conv2d { stride, pad, bias, .. } => one(dense::conv2d(x, *stride, *pad, bias.is_some(), s)?),
        Op::MaxPool2d => one(x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?),
        Op::Mean { axes } => {
            let axes: Vec<i64> = axes.iter().map(|axis| *axis as i64).collect();
            one(x.f_to_kind(Kind::Float)?.f_mean_dim(axes.as_slice(), false, Kind::Float)?.f_to_kind(x.kind())?)
        }
        Op::LayerNorm { eps, .. } => one(norm::layer_norm(x, *eps, s)?),
        Op::RmsNorm { eps, .. } => one(norm::rms_norm(x, *eps, s)?),
        Op::AddLayerNorm { eps, .. } => {
            let sum = x.f_add(inputs[1])?;
            Ok(vec![norm::layer_norm(&sum, *eps, s)?, sum])
        }
        Op::AddRmsNorm { eps, .. } => {
            let sum = x.f_add(inputs[1])?;
            Ok(vec![norm::rms_norm(&sum, *eps, s)?, sum])
        }
        Op::Relu => one(x.f_relu()?),
        Op::Gelu => one(x.f_gelu("none")?),
        Op::Tanh => one(x.f_tanh()?),
        Op::Sigmoid => one(x.f_sigmoid()?),
        Op::SwiGlu => one(x.f_silu()?.f_mul(inputs[1])?),
        Op::Add => one(x.f_add(inputs[1])?),
        Op::Mix { share } => one(x.f_mul_scalar(*share)?.f_add(&inputs[1].f_mul_scalar(1.0 - share)?)?),
        Op::Blend => one(dense::blend(x, inputs[1], inputs[2])?),
        Op::Dropout { p } => one(s.dropout(x, *p, 0)?),
        Op::Concat { axis } => one(Tensor::f_cat(inputs, *axis as i64)?),
        Op::Split { axis, sizes } => x.f_split_with_sizes(sizes, *axis as i64),
        Op::FirstToken => one(x.f_select(1, 0)?),
        Op::TakeRows => one(rows::take(x, inputs[1])?),
        Op::PermuteGroups { group } => one(rows::permute_groups(x, inputs[1], *group)?),
        Op::Unpermute => one(rows::unpermute(x, inputs[1])?),
        Op::MergeRows { group } => one(x.f_reshape([-1, group * last(x)])?),
        Op::AxialAngles { head, theta } => rotary::axial_angles(x, *head, *theta),
        Op::Rotary { heads } => one(rotary::rotary(x, inputs[1], inputs[2], inputs.get(3).copied(), *heads)?),
        Op::Attention { heads, kv_heads, kind, dropout } => {
            let heads = attention::Heads { query: *heads, kv: *kv_heads };
            let [q, k, v] = [x, inputs[1], inputs[2]];
            match kind {
                AttentionKind::Full if *dropout > 0.0 && s.randomness.is_some() => {
                    let dropped = |shares: &Tensor| s.dropout(shares, *dropout, 0);
                    one(attention::full_with_dropout(q, k, v, inputs.get(3).copied(), heads, &dropped)?)
                }
                AttentionKind::Full => one(attention::full(q, k, v, inputs.get(3).copied(), heads)?),
                AttentionKind::Causal => one(attention::causal(q, k, v, heads)?),
                AttentionKind::Cached => attention::cached(q, k, v, &inputs[3..], heads),
                AttentionKind::Segments => one(attention::segments(q, k, v, inputs[3], heads)?),
            }
        }
        Op::WindowAttention { heads, side, .. } => {
            one(swin::window_attention([x, inputs[1], inputs[2]], inputs[3], &s.weight(0)?, *heads, *side)?)
        }
        Op::ChannelsLast => one(x.f_permute([0, 2, 3, 1])?.f_contiguous()?),
        Op::Windows { side, shift } => swin::windows(x, *side, *shift),
        Op::Unwindow { side, shift } => one(swin::unwindow(x, inputs[1], *side, *shift)?),
        Op::MergePatches => one(swin::merge_patches(x)?),
    }
}
