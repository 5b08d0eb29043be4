//! The classifier's image: stain normalised if the classifier asks for it, resized without regard to the aspect, scaled to 0..1, normalised.

use super::decode::Rgb8Image;
use super::resize::resize;
use crate::config::ImageInput;

/// `[3, height, width]`: (v / 255 - mean) / std of the image resized to the size of `input`.
pub fn pixel_values(image: &Rgb8Image, input: &ImageInput) -> Vec<f32> {
    prepare(image, input).pixel_values
}

/// An image as a classifier reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// `[3, height, width]`.
    pub pixel_values: Vec<f32>,
    /// The classifier normalises stains, but this image has too little tissue or only one dye and was left as it is.
    pub stain_left: bool,
}

/// [`pixel_values`], and whether the stain could be normalised.
pub fn prepare(image: &Rgb8Image, input: &ImageInput) -> Prepared {
    let normalised = input.stain.as_ref().map(|stain| stain.apply(image));
    let stain_left = matches!(normalised, Some(None));
    let image = normalised.as_ref().and_then(Option::as_ref).unwrap_or(image);
    let resized = resize(image, input.width as usize, input.height as usize, input.resample);
    let mut pixel_values = Vec::with_capacity(resized.pixels.len());
    for channel in 0..3 {
        let table: Vec<f32> =
            (0..=255_u8).map(|value| (f32::from(value) / 255.0 - input.mean[channel]) / input.std[channel]).collect();
        pixel_values.extend(resized.pixels.iter().skip(channel).step_by(3).map(|&value| table[usize::from(value)]));
    }
    Prepared { pixel_values, stain_left }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Resample;
    use crate::prepare::stain::StainNormalisation;

    #[test]
    fn an_image_that_cannot_be_normalised_is_left_and_told() {
        let stain = StainNormalisation::Reinhard { mean: [60.0, 20.0, -10.0], std: [10.0, 5.0, 5.0] };
        let plain = ImageInput { width: 8, height: 8, resample: Resample::Bilinear, mean: [0.5; 3], std: [0.2; 3], stain: None };
        let with = ImageInput { stain: Some(stain), ..plain.clone() };
        let blank = Rgb8Image { width: 8, height: 8, pixels: vec![240; 192] };
        assert_eq!(prepare(&blank, &with), Prepared { stain_left: true, ..prepare(&blank, &plain) });
        let pixels = (0..64).flat_map(|at: u8| [60 + at * 2, 30 + at, 90 + (at % 8) * 7]).collect();
        let tissue = Rgb8Image { width: 8, height: 8, pixels };
        assert!(!prepare(&tissue, &with).stain_left);
        assert_ne!(pixel_values(&tissue, &with), pixel_values(&tissue, &plain));
    }
}
