//! The operators of which networks are made, at the level at which papers speak.

use super::{Dim, Kind, Type, Weight};

/// Which positions see which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttentionKind {
    /// Every position sees every position. Inputs q, k, v and, if there is a fourth, `mask` Int `[batch, tokens]`: keys with 0 are not seen.
    Full,
    /// A position sees itself and those before it. Inputs q, k, v.
    Causal,
    /// As `Causal`, on top of a key-value cache of fixed length. Inputs q, k, v, past key, past value `[batch, kv heads, length, head]`,
    /// `last` Int `[batch]` (index of each row's last valid position after this call) and `total` Int `[]` (largest valid length);
    /// the new keys and values stand at `last + 1 - tokens ..= last`. Outputs: result, present key, present value.
    Cached,
    /// Rows of one sequence in segments that do not see each other. Inputs q, k, v `[positions, ..]` and `bounds` Int `[segments + 1]`,
    /// the cumulated lengths, from 0.
    Segments,
}

/// An operator. Inputs and outputs are described by [`infer`], the only place with shape rules.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)] // the fields are named as in the formulas beside them
pub enum Op {
    /// A tensor that the caller gives.
    Input(String),
    /// Rows of a table: Int `[..]` -> `[.., width]`.
    Embedding {
        table: Weight,
        width: i64,
    },
    /// `x[:, t] + table[t]`: learned positions.
    AddPositions {
        table: Weight,
    },
    /// `x + table[row]`: one learned row for all positions.
    AddRow {
        table: Weight,
        row: i64,
    },
    /// `x W^T + b`, W `[outputs, inputs]`.
    Linear {
        weight: Weight,
        bias: Option<Weight>,
        outputs: i64,
    },
    /// Convolution on `[batch, channels, height, width]`, square kernel.
    Conv2d {
        weight: Weight,
        bias: Option<Weight>,
        outputs: i64,
        kernel: i64,
        stride: i64,
        pad: i64,
    },
    /// Largest of 2 x 2, stride 2; odd borders are dropped.
    MaxPool2d,
    /// Mean over these axes, which vanish.
    Mean {
        axes: Vec<usize>,
    },
    /// `(x - mean) / sqrt(var + eps) * weight + bias` over the last axis.
    LayerNorm {
        weight: Weight,
        bias: Weight,
        eps: f64,
    },
    /// `x / sqrt(mean(x^2) + eps) * weight` over the last axis.
    RmsNorm {
        weight: Weight,
        eps: f64,
    },
    /// Inputs x, y; outputs `layer_norm(x + y)` and `x + y`.
    AddLayerNorm {
        weight: Weight,
        bias: Weight,
        eps: f64,
    },
    /// Inputs x, y; outputs `rms_norm(x + y)` and `x + y`.
    AddRmsNorm {
        weight: Weight,
        eps: f64,
    },
    Relu,
    /// The exact GELU, with erf.
    Gelu,
    Tanh,
    Sigmoid,
    /// Inputs gate, up: `silu(gate) * up`.
    SwiGlu,
    /// Two tensors of the same type.
    Add,
    /// Inputs weight `[batch, 1]`, a, b `[batch, width]`: `weight * a + (1 - weight) * b`.
    Blend,
    /// Inputs a, b of one type: `share * a + (1 - share) * b`.
    Mix {
        share: f64,
    },
    Dropout {
        p: f64,
    },
    Concat {
        axis: usize,
    },
    Split {
        axis: usize,
        sizes: Vec<i64>,
    },
    /// `[batch, tokens, width]` -> `[batch, width]`, the first token.
    FirstToken,
    /// Inputs x `[batch, tokens, width]` and `rows` Int `[rows]`, which count through batch and tokens: `[rows, width]`.
    TakeRows,
    /// Inputs x `[positions, width]` and `order` Int `[positions / group]`: groups of rows in that order.
    PermuteGroups {
        group: i64,
    },
    /// Inputs x `[n, width]` and `order` Int `[n]`: undoes `PermuteGroups { group: 1 }`.
    Unpermute,
    /// `[n, width]` -> `[n / group, group * width]`.
    MergeRows {
        group: i64,
    },
    /// Angles of rows and columns. Input Int `[positions, 2]`; outputs cos, sin `[positions, head / 2]`: `head / 4` angles
    /// `row * theta^(-4 j / head)`, then as many of the column.
    AxialAngles {
        head: i64,
        theta: f64,
    },
    /// Rotates halves of each head. Inputs x `[.., tokens, heads * head]`, cos, sin `[rows, head / 2]` and, if there is a fourth,
    /// `positions` Int `[batch, tokens]`, the table's row of each token; without it row t belongs to token t.
    Rotary {
        heads: i64,
    },
    /// Scaled dot-product attention, scale `1 / sqrt(head)`. q `[.., tokens, heads * head]`, k and v with `kv_heads`, each shared by
    /// `heads / kv_heads` query heads. While training, each share of a key is dropped with probability `dropout`.
    Attention {
        heads: i64,
        kv_heads: i64,
        kind: AttentionKind,
        dropout: f64,
    },
    /// Swin's attention. Inputs q, k, v `[windows, side^2, heads * head]` and `mask` Bool `[windows / batch, side^2, side^2]`, true where a pair sees
    /// each other (else -100 is added); `table` `[(2 side - 1)^2, heads]` by relative position.
    WindowAttention {
        heads: i64,
        side: i64,
        table: Weight,
    },
    /// `[batch, channels, height, width]` -> `[batch, height, width, channels]`.
    ChannelsLast,
    /// Swin's windows of a map `[batch, height, width, channels]`: zero-padded at the right and the bottom to whole windows, rolled by `-shift` on each
    /// axis whose padded size exceeds the window. Outputs `[windows, side^2, channels]` (batch outermost) and the mask of `WindowAttention`.
    Windows {
        side: i64,
        shift: i64,
    },
    /// Undoes `Windows`. Inputs windows and the map that was cut (for its sizes).
    Unwindow {
        side: i64,
        shift: i64,
    },
    /// Swin's merging: `[batch, h, w, c]` -> `[batch, (h + 1) / 2, (w + 1) / 2, 4 c]`; neighbours (0,0), (1,0), (0,1), (1,1) as (row, column), zero-padded.
    MergePatches,
}

