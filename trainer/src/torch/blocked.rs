//! The layout in which oneDNN convolves on a processor.
//!
//! libtorch brings every convolution's input into that layout and its result back to rows of pixels, forward and backward. Between a convolution and
//! the next one nothing needs the rows, so values stay as oneDNN left them (VGG16: 8 % of a step's time). The numbers are the same.

use mmlnb_models::graph::Op;
use tch::{Device, Kind, TchError, Tensor};

/// The input of an operator in a layout that it computes in, where all is computed in `kind`; nothing where it is so already.
pub(super) fn brought(x: &Tensor, op: &Op, kind: Kind) -> Result<Option<Tensor>, TchError> {
    let convolves = matches!(op, Op::Conv2d { .. });
    let keeps = convolves || matches!(op, Op::MaxPool2d | Op::Relu);
    match x.is_mkldnn() {
        true if !keeps => x.f_to_dense(None, false).map(Some),
        false if convolves && has_blocks(x, kind) => x.f_to_mkldnn(None).map(Some),
        true | false => Ok(None),
    }
}

/// The same numbers in libtorch's own layout.
pub(crate) fn in_rows(x: Tensor) -> Result<Tensor, TchError> {
    if x.is_mkldnn() { x.f_to_dense(None, false) } else { Ok(x) }
}

/// Gradients pass through this layout only in f32.
fn has_blocks(x: &Tensor, kind: Kind) -> bool {
    x.device() == Device::Cpu && [x.kind(), kind] == [Kind::Float; 2] && x.dim() == 4 && tch::utils::has_mkldnn()
}
