//! The classifier's image: resized without regard to the aspect, scaled to 0..1, normalised.

use super::decode::Rgb8Image;
use super::resize::resize;
use crate::config::ImageInput;

/// `[3, height, width]`: (v / 255 - mean) / std of the image resized to the size of `input`.
pub fn pixel_values(image: &Rgb8Image, input: &ImageInput) -> Vec<f32> {
    let resized = resize(image, input.width as usize, input.height as usize, input.resample);
    let mut values = Vec::with_capacity(resized.pixels.len());
    for channel in 0..3 {
        let table: Vec<f32> =
            (0..=255_u8).map(|value| (f32::from(value) / 255.0 - input.mean[channel]) / input.std[channel]).collect();
        values.extend(resized.pixels.iter().skip(channel).step_by(3).map(|&value| table[usize::from(value)]));
    }
    values
}
