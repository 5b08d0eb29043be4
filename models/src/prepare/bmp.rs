//! The header of a Windows bitmap.

use std::ops::Range;

/// Bytes that [`BmpHeader::parse`] wants to see at most.
pub const HEADER: usize = 64;

/// Size, depth and place of the picture data.
#[derive(Clone, Copy, Debug)]
pub struct BmpHeader {
    /// The file's size as the header has it.
    pub named: u64,
    /// Where the picture data begin.
    pub offset: u64,
    /// Pixels a row.
    pub width: u64,
    /// Rows.
    pub height: u64,
    /// Bits a pixel.
    pub bits: u64,
    /// 0 none, 1 and 2 run lengths, 3 and 6 none with masks, 4 JPEG, 5 PNG.
    pub compression: u64,
    /// Pixels a metre across; 0: not stated.
    pub pixels_per_metre: u64,
}

impl BmpHeader {
    /// Nothing where the bytes end inside the header.
    pub fn parse(head: &[u8]) -> Option<BmpHeader> {
        let number = |at: usize, bytes: usize| {
            Some(head.get(at..at + bytes)?.iter().rev().fold(0, |sum, &byte| (sum << 8) | u64::from(byte)))
        };
        let (named, offset) = (number(2, 4)?, number(10, 4)?);
        if number(14, 4)? == 12 {
            let (width, height, bits) = (number(18, 2)?, number(20, 2)?, number(24, 2)?);
            return Some(BmpHeader { named, offset, width, height, bits, compression: 0, pixels_per_metre: 0 });
        }
        let side = |at: usize| Some(u64::from((number(at, 4)? as u32 as i32).unsigned_abs()));
        let (width, height, bits, compression) = (side(18)?, side(22)?, number(28, 2)?, number(30, 4)?);
        Some(BmpHeader { named, offset, width, height, bits, compression, pixels_per_metre: number(38, 4)? })
    }

    /// Bytes of a row that hold pixels, and bytes from one row to the next.
    pub fn row(&self) -> Option<(u64, u64)> {
        let bits = self.width.checked_mul(self.bits)?;
        Some((bits.div_ceil(8), bits.div_ceil(32).checked_mul(4)?))
    }

    /// Where the picture data lie, unless they are compressed.
    pub fn uncompressed(&self) -> Option<Range<u64>> {
        let (_, row) = self.row()?;
        let end = row.checked_mul(self.height)?.checked_add(self.offset)?;
        matches!(self.compression, 0 | 3 | 6).then_some(self.offset..end)
    }
}
