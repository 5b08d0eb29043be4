//! How much of an image shows stained tissue.

use super::decode::Rgb8Image;

/// A pixel whose darkest channel is above this is glass.
pub const GLASS: u8 = 220;
/// Least difference between the channels of a stained pixel; haematoxylin and eosin both colour.
const COLOURED: u8 = 12;

/// Share of pixels that are neither glass nor without colour, 0 to 1.
pub fn share(image: &Rgb8Image) -> f64 {
    let stained = |pixel: &&[u8]| {
        let (least, most) = pixel.iter().fold((255, 0), |(least, most), &value| (value.min(least), value.max(most)));
        least <= GLASS && most - least >= COLOURED
    };
    let pixels = image.pixels.chunks_exact(3);
    let count = pixels.len().max(1);
    pixels.filter(stained).count() as f64 / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glass_and_grey_are_no_tissue() {
        let image = |pixel: [u8; 3]| Rgb8Image { width: 2, height: 2, pixels: pixel.repeat(4) };
        assert_eq!(share(&image([245, 240, 244])), 0.0);
        assert_eq!(share(&image([128, 128, 130])), 0.0);
        assert_eq!(share(&image([230, 180, 210])), 1.0);
        let half = Rgb8Image { width: 2, height: 1, pixels: vec![90, 60, 140, 250, 250, 250] };
        assert_eq!(share(&half), 0.5);
    }
}
