//! Images with a fault, made by chance: what a broken disk, a cut transfer or a hostile hand makes of a file.

/// Small images of every format and layout that the golden data has, in the order of their names.
///
/// # Panics
/// Without the golden data.
pub fn originals() -> Vec<Vec<u8>> {
    let folder = crate::golden("resize").join("decode");
    let listing = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = listing.map(|entry| entry.expect("the folder can be listed").path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a listed file can be read")).collect()
}

/// A file made from one of `images` by one to four faults, or a header that promises far more than there is. `below(n)` draws a number
/// below n, which is at least 1.
///
/// # Panics
/// Without an image.
pub fn mutant(images: &[Vec<u8>], mut below: impl FnMut(usize) -> usize) -> Vec<u8> {
    if below(50) == 0 {
        return bomb(&mut below);
    }
    let mut bytes = images[below(images.len())].clone();
    for _ in 0..=below(4) {
        fault(&mut bytes, images, &mut below);
    }
    bytes
}

fn fault(bytes: &mut Vec<u8>, images: &[Vec<u8>], below: &mut impl FnMut(usize) -> usize) {
    if bytes.is_empty() {
        bytes.push(below(256) as u8);
        return;
    }
    // Headers decide more than pixels do: half of all faults fall into the first bytes.
    let reach = if below(2) == 0 { bytes.len() } else { bytes.len().min(512) };
    let at = below(reach);
    let length = 1 + below(64.min(bytes.len() - at));
    match below(9) {
        0 => bytes[at] ^= 1 << below(8),
        1 => bytes[at] = below(256) as u8,
        2 => bytes[at..at + length].iter_mut().for_each(|byte| *byte = below(256) as u8),
        3 => bytes[at..at + length].fill([0, 0xff][below(2)]),
        4 => drop(bytes.drain(at..at + length)),
        5 => {
            let piece = bytes[at..at + length].to_vec();
            let to = below(bytes.len());
            bytes.splice(to..to, piece);
        }
        6 => bytes.truncate(at),
        7 => {
            // A number of four bytes with a value at a border.
            let border = [0u32, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 65_535, 65_536][below(7)];
            let border = if below(2) == 0 { border.to_le_bytes() } else { border.to_be_bytes() };
            for (place, byte) in bytes[at..].iter_mut().zip(border) {
                *place = byte;
            }
        }
        _ => {
            let other = &images[below(images.len())];
            let from = below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

/// A header of 65,535 x 65,535 pixels with next to nothing behind it.
fn bomb(below: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    let tail: Vec<u8> = (0..below(200)).map(|_| below(256) as u8).collect();
    match below(4) {
        0 => png_bomb(&tail),
        1 => {
            let mut jpeg = vec![0xff, 0xd8, 0xff, 0xc0, 0, 17, 8, 0xff, 0xff, 0xff, 0xff, 3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0];
            jpeg.extend(tail);
            jpeg.extend([0xff, 0xd9]);
            jpeg
        }
        2 => {
            let mut bmp = b"BM".to_vec();
            bmp.extend((54 + tail.len() as u32).to_le_bytes());
            bmp.extend([0, 0, 0, 0, 54, 0, 0, 0, 40, 0, 0, 0]);
            bmp.extend(65_535u32.to_le_bytes());
            bmp.extend(65_535u32.to_le_bytes());
            bmp.extend([1, 0, 24, 0]);
            bmp.extend([0; 24]);
            bmp.extend(tail);
            bmp
        }
        _ => tiff_bomb(&tail),
    }
}

fn png_bomb(tail: &[u8]) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(65_535u32.to_be_bytes());
    header.extend(65_535u32.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name_and_data, length) in [(header, 13), ([b"IDAT".as_slice(), tail].concat(), tail.len()), (b"IEND".to_vec(), 0)] {
        png.extend((length as u32).to_be_bytes());
        png.extend(&name_and_data);
        png.extend(crc(&name_and_data).to_be_bytes());
    }
    png
}

fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    };
    !bytes.iter().fold(u32::MAX, step)
}

fn tiff_bomb(tail: &[u8]) -> Vec<u8> {
    let entries: [(u16, u32); 9] =
        [(256, 65_535), (257, 65_535), (258, 8), (259, 1), (262, 1), (273, 200), (277, 3), (278, 65_535), (279, 4_294_836_225)];
    let mut tiff = b"II*\0\x08\0\0\0".to_vec();
    tiff.extend((entries.len() as u16).to_le_bytes());
    for (tag, value) in entries {
        tiff.extend(tag.to_le_bytes());
        tiff.extend(4u16.to_le_bytes());
        tiff.extend(1u32.to_le_bytes());
        tiff.extend(value.to_le_bytes());
    }
    tiff.extend([0; 4]);
    tiff.resize(200, 0);
    tiff.extend(tail);
    tiff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutants_differ_from_each_other_and_repeat_by_their_seed() {
        let images = [vec![7; 3000], b"BM and more".to_vec()];
        let made = |seed: u64| {
            let mut state = seed | 1;
            let below = move |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            mutant(&images, below)
        };
        let all: std::collections::BTreeSet<Vec<u8>> = (0..400).map(|seed| made(seed * 7919)).collect();
        assert!(all.len() > 300, "{}", all.len());
        assert_eq!(made(5), made(5));
    }

    #[test]
    fn the_checksum_is_pngs() {
        assert_eq!(crc(b"IEND"), 0xae42_6082);
    }
}
