//! Tables, matrices and kernels.

use super::{
    leaves::{Branch, Parameter},
    surroundings::Surroundings,
    widen,
};
use tch::{Kind, TchError, Tensor};

pub(super) fn embedding(ids: &Tensor, s: &Surroundings<'_>) -> Result<Tensor, TchError> {
    Tensor::f_embedding(&s.weight(0)?, ids, -1, false, false)
}

pub(super) fn add_positions(x: &Tensor, s: &Surroundings<'_>) -> Result<Tensor, TchError> {
    x.f_add(&s.weight(0)?.f_narrow(0, 0, x.size()[1])?)
}

pub(super) fn conv2d(x: &Tensor, stride: i64, pad: i64, has_bias: bool, s: &Surroundings<'_>) -> Result<Tensor, TchError> {
    let kernel = s.weight(0)?;
    let bias = if has_bias { Some(s.weight(1)?) } else { None };
    let bias = bias.as_ref().map(widen::factor).transpose()?;
    let x = widen::factor(&x.f_to_kind(kernel.kind())?)?;
    x.f_conv2d(&widen::factor(&kernel)?, bias, [stride, stride], [pad, pad], [1, 1], 1)?.f_to_kind(kernel.kind())
}

pub(super) fn blend(weight: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
    let rest = weight.f_neg()?.f_add_scalar(1.0)?;
    weight.f_mul(a)?.f_add(&rest.f_mul(b)?)
}

/// `x W^T + b`.
pub(super) fn linear(x: &Tensor, has_bias: bool, s: &Surroundings<'_>) -> Result<Tensor, TchError> {
    let x = x.f_to_kind(s.kind)?;
    let bias = if has_bias { Some(s.weight(1)?) } else { None };
    match &s.weights[0] {
        plain @ (Parameter::Leaf(_) | Parameter::Matrix(_)) => widen::linear(&x, &s.leaves.whole(plain)?, bias.as_ref()),
        composed @ (Parameter::Adapted { .. } | Parameter::Stack(_)) => {
            let y = product(&x, composed, s, &mut 0)?;
            bias.map_or(Ok(y.shallow_clone()), |bias| y.f_add(&bias))
        }
    }
}

/// `x W^T`, each matrix of a stack for itself: so every part keeps a leaf of its own. `part` counts adapters.
fn product(x: &Tensor, weight: &Parameter, s: &Surroundings<'_>, part: &mut usize) -> Result<Tensor, TchError> {
    match weight {
        Parameter::Leaf(_) | Parameter::Matrix(_) => widen::linear(x, &s.leaves.whole(weight)?, None),
        Parameter::Adapted { base, branch } => {
            *part += 1;
            adapted(x, &s.leaves.whole(base)?, branch, *part, s)
        }
        Parameter::Stack(parts) => {
            let products: Result<Vec<Tensor>, TchError> = parts.iter().map(|p| product(x, p, s, part)).collect();
            Tensor::f_cat(&products?, -1)
        }
    }
}

/// LoRA: `W x + s B A d`, with `d = dropout(x)`; DoRA: `W x + (f - 1) W d + f s B A d`, with a factor f for each output. A and B work in f32.
fn adapted(x: &Tensor, base: &Tensor, branch: &Branch, part: usize, s: &Surroundings<'_>) -> Result<Tensor, TchError> {
    let dropped = s.dropout(x, s.adapter_dropout, part)?;
    let (a, b) = (s.leaves.leaf(branch.a), s.leaves.leaf(branch.b));
    let narrow = dropped.f_to_kind(Kind::Float)?.f_linear(a, None::<Tensor>)?;
    let low = narrow.f_linear(b, None::<Tensor>)?.f_mul_scalar(branch.scale)?;
    let y = widen::linear(x, base, None)?;
    if branch.magnitude.is_none() {
        return y.f_add(&low.f_to_kind(y.kind())?);
    }
    let factor = s.leaves.row_factors(base, branch)?;
    let through = if s.adapter_dropout > 0.0 { widen::linear(&dropped, base, None)? } else { y.shallow_clone() };
    let change = through.f_to_kind(Kind::Float)?.f_mul(&factor.f_add_scalar(-1.0)?)?.f_add(&low.f_mul(&factor)?)?;
    y.f_add(&change.f_to_kind(y.kind())?)
}
