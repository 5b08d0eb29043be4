//! Qwen2.5-VL's image: sides rounded to whole tokens, Pillow's bicubic, normalised, cut into patches.

use std::path::Path;

use super::decode::Rgb8Image;
use super::resize::resize;
use crate::config::{Resample, VisionConfig, channels3};
use crate::json::{self, ConfigError, Section};

/// A side that a description of one image may have at most, after resizing.
const LONGEST_SIDE: i64 = 8192;

/// Sizes that give no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// More than 200 times as long as wide.
    #[error("the image is {width} x {height} pixels; one side may be at most 200 times the other, export a patch")]
    Elongated {
        /// Width in pixels.
        width: i64,
        /// Height in pixels.
        height: i64,
    },
    /// An input size that is not made of whole tokens.
    #[error("the image size {width}x{height} is not possible; both sides must be multiples of {factor}, up to 8192")]
    NotWhole {
        /// Width in pixels.
        width: i64,
        /// Height in pixels.
        height: i64,
        /// Side of a token in pixels.
        factor: i64,
    },
}

/// How images become patches, as the checkpoint's image processor has it.
#[derive(Clone, Debug, PartialEq)]
pub struct QwenImageProcessor {
    /// Fewest pixels after resizing.
    pub min_pixels: i64,
    /// Most pixels after resizing.
    pub max_pixels: i64,
    /// Side of a patch in pixels.
    pub patch: i64,
    /// Patches a side that make one token.
    pub merge: i64,
    /// Frames of a patch; a still image is repeated.
    pub temporal: i64,
    /// Mean of each channel, on values from 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel, on values from 0 to 1.
    pub std: [f32; 3],
    /// Width and height that every image gets, aspect ignored; `None`: [`smart_resize`] decides.
    pub size: Option<(i64, i64)>,
}

/// One image, cut into patches.
#[derive(Clone, Debug, PartialEq)]
pub struct QwenPatches {
    /// `[patches, 3 * temporal * patch * patch]`: channel, frame, row, column; patches in blocks of merge x merge.
    pub pixel_values: Vec<f32>,
    /// Frames (1), patch rows, patch columns.
    pub grid: [i64; 3],
}

/// Height and width that `height` x `width` is resized to: whole multiples of `factor` whose product lies between the
/// limits. Halves go to the even neighbour.
pub fn smart_resize(height: i64, width: i64, factor: i64, min_pixels: i64, max_pixels: i64) -> Result<(i64, i64), SizeError> {
    if height <= 0 || width <= 0 || height.max(width) as f64 / height.min(width) as f64 > 200.0 {
        return Err(SizeError::Elongated { width, height });
    }
    let step = factor as f64;
    let sides = [height as f64, width as f64];
    let [mut high, mut wide] = sides.map(|side| (side / step).round_ties_even() as i64 * factor);
    if high * wide > max_pixels {
        let beta = (sides[0] * sides[1] / max_pixels as f64).sqrt();
        [high, wide] = sides.map(|side| ((side / beta / step).floor() as i64 * factor).max(factor));
    } else if high * wide < min_pixels {
        let beta = (min_pixels as f64 / (sides[0] * sides[1])).sqrt();
        [high, wide] = sides.map(|side| (side * beta / step).ceil() as i64 * factor);
    }
    Ok((high, wide))
}

impl QwenImageProcessor {
    /// Reads `processor_config.json` (newer) or `preprocessor_config.json` (the hub's) and compares it with the network.
    pub fn from_dir(dir: &Path, vision: &VisionConfig) -> Result<Self, ConfigError> {
        let nested = dir.join("processor_config.json");
        if nested.exists() {
            let value = json::read(&nested)?;
            if let Some(section) = Section::top(&nested, &value)?.section("image_processor")? {
                return Self::read(&section, vision);
            }
        }
        let file = dir.join("preprocessor_config.json");
        let value = json::read(&file)?;
        Self::read(&Section::top(&file, &value)?, vision)
    }

    fn read(section: &Section, vision: &VisionConfig) -> Result<Self, ConfigError> {
        let sizes = [("patch_size", vision.patch), ("merge_size", vision.merge), ("temporal_patch_size", vision.temporal)];
        for (key, expected) in sizes {
            let value = section.size(key)?;
            if value != expected {
                return Err(section.error(key, &format!("{value}, but config.json says {expected}")));
            }
        }
        check_steps(section)?;
        let (min_pixels, max_pixels) = pixel_limits(section)?;
        if !(1..=max_pixels).contains(&min_pixels) {
            return Err(section.error("min_pixels", &format!("{min_pixels} to {max_pixels} pixels is no range")));
        }
        Ok(QwenImageProcessor {
            min_pixels,
            max_pixels,
            patch: vision.patch,
            merge: vision.merge,
            temporal: vision.temporal,
            mean: channels3(section, "image_mean")?,
            std: channels3(section, "image_std")?,
            size: None,
        })
    }

