//! Products with AVX-512 and its dot products of four bytes in each of 16 lanes, one lane an output.

use super::tile::{Kernel, Part, Sums, Tile};
use super::weights::{Bits, Codes, FOUR, GROUP};
use crate::BLOCK;
use std::arch::x86_64::*;

struct Avx512;

/// # Safety
/// The processor must be of the class.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
pub(super) fn part(part: &Part, product: &mut [&mut [f32]]) {
    // SAFETY: the instructions are this function's.
    unsafe { part.tiles::<Avx512>(product) }
}

impl Kernel for Avx512 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
    unsafe fn sums<const ROWS: usize, const GROUPS: usize>(tile: &Tile<ROWS, GROUPS>, bits: Bits) -> Sums<ROWS, GROUPS> {
        match bits {
            Bits::Four => of_blocks::<ROWS, GROUPS, 16>(tile, bits),
            Bits::Eight => of_blocks::<ROWS, GROUPS, 32>(tile, bits),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
fn of_blocks<const ROWS: usize, const GROUPS: usize, const LINES: usize>(
    tile: &Tile<ROWS, GROUPS>,
    bits: Bits,
) -> Sums<ROWS, GROUPS> {
    let blocks = tile.rows[0].len();
    let rows = tile.rows.map(|row| &row[..blocks]);
    let codes = tile.codes.map(|codes| &codes.as_chunks::<LINES>().0[..blocks]);
    let scales = tile.scales.map(|scales| &scales[..blocks]);
    let half = _mm512_set1_epi8(15);
    let mut totals = [[_mm512_setzero_ps(); GROUPS]; ROWS];
    for block in 0..blocks {
        for group in 0..GROUPS {
            tile.prefetch(group, block, LINES);
        }
        let mut whole = [[_mm512_setzero_si512(); GROUPS]; ROWS];
        for row in 0..ROWS {
            let start = _mm512_set1_epi32(-bits.zero() * rows[row][block].sum);
            whole[row] = [start; GROUPS];
        }
        match bits {
            Bits::Four => {
                for line in 0..LINES {
                    let mut weights = [[_mm512_setzero_si512(); 2]; GROUPS];
                    for group in 0..GROUPS {
                        let both = load(&codes[group][block][line]);
                        weights[group] = [_mm512_and_si512(both, half), _mm512_and_si512(_mm512_srli_epi16::<4>(both), half)];
                    }
                    for row in 0..ROWS {
                        for side in 0..2 {
                            let x = four(&rows[row][block].codes, 2 * line + side);
                            for group in 0..GROUPS {
                                whole[row][group] = _mm512_dpbusd_epi32(whole[row][group], weights[group][side], x);
                            }
                        }
                    }
                }
            }
            Bits::Eight => {
                for line in 0..LINES {
                    let mut weights = [_mm512_setzero_si512(); GROUPS];
                    for group in 0..GROUPS {
                        weights[group] = load(&codes[group][block][line]);
                    }
                    for row in 0..ROWS {
                        let x = four(&rows[row][block].codes, line);
                        for group in 0..GROUPS {
                            whole[row][group] = _mm512_dpbusd_epi32(whole[row][group], weights[group], x);
                        }
                    }
                }
            }
        }
        for row in 0..ROWS {
            let scale_x = _mm512_set1_ps(rows[row][block].scale);
            for group in 0..GROUPS {
                let scale = _mm512_mul_ps(scale_x, load_f32(&scales[group][block]));
                totals[row][group] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[row][group]), scale, totals[row][group]);
            }
        }
    }
    let mut sums = [[[0.0; GROUP]; GROUPS]; ROWS];
    for row in 0..ROWS {
        for group in 0..GROUPS {
            // SAFETY: sixteen numbers have room for sixteen.
            unsafe { _mm512_storeu_ps(sums[row][group].as_mut_ptr(), totals[row][group]) };
        }
    }
    sums
}

/// Four neighbouring codes in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn four(codes: &[i8; BLOCK], index: usize) -> __m512i {
    let [a, b, c, d] = codes.as_chunks::<FOUR>().0[index];
    _mm512_set1_epi32(i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8]))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(codes: &Codes) -> __m512i {
    // SAFETY: these are 64 bytes at a multiple of 64.
    unsafe { _mm512_load_si512(codes.0.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(numbers: &[f32; GROUP]) -> __m512 {
    // SAFETY: these are sixteen numbers, which need no alignment.
    unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
}
