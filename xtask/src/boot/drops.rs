//! The files that are dropped: real tiles and their mirror images, a broken one, a duplicate, a slide.

use crate::slide;
use anyhow::{Context, Result, ensure};
use image::{DynamicImage, ImageFormat};
use std::{fs, io::Cursor, path::Path};

/// Writes `count` different images as `tile-000.png` and so on, half of them as JPEG.
pub fn tiles(folder: &Path, count: usize) -> Result<Vec<String>> {
    let source = slide::tiles(None)?.join("images");
    let mut paths = Vec::new();
    for entry in fs::read_dir(&source).with_context(|| format!("{} cannot be read", source.display()))? {
        paths.push(entry?.path());
    }
    paths.sort();
    let mut names = Vec::new();
    for turn in 0..4 {
        for path in &paths {
            if names.len() == count {
                return Ok(names);
            }
            let tile = image::open(path).with_context(|| format!("{} cannot be decoded", path.display()))?;
            let (format, extension) = if names.len() % 2 == 0 { (ImageFormat::Png, "png") } else { (ImageFormat::Jpeg, "jpg") };
            let name = format!("tile-{:03}.{extension}", names.len());
            fs::write(folder.join(&name), encoded(&turned(tile, turn), format)?)?;
            names.push(name);
        }
    }
    ensure!(names.len() == count, "the slide has tiles for {} images only", names.len());
    Ok(names)
}

fn turned(tile: DynamicImage, turn: usize) -> DynamicImage {
    match turn {
        0 => tile,
        1 => tile.fliph(),
        2 => tile.flipv(),
        _ => tile.rotate180(),
    }
}

fn encoded(tile: &DynamicImage, format: ImageFormat) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    tile.write_to(&mut bytes, format)?;
    Ok(bytes.into_inner())
}

/// The head of an Aperio slide: a tiled TIFF of 50,000 x 40,000 px in one level, whose tiles are empty.
pub fn slide() -> Vec<u8> {
    let description =
        b"Aperio Image Library v12.0.15\r\n50000x40000 [0,0 50000x40000] (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990\0";
    let tiles = 196 * 157_u32;
    let entries: u16 = 11;
    let after = 8 + 2 + 12 * u32::from(entries) + 4;
    let (text_at, bits_at) = (after, after + description.len() as u32 + (description.len() as u32 & 1));
    let offsets_at = bits_at + 8;
    let counts_at = offsets_at + 4 * tiles;
    let mut out = b"II*\0\x08\0\0\0".to_vec();
    out.extend(entries.to_le_bytes());
    let mut entry = |tag: u16, kind: u16, count: u32, value: u32| {
        out.extend(tag.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(value.to_le_bytes());
    };
    entry(256, 4, 1, 50_000);
    entry(257, 4, 1, 40_000);
    entry(258, 3, 3, bits_at);
    entry(259, 3, 1, 1);
    entry(262, 3, 1, 2);
    entry(270, 2, description.len() as u32, text_at);
    entry(277, 3, 1, 3);
    entry(322, 3, 1, 256);
    entry(323, 3, 1, 256);
    entry(324, 4, tiles, offsets_at);
    entry(325, 4, tiles, counts_at);
    out.extend(0_u32.to_le_bytes());
    out.extend(description);
    out.resize(bits_at as usize, 0);
    out.extend([8_u16, 8, 8, 0].into_iter().flat_map(u16::to_le_bytes));
    let pixels_at = counts_at + 4 * tiles;
    out.extend((0..tiles).flat_map(|_| pixels_at.to_le_bytes()));
    out.extend((0..tiles).flat_map(|_| (256 * 256 * 3_u32).to_le_bytes()));
    out.extend(std::iter::repeat_n(0xF0, 256 * 256 * 3));
    out
}
