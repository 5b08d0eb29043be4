//! Products of 16-bit numbers on a processor that has no instructions for them.
//!
//! libtorch has no fast kernels for that case: forward it is five times slower than f32, and the gradient's product sixty times (AVX2, 380 x 896 x 4,864). So the
//! factors are brought to f32, multiplied there and the result rounded once, which is what bf16 kernels do inside.

use std::sync::OnceLock;
use tch::{Device, Kind, TchError, Tensor};

/// Whether a product of tensors like this one is made in f32.
pub fn is_widened(device: Device, kind: Kind) -> bool {
    device == Device::Cpu && matches!(kind, Kind::BFloat16 | Kind::Half) && !has_16_bit_products()
}

#[cfg(target_arch = "x86_64")]
fn has_16_bit_products() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| std::is_x86_feature_detected!("avx512bf16"))
}

#[cfg(target_arch = "aarch64")]
fn has_16_bit_products() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| std::arch::is_aarch64_feature_detected!("bf16"))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_16_bit_products() -> bool {
    false
}

/// The tensor as a factor: in f32 where products are widened, else as it is.
pub(super) fn factor(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_to_kind(if is_widened(x.device(), x.kind()) { Kind::Float } else { x.kind() })
}

/// `x W^T + b`, in the type of `x`.
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
    let bias = bias.map(factor).transpose()?;
    factor(x)?.f_linear(&factor(weight)?, bias)?.f_to_kind(x.kind())
}
