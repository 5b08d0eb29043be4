//! A tensor as it lies in the mapped files, and its conversion to f32.

use half::{bf16, f16, slice::HalfFloatSliceExt};
use std::{borrow::Cow, fmt, ops::Range};

const _: () = assert!(cfg!(target_endian = "little"), "safetensors are little-endian and are read in place");

/// Types of numbers that weights may have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DType {
    /// 32-bit.
    F32,
    /// 16-bit, 5 bits of exponent.
    F16,
    /// 16-bit, 8 bits of exponent.
    BF16,
}

impl DType {
    /// By the name that safetensors' headers use.
    pub fn from_name(name: &str) -> Option<DType> {
        match name {
            "F32" => Some(DType::F32),
            "F16" => Some(DType::F16),
            "BF16" => Some(DType::BF16),
            _ => None,
        }
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The largest finite number.
    pub(super) fn largest(self) -> f64 {
        match self {
            DType::F32 => f64::from(f32::MAX),
            DType::F16 => f16::MAX.to_f64(),
            DType::BF16 => bf16::MAX.to_f64(),
        }
    }

    /// Little-endian bytes of `values` in this type, rounded to nearest even.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            DType::F32 => bytemuck::cast_slice(values).to_vec(),
            DType::F16 => {
                let mut rounded = vec![f16::ZERO; values.len()];
                rounded.convert_from_f32_slice(values);
                bytemuck::cast_slice(&rounded).to_vec()
            }
            DType::BF16 => {
                let mut rounded = vec![bf16::ZERO; values.len()];
                rounded.convert_from_f32_slice(values);
                bytemuck::cast_slice(&rounded).to_vec()
            }
        }
    }

    /// Appends little-endian `bytes` of this type as f32.
    pub(super) fn decode_into(self, bytes: &[u8], values: &mut Vec<f32>) {
        let start = values.len();
        values.resize(start + bytes.len() / self.size(), 0.0);
        let target = &mut values[start..];
        match self {
            DType::F32 => bytemuck::cast_slice_mut::<f32, u8>(target).copy_from_slice(bytes),
            DType::F16 => aligned::<f16>(bytes).convert_to_f32_slice(target),
            DType::BF16 => aligned::<bf16>(bytes).convert_to_f32_slice(target),
        }
    }
}

/// Place and value of the first number that is none (NaN or an infinity) in little-endian `bytes` of this type. One pass at the speed of memory.
pub(super) fn non_finite(dtype: DType, bytes: &[u8]) -> Option<(usize, f32)> {
    let exponent = match dtype {
        DType::F32 => {
            return first(
                bytes,
                4,
                |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]) & F32_EXPONENT == F32_EXPONENT,
                dtype,
            );
        }
        DType::F16 => F16_EXPONENT,
        DType::BF16 => BF16_EXPONENT,
    };
    first(bytes, 2, |two| u16::from_le_bytes([two[0], two[1]]) & exponent == exponent, dtype)
}

/// All bits of the exponent: set in NaN and the infinities alone.
const F32_EXPONENT: u32 = 0x7f80_0000;
const F16_EXPONENT: u16 = 0x7c00;
const BF16_EXPONENT: u16 = 0x7f80;

/// The first of numbers of `width` bytes that is `wrong`; whole blocks are looked through without a branch.
fn first(bytes: &[u8], width: usize, wrong: impl Fn(&[u8]) -> bool, dtype: DType) -> Option<(usize, f32)> {
    const BLOCK: usize = 1 << 14;
    let block = bytes.chunks(BLOCK).position(|block| block.chunks_exact(width).fold(false, |any, number| any | wrong(number)))?;
    let start = block * BLOCK / width;
    let within = bytes[block * BLOCK..].chunks_exact(width).position(wrong)?;
    let mut value = Vec::with_capacity(1);
    dtype.decode_into(&bytes[(start + within) * width..(start + within + 1) * width], &mut value);
    Some((start + within, value[0]))
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The numbers in place where the file's offsets allow it; a copy where they are not aligned.
fn aligned<T: bytemuck::Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(numbers) => Cow::Borrowed(numbers),
        Err(_) => {
            let mut numbers = vec![T::zeroed(); bytes.len() / size_of::<T>()];
            bytemuck::cast_slice_mut(&mut numbers).copy_from_slice(bytes);
            Cow::Owned(numbers)
        }
    }
}

/// A tensor in the mapped files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored<'a> {
    /// Type of its numbers.
    pub dtype: DType,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its bytes, little-endian, row-major: one piece, or the pieces of a stack along the first axis.
    pub parts: Vec<&'a [u8]>,
}

impl Stored<'_> {
    /// Size of the first axis; 1 for a single number.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Numbers of one row.
    pub fn row_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Bytes of the whole tensor.
    pub fn byte_len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Rows `range` as f32. The range must lie within [`Stored::rows`].
    pub fn decode(&self, range: Range<usize>) -> Vec<f32> {
        let bytes_each = self.row_len() * self.dtype.size();
        let (mut from, mut left) = (range.start * bytes_each, range.len() * bytes_each);
        let mut values = Vec::with_capacity(range.len() * self.row_len());
        for part in &self.parts {
            let start = from.min(part.len());
            let end = (start + left).min(part.len());
            self.dtype.decode_into(&part[start..end], &mut values);
            from -= start;
            left -= end - start;
        }
        assert_eq!(left, 0, "the rows {range:?} lie outside of a tensor of shape {:?}", self.shape);
        values
    }
}
