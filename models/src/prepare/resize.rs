//! Pillow's resize, to the byte: separable, antialiased, with fixed-point weights of 22 bits, each pass rounded to u8.

use std::borrow::Cow;

use super::decode::Rgb8Image;
use crate::config::Resample;

const PRECISION: u32 = 22;

/// The weights of every output position along one axis.
struct Weights {
    /// First input position and number of weights of each output position.
    spans: Vec<(usize, usize)>,
    /// The weights, one span after the other.
    values: Vec<i32>,
}

/// Resizes to `width` x `height`; an axis whose size does not change is left alone.
///
/// As in Pillow 13 the horizontal pass comes first, unless the rows become fewer by more than twice as many as the columns.
/// The order shows in the last bit, because each pass rounds. Panics when an image has no pixels or a target side is 0.
pub fn resize(image: &Rgb8Image, width: usize, height: usize, filter: Resample) -> Rgb8Image {
    assert!(image.width > 0 && image.height > 0 && width > 0 && height > 0, "an image needs pixels");
    let fewer_columns = image.width.saturating_sub(width);
    let fewer_rows = image.height.saturating_sub(height);
    if fewer_rows > 2 * fewer_columns {
        let lower = to_height(Cow::Borrowed(image), height, filter);
        return to_width(lower, width, filter).into_owned();
    }
    let narrower = to_width(Cow::Borrowed(image), width, filter);
    to_height(narrower, height, filter).into_owned()
}

fn to_width(image: Cow<Rgb8Image>, width: usize, filter: Resample) -> Cow<Rgb8Image> {
    if image.width == width {
        return image;
    }
    let pixels = horizontal(&image.pixels, image.width, &weights(image.width, width, filter));
    Cow::Owned(Rgb8Image { width, height: image.height, pixels })
}

fn to_height(image: Cow<Rgb8Image>, height: usize, filter: Resample) -> Cow<Rgb8Image> {
    if image.height == height {
        return image;
    }
    let pixels = vertical(&image.pixels, image.width * 3, &weights(image.height, height, filter));
    Cow::Owned(Rgb8Image { width: image.width, height, pixels })
}

fn weights(from: usize, to: usize, filter: Resample) -> Weights {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = stretch * radius(filter);
    let mut spans = Vec::with_capacity(to);
    let mut values = Vec::new();
    for position in 0..to {
        let centre = (position as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let raw: Vec<f64> = (first..end).map(|x| kernel(filter, (x as f64 - centre + 0.5) * (1.0 / stretch))).collect();
        let sum: f64 = raw.iter().sum();
        let sum = if sum == 0.0 { 1.0 } else { sum };
        values.extend(raw.iter().map(|weight| fixed(weight / sum)));
        spans.push((first, end - first));
    }
    Weights { spans, values }
}

fn radius(filter: Resample) -> f64 {
    match filter {
        Resample::Bilinear => 1.0,
        Resample::Bicubic => 2.0,
    }
}

fn kernel(filter: Resample, x: f64) -> f64 {
    let x = x.abs();
    match filter {
        Resample::Bilinear => (1.0 - x).max(0.0),
        Resample::Bicubic => {
            const A: f64 = -0.5;
            if x < 1.0 {
                ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
            } else if x < 2.0 {
                (((x - 5.0) * x + 8.0) * x - 4.0) * A
            } else {
                0.0
            }
        }
    }
}

fn fixed(weight: f64) -> i32 {
    let half = if weight < 0.0 { -0.5 } else { 0.5 };
    (half + weight * f64::from(1_u32 << PRECISION)) as i32
}

fn clipped(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn horizontal(pixels: &[u8], from: usize, weights: &Weights) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / from * weights.spans.len());
    for row in pixels.chunks_exact(from * 3) {
        let (row, _) = row.as_chunks::<3>();
        let mut values = weights.values.as_slice();
        for &(first, count) in &weights.spans {
            let (span, rest) = values.split_at(count);
            values = rest;
            let mut sums = [1_i32 << (PRECISION - 1); 3];
            for (&[red, green, blue], &weight) in row[first..first + count].iter().zip(span) {
                sums[0] += i32::from(red) * weight;
                sums[1] += i32::from(green) * weight;
                sums[2] += i32::from(blue) * weight;
            }
            out.extend_from_slice(&sums.map(clipped));
        }
    }
    out
}

fn vertical(pixels: &[u8], row: usize, weights: &Weights) -> Vec<u8> {
    let mut out = Vec::with_capacity(row * weights.spans.len());
    let mut sums = vec![0_i32; row];
    let mut values = weights.values.as_slice();
    for &(first, count) in &weights.spans {
        let (span, rest) = values.split_at(count);
        values = rest;
        sums.fill(1 << (PRECISION - 1));
        for (line, &weight) in pixels[first * row..].chunks_exact(row).zip(span) {
            for (sum, &value) in sums.iter_mut().zip(line) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| clipped(sum)));
    }
    out
}
