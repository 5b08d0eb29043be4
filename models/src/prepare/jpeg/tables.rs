//! Quantisation and Huffman tables.

use super::Found;
use super::entropy::Huffman;

/// Coefficients in the order in which they are stored.
pub const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28, 35, 42,
    49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The tables in force.
#[derive(Clone, Default)]
pub struct Tables {
    /// Steps in natural order.
    pub steps: [Option<[u16; 64]>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    /// MCUs between restart marks; 0: none.
    pub interval: usize,
}

impl Tables {
    pub fn quantisers(&mut self, mut data: &[u8]) -> Found<()> {
        while let Some((&head, rest)) = data.split_first() {
            let wide = head >> 4;
            let bytes = if wide == 0 { 64 } else { 128 };
            if head & 15 > 3 || wide > 1 || rest.len() < bytes {
                return Err("a quantisation table is broken".to_string());
            }
            let mut steps = [0; 64];
            for (index, &place) in ZIGZAG.iter().enumerate() {
                let step =
                    if wide == 0 { u16::from(rest[index]) } else { u16::from_be_bytes([rest[index * 2], rest[index * 2 + 1]]) };
                if step == 0 {
                    return Err("a quantisation table has a step of 0".to_string());
                }
                steps[usize::from(place)] = step;
            }
            self.steps[usize::from(head & 15)] = Some(steps);
            data = &rest[bytes..];
        }
        Ok(())
    }

    pub fn huffman(&mut self, mut data: &[u8]) -> Found<()> {
        while !data.is_empty() {
            let (head, rest) = data.split_first_chunk::<17>().ok_or("a Huffman table is cut")?;
            let (class, number) = (head[0] >> 4, usize::from(head[0] & 15));
            let mut counts = [0; 16];
            counts.copy_from_slice(&head[1..]);
            let total: usize = counts.iter().map(|&count: &u8| usize::from(count)).sum();
            if class > 1 || number > 3 || total > 256 || rest.len() < total {
                return Err("a Huffman table is broken".to_string());
            }
            let table = Huffman::new(&counts, &rest[..total])?;
            let place = if class == 0 { &mut self.dc[number] } else { &mut self.ac[number] };
            *place = Some(table);
            data = &rest[total..];
        }
        Ok(())
    }

    pub fn restarts(&mut self, data: &[u8]) -> Found<()> {
        let interval: [u8; 2] = data.try_into().map_err(|_| "the restart interval is broken")?;
        self.interval = usize::from(u16::from_be_bytes(interval));
        Ok(())
    }

    pub fn dc(&self, number: usize) -> Option<Huffman> {
        own_or_standard(&self.dc, number, [STANDARD_DC_0, STANDARD_DC_1])
    }

    pub fn ac(&self, number: usize) -> Option<Huffman> {
        own_or_standard(&self.ac, number, [STANDARD_AC_0, STANDARD_AC_1])
    }
}

/// The standard's own tables (K.3 to K.6), which streams of video frames leave out: counts by length, then symbols.
const STANDARD_DC_0: &[u8] =
    b"\x00\x01\x05\x01\x01\x01\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b";
const STANDARD_DC_1: &[u8] =
    b"\x00\x03\x01\x01\x01\x01\x01\x01\x01\x01\x01\x00\x00\x00\x00\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b";
const STANDARD_AC_0: &[u8] =
    b"\x00\x02\x01\x03\x03\x02\x04\x03\x05\x05\x04\x04\x00\x00\x01\x7d\x01\x02\x03\x00\x04\x11\x05\x12\x21\x31\x41\x06\
    \x13\x51\x61\x07\x22\x71\x14\x32\x81\x91\xa1\x08\x23\x42\xb1\xc1\x15\x52\xd1\xf0\x24\x33\x62\x72\x82\x09\x0a\x16\
    \x17\x18\x19\x1a\x25\x26\x27\x28\x29\x2a\x34\x35\x36\x37\x38\x39\x3a\x43\x44\x45\x46\x47\x48\x49\x4a\x53\x54\x55\
    \x56\x57\x58\x59\x5a\x63\x64\x65\x66\x67\x68\x69\x6a\x73\x74\x75\x76\x77\x78\x79\x7a\x83\x84\x85\x86\x87\x88\x89\
    \x8a\x92\x93\x94\x95\x96\x97\x98\x99\x9a\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xb2\xb3\xb4\xb5\xb6\xb7\xb8\xb9\xba\
    \xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xda\xe1\xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\
    \xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa";
const STANDARD_AC_1: &[u8] =
    b"\x00\x02\x01\x02\x04\x04\x03\x04\x07\x05\x04\x04\x00\x01\x02\x77\x00\x01\x02\x03\x11\x04\x05\x21\x31\x06\x12\x41\
    \x51\x07\x61\x71\x13\x22\x32\x81\x08\x14\x42\x91\xa1\xb1\xc1\x09\x23\x33\x52\xf0\x15\x62\x72\xd1\x0a\x16\x24\x34\
    \xe1\x25\xf1\x17\x18\x19\x1a\x26\x27\x28\x29\x2a\x35\x36\x37\x38\x39\x3a\x43\x44\x45\x46\x47\x48\x49\x4a\x53\x54\
    \x55\x56\x57\x58\x59\x5a\x63\x64\x65\x66\x67\x68\x69\x6a\x73\x74\x75\x76\x77\x78\x79\x7a\x82\x83\x84\x85\x86\x87\
    \x88\x89\x8a\x92\x93\x94\x95\x96\x97\x98\x99\x9a\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xb2\xb3\xb4\xb5\xb6\xb7\xb8\
    \xb9\xba\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xda\xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\
    \xea\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa";

fn own_or_standard(tables: &[Option<Huffman>; 4], number: usize, standard: [&[u8]; 2]) -> Option<Huffman> {
    tables[number].clone().or_else(|| {
        let (counts, symbols) = standard.get(number)?.split_first_chunk::<16>()?;
        Huffman::new(counts, symbols).ok()
    })
}