    /// The same processor with one size for every image.
    pub fn with_size(mut self, width: i64, height: i64) -> Result<Self, SizeError> {
        let factor = self.patch * self.merge;
        let whole = |side: i64| side > 0 && side <= LONGEST_SIDE && side % factor == 0;
        if !whole(width) || !whole(height) {
            return Err(SizeError::NotWhole { width, height, factor });
        }
        self.size = Some((width, height));
        Ok(self)
    }

    /// Width and height that an image of this size is resized to.
    pub fn resized(&self, width: i64, height: i64) -> Result<(i64, i64), SizeError> {
        if let Some(size) = self.size {
            return Ok(size);
        }
        let (high, wide) = smart_resize(height, width, self.patch * self.merge, self.min_pixels, self.max_pixels)?;
        Ok((wide, high))
    }

    /// Resizes, normalises and cuts an image.
    pub fn patches(&self, image: &Rgb8Image) -> Result<QwenPatches, SizeError> {
        let (width, height) = self.resized(image.width as i64, image.height as i64)?;
        let resized = resize(image, width as usize, height as usize, Resample::Bicubic);
        Ok(self.cut(&resized))
    }

    /// Normalises and cuts an image whose sides are whole tokens.
    fn cut(&self, image: &Rgb8Image) -> QwenPatches {
        let (patch, merge, temporal) = (self.patch as usize, self.merge as usize, self.temporal as usize);
        let (rows, columns) = (image.height / patch, image.width / patch);
        let tables = [0, 1, 2].map(|channel| self.table(channel));
        let mut values = Vec::with_capacity(image.pixels.len() * temporal);
        for [row, column] in blocks(rows, columns, merge) {
            for (channel, table) in tables.iter().enumerate() {
                let start = values.len();
                for line in row * patch..(row + 1) * patch {
                    let from = (line * image.width + column * patch) * 3 + channel;
                    let span = &image.pixels[from..from + (patch - 1) * 3 + 1];
                    values.extend(span.iter().step_by(3).map(|&value| table[usize::from(value)]));
                }
                let end = values.len();
                for _ in 1..temporal {
                    values.extend_from_within(start..end);
                }
            }
        }
        QwenPatches { pixel_values: values, grid: [1, rows as i64, columns as i64] }
    }

    /// v / 255 in f64, rounded to f32, then normalised in f32.
    fn table(&self, channel: usize) -> Vec<f32> {
        let scaled = |value: u8| (f64::from(value) * (1.0 / 255.0)) as f32;
        (0..=255).map(|value| (scaled(value) - self.mean[channel]) / self.std[channel]).collect()
    }
}

/// Row and column of every patch in the order of `pixel_values`: blocks of merge x merge, row by row.
pub(super) fn blocks(rows: usize, columns: usize, merge: usize) -> impl Iterator<Item = [usize; 2]> {
    let inside = move |block_row: usize, block_column: usize| {
        (0..merge * merge).map(move |at| [block_row * merge + at / merge, block_column * merge + at % merge])
    };
    (0..rows / merge).flat_map(move |row| (0..columns / merge).flat_map(move |column| inside(row, column)))
}

/// `min_pixels` and `max_pixels`, or `size` with the same two under other names.
fn pixel_limits(section: &Section) -> Result<(i64, i64), ConfigError> {
    let given = (section.optional_integer("min_pixels")?, section.optional_integer("max_pixels")?);
    if let (Some(least), Some(most)) = given {
        return Ok((least, most));
    }
    let size = section.required("min_pixels", section.section("size")?)?;
    Ok((given.0.map_or_else(|| size.size("shortest_edge"), Ok)?, given.1.map_or_else(|| size.size("longest_edge"), Ok)?))
}

/// Refuses an image processor that works otherwise.
fn check_steps(section: &Section) -> Result<(), ConfigError> {
    for key in ["do_resize", "do_rescale", "do_normalize", "do_convert_rgb"] {
        if section.optional_bool(key)? == Some(false) {
            return Err(section.error(key, "false is not supported"));
        }
    }
    match section.optional_integer("resample")? {
        Some(number) if number != 3 => {
            return Err(section.error("resample", &format!("{number} is not supported; expected 3, bicubic")));
        }
        _ => {}
    }
    match section.optional_number("rescale_factor")? {
        Some(factor) if (factor - 1.0 / 255.0).abs() > 1e-9 => {
            Err(section.error("rescale_factor", &format!("{factor} is not supported; expected 1/255")))
        }
        _ => Ok(()),
    }
}
