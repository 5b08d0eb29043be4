//! One block of each kind of scan.

use super::Found;
use super::entropy::{Bits, Huffman};
use super::tables::ZIGZAG;

type Block = [i16; 64];

/// As many coefficients in a row that zero bits alone give are a hole in the file: no encoder has them, for each is the lowest
/// value of its size. Where zero bits mean empty blocks, a hole is as many blocks too long and the scan does not end where it must.
const HOLE: u32 = 60;

fn hole<T>() -> Found<T> {
    Err("a hole of zeros in a scan".to_string())
}

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
    if block[63] < 0 && is_of_zero_bits(table, block) { hole() } else { Ok(()) }
}

/// Whether zero bits alone give all 63 coefficients.
fn is_of_zero_bits(table: &Huffman, block: &Block) -> bool {
    let lowest = table.of_zeros().filter(|symbol| (1..=10).contains(symbol)).map(|size| 1 - (1_i16 << size));
    lowest.is_some_and(|lowest| block[1..].iter().all(|&value| value == lowest))
}

/// What the scans of a progressive file carry from block to block.
#[derive(Default)]
pub struct Course {
    /// Empty blocks that are to come.
    pub run: u32,
    /// Coefficients in a row that zero bits alone give.
    zeros: u32,
    /// The last mean and its step from the one before, by component, where a scan refines them.
    means: [(i16, i16); 4],
}

impl Course {
    fn count(&mut self, of_zero_bits: bool) -> Found<()> {
        self.zeros = if of_zero_bits { self.zeros + 1 } else { 0 };
        if self.zeros < HOLE { Ok(()) } else { hole() }
    }
}

/// One more bit of the mean.
///
/// Each block takes a bit, so that a hole moves nothing. It shows where means that go up and down in blocks that are not plain
/// all lack the same bit.
pub fn refined_level(bits: &mut Bits, block: &mut Block, shift: u8, component: usize, course: &mut Course) -> Found<()> {
    let upper = block[0] >> (shift + 1);
    let (last, step) = course.means[component];
    course.means[component] = (upper, upper.wrapping_sub(last));
    if bits.number(1) == 1 {
        block[0] |= 1 << shift;
        return course.count(false);
    }
    let is_lively = course.means[component].1 != step && block[1..].iter().any(|&value| value != 0);
    if is_lively { course.count(true) } else { Ok(()) }
}

/// The first scan of the coefficients `first..=last`.
pub fn first(
    bits: &mut Bits,
    table: &Huffman,
    block: &mut Block,
    band: (usize, usize),
    shift: u8,
    course: &mut Course,
) -> Found<()> {
    if course.run > 0 {
        course.run -= 1;
        return Ok(());
    }
    let (mut at, last) = band;
    while at <= last {
        let symbol = bits.symbol(table)?;
        let (zeros, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            course.count(false)?;
            if zeros < 15 {
                course.run = (1 << zeros) - 1 + bits.number(zeros as u32);
                break;
            }
            at = skipped(at, last + 1)?;
            continue;
        }
        at += zeros;
        let at_place = place(at, last)?;
        let value = coefficient(bits, size)?;
        block[at_place] = (value << shift) as i16;
        course.count(value == 1 - (1 << size) && table.of_zeros() == Some(symbol))?;
        at += 1;
    }
    Ok(())
}

/// A later scan of the same coefficients: one more bit of those that are there, and new ones.
pub fn refined(
    bits: &mut Bits,
    table: &Huffman,
    block: &mut Block,
    band: (usize, usize),
    shift: u8,
    course: &mut Course,
) -> Found<()> {
    let (mut at, last) = band;
    if course.run == 0 {
        while at <= last {
            let symbol = bits.symbol(table)?;
            let (zeros, size) = (usize::from(symbol >> 4), symbol & 15);
            let fresh = match size {
                0 if zeros < 15 => {
                    course.run = (1 << zeros) + bits.number(zeros as u32);
                    course.count(false)?;
                    break;
                }
                0 => 0,
                1 if bits.number(1) == 1 => 1 << shift,
                1 => -1 << shift,
                _ => return Err("a code that refining scans do not have".to_string()),
            };
            let raised;
            (at, raised) = refine(bits, block, (at, last), shift, Some(zeros));
            course.count(fresh < 0 && !raised && table.of_zeros() == Some(symbol))?;
            let place = place(at, last)?;
            if fresh != 0 {
                block[place] = fresh;
            }
            at += 1;
        }
    }
    if course.run > 0 {
        refine(bits, block, (at, last), shift, None);
        course.run -= 1;
    }
    Ok(())
}

/// Gives a bit to each coefficient that is not zero, up to the zero behind `zeros` others; where that is, or behind `last`, and
/// whether one of the bits is set.
fn refine(
    bits: &mut Bits,
    block: &mut Block,
    (mut at, last): (usize, usize),
    shift: u8,
    mut zeros: Option<usize>,
) -> (usize, bool) {
    let mut raised = false;
    while at <= last {
        let value = &mut block[usize::from(ZIGZAG[at])];
        if *value == 0 {
            match &mut zeros {
                Some(0) => return (at, raised),
                Some(left) => *left -= 1,
                None => {}
            }
        } else if bits.number(1) == 1 {
            raised = true;
            if *value & (1 << shift) == 0 {
                *value = value.wrapping_add(value.signum() << shift);
            }
        }
        at += 1;
    }
    (at, raised)
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
