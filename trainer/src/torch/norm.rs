//! Norms over the last axis, always computed in f32.

use super::surroundings::{Surroundings, last};
use tch::{Kind, TchError, Tensor};

pub(super) fn layer_norm(x: &Tensor, eps: f64, s: &Surroundings<'_>) -> Result<Tensor, TchError> {
    let [weight, bias] = [s.weight(0)?.f_to_kind(Kind::Float)?, s.weight(1)?.f_to_kind(Kind::Float)?];
    x.f_to_kind(Kind::Float)?.f_layer_norm([last(x)], Some(weight), Some(bias), eps, false)?.f_to_kind(x.kind())
}

pub(super) fn rms_norm(x: &Tensor, eps: f64, s: &Surroundings<'_>) -> Result<Tensor, TchError> {
    let weight = s.weight(0)?.f_to_kind(Kind::Float)?;
    x.f_to_kind(Kind::Float)?.f_rms_norm([last(x)], Some(weight), eps)?.f_to_kind(x.kind())
}
