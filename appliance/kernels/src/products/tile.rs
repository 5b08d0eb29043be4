//! How rows and weights are cut into what a kernel multiplies at once.

use super::weights::{Bits, Codes, GROUP, Weights};
use crate::Rows;
use crate::rows::Block;

/// Rows that a tile takes at most.
const TILE_ROWS: usize = 4;
/// Groups that a tile takes at most.
pub(super) const TILE_GROUPS: usize = 4;
/// Groups of up to so many blocks are prefetched: in longer ones processors see by themselves what comes.
pub(super) const PREFETCHED: usize = 16;

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
    next: Next<'a, GROUPS>,
}

/// Weights that the tiles of the next column read. Those of one column share their prefetching, so that memory answers while they are computed.
struct Next<'a, const GROUPS: usize> {
    codes: [&'a [Codes]; GROUPS],
    scales: [&'a [[f32; GROUP]]; GROUPS],
    /// Of all tiles of the column, this one.
    tile: usize,
    tiles: usize,
}

impl<const ROWS: usize, const GROUPS: usize> Tile<'_, ROWS, GROUPS> {
    /// Prefetches this tile's share of a block of the next column's group, of so many lines.
    #[inline(always)]
    pub(super) fn prefetch(&self, group: usize, block: usize, lines: usize) {
        let Next { codes, scales, tile, tiles } = &self.next;
        let Some(codes) = codes[group].get(block * lines..(block + 1) * lines) else { return };
        if *tile == 0 {
            prefetch(&scales[group][block]);
        }
        codes[lines * tile / tiles..lines * (tile + 1) / tiles].iter().for_each(prefetch);
    }
}

/// Asks memory for what is read later.
#[inline(always)]
fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: the instruction is the platform's and reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(place).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
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
                if group + TILE_GROUPS <= groups {
                    self.column::<K, TILE_GROUPS>(group, product);
                    group += TILE_GROUPS;
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
            while row + TILE_ROWS <= product.len() {
                self.tile::<K, TILE_ROWS, GROUPS>(group, row, product);
                row += TILE_ROWS;
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
        let (number, tiles) = (row / TILE_ROWS, product.len().div_ceil(TILE_ROWS));
        let next = Next { codes: [&[]; GROUPS], scales: [&[]; GROUPS], tile: number, tiles };
        let mut tile = Tile { rows: [&[]; ROWS], codes: [&[]; GROUPS], scales: [&[]; GROUPS], next };
        for (index, blocks) in tile.rows.iter_mut().enumerate() {
            *blocks = self.rows.row(self.first_row + row + index);
        }
        let groups_of_part = product[0].len().div_ceil(GROUP);
        for index in 0..GROUPS {
            let of_all = self.first_output / GROUP + group + index;
            (tile.codes[index], tile.scales[index]) = self.weights.group(of_all);
            if self.weights.blocks <= PREFETCHED && group + index + GROUPS < groups_of_part {
                (tile.next.codes[index], tile.next.scales[index]) = self.weights.group(of_all + GROUPS);
            }
        }
        // SAFETY: the caller's.
        let sums = unsafe { K::sums(&tile, self.weights.bits) };
        for (sums, product) in sums.iter().zip(&mut product[row..]) {
            for (index, sums) in sums.iter().enumerate() {
                self.write(*sums, (group + index) * GROUP, product);
            }
        }
    }

    /// Writes the sums of a group of a row, whose first output is the part's `first`.
    #[inline(always)]
    fn write(&self, mut sums: [f32; GROUP], first: usize, product: &mut [f32]) {
        let places = &mut product[first..];
        if let Some(bias) = self.bias {
            let bias = &bias[self.first_output + first..];
            sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
        }
        // A copy of a size that is known is two instructions.
        match places.first_chunk_mut() {
            Some(places) => *places = sums,
            None => places.copy_from_slice(&sums[..places.len()]),
        }
    }
}
