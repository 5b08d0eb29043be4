//! Rows of weights in few bits: rounded to nearest, or with the scale that costs the output least.
//!
//! With statistics, an error of the weight w_j costs the output E[x_j^2] times its square (AWQ, arXiv 2306.00978), so each scale is the one that makes
//! the sum of E[x_j^2] (w_j - scale * code_j)^2 small: of some scales around the usual one the best, fitted to its own codes by least squares. The graph
//! does not change.

use crate::policy::{BLOCK, Storage};
use std::thread;

/// Code of the number zero with 8 bits.
pub(crate) const ZERO8: u8 = 128;
/// Code of the number zero with 4 bits.
const ZERO4: u8 = 8;

/// Largest code a channel. Two products with an unsigned byte stay within 16 bits, in which processors without instructions for whole dot
/// products (AVX2) add them up, and saturate silently beyond: so these products are exact on every processor. Unsigned codes of 8 bits
/// would be exact too, but their kernel takes half as long again for 16 rows and more.
const MOST: f32 = 63.0;

/// Scales that are tried, relative to the one that uses the whole range.
const TRIED: [f32; 12] = [0.55, 0.62, 0.69, 0.76, 0.82, 0.87, 0.92, 0.96, 1.0, 1.04, 1.08, 1.14];
/// Largest bias of a convolution in whole numbers; half of 32 bits is left for the sum of the products (255 * 63 * 9 * 512 are 74 million).
const LARGEST_BIAS: f32 = (1 << 30) as f32;
/// Sums run in so many lanes, on every processor in the same order.
const LANES: usize = 8;
/// Below this many weights one thread is faster.
const SMALL: usize = 1 << 18;

/// Rows in few bits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Coded {
    /// Channels: signed codes `[rows, width]`; blocks: unsigned ones as ONNX Runtime's MatMulNBits stores them, the last block of a row filled up with zeros.
    pub codes: Vec<u8>,
    /// One for each row, or for each block of a row.
    pub scales: Vec<f32>,
}

/// A convolution in whole numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CodedKernel {
    /// Signed codes, in the kernel's shape.
    pub codes: Vec<u8>,
    /// One for each output.
    pub scales: Vec<f32>,
    /// One for each output, in steps of `step * scale`.
    pub biases: Vec<i32>,
}

/// The codes of one scale: from `lowest` to `highest`.
#[derive(Clone, Copy)]
struct Range {
    lowest: f32,
    highest: f32,
}

