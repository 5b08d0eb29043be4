//! Products with what every processor has; the numbers that all other kernels must give.

use super::tile::{Kernel, Part, Sums, Tile};
use super::weights::{Bits, FOUR, GROUP};

struct Plain;

pub(super) fn part(part: &Part, product: &mut [&mut [f32]]) {
    // SAFETY: this kernel uses no instructions of a class.
    unsafe { part.tiles::<Plain>(product) }
}

impl Kernel for Plain {
    unsafe fn sums<const ROWS: usize, const GROUPS: usize>(tile: &Tile<ROWS, GROUPS>, bits: Bits) -> Sums<ROWS, GROUPS> {
        let lines = bits.bytes() / FOUR;
        let mut sums = [[[0.0f32; GROUP]; GROUPS]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            for (group, sums) in sums.iter_mut().enumerate() {
                let weights = tile.codes[group].chunks_exact(lines).zip(tile.scales[group]);
                for (x, (lines, scales)) in tile.rows[row].iter().zip(weights) {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        let code = |index: usize| match bits {
                            Bits::Four => lines[index / 8].0[lane * FOUR + index % FOUR] >> (index / FOUR % 2 * 4) & 15,
                            Bits::Eight => lines[index / FOUR].0[lane * FOUR + index % FOUR],
                        };
                        let products = x.codes.iter().enumerate().map(|(index, x)| i32::from(code(index)) * i32::from(*x));
                        let whole = products.sum::<i32>() - bits.zero() * x.sum;
                        *sum = (whole as f32).mul_add(x.scale * scales[lane], *sum);
                    }
                }
            }
        }
        sums
    }
}
