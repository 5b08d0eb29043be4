//! How rows and weights are cut into what a kernel multiplies at once.

use super::weights::{Bits, Codes, GROUP, Weights};
use crate::Rows;
use crate::rows::Block;

/// Some outputs of some rows.
pub(super) struct Part<'a> {
    pub(super) rows: &'a Rows,
    pub(super) first_row: usize,
    pub(super) weights: &'a Weights,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) first_output: usize,
}

/// What a kernel multiplies at once: some rows with the weights of some groups.
pub(super) struct Tile<'a, const ROWS: usize, const GROUPS: usize> {
    pub(super) rows: [&'a [Block]; ROWS],
    pub(super) codes: [&'a [Codes]; GROUPS],
    pub(super) scales: [&'a [[f32; GROUP]]; GROUPS],
}

/// The sums of a tile.
pub(super) type Sums<const ROWS: usize, const GROUPS: usize> = [[[f32; GROUP]; GROUPS]; ROWS];

/// One class's instructions.
pub(super) trait Kernel {
    /// The sums of a tile.
    ///
    /// # Safety
    /// The processor must have the class's instructions.
    unsafe fn sums<const ROWS: usize, const GROUPS: usize>(tile: &Tile<ROWS, GROUPS>, bits: Bits) -> Sums<ROWS, GROUPS>;
}

impl Part<'_> {
    /// # Safety
    /// As [`Kernel::sums`].
    #[inline(always)]
    pub(super) unsafe fn tiles<K: Kernel>(&self, product: &mut [&mut [f32]]) {
        let groups = product[0].len().div_ceil(GROUP);
        let mut group = 0;
        while group < groups {
            // SAFETY: the caller's.
            unsafe {
                if group + 4 <= groups {
                    self.column::<K, 4>(group, product);
                    group += 4;
                } else {
                    self.column::<K, 1>(group, product);
                    group += 1;
                }
            }
        }
    }

    /// # Safety
    /// As [`Kernel::sums`].
    #[inline(always)]
    unsafe fn column<K: Kernel, const GROUPS: usize>(&self, group: usize, product: &mut [&mut [f32]]) {
        let mut row = 0;
        // SAFETY: the caller's.
        unsafe {
            while row + 4 <= product.len() {
                self.tile::<K, 4, GROUPS>(group, row, product);
                row += 4;
            }
            match product.len() - row {
                3 => self.tile::<K, 3, GROUPS>(group, row, product),
                2 => self.tile::<K, 2, GROUPS>(group, row, product),
                1 => self.tile::<K, 1, GROUPS>(group, row, product),
                _ => {}
            }
        }
    }

    /// # Safety
    /// As [`Kernel::sums`].
    #[inline(always)]
    unsafe fn tile<K: Kernel, const ROWS: usize, const GROUPS: usize>(
        &self,
        group: usize,
        row: usize,
        product: &mut [&mut [f32]],
    ) {
        let mut tile = Tile { rows: [&[]; ROWS], codes: [&[]; GROUPS], scales: [&[]; GROUPS] };
        for (index, blocks) in tile.rows.iter_mut().enumerate() {
            *blocks = self.rows.row(self.first_row + row + index);
        }
        for index in 0..GROUPS {
            (tile.codes[index], tile.scales[index]) = self.weights.group(self.first_output / GROUP + group + index);
        }
        // SAFETY: the caller's.
        let sums = unsafe { K::sums(&tile, self.weights.bits) };
        for (sums, product) in sums.iter().zip(&mut product[row..]) {
            for (index, sums) in sums.iter().enumerate() {
                let first = (group + index) * GROUP;
                let count = GROUP.min(product.len() - first);
                let places = &mut product[first..first + count];
                match self.bias {
                    None => places.copy_from_slice(&sums[..count]),
                    Some(bias) => {
                        let bias = &bias[self.first_output + first..][..count];
                        places.iter_mut().zip(sums).zip(bias).for_each(|((place, sum), bias)| *place = sum + bias);
                    }
                }
            }
        }
    }
}
