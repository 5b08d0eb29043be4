//! Products of activations in 8 bits with weights in blocks of 4 or 8 bits (ONNX Runtime's MatMulNBits at accuracy level 4).
//!
//! `y[m, n] = sum over blocks b of (scale_x[m, b] * scale_w[n, b]) * (sum of x w in whole numbers) + bias[n]`, the blocks added up in their order, each in one
//! rounding. The inner sum is exact, so no instruction can make another number of it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod plain;
mod tile;
mod weights;

pub use weights::{Bits, Weights};

use crate::{Processor, Rows, Workers, each_part};
use tile::{PREFETCHED, Part, TILE_GROUPS};
use weights::GROUP;

/// Rows whose codes stay in the cache while all weights pass.
const NEAR: usize = 128;
/// Outputs that a tile takes at most.
const COLUMN: usize = TILE_GROUPS * GROUP;
/// Rows for which memory is slower than the kernels.
const FEW: usize = 32;
/// Blocks of weights, of one group for one row, that are worth a thread.
const PART: usize = 16;

/// Writes the product of all `rows` with all outputs of `weights` into `product` `[rows, outputs]`.
pub fn multiply(
    processor: Processor,
    rows: &Rows,
    weights: &Weights,
    bias: Option<&[f32]>,
    product: &mut [f32],
    workers: &dyn Workers,
) {
    assert!(processor.is_here(), "a processor's kernels run on it alone");
    assert!(rows.blocks() == weights.blocks && product.len() == rows.count() * weights.outputs, "sizes fit");
    assert!(bias.is_none_or(|bias| bias.len() == weights.outputs), "a bias for each output");
    let columns = weights.outputs.div_ceil(COLUMN);
    let worth = (columns * TILE_GROUPS * weights.blocks * rows.count() / PART).max(1);
    let prefetched = rows.count() <= FEW && weights.blocks <= PREFETCHED;
    let width = columns_of_a_part(columns, workers.count(), worth, prefetched) * COLUMN;
    let mut columns: Vec<Vec<&mut [f32]>> =
        (0..weights.outputs.div_ceil(width)).map(|_| Vec::with_capacity(rows.count())).collect();
    for row in product.chunks_exact_mut(weights.outputs) {
        row.chunks_mut(width).zip(&mut columns).for_each(|(piece, column)| column.push(piece));
    }
    each_part(columns.into_iter().enumerate().collect(), workers, |(part, mut column)| {
        for (number, rows_near) in column.chunks_mut(NEAR).enumerate() {
            let part = Part { rows, first_row: number * NEAR, weights, bias, first_output: part * width };
            part_by(processor, &part, rows_near);
        }
    });
}

/// How many columns each part has: so that the longest thread is done soonest (least makespan). A part's first column is not prefetched, and counts as two
/// where memory is the bottleneck. Of what is within a sixtieth of the best the most parts are taken, for a thread may be held up.
fn columns_of_a_part(columns: usize, threads: usize, most_parts: usize, prefetched: bool) -> usize {
    let parts = |width: usize| columns.div_ceil(width);
    let cost = |width: usize| parts(width).div_ceil(threads) * (width + usize::from(prefetched));
    let widths = || (1..=8).map(|share| columns.div_ceil(share * threads)).filter(|width| parts(*width) <= most_parts);
    let Some(best) = widths().map(cost).min() else { return columns };
    widths().filter(|width| cost(*width) <= best + best / 60).min().unwrap_or(columns)
}

fn part_by(processor: Processor, part: &Part, product: &mut [&mut [f32]]) {
    match processor {
        // SAFETY: `multiply` has asserted that this machine has the instructions of the class.
        #[cfg(target_arch = "x86_64")]
        Processor::Avx512 => unsafe { avx512::part(part, product) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Processor::Avx2 => unsafe { avx2::part(part, product) },
        _ => plain::part(part, product),
    }
}

#[cfg(test)]
mod tests {
    use super::columns_of_a_part;

    /// What the thread with the most has, of what it would have if all had the same.
    fn share_of_the_longest(columns: usize, threads: usize, prefetched: bool) -> f64 {
        let width = columns_of_a_part(columns, threads, usize::MAX, prefetched);
        let longest = columns.div_ceil(width).div_ceil(threads) * width;
        longest as f64 * threads as f64 / columns as f64
    }

    #[test]
    fn no_thread_waits_long_for_another() {
        for threads in [1, 2, 3, 4, 7, 8, 16] {
            for columns in [14usize, 18, 56, 76, 152, 296, 2374] {
                for prefetched in [false, true] {
                    let even = columns.div_ceil(threads) as f64 * threads as f64 / columns as f64;
                    let share = share_of_the_longest(columns, threads, prefetched);
                    assert!(share <= 1.05 * even, "{columns} columns for {threads} threads: {share}, {even} at best");
                }
            }
        }
        assert_eq!(columns_of_a_part(14, 2, usize::MAX, true), 7, "few parts where each begins with a wait for memory");
        assert_eq!(columns_of_a_part(14, 2, usize::MAX, false), 1, "many where not");
        assert!(
            2374usize.div_ceil(columns_of_a_part(2374, 2, usize::MAX, true)) >= 8,
            "a thread that is held up leaves its parts to others"
        );
        assert_eq!(columns_of_a_part(14, 2, 1, false), 14, "too little for a second thread");
    }
}
