//! Huffman codes and the bits of a scan.

use super::Found;

const LOOK: u32 = 9;

/// A Huffman table: codes of up to nine bits by one look-up, longer ones by length.
#[derive(Clone)]
pub struct Huffman {
    /// Length in the high byte (0: longer than nine bits, or none), symbol in the low one.
    look: Vec<u16>,
    /// By length: the largest code plus one, aligned to 16 bits (0: no code of this length).
    limits: [u32; 17],
    /// By length: what leads from a code to its symbol.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// Codes by length (1 to 16) and their symbols in order.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Found<Self> {
        let mut table = Huffman { look: vec![0; 1 << LOOK], limits: [0; 17], offsets: [0; 17], symbols: symbols.to_vec() };
        let (mut code, mut used) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            let count = usize::from(counts[length as usize - 1]);
            if code + count as u32 > 1 << length {
                return Err("a Huffman table has more codes than there can be".to_string());
            }
            table.offsets[length as usize] = used as i32 - code as i32;
            for &symbol in &symbols[used..used + count] {
                if length <= LOOK {
                    let first = (code << (LOOK - length)) as usize;
                    table.look[first..first + (1 << (LOOK - length))].fill((length as u16) << 8 | u16::from(symbol));
                }
                code += 1;
            }
            used += count;
            if count > 0 {
                table.limits[length as usize] = code << (16 - length);
            }
            code <<= 1;
        }
        Ok(table)
    }

    /// The symbol whose code is zeros alone.
    pub fn of_zeros(&self) -> Option<u8> {
        (self.look[0] >> 8 != 0).then_some(self.look[0] as u8)
    }
}

/// Reads bits up to the next marker; behind it come zeros, which [`Bits::overrun`] tells.
pub struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, at the top.
    buffer: u64,
    /// Bits in `buffer`, those behind the marker not counted.
    count: i32,
    ended: bool,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Bits { bytes, at, buffer: 0, count: 0, ended: false }
    }

    /// Where the marker behind these bits begins, or the end.
    pub fn position(&mut self) -> usize {
        while !self.ended {
            self.byte();
        }
        self.at
    }

    /// More bits were asked for than there are.
    pub fn overrun(&self) -> bool {
        self.count < 0
    }

    /// At least 32 bits are in the buffer afterwards, or all that there are.
    fn fill(&mut self) {
        if let Some(next) = self.bytes.get(self.at..self.at + 4).and_then(|next| next.first_chunk::<4>()) {
            let word = u32::from_be_bytes(*next);
            // No byte is 255 where no byte of the complement is 0.
            let inverse = !word;
            if inverse.wrapping_sub(0x0101_0101) & !inverse & 0x8080_8080 == 0 && self.count <= 32 && !self.ended {
                self.buffer |= u64::from(word) << (32 - self.count);
                self.count += 32;
                self.at += 4;
                return;
            }
        }
        while self.count <= 56 && !self.ended {
            if let Some(byte) = self.byte() {
                self.buffer |= u64::from(byte) << (56 - self.count);
                self.count += 8;
            }
        }
    }

    /// The next byte of data; at a marker or the end nothing, and `ended`.
    fn byte(&mut self) -> Option<u8> {
        let Some(&byte) = self.bytes.get(self.at) else {
            self.ended = true;
            return None;
        };
        if byte == 0xff {
            let mut next = self.at + 1;
            while self.bytes.get(next) == Some(&0xff) {
                next += 1;
            }
            if self.bytes.get(next) != Some(&0) {
                self.ended = true;
                return None;
            }
            self.at = next;
        }
        self.at += 1;
        Some(byte)
    }

    #[inline(always)]
    fn need(&mut self, bits: i32) {
        if self.count < bits && !self.ended {
            self.fill();
        }
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits as i32;
    }

    /// The next symbol.
    #[inline(always)]
    pub fn symbol(&mut self, table: &Huffman) -> Found<u8> {
        self.need(16);
        let entry = table.look[(self.buffer >> (64 - LOOK)) as usize];
        if entry >> 8 != 0 {
            self.skip(u32::from(entry >> 8));
            return Ok(entry as u8);
        }
        self.long_symbol(table)
    }

    fn long_symbol(&mut self, table: &Huffman) -> Found<u8> {
        let next = (self.buffer >> 48) as u32;
        for length in LOOK + 1..=16 {
            if next < table.limits[length as usize] {
                let code = (next >> (16 - length)) as i32 + table.offsets[length as usize];
                self.skip(length);
                return table.symbols.get(code as usize).copied().ok_or_else(|| self.no_code());
            }
        }
        Err(self.no_code())
    }

    fn no_code(&self) -> String {
        if self.count < 16 && self.ended { "a scan ends early".to_string() } else { "a code that its table lacks".to_string() }
    }

    /// `bits` (up to 16) as a number.
    #[inline(always)]
    pub fn number(&mut self, bits: u32) -> u32 {
        if bits == 0 {
            return 0;
        }
        self.need(bits as i32);
        let number = (self.buffer >> (64 - bits)) as u32;
        self.skip(bits);
        number
    }

    /// A value of `bits` bits (up to 15), negative where its first bit is 0.
    #[inline(always)]
    pub fn value(&mut self, bits: u32) -> i32 {
        if bits == 0 {
            return 0;
        }
        let number = self.number(bits) as i32;
        if number < 1 << (bits - 1) { number - (1 << bits) + 1 } else { number }
    }

    /// What is wrong with the end of these bits, just in front of a marker.
    pub fn end(&mut self) -> Option<&'static str> {
        self.fill();
        if self.overrun() {
            return Some("a scan ends early");
        }
        if self.count >= 8 || !self.ended {
            return Some("a scan has data behind its last block");
        }
        let padding = self.count as u32;
        let left = if padding == 0 { 0 } else { (self.buffer >> (64 - padding)) as u32 };
        // The standard fills with ones; some encoders fill with zeros.
        (left != 0 && left != (1 << padding) - 1).then_some("the padding behind a scan's last block is broken")
    }
}
