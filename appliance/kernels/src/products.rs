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
use tile::Part;
use weights::GROUP;

/// Rows whose codes stay in the cache while all weights pass.
const NEAR: usize = 128;
/// Outputs that kernels take at once: four groups.
const COLUMN: usize = 4 * GROUP;
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
    let width = columns_of_a_part(rows, weights, workers.count()) * COLUMN;
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

/// How wide the parts are that work is cut into: so that the thread with the most has the least. Where that is the same, few rows are cut into few parts,
/// in which memory is asked ahead, and many rows into many, for a thread may be held up.
fn columns_of_a_part(rows: &Rows, weights: &Weights, threads: usize) -> usize {
    let columns = weights.outputs.div_ceil(COLUMN);
    let parts = |width: usize| columns.div_ceil(width);
    let worth = (columns * 4 * weights.blocks * rows.count() / PART).clamp(1, columns);
    let longest = |width: usize| parts(width).div_ceil(threads) * width;
    let widths = (1..=8).map(|share| columns.div_ceil(share * threads)).chain([columns]).filter(|width| parts(*width) <= worth);
    let best = if rows.count() <= FEW {
        widths.min_by_key(|width| (longest(*width), parts(*width)))
    } else {
        widths.min_by_key(|width| (longest(*width), *width))
    };
    best.unwrap_or(columns)
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
