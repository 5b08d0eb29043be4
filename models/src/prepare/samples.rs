//! Samples to 8-bit RGB.

use super::header::DecodeError;

/// Below this a 16-bit image is as dark as no patch in transmitted light: its samples have fewer bits.
const DARKEST_WHITE: u16 = 1 << 14;

/// How much of the background shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpha {
    /// No such channel.
    None,
    /// Colours are stored as they are.
    Straight,
    /// Colours are stored multiplied by it.
    Premultiplied,
}

/// Values of 16 bits to 8, `most` being white: rounded.
pub fn eight_bits(samples: &[u16], most: u16) -> Vec<u8> {
    let most = u32::from(most);
    samples.iter().map(|&sample| ((u32::from(sample) * 255 + most / 2) / most).min(255) as u8).collect()
}

/// Refuses 16-bit light values whose brightest needs fewer bits: the file does not say which value is white.
pub fn refuse_few_bits(samples: &[u16], channels: usize, colours: usize) -> Result<(), DecodeError> {
    let brightest = samples.chunks_exact(channels).flat_map(|pixel| &pixel[..colours]).copied().max().unwrap_or(0);
    if !(1..DARKEST_WHITE).contains(&brightest) {
        return Ok(());
    }
    let bits = 16 - brightest.leading_zeros();
    Err(DecodeError::Unsupported(format!(
        "an image of {bits}-bit values in 16-bit samples (the largest is {brightest}, and the file does not say which is white)"
    )))
}

/// Grey or RGB samples to RGB over white. The first one or three channels are colours, the next is alpha where there is one;
/// others are dropped.
pub fn to_rgb(samples: &[u8], channels: usize, colours: usize, alpha: Alpha) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(samples.len() / channels * 3);
    for pixel in samples.chunks_exact(channels) {
        for colour in 0..3 {
            let value = pixel[if colours < 3 { 0 } else { colour }];
            pixels.push(match alpha {
                Alpha::None => value,
                Alpha::Straight => over_white(value, pixel[colours]),
                Alpha::Premultiplied => value.saturating_add(255 - pixel[colours]),
            });
        }
    }
    pixels
}

/// (c a + 255 (255 - a)) / 255, rounded.
fn over_white(colour: u8, alpha: u8) -> u8 {
    let (colour, alpha) = (u32::from(colour), u32::from(alpha));
    ((colour * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

/// (255 - K)(255 - C) / 255, rounded, and so on.
pub fn ink_to_rgb([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let light = |ink: u8| ((255 - u32::from(ink)) * (255 - u32::from(black)) + 127) / 255;
    [light(cyan) as u8, light(magenta) as u8, light(yellow) as u8]
}
