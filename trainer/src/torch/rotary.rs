//! Rotary positions (arXiv 2104.09864), half-split; always computed in f32.

use super::surroundings::{last, on};
use tch::{Kind, TchError, Tensor};

/// Cos and sin `[positions, head / 2]` of rows, then columns.
pub(super) fn axial_angles(positions: &Tensor, head: i64, theta: f64) -> Result<Vec<Tensor>, TchError> {
    let frequencies: Vec<f32> = (0..head / 4).map(|j| theta.powf(-4.0 * j as f64 / head as f64) as f32).collect();
    let frequencies = on(&frequencies, positions.device())?;
    // [positions, 2, 1] * [head / 4]
    let angles = positions.f_to_kind(Kind::Float)?.f_unsqueeze(2)?.f_mul(&frequencies)?.f_flatten(1, 2)?;
    Ok(vec![angles.f_cos()?, angles.f_sin()?])
}

/// Rotates each head of `x` `[.., tokens, heads * head]`.
pub(super) fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor, positions: Option<&Tensor>, heads: i64) -> Result<Tensor, TchError> {
    let size = x.size();
    let half = last(x) / heads / 2;
    let of_tokens = |table: &Tensor| -> Result<Tensor, TchError> {
        let table = table.f_to_kind(Kind::Float)?;
        match positions {
            None => table.f_unsqueeze(1),
            Some(positions) => {
                let mut shape = positions.size();
                shape.extend([1, half]);
                table.f_index_select(0, &positions.f_flatten(0, -1)?)?.f_reshape(shape)
            }
        }
    };
    let (cos, sin) = (of_tokens(cos)?, of_tokens(sin)?);
    let mut split = size[..size.len() - 1].to_vec();
    split.extend([heads, 2, half]);
    let halves = x.f_to_kind(Kind::Float)?.f_reshape(split)?;
    let (a, b) = (halves.f_select(-2, 0)?, halves.f_select(-2, 1)?);
    let turned_a = a.f_mul(&cos)?.f_sub(&b.f_mul(&sin)?)?;
    let turned_b = b.f_mul(&cos)?.f_add(&a.f_mul(&sin)?)?;
    Tensor::f_stack(&[turned_a, turned_b], -2)?.f_reshape(size)?.f_to_kind(x.kind())
}
