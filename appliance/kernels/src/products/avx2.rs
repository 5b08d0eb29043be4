//! Products with AVX2, eight outputs at a time. Products of bytes are added up in 16 bits, where they must stay: of weights to 15 and codes to 127 sixteen do.
//! Codes of 8 bits are taken apart into their halves.

use super::tile::{Kernel, Part, Sums, Tile};
use super::weights::{Bits, FOUR, GROUP};
use crate::BLOCK;
use std::arch::x86_64::*;

struct Avx2;

/// # Safety
/// The processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) fn part(part: &Part, product: &mut [&mut [f32]]) {
    // SAFETY: the instructions are this function's.
    unsafe { part.tiles::<Avx2>(product) }
}

/// Lines of 4 bits that are added up in 16 bits: four products each in a place.
const SHORT: usize = 4;

impl Kernel for Avx2 {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn sums<const ROWS: usize, const GROUPS: usize>(tile: &Tile<ROWS, GROUPS>, bits: Bits) -> Sums<ROWS, GROUPS> {
        each_half(tile, bits)
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_four<const ROWS: usize>(rows: &[&[i8; BLOCK]; ROWS], codes: &[&[u8; 32]], whole: &mut [__m256i; ROWS]) {
    let ones = _mm256_set1_epi16(1);
    for (number, lines) in codes.chunks_exact(SHORT).enumerate() {
        let mut short = [_mm256_setzero_si256(); ROWS];
        for (line, codes) in lines.iter().enumerate() {
            let weights = halves(codes);
            for row in 0..ROWS {
                for side in 0..2 {
                    let x = four(rows[row], 2 * (number * SHORT + line) + side);
                    short[row] = _mm256_add_epi16(short[row], _mm256_maddubs_epi16(weights[side], x));
                }
            }
        }
        for row in 0..ROWS {
            whole[row] = _mm256_add_epi32(whole[row], _mm256_madd_epi16(short[row], ones));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_eight<const ROWS: usize>(rows: &[&[i8; BLOCK]; ROWS], codes: &[&[u8; 32]], whole: &mut [__m256i; ROWS]) {
    let ones = _mm256_set1_epi16(1);
    for (number, lines) in codes.chunks_exact(2 * SHORT).enumerate() {
        let mut short = [[_mm256_setzero_si256(); 2]; ROWS];
        for (line, codes) in lines.iter().enumerate() {
            let weights = halves(codes);
            for row in 0..ROWS {
                let x = four(rows[row], number * 2 * SHORT + line);
                for half in 0..2 {
                    short[row][half] = _mm256_add_epi16(short[row][half], _mm256_maddubs_epi16(weights[half], x));
                }
            }
        }
        for row in 0..ROWS {
            let [low, high] = [_mm256_madd_epi16(short[row][0], ones), _mm256_madd_epi16(short[row][1], ones)];
            whole[row] = _mm256_add_epi32(whole[row], _mm256_add_epi32(low, _mm256_slli_epi32::<4>(high)));
        }
    }
}

/// The lower and the upper halves of 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn halves(codes: &[u8; 32]) -> [__m256i; 2] {
    let (both, mask) = (load(codes), _mm256_set1_epi8(15));
    [_mm256_and_si256(both, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask)]
}

/// The sums of a tile, eight outputs after the other.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn each_half<const ROWS: usize, const GROUPS: usize>(tile: &Tile<ROWS, GROUPS>, bits: Bits) -> Sums<ROWS, GROUPS> {
    let lines = bits.bytes() / FOUR;
    let blocks = tile.rows[0].len();
    let mut sums = [[[0.0; GROUP]; GROUPS]; ROWS];
    for group in 0..GROUPS {
        for half in 0..2 {
            let mut totals = [_mm256_setzero_ps(); ROWS];
            for block in 0..blocks {
                // Both halves read the same lines.
                if half == 0 {
                    tile.prefetch(group, block, lines);
                }
                let mut codes = [&[0u8; 32]; BLOCK / FOUR];
                for (place, line) in codes.iter_mut().zip(&tile.codes[group][block * lines..][..lines]) {
                    *place = &line.0.as_chunks::<32>().0[half];
                }
                let mut whole = [_mm256_setzero_si256(); ROWS];
                let mut rows = [&[0; BLOCK]; ROWS];
                for row in 0..ROWS {
                    let x = &tile.rows[row][block];
                    whole[row] = _mm256_set1_epi32(-bits.zero() * x.sum);
                    rows[row] = &x.codes;
                }
                match bits {
                    Bits::Four => add_four(&rows, &codes[..lines], &mut whole),
                    Bits::Eight => add_eight(&rows, &codes[..lines], &mut whole),
                }
                let scales = load_f32(&tile.scales[group][block].as_chunks::<8>().0[half]);
                for row in 0..ROWS {
                    let scale = _mm256_mul_ps(_mm256_set1_ps(tile.rows[row][block].scale), scales);
                    totals[row] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole[row]), scale, totals[row]);
                }
            }
            for row in 0..ROWS {
                let place = &mut sums[row][group].as_chunks_mut::<8>().0[half];
                // SAFETY: eight numbers have room for eight.
                unsafe { _mm256_storeu_ps(place.as_mut_ptr(), totals[row]) };
            }
        }
    }
    sums
}

/// Four neighbouring codes in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn four(codes: &[i8; BLOCK], index: usize) -> __m256i {
    let [a, b, c, d] = codes.as_chunks::<FOUR>().0[index];
    _mm256_set1_epi32(i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8]))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(codes: &[u8; 32]) -> __m256i {
    // SAFETY: these are 32 bytes, which need no alignment.
    unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_f32(numbers: &[f32; 8]) -> __m256 {
    // SAFETY: these are eight numbers, which need no alignment.
    unsafe { _mm256_loadu_ps(numbers.as_ptr()) }
}
