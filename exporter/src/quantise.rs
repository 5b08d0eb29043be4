//! Rows of weights in few bits, rounded to nearest.

use crate::policy::BLOCK;

/// Code of the number zero with 8 bits.
pub(crate) const ZERO8: u8 = 128;
/// Code of the number zero with 4 bits.
const ZERO4: u8 = 8;

/// Largest code of [`channels`]. Two products with an unsigned byte stay within 16 bits, in which processors without instructions for whole dot
/// products (AVX2) add them up, and saturate silently beyond: so these products are exact on every processor. Unsigned codes of 8 bits
/// would be exact too, but their kernel takes half as long again for 16 rows and more.
const MOST: f32 = 63.0;

/// Rows `[rows, width]` with one scale each: `w = scale * code`, signed codes from -63 to 63.
pub(crate) fn channels(rows: &[f32], width: usize) -> (Vec<u8>, Vec<f32>) {
    let mut codes = Vec::with_capacity(rows.len());
    let mut scales = Vec::with_capacity(rows.len() / width);
    for row in rows.chunks_exact(width) {
        let most = row.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let (scale, back) = scale(most / MOST);
        codes.extend(row.iter().map(|value| (value * back).round_ties_even().clamp(-MOST, MOST) as i8 as u8));
        scales.push(scale);
    }
    (codes, scales)
}

/// Rows `[rows, width]` in blocks, as ONNX Runtime's MatMulNBits stores them: `w = scale * (code - zero)`, the number that is farthest from zero
/// gets the lowest code, so that the whole range is used. The last block of a row is filled up with zeros.
pub(crate) fn blocks(rows: &[f32], width: usize, bits: i64) -> (Vec<u8>, Vec<f32>) {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for block in rows.chunks_exact(width).flat_map(|row| row.chunks(BLOCK as usize)) {
        let farthest = block.iter().fold(0.0f32, |far, value| if value.abs() > far.abs() { *value } else { far });
        let lowest = if bits == 4 { -f32::from(ZERO4) } else { -f32::from(ZERO8) };
        let (scale, back) = scale(farthest / lowest);
        let code = |index: usize| {
            let value = block.get(index).map_or(0.0, |value| (value * back).round_ties_even());
            (value.clamp(lowest, -lowest - 1.0) - lowest) as u8
        };
        match bits {
            4 => codes.extend((0..BLOCK as usize).step_by(2).map(|index| code(index) | code(index + 1) << 4)),
            _ => codes.extend((0..BLOCK as usize).map(code)),
        }
        scales.push(scale);
    }
    (codes, scales)
}

/// A scale with its reciprocal; nothing for one so small that its reciprocal is no number.
fn scale(wanted: f32) -> (f32, f32) {
    if wanted.recip().is_finite() { (wanted, wanted.recip()) } else { (0.0, 0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Half a step is the most that rounding changes.
        #[test]
        fn channels_are_at_most_half_a_step_off(rows in prop::collection::vec(-3.0f32..3.0, 12)) {
            let (codes, scales) = channels(&rows, 4);
            for (index, value) in rows.iter().enumerate() {
                let scale = scales[index / 4];
                let back = scale * f32::from(codes[index] as i8);
                prop_assert!((back - value).abs() <= 0.5001 * scale, "{value} became {back} at a scale of {scale}");
            }
        }

        /// But for the end of the range opposite to the farthest number, which one code is missing from.
        #[test]
        fn blocks_are_at_most_one_step_off(rows in prop::collection::vec(-3.0f32..3.0, 2 * 150), wide in any::<bool>()) {
            let bits = if wide { 8 } else { 4 };
            let (codes, scales) = blocks(&rows, 150, bits);
            let (each, zero) = if wide { (128, 128.0) } else { (64, 8.0) };
            prop_assert_eq!(codes.len(), 2 * 2 * each);
            for (index, value) in rows.iter().enumerate() {
                let (block, within) = (index / 150 * 2 + index % 150 / 128, index % 150 % 128);
                let code = if wide {
                    codes[block * each + within]
                } else {
                    codes[block * each + within / 2] >> (within % 2 * 4) & 15
                };
                let back = scales[block] * (f32::from(code) - zero);
                prop_assert!((back - value).abs() <= 1.0001 * scales[block].abs(), "{value} became {back}");
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        assert_eq!(channels(&[0.0; 4], 2), (vec![0; 4], vec![0.0; 2]));
        let (codes, scales) = blocks(&[0.0; 3], 3, 4);
        assert_eq!((codes, scales), (vec![0x88; 64], vec![0.0]));
        let tiny = f32::from_bits(3);
        assert_eq!(channels(&[tiny, -tiny], 2), (vec![0; 2], vec![0.0]));
        assert_eq!(blocks(&[tiny, -tiny], 2, 4), (vec![0x88; 64], vec![0.0]));
    }
}