/// Rows `[rows, width]` in few bits, rounded to nearest; with `importance`, the mean square of what is multiplied with each of the `width` columns, so
/// that the output's error is small. `None`: floats have no codes.
pub(crate) fn coded(storage: Storage, rows: &[f32], width: usize, importance: Option<&[f32]>) -> Option<Coded> {
    if storage == Storage::Float {
        return None;
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let count = rows.len() / width;
    if threads == 1 || rows.len() < SMALL || count < 2 {
        return Some(in_few_bits(storage, rows, width, importance));
    }
    let each = count.div_ceil(threads) * width;
    let parts = thread::scope(|scope| {
        let part = |rows| scope.spawn(move || in_few_bits(storage, rows, width, importance));
        let parts: Vec<_> = rows.chunks(each).map(part).collect();
        let part =
            |part: thread::ScopedJoinHandle<'_, Coded>| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        parts.into_iter().map(part).collect::<Vec<_>>()
    });
    let mut whole = Coded::default();
    for part in parts {
        whole.codes.extend(part.codes);
        whole.scales.extend(part.scales);
    }
    Some(whole)
}

/// A kernel of `biases.len()` outputs in 7 bits, rounded to nearest, what goes in being codes of 8 bits of which one step is worth `step`.
///
/// Behind a ReLU nothing is below zero, so what rounding takes from an output's weights shifts all its results to one side: by the `means` of what goes in, one for
/// each channel, the bias takes that back (Nagel et al., arXiv 1906.04721, 4.2.1). An output whose weights are so small beside its bias that the bias, in steps of
/// their products, would not fit 32 bits gets a larger scale: it is all bias.
pub(crate) fn kernel(rows: &[f32], biases: &[f32], means: Option<&[f32]>, step: f32) -> CodedKernel {
    let mut coded = CodedKernel::default();
    let range = Range { lowest: -MOST, highest: MOST };
    let width = rows.len() / biases.len();
    for (row, bias) in rows.chunks_exact(width).zip(biases) {
        let scale = range.scale(row, None).max(bias.abs() / step / LARGEST_BIAS);
        let scale = if reciprocal(scale) == 0.0 { 1.0 } else { scale };
        let codes: Vec<f32> = row.iter().map(|value| range.code(value / scale)).collect();
        let lost = |(index, (value, code)): (usize, (&f32, &f32))| {
            let mean = means.map_or(0.0, |means| means[index * means.len() / width]);
            f64::from(mean) * (f64::from(*value) - f64::from(scale) * f64::from(*code))
        };
        let shift: f64 = row.iter().zip(&codes).enumerate().map(lost).sum();
        coded.codes.extend(codes.iter().map(|code| *code as i8 as u8));
        coded.scales.push(scale);
        coded.biases.push(((f64::from(*bias) + shift) / f64::from(step) / f64::from(scale)).round_ties_even() as i32);
    }
    coded
}

/// What rounding costs: `[sum of importance * (w - scale * code)^2, sum of importance * w^2]`.
pub(crate) fn cost(storage: Storage, rows: &[f32], width: usize, importance: Option<&[f32]>) -> [f64; 2] {
    let Some((range, each)) = range(storage, width) else { return [0.0; 2] };
    let mut sums = [0.0; 2];
    for row in rows.chunks_exact(width) {
        for (number, block) in row.chunks(each).enumerate() {
            let importance = importance.map(|all| &all[number * each..number * each + block.len()]);
            let scale = range.scale(block, importance);
            let back = reciprocal(scale);
            for (index, value) in block.iter().enumerate() {
                let weight = importance.map_or(1.0, |all| f64::from(all[index]));
                let off = f64::from(value - scale * range.code(value * back));
                sums[0] += weight * off * off;
                sums[1] += weight * f64::from(*value) * f64::from(*value);
            }
        }
    }
    sums
}

/// The codes, and how many neighbours of a row share a scale.
fn range(storage: Storage, width: usize) -> Option<(Range, usize)> {
    match storage {
        Storage::Float => None,
        Storage::Channels => Some((Range { lowest: -MOST, highest: MOST }, width)),
        Storage::Blocks { bits } => {
            let lowest = if bits == 4 { -f32::from(ZERO4) } else { -f32::from(ZERO8) };
            Some((Range { lowest, highest: -lowest - 1.0 }, BLOCK as usize))
        }
    }
}

fn in_few_bits(storage: Storage, rows: &[f32], width: usize, importance: Option<&[f32]>) -> Coded {
    let Some((range, each)) = range(storage, width) else { return Coded::default() };
    let mut coded = Coded::default();
    for row in rows.chunks_exact(width) {
        for (number, block) in row.chunks(each).enumerate() {
            let importance = importance.map(|all| &all[number * each..number * each + block.len()]);
            let scale = range.scale(block, importance);
            let back = reciprocal(scale);
            let code = |index: usize| block.get(index).map_or(0.0, |value| range.code(value * back));
            let unsigned = |index: usize| (code(index) - range.lowest) as u8;
            match storage {
                Storage::Blocks { bits: 4 } => {
                    coded.codes.extend((0..each).step_by(2).map(|index| unsigned(index) | unsigned(index + 1) << 4));
                }
                Storage::Blocks { .. } => coded.codes.extend((0..each).map(unsigned)),
                Storage::Channels | Storage::Float => coded.codes.extend((0..each).map(|index| code(index) as i8 as u8)),
            }
            coded.scales.push(if back == 0.0 { 0.0 } else { scale });
        }
    }
    coded
}

/// 0 for a scale so small that its reciprocal is no number.
fn reciprocal(scale: f32) -> f32 {
    if scale.recip().is_finite() { scale.recip() } else { 0.0 }
}

impl Range {
    /// The nearest code, as a number. What is added pushes the fraction out of an f32, rounding to nearest, ties to even.
    fn code(self, share: f32) -> f32 {
        const OUT: f32 = 12_582_912.0;
        share.max(self.lowest).min(self.highest) + OUT - OUT
    }

    /// The scale of some weights: the one that gives the number farthest from zero the lowest code, so that the whole range is used; with importance the best
    /// of those around it.
    fn scale(self, block: &[f32], importance: Option<&[f32]>) -> f32 {
        let farthest = block.iter().fold(0.0f32, |far, value| if value.abs() > far.abs() { *value } else { far });
        let usual = if self.highest == -self.lowest { farthest.abs() / self.highest } else { farthest / self.lowest };
        match importance {
            Some(importance) if reciprocal(usual) != 0.0 => self.fitted(block, importance, usual),
            Some(_) | None => usual,
        }
    }

    /// Of the scales that are tried, each fitted to its codes by least squares, the one of the least error.
    fn fitted(self, block: &[f32], importance: &[f32], usual: f32) -> f32 {
        // Where both ends of the range are alike, so are both signs.
        let signs: &[f32] = if self.highest == -self.lowest { &[1.0] } else { &[1.0, -1.0] };
        let (mut best, mut least) = (usual, self.sums(block, importance, usual)[0]);
        for tried in signs.iter().flat_map(|sign| TRIED.map(|factor| sign * factor * usual)) {
            let [off, across, own] = self.sums(block, importance, tried);
            // Where all that counts is rounded to zero, no scale is better: 0 / 0.
            let better = if own > 0.0 { across / own } else { 0.0 };
            let error = off - across * better;
            if error < least && reciprocal(tried + better) != 0.0 {
                (best, least) = (tried + better, error);
            }
        }
        best
    }

    /// Sums of `h r^2`, `h r q` and `h q^2`, r being what rounding leaves at this scale.
    fn sums(self, block: &[f32], importance: &[f32], scale: f32) -> [f32; 3] {
        let back = reciprocal(scale);
        let mut sums = [[0.0f32; LANES]; 3];
        let mut add = |lane: usize, value: f32, h: f32| {
            let code = self.code(value * back);
            let rest = value - scale * code;
            let weighted = h * rest;
            sums[0][lane] += weighted * rest;
            sums[1][lane] += weighted * code;
            sums[2][lane] += h * code * code;
        };
        let ((values, last_values), (weights, last_weights)) = (block.as_chunks::<LANES>(), importance.as_chunks::<LANES>());
        for (values, weights) in values.iter().zip(weights) {
            (0..LANES).for_each(|lane| add(lane, values[lane], weights[lane]));
        }
        last_values.iter().zip(last_weights).enumerate().for_each(|(lane, (value, h))| add(lane, *value, *h));
        sums.map(|lanes| lanes.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHANNELS: Storage = Storage::Channels;
    const FOUR: Storage = Storage::Blocks { bits: 4 };
    const EIGHT: Storage = Storage::Blocks { bits: 8 };

    fn nearest(storage: Storage, rows: &[f32], width: usize) -> Coded {
        coded(storage, rows, width, None).unwrap()
    }

    /// The numbers that codes and scales stand for.
    fn decoded(storage: Storage, Coded { codes, scales }: &Coded, width: usize) -> Vec<f32> {
        let blocks = width.div_ceil(128);
        let number = |index: usize| {
            let (row, column) = (index / width, index % width);
            let block = row * blocks + column / 128;
            match storage {
                Storage::Channels => scales[row] * f32::from(codes[index] as i8),
                Storage::Blocks { bits: 4 } => {
                    scales[block] * (f32::from(codes[block * 64 + column % 128 / 2] >> (column % 2 * 4) & 15) - 8.0)
                }
                _ => scales[block] * (f32::from(codes[block * 128 + column % 128]) - 128.0),
            }
        };
        (0..codes_of(storage, codes, width)).map(number).collect()
    }

    fn codes_of(storage: Storage, codes: &[u8], width: usize) -> usize {
        let row = match storage {
            Storage::Channels => width,
            Storage::Blocks { bits } => width.div_ceil(128) * 128 * bits as usize / 8,
            Storage::Float => unreachable!(),
        };
        codes.len() / row * width
    }

    fn weighted(values: &[f32], found: &[f32], importance: &[f32]) -> f64 {
        let each = values.iter().zip(found).zip(importance.iter().cycle());
        each.map(|((value, found), h)| f64::from(*h) * f64::from(value - found).powi(2)).sum()
    }

    proptest! {
        /// Half a step is the most that rounding changes.
        #[test]
        fn channels_are_at_most_half_a_step_off(rows in prop::collection::vec(-3.0f32..3.0, 12)) {
            let coded = nearest(CHANNELS, &rows, 4);
            for (index, (value, back)) in rows.iter().zip(decoded(CHANNELS, &coded, 4)).enumerate() {
                let scale = coded.scales[index / 4];
                prop_assert!((back - value).abs() <= 0.5001 * scale, "{value} became {back} at a scale of {scale}");
            }
        }

        /// But for the end of the range opposite to the farthest number, which one code is missing from.
        #[test]
        fn blocks_are_at_most_one_step_off(rows in prop::collection::vec(-3.0f32..3.0, 2 * 150), wide in any::<bool>()) {
            let storage = if wide { EIGHT } else { FOUR };
            let coded = nearest(storage, &rows, 150);
            prop_assert_eq!(coded.codes.len(), 2 * 2 * if wide { 128 } else { 64 });
            for (index, (value, back)) in rows.iter().zip(decoded(storage, &coded, 150)).enumerate() {
                let scale = coded.scales[index / 150 * 2 + index % 150 / 128];
                prop_assert!((back - value).abs() <= 1.0001 * scale.abs(), "{value} became {back}");
            }
        }

        /// What counts in the output comes out nearer, never farther, and `cost` says by how much.
        #[test]
        fn importance_lowers_the_error_that_counts(
            rows in prop::collection::vec(-3.0f32..3.0, 2 * 150),
            importance in prop::collection::vec(0.0f32..2.0, 150),
            outlier in 0usize..150,
        ) {
            let mut importance = importance;
            importance[outlier] = 1e4;
            for storage in [CHANNELS, FOUR, EIGHT] {
                let plain = weighted(&rows, &decoded(storage, &nearest(storage, &rows, 150), 150), &importance);
                let coded = coded(storage, &rows, 150, Some(&importance)).unwrap();
                let fitted = weighted(&rows, &decoded(storage, &coded, 150), &importance);
                prop_assert!(fitted <= plain * 1.0001 + 1e-6, "{storage:?}: {fitted}, {plain} to nearest");
                let [told, size] = cost(storage, &rows, 150, Some(&importance));
                prop_assert!((told - fitted).abs() <= 1e-3 * fitted + 1e-6, "{storage:?}: {fitted}, told {told} of {size}");
            }
        }
    }

    /// A channel that counts ten thousand times as much as others is exact at 4 bits.
    #[test]
    fn one_outlier_is_exact() {
        let row: Vec<f32> = (0..128).map(|index| ((index * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let mut importance = vec![1.0; 128];
        importance[5] = 1e8;
        let found = decoded(FOUR, &coded(FOUR, &row, 128, Some(&importance)).unwrap(), 128);
        assert!((found[5] - row[5]).abs() < 1e-4, "{} became {}", row[5], found[5]);
        let plain = decoded(FOUR, &nearest(FOUR, &row, 128), 128);
        assert!((plain[5] - row[5]).abs() > 1e-3, "{} became {}", row[5], plain[5]);
    }

    /// Every number of a convolution comes out near itself, also where an output is nearly or wholly its bias.
    #[test]
    fn kernels_keep_weights_and_biases() {
        let rows = [0.5, -1.0, 0.25, 1e-12, -1e-12, 0.0, 0.0, 0.0, 0.0, f32::from_bits(3), 0.0, 0.0];
        let biases = [-0.75, 2.0, -3.0, 0.0];
        let step = 0.01;
        let CodedKernel { codes, scales, biases: whole } = kernel(&rows, &biases, None, step);
        for (output, bias) in biases.iter().enumerate() {
            let scale = scales[output];
            assert!(scale.recip().is_finite() && scale > 0.0);
            let back = f64::from(whole[output]) * f64::from(step) * f64::from(scale);
            assert!((back - f64::from(*bias)).abs() <= f64::from(0.51 * step * scale), "{bias} became {back}");
            for (value, code) in rows[3 * output..][..3].iter().zip(&codes[3 * output..]) {
                let back = f32::from(*code as i8) * scale;
                assert!((back - value).abs() <= 0.51 * scale && (*code as i8).unsigned_abs() <= 63, "{value} became {back}");
            }
        }
        // In the mean nothing is lost: what goes in is 5 in the first channel and 7 in the others.
        let means = [5.0f32, 7.0, 7.0];
        let CodedKernel { codes: same, biases: shifted, .. } = kernel(&rows, &biases, Some(&means), step);
        assert_eq!(same, codes);
        for (output, row) in rows.chunks_exact(3).enumerate() {
            let scale = scales[output];
            let mean = |weight: &dyn Fn(usize) -> f32| (0..3).map(|at| means[at] * weight(at)).sum::<f32>();
            let found = mean(&|at| f32::from(codes[3 * output + at] as i8) * scale) + shifted[output] as f32 * step * scale;
            let expected = mean(&|at| row[at]) + biases[output];
            assert!((found - expected).abs() <= 0.51 * step * scale + 1e-5, "output {output}: {found}, expected {expected}");
        }
        assert_eq!(scales[0], 1.0 / 63.0);
        assert!(
            3.0 * 0.5 * scales[1] * 255.0 * step < 1e-5 * biases[1],
            "what weights are rounded by is nothing beside the bias"
        );
    }

    #[test]
    fn threads_change_nothing() {
        let rows: Vec<f32> = (0..1024 * 300).map(|index| ((index % 1009 * 787) % 1009) as f32 / 500.0 - 1.0).collect();
        let importance: Vec<f32> = (0..300).map(|index| index as f32).collect();
        for storage in [CHANNELS, FOUR] {
            for importance in [None, Some(importance.as_slice())] {
                assert!(coded(storage, &rows, 300, importance) == Some(in_few_bits(storage, &rows, 300, importance)));
            }
        }
        assert_eq!(coded(Storage::Float, &rows, 300, None), None);
    }

    #[test]
    fn zeros_stay_zeros() {
        let expected = |codes: Vec<u8>, scales: Vec<f32>| Coded { codes, scales };
        let tiny = f32::from_bits(3);
        for row in [[0.0, 0.0], [tiny, -tiny]] {
            assert_eq!(nearest(CHANNELS, &row, 2), expected(vec![0; 2], vec![0.0]));
            assert_eq!(nearest(FOUR, &row, 2), expected(vec![0x88; 64], vec![0.0]));
            assert_eq!(coded(FOUR, &row, 2, Some(&[1.0, 2.0])), Some(expected(vec![0x88; 64], vec![0.0])));
        }
        assert_eq!(coded(CHANNELS, &[1.0, -1.0], 2, Some(&[0.0, 0.0])), Some(nearest(CHANNELS, &[1.0, -1.0], 2)));
    }
}