impl Op {
    /// The form of a norm that takes the two sides of a sum; none for what is no norm or has that form already.
    pub(super) fn with_sum(&self) -> Option<Op> {
        use Op::*;
        match self {
            RmsNorm { weight, eps } => Some(AddRmsNorm { weight: weight.clone(), eps: *eps }),
            LayerNorm { weight, bias, eps } => Some(AddLayerNorm { weight: weight.clone(), bias: bias.clone(), eps: *eps }),
            AddRmsNorm { .. } | AddLayerNorm { .. } | Input(_) | Embedding { .. } | AddPositions { .. } | AddRow { .. } => None,
            Linear { .. } | Conv2d { .. } | MaxPool2d | Mean { .. } | Relu | Gelu | Tanh | Sigmoid | SwiGlu | Add => None,
            Blend | Mix { .. } | Dropout { .. } | Concat { .. } | Split { .. } | FirstToken | TakeRows => None,
            PermuteGroups { .. } | Unpermute | MergeRows { .. } | AxialAngles { .. } | Rotary { .. } => None,
            Attention { .. } | WindowAttention { .. } | ChannelsLast | Windows { .. } | Unwindow { .. } | MergePatches => None,
        }
    }
}

/// Output types of an operator, or a sentence that says what does not fit.
pub fn infer(op: &Op, inputs: &[&Type]) -> Result<Vec<Type>, String> {
    use Op::*;
    let x = || inputs.first().copied().ok_or_else(|| "an input is missing".to_string());
    match op {
        Input(_) => Err("an input's type comes from the builder".into()),
        Embedding { width, .. } => {
            let ids = kind(x()?, Kind::Int)?;
            Ok(vec![Type::float(ids.dims.iter().cloned().chain([Dim::from(*width)]))])
        }
        AddPositions { .. } => rank(x()?, 3).map(|t| vec![t.clone()]),
        AddRow { .. } | Relu | Gelu | Tanh | Sigmoid | Dropout { .. } | LayerNorm { .. } | RmsNorm { .. } => {
            Ok(vec![kind(x()?, Kind::Float)?.clone()])
        }
        AddLayerNorm { .. } | AddRmsNorm { .. } => same(inputs).map(|t| vec![t.clone(), t]),
        Add | SwiGlu | Mix { .. } => same(inputs).map(|t| vec![t]),
        Linear { outputs, .. } => {
            let t = kind(x()?, Kind::Float)?;
            last_known(t)?;
            Ok(vec![t.with_last(*outputs)])
        }
        Conv2d { outputs, kernel, stride, pad, .. } => {
            let t = rank(x()?, 4)?;
            let side = |d: &Dim| {
                let grown = d.plus(&Dim::from(2 * pad - kernel + stride)).expect("a number can be added to any size");
                grown.over(*stride)
            };
            Ok(vec![Type::float([t.dims[0].clone(), Dim::from(*outputs), side(&t.dims[2]), side(&t.dims[3])])])
        }
        MaxPool2d => {
            let t = rank(x()?, 4)?;
            Ok(vec![Type::float([t.dims[0].clone(), t.dims[1].clone(), t.dims[2].over(2), t.dims[3].over(2)])])
        }
        Mean { axes } => {
            let t = kind(x()?, Kind::Float)?;
            Ok(vec![Type::float(t.dims.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()))])
        }
        Blend => {
            let [weight, a, b] = inputs else { return Err("weight, a and b are needed".into()) };
            same(&[a, b])?;
            if weight.dims.len() != 2 || weight.dims[1] != Dim::from(1) || weight.dims[0] != a.dims[0] {
                return Err(format!("the weight {weight} is not [batch, 1]"));
            }
            Ok(vec![(*a).clone()])
        }
        Concat { axis } => concat(inputs, *axis),
        Split { axis, sizes } => {
            let t = x()?;
            if t.dims.get(*axis) != Some(&Dim::from(sizes.iter().sum::<i64>())) {
                return Err(format!("{t} is not cut along axis {axis} into {sizes:?}"));
            }
            Ok(sizes.iter().map(|s| t.with(*axis, Dim::from(*s))).collect())
        }
        FirstToken => {
            let t = rank(x()?, 3)?;
            Ok(vec![Type::float([t.dims[0].clone(), t.dims[2].clone()])])
        }
        TakeRows => {
            let [x, rows] = inputs else { return Err("x and rows are needed".into()) };
            rank(x, 3)?;
            Ok(vec![Type::float([kind(rank(rows, 1)?, Kind::Int)?.dims[0].clone(), x.dims[2].clone()])])
        }
        PermuteGroups { group } => {
            let [x, order] = inputs else { return Err("x and order are needed".into()) };
            let groups = rank(x, 2)?.dims[0].over(*group);
            (order.dims.as_slice() == [groups])
                .then(|| vec![(*x).clone()])
                .ok_or_else(|| format!("{order} does not order {x} by {group}"))
        }
        Unpermute => {
            let [x, order] = inputs else { return Err("x and order are needed".into()) };
            (rank(x, 2)?.dims[0] == order.dims[0])
                .then(|| vec![(*x).clone()])
                .ok_or_else(|| format!("{order} does not order {x}"))
        }
        MergeRows { group } => {
            let t = rank(x()?, 2)?;
            Ok(vec![Type::float([t.dims[0].over(*group), Dim::from(last_known(t)? * group)])])
        }
        AxialAngles { head, .. } => {
            let t = kind(rank(x()?, 2)?, Kind::Int)?;
            let angles = Type::float([t.dims[0].clone(), Dim::from(head / 2)]);
            Ok(vec![angles.clone(), angles])
        }
        Rotary { heads } => rotary(inputs, *heads),
        Attention { heads, kv_heads, kind, .. } => attention(inputs, *heads, *kv_heads, *kind),
        WindowAttention { heads, .. } => {
            let [q, k, v, mask] = inputs else { return Err("q, k, v and mask are needed".into()) };
            same(&[q, k, v])?;
            if last_known(q)? % heads != 0 || mask.kind != Kind::Bool {
                return Err(format!("{q} has no {heads} heads, or {mask} is no mask"));
            }
            Ok(vec![(*q).clone()])
        }
        ChannelsLast => {
            let t = rank(x()?, 4)?;
            Ok(vec![Type::float([0, 2, 3, 1].map(|i| t.dims[i].clone()))])
        }
        Windows { side, .. } => {
            let t = rank(x()?, 4)?;
            let cells = Dim::from(side * side);
            let windows = Type::float([Dim::named("windows"), cells.clone(), t.dims[3].clone()]);
            let mask = Type { kind: Kind::Bool, dims: vec![Dim::named("windows_each"), cells.clone(), cells] };
            Ok(vec![windows, mask])
        }
        Unwindow { .. } => {
            let [windows, like] = inputs else { return Err("windows and their map are needed".into()) };
            rank(windows, 3)?;
            Ok(vec![rank(like, 4)?.with_last(last_known(windows)?)])
        }
        MergePatches => {
            let t = rank(x()?, 4)?;
            let half = |d: &Dim| d.plus(&Dim::from(1)).expect("a number can be added to any size").over(2);
            Ok(vec![Type::float([t.dims[0].clone(), half(&t.dims[1]), half(&t.dims[2]), Dim::from(4 * last_known(t)?)])])
        }
    }
}

