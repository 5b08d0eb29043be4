//! Plain properties of an image that a reader should know before trusting a report: size, scale, background, tissue, sharpness.

use mmlnb_models::prepare::colours;
use mmlnb_models::prepare::decode::Rgb8Image;
use mmlnb_models::prepare::tissue::{self, GLASS};
use serde::{Deserialize, Serialize};

/// Share of glass above which a patch is mostly background.
const MOSTLY: f64 = 0.7;
/// Variance of the luminance's Laplacian (grey levels squared) below which an image is out of focus.
const SHARP: f64 = 15.0;
/// Longest to shortest side above which a patch has an unusual shape.
const LONG: f64 = 2.0;

/// What an image looks like.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Appearance {
    /// Width and height in pixels.
    pub size: [usize; 2],
    /// Micrometres a pixel, if the file states them.
    pub microns_per_pixel: Option<f64>,
    /// Share of glass, 0 to 1.
    pub background: f64,
    /// Share of stained tissue, 0 to 1.
    pub tissue: f64,
    /// Variance of the luminance's Laplacian.
    pub sharpness: f64,
    /// How it is stained.
    pub colours: [f64; colours::MEASURES],
    /// Whether bytes follow the image's end mark.
    pub trailing_bytes: bool,
    /// Whether the file says that it is a phantom.
    pub phantom: bool,
    /// Whether a part of the file was perhaps never written: it is only reserved, or the end is only zeros.
    #[serde(default)]
    pub blank_tail: bool,
    /// Whether the decoder found damage that it read past.
    #[serde(default)]
    pub damaged: bool,
}

impl Appearance {
    /// Measures an image; its scale, whether bytes follow it and whether it is a phantom, is for the caller to say.
    pub fn of(rgb: &Rgb8Image, microns_per_pixel: Option<f64>, trailing_bytes: bool) -> Appearance {
        let glass = rgb.pixels.chunks_exact(3).filter(|pixel| pixel.iter().all(|value| *value > GLASS)).count();
        Appearance {
            size: [rgb.width, rgb.height],
            microns_per_pixel,
            background: glass as f64 / (rgb.width * rgb.height).max(1) as f64,
            tissue: tissue::share(rgb),
            sharpness: sharpness(rgb),
            colours: colours::measures(rgb),
            trailing_bytes,
            phantom: false,
            blank_tail: false,
            damaged: false,
        }
    }

    /// The flags of a report that follow.
    pub fn flags(&self) -> Vec<&'static str> {
        let [width, height] = self.size;
        let elongation = width.max(height) as f64 / width.min(height).max(1) as f64;
        let flags = [
            (self.background > MOSTLY, "mostly_background"),
            (self.sharpness < SHARP, "blurred"),
            (elongation > LONG, "unusual_size"),
            (self.trailing_bytes, "trailing_bytes"),
            (self.phantom, "phantom"),
            (self.blank_tail, "blank_tail"),
            (self.damaged, "damaged"),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: usize, height: usize, pixel: impl Fn(usize, usize) -> u8) -> Rgb8Image {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| [pixel(x, y); 3]).collect();
        Rgb8Image { width, height, pixels }
    }

    #[test]
    fn glass_is_background_and_not_sharp() {
        let flags = Appearance::of(&image(40, 40, |_, _| 245), None, false).flags();
        assert_eq!(flags, ["mostly_background", "blurred"]);
    }

    #[test]
    fn a_checkerboard_is_neither() {
        assert!(Appearance::of(&image(40, 40, |x, y| if (x + y) % 2 == 0 { 40 } else { 140 }), None, false).flags().is_empty());
    }

    #[test]
    fn a_strip_is_unusual() {
        assert_eq!(Appearance::of(&image(100, 40, |x, _| (x * 97 % 200) as u8), None, false).flags(), ["unusual_size"]);
    }
}
