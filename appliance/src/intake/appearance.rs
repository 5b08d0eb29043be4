//! Plain properties of an image that a reader should know before trusting a report: background, sharpness, shape, scale.

use mmlnb_models::prepare::decode::Rgb8Image;
use serde::{Deserialize, Serialize};

/// A pixel whose darkest channel is above this is glass, not tissue.
const GLASS: u8 = 220;
/// Share of glass above which a patch is mostly background.
const MOSTLY: f64 = 0.7;
/// Variance of the luminance's Laplacian (grey levels squared) below which an image is out of focus.
const SHARP: f64 = 15.0;
/// Longest to shortest side above which a patch has an unusual shape.
const LONG: f64 = 2.0;

/// What the pixels look like.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Appearance {
    /// Share of glass, 0 to 1.
    pub background: f64,
    /// Variance of the luminance's Laplacian.
    pub sharpness: f64,
    /// Longest to shortest side.
    pub elongation: f64,
    /// Whether bytes follow the image's end mark.
    pub trailing_bytes: bool,
}

impl Appearance {
    /// Measures an image; whether bytes follow it is for the caller to say.
    pub fn of(rgb: &Rgb8Image, trailing_bytes: bool) -> Appearance {
        let glass = rgb.pixels.chunks_exact(3).filter(|pixel| pixel.iter().all(|value| *value > GLASS)).count();
        let (width, height) = (rgb.width, rgb.height);
        Appearance {
            background: glass as f64 / (width * height).max(1) as f64,
            sharpness: sharpness(rgb),
            elongation: width.max(height) as f64 / width.min(height).max(1) as f64,
            trailing_bytes,
        }
    }

    /// The flags of a report that follow.
    pub fn flags(&self) -> Vec<&'static str> {
        let flags = [
            (self.background > MOSTLY, "mostly_background"),
            (self.sharpness < SHARP, "blurred"),
            (self.elongation > LONG, "unusual_size"),
            (self.trailing_bytes, "trailing_bytes"),
        ];
        flags.iter().filter(|(holds, _)| *holds).map(|(_, flag)| *flag).collect()
    }
}

fn sharpness(rgb: &Rgb8Image) -> f64 {
    let (width, height) = (rgb.width, rgb.height);
    if width < 3 || height < 3 {
        return 0.0;
    }
    let grey: Vec<i32> = rgb
        .pixels
        .chunks_exact(3)
        .map(|p| (i32::from(p[0]) * 299 + i32::from(p[1]) * 587 + i32::from(p[2]) * 114) / 1000)
        .collect();
    let (mut sum, mut squares) = (0f64, 0f64);
    for y in 1..height - 1 {
        for x in 1..width - 1 {
            let at = y * width + x;
            let laplacian = f64::from(grey[at - 1] + grey[at + 1] + grey[at - width] + grey[at + width] - 4 * grey[at]);
            sum += laplacian;
            squares += laplacian * laplacian;
        }
    }
    let count = ((width - 2) * (height - 2)) as f64;
    squares / count - (sum / count).powi(2)
}

/// Micrometres a pixel if the file states a resolution that a microscope can have (0.05 to 5); screen resolutions are none.
pub fn microns_per_pixel(bytes: &[u8]) -> Option<f64> {
    png_resolution(bytes).or_else(|| jfif_resolution(bytes)).filter(|scale| (0.05..=5.0).contains(scale))
}

/// PNG's `pHYs` in pixels a metre.
fn png_resolution(bytes: &[u8]) -> Option<f64> {
    let mut rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    loop {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, data) = after.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        match kind {
            b"pHYs" => {
                let (x, unit) = (u32::from_be_bytes(*data.first_chunk()?), *data.get(8)?);
                return (unit == 1 && x > 0).then(|| 1e6 / f64::from(x));
            }
            b"IDAT" | b"IEND" => return None,
            _ => rest = data.get(length.checked_add(4)?..)?,
        }
    }
}

/// JFIF's density in dots an inch or centimetre.
fn jfif_resolution(bytes: &[u8]) -> Option<f64> {
    let rest = bytes.strip_prefix(b"\xff\xd8\xff\xe0")?;
    if rest.get(2..7)? != b"JFIF\0" {
        return None;
    }
    let density = f64::from(u16::from_be_bytes([*rest.get(10)?, *rest.get(11)?]));
    match rest.get(9)? {
        1 => Some(25_400.0 / density),
        2 => Some(10_000.0 / density),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: usize, height: usize, pixel: impl Fn(usize, usize) -> u8) -> Rgb8Image {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| [pixel(x, y); 3]).collect();
        Rgb8Image { width, height, pixels }
    }

    #[test]
    fn glass_is_background_and_not_sharp() {
        let flags = Appearance::of(&image(40, 40, |_, _| 245), false).flags();
        assert_eq!(flags, ["mostly_background", "blurred"]);
    }

    #[test]
    fn a_checkerboard_is_neither() {
        assert!(Appearance::of(&image(40, 40, |x, y| if (x + y) % 2 == 0 { 40 } else { 140 }), false).flags().is_empty());
    }

    #[test]
    fn a_strip_is_unusual() {
        assert_eq!(Appearance::of(&image(100, 40, |x, _| (x * 97 % 200) as u8), false).flags(), ["unusual_size"]);
    }

    #[test]
    fn only_microscopes_scales_count() {
        let png = |per_metre: u32| {
            let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x09pHYs".to_vec();
            bytes.extend(per_metre.to_be_bytes());
            bytes.extend(per_metre.to_be_bytes());
            bytes.extend([1, 0, 0, 0, 0]);
            bytes
        };
        assert_eq!(microns_per_pixel(&png(2_000_000)), Some(0.5));
        assert_eq!(microns_per_pixel(&png(2835)), None);
        assert_eq!(microns_per_pixel(b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\x02\x4e\x20\x4e\x20"), Some(0.5));
        assert_eq!(microns_per_pixel(b"nothing"), None);
    }
}