fn rotary(inputs: &[&Type], heads: i64) -> Result<Vec<Type>, String> {
    let [x, cos, sin, positions @ ..] = inputs else { return Err("x, cos and sin are needed".into()) };
    let half = last_known(rank(cos, 2)?)?;
    same(&[cos, sin])?;
    if last_known(x)? != heads * half * 2 {
        return Err(format!("{x} has no {heads} heads of twice the width of {cos}"));
    }
    match positions {
        [] if x.dims[x.dims.len() - 2] != cos.dims[0] => Err(format!("the rows of {cos} are not the tokens of {x}")),
        [p] if p.dims.as_slice() != &x.dims[..x.dims.len() - 1] => Err(format!("{p} does not give positions for {x}")),
        _ => Ok(vec![(*x).clone()]),
    }
}

fn attention(inputs: &[&Type], heads: i64, kv_heads: i64, kind: AttentionKind) -> Result<Vec<Type>, String> {
    let [q, k, v, rest @ ..] = inputs else { return Err("q, k and v are needed".into()) };
    same(&[k, v])?;
    let head = last_known(q)? / heads;
    if last_known(q)? != heads * head || last_known(k)? != kv_heads * head || heads % kv_heads != 0 {
        return Err(format!("{q} and {k} do not have {heads} and {kv_heads} heads of one size"));
    }
    let unfit = || Err(format!("{kind:?} attention does not take {} further inputs", rest.len()));
    let plain = |fits: bool| if fits { Ok(vec![(*q).clone()]) } else { unfit() };
    match kind {
        AttentionKind::Causal => plain(rest.is_empty()),
        AttentionKind::Full => plain(match rest {
            [] => true,
            [mask] => mask.dims.as_slice() == &k.dims[..k.dims.len() - 1],
            _ => false,
        }),
        AttentionKind::Segments => plain(matches!(rest, [bounds] if bounds.dims.len() == 1 && q.dims.len() == 2)),
        AttentionKind::Cached => {
            let [past_k, past_v, last, total] = rest else { return unfit() };
            same(&[past_k, past_v])?;
            let fits = rank(past_k, 4)?.dims[1] == Dim::from(kv_heads) && last_known(past_k)? == head;
            if !fits || last.dims.len() != 1 || !total.dims.is_empty() {
                return Err(format!("{past_k}, {last}, {total} are no cache for {kv_heads} heads of {head}"));
            }
            Ok(vec![(*q).clone(), (*past_k).clone(), (*past_v).clone()])
        }
    }
}

