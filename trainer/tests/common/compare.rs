//! Comparing tensors.

use tch::{Kind, Tensor};

/// Largest |found - expected|; sizes must agree and nothing may be NaN or infinite.
pub fn distance(found: &Tensor, expected: &Tensor, what: &str) -> f64 {
    assert_eq!(found.size(), expected.size(), "{what}: sizes");
    assert!(found.numel() > 0, "{what}: nothing to compare");
    let (found, expected) = (double(found), double(expected));
    let (finite, right) = (all_finite(&found), all_finite(&expected));
    assert!(finite && right, "{what}: a number is not finite");
    largest(&(found - expected))
}

/// Largest |x|.
pub fn largest(x: &Tensor) -> f64 {
    x.abs().max().double_value(&[])
}

/// Within an absolute tolerance.
pub fn close(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    let off = distance(found, expected, what);
    assert!(off <= tolerance, "{what}: off by {off:.3e}, allowed {tolerance:.1e}");
}

/// Within a tolerance relative to the largest expected number.
pub fn close_to_largest(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    close(found, expected, tolerance * largest(&double(expected)), what);
}

fn double(x: &Tensor) -> Tensor {
    x.detach().to_device(tch::Device::Cpu).to_kind(Kind::Double)
}

fn all_finite(x: &Tensor) -> bool {
    x.isfinite().all().int64_value(&[]) == 1
}
