//! Choosing and moving rows.

use super::surroundings::last;
use tch::{TchError, Tensor};

/// Rows counted through batch and tokens.
pub(super) fn take(x: &Tensor, rows: &Tensor) -> Result<Tensor, TchError> {
    x.f_reshape([-1, last(x)])?.f_index_select(0, rows)
}

pub(super) fn permute_groups(x: &Tensor, order: &Tensor, group: i64) -> Result<Tensor, TchError> {
    x.f_reshape([-1, group * last(x)])?.f_index_select(0, order)?.f_reshape(x.size())
}

pub(super) fn unpermute(x: &Tensor, order: &Tensor) -> Result<Tensor, TchError> {
    x.f_zeros_like()?.f_index_copy(0, order, x)
}