fn concat(inputs: &[&Type], axis: usize) -> Result<Vec<Type>, String> {
    let first = inputs.first().ok_or("nothing to join")?;
    let mut sum = first.dims.get(axis).ok_or_else(|| format!("{first} has no axis {axis}"))?.clone();
    for other in &inputs[1..] {
        if other.with(axis, Dim::from(0)) != first.with(axis, Dim::from(0)) {
            return Err(format!("{other} cannot be joined to {first} along axis {axis}"));
        }
        sum = sum.plus(&other.dims[axis]).ok_or("the sum of two floored sizes has no form")?;
    }
    Ok(vec![first.with(axis, sum)])
}

fn same(inputs: &[&Type]) -> Result<Type, String> {
    match inputs {
        [] | [_] => Err("two inputs are needed".into()),
        [first, rest @ ..] => match rest.iter().find(|t| t != &first) {
            Some(other) => Err(format!("{first} and {other} differ")),
            None => Ok((*first).clone()),
        },
    }
}

fn kind(t: &Type, kind: Kind) -> Result<&Type, String> {
    (t.kind == kind).then_some(t).ok_or_else(|| format!("{t} is not {kind:?}"))
}

fn rank(t: &Type, rank: usize) -> Result<&Type, String> {
    (t.dims.len() == rank).then_some(t).ok_or_else(|| format!("{t} does not have {rank} axes"))
}

fn last_known(t: &Type) -> Result<i64, String> {
    t.dims.last().and_then(Dim::known).ok_or_else(|| format!("the last size of {t} is not known"))
}
