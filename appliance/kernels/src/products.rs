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
/// Blocks of weights of a group that are worth a thread.
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
    let groups = weights.outputs.div_ceil(GROUP);
    let parts = (4 * workers.count()).min(groups * weights.blocks / PART).max(1);
    // Kernels take up to four groups at once.
    let groups_of_a_part = groups.div_ceil(parts).next_multiple_of(4);
    let width = groups_of_a_part * GROUP;
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
