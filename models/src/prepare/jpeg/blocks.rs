//! One block of each kind of scan.

use super::Found;
use super::entropy::{Bits, Huffman};
use super::tables::ZIGZAG;

type Block = [i16; 64];

/// The most that a mean of 8-bit samples can be, times 8, with room for encoders that overshoot on purpose.
const MOST_LEVEL: i32 = 1536;

/// The next mean: `level` is the last one of its component, `step` its quantiser's.
pub fn level(bits: &mut Bits, table: &Huffman, level: &mut i32, step: u16, shift: u8) -> Found<i16> {
    let size = u32::from(bits.symbol(table)?);
    if size > 11 {
        return Err("a value that 8-bit samples cannot have".to_string());
    }
    *level += bits.value(size);
    let value = *level << shift;
    if value.saturating_mul(i32::from(step)).abs() > MOST_LEVEL + i32::from(step) * (1 << shift) {
        return Err("a brightness that 8-bit samples cannot have".to_string());
    }
    i16::try_from(value).map_err(|_| "a brightness that 8-bit samples cannot have".to_string())
}

/// The coefficients behind the mean of a sequential block.
pub fn sequential(bits: &mut Bits, table: &Huffman, block: &mut Block) -> Found<()> {
    let mut at = 1;
    while at < 64 {
        let symbol = bits.symbol(table)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            match run {
                0 => break,
                15 => at = skipped(at, 64)?,
                _ => return Err("a code that sequential files do not have".to_string()),
            }
            continue;
        }
        at += run;
        block[place(at, 63)?] = coefficient(bits, size)? as i16;
        at += 1;
    }
    Ok(())
}

/// The first scan of the coefficients `first..=last`; `run` counts the empty blocks that are to come.
pub fn first(bits: &mut Bits, table: &Huffman, block: &mut Block, band: (usize, usize), shift: u8, run: &mut u32) -> Found<()> {
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    let (mut at, last) = band;
    while at <= last {
        let symbol = bits.symbol(table)?;
        let (zeros, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if zeros < 15 {
                *run = (1 << zeros) - 1 + bits.number(zeros as u32);
                break;
            }
            at = skipped(at, last + 1)?;
            continue;
        }
        at += zeros;
        let at_place = place(at, last)?;
        block[at_place] = (coefficient(bits, size)? << shift) as i16;
        at += 1;
    }
    Ok(())
}

/// A later scan of the same coefficients: one more bit of those that are there, and new ones.
pub fn refined(bits: &mut Bits, table: &Huffman, block: &mut Block, band: (usize, usize), shift: u8, run: &mut u32) -> Found<()> {
    let (mut at, last) = band;
    if *run == 0 {
        while at <= last {
            let symbol = bits.symbol(table)?;
            let (zeros, size) = (usize::from(symbol >> 4), symbol & 15);
            let fresh = match size {
                0 if zeros < 15 => {
                    *run = (1 << zeros) + bits.number(zeros as u32);
                    break;
                }
                0 => 0,
                1 if bits.number(1) == 1 => 1 << shift,
                1 => -1 << shift,
                _ => return Err("a code that refining scans do not have".to_string()),
            };
            at = refine(bits, block, (at, last), shift, Some(zeros));
            let place = place(at, last)?;
            if fresh != 0 {
                block[place] = fresh;
            }
            at += 1;
        }
    }
    if *run > 0 {
        refine(bits, block, (at, last), shift, None);
        *run -= 1;
    }
    Ok(())
}

/// Gives a bit to each coefficient that is not zero, up to the zero behind `zeros` others; where that is, or behind `last`.
fn refine(bits: &mut Bits, block: &mut Block, (mut at, last): (usize, usize), shift: u8, mut zeros: Option<usize>) -> usize {
    while at <= last {
        let value = &mut block[usize::from(ZIGZAG[at])];
        if *value == 0 {
            match &mut zeros {
                Some(0) => return at,
                Some(left) => *left -= 1,
                None => {}
            }
        } else if bits.number(1) == 1 && *value & (1 << shift) == 0 {
            *value = value.wrapping_add(value.signum() << shift);
        }
        at += 1;
    }
    at
}

#[inline(always)]
fn coefficient(bits: &mut Bits, size: u32) -> Found<i32> {
    if size > 10 {
        return Err("a value that 8-bit samples cannot have".to_string());
    }
    Ok(bits.value(size))
}

#[inline(always)]
fn place(at: usize, last: usize) -> Found<usize> {
    if at > last {
        return Err("a coefficient behind the last of its block".to_string());
    }
    Ok(usize::from(ZIGZAG[at]))
}

fn skipped(at: usize, end: usize) -> Found<usize> {
    if at + 16 > end { Err("a coefficient behind the last of its block".to_string()) } else { Ok(at + 16) }
}
