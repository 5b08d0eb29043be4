//! From amounts of stain to a scanner's pixels: I = I0 * 10^-(h H + e E), then the scanner's light, sharpness, colours and noise.
//!
//! H and E are the unit vectors of optical density of Ruifrok and Johnston (2001); amounts are in decadic optical density.

use crate::{canvas::Ink, random::Stream};
use image::RgbImage;
use serde::Serialize;

const HAEMATOXYLIN: [f32; 3] = [0.650, 0.704, 0.286];
const EOSIN: [f32; 3] = [0.072, 0.990, 0.105];
const DIAMINOBENZIDINE: [f32; 3] = [0.268, 0.570, 0.776];

/// How one patient's slide was stained and lit.
#[derive(Clone, Debug, Serialize)]
pub struct Stain {
    /// Direction of the blue stain in optical density, red green blue.
    pub haematoxylin: [f32; 3],
    /// Direction of the pink stain.
    pub eosin: [f32; 3],
    /// Factors on the amounts of both.
    pub amounts: [f32; 2],
    /// Light through clear glass, 0..255.
    pub light: [f32; 3],
}

impl Stain {
    /// A patient's stain; `spread` 1 is what laboratories differ by, 0 is none.
    pub fn draw(stream: &mut Stream, spread: f32) -> Self {
        let haematoxylin = tilted(HAEMATOXYLIN, stream, spread);
        let eosin = tilted(EOSIN, stream, spread);
        let amounts = [1.0 + spread * (stream.uniform(0.75..1.3) - 1.0), 1.0 + spread * (stream.uniform(0.7..1.35) - 1.0)];
        let light = [(); 3].map(|()| 241.0 + spread * stream.uniform(-9.0..9.0));
        Self { haematoxylin, eosin, amounts, light }
    }

    /// The same slide with a brown stain in place of the pink one, as in immunohistochemistry.
    pub fn brown(mut self) -> Self {
        self.eosin = unit(DIAMINOBENZIDINE);
        self.amounts = [self.amounts[0] * 0.7, self.amounts[1] * 2.2];
        self
    }
}

/// Turned by a normal angle of 4 degrees about a random axis, without negative parts.
fn tilted(vector: [f32; 3], stream: &mut Stream, spread: f32) -> [f32; 3] {
    let axis = unit([(); 3].map(|()| stream.normal(0.0, 1.0)));
    let (sin, cos) = (stream.normal(0.0, 4.0) * spread).to_radians().sin_cos();
    let v = unit(vector);
    let dot: f32 = axis.iter().zip(v).map(|(a, b)| a * b).sum();
    let cross = [axis[1] * v[2] - axis[2] * v[1], axis[2] * v[0] - axis[0] * v[2], axis[0] * v[1] - axis[1] * v[0]];
    unit([0, 1, 2].map(|part| (v[part] * cos + cross[part] * sin + axis[part] * dot * (1.0 - cos)).abs()))
}

fn unit(vector: [f32; 3]) -> [f32; 3] {
    let length = vector.iter().map(|part| part * part).sum::<f32>().sqrt();
    vector.map(|part| part / length)
}

/// What a scanner does to every image it takes.
#[derive(Clone, Debug, Serialize)]
pub struct Scanner {
    /// Exponent on the light.
    pub gamma: f32,
    /// Mixes the colours, row by row.
    pub matrix: [[f32; 3]; 3],
    /// Standard deviation of the blur, pixels.
    pub blur_px: f32,
    /// Standard deviation of the sensor's noise, of 255.
    pub noise: f32,
    /// Quality of JPEG, or lossless.
    pub jpeg_quality: Option<u8>,
    /// Change of the light across the image, to the right and down.
    pub slope: [f32; 2],
}

impl Scanner {
    /// A scanner; `spread` 1 is what scanners differ by, 0 is none.
    pub fn draw(stream: &mut Stream, spread: f32) -> Self {
        let gamma = 1.0 + spread * stream.uniform(-0.1..0.12);
        let mut matrix = [[0.0; 3]; 3];
        for (row, parts) in matrix.iter_mut().enumerate() {
            for part in parts.iter_mut() {
                *part = spread * stream.uniform(-0.04..0.04);
            }
            // White stays white: each row adds up to 1.
            parts[row] = 0.0;
            parts[row] = 1.0 - parts.iter().sum::<f32>();
        }
        let blur_px = 0.8 + spread * stream.uniform(-0.3..0.3);
        let noise = 2.0 + spread * stream.uniform(-1.0..1.5);
        let jpeg_quality = stream.chance(0.5).then(|| 70 + stream.below(26) as u8);
        let slope = [(); 2].map(|()| spread * stream.uniform(-0.03..0.03));
        Self { gamma, matrix, blur_px, noise, jpeg_quality, slope }
    }
}

/// The image that the scanner takes of these amounts of stain, row by row of `width` pixels.
pub fn develop(ink: &[Ink], width: usize, stain: &Stain, scanner: &Scanner, sensor: &mut Stream) -> RgbImage {
    let height = ink.len() / width;
    // Plain loops: this runs on every pixel of every phantom.
    let mut planes = [0, 1, 2].map(|channel| {
        let blue = -std::f32::consts::LN_10 * stain.haematoxylin[channel] * stain.amounts[0];
        let pink = -std::f32::consts::LN_10 * stain.eosin[channel] * stain.amounts[1];
        let light = stain.light[channel] / 255.0;
        let mut plane = vec![0.0; ink.len()];
        for (place, ink) in plane.iter_mut().zip(ink) {
            *place = light * (blue * ink.blue + pink * ink.pink).exp();
        }
        plane
    });
    planes.iter_mut().for_each(|plane| blur(plane, width, scanner.blur_px));
    let powers = power_table(scanner.gamma);
    let last = (powers.len() - 1) as f32;
    let mut pixels = Vec::with_capacity(3 * ink.len());
    let [reds, greens, blues] = &planes;
    for (index, ((red, green), blue)) in reds.iter().zip(greens).zip(blues).enumerate() {
        let [right, down] = [(index % width) as f32 / width as f32, (index / width) as f32 / height as f32];
        let lit = 1.0 + scanner.slope[0] * (right - 0.5) + scanner.slope[1] * (down - 0.5);
        for row in &scanner.matrix {
            let mixed = lit * (row[0] * red + row[1] * green + row[2] * blue);
            let value = powers[(mixed.clamp(0.0, 1.0) * last) as usize] * 255.0;
            // The conversion cuts off below 0 and above 255.
            pixels.push((value + scanner.noise * sensor.rough_normal() + 0.5) as u8);
        }
    }
    RgbImage::from_raw(width as u32, height as u32, pixels).expect("three bytes were pushed for every pixel")
}

/// x^gamma at 4,096 steps of 0..1.
fn power_table(gamma: f32) -> Vec<f32> {
    (0..4096).map(|step| (step as f32 / 4095.0).powf(gamma)).collect()
}

/// A Gaussian blur of this standard deviation, edges continued; nothing below a tenth of a pixel.
pub fn blur(plane: &mut [f32], width: usize, deviation: f32) {
    if deviation < 0.1 {
        return;
    }
    let reach = (2.5 * deviation).ceil() as usize;
    let weights: Vec<f32> = (0..=reach).map(|step| (-((step * step) as f32) / (2.0 * deviation * deviation)).exp()).collect();
    let sum = weights[0] + 2.0 * weights[1..].iter().sum::<f32>();
    let weights: Vec<f32> = weights.into_iter().map(|weight| weight / sum).collect();
    let mut row = vec![0.0; width + 2 * reach];
    for line in plane.chunks_exact_mut(width) {
        row[..reach].fill(line[0]);
        row[reach..reach + width].copy_from_slice(line);
        row[reach + width..].fill(line[width - 1]);
        for (at, value) in line.iter_mut().enumerate() {
            let centre = at + reach;
            let mut sum = weights[0] * row[centre];
            for step in 1..=reach {
                sum += weights[step] * (row[centre - step] + row[centre + step]);
            }
            *value = sum;
        }
    }
    blur_columns(plane, width, &weights);
}

/// Whole rows at a time: neighbours in a column lie far apart in memory.
fn blur_columns(plane: &mut [f32], width: usize, weights: &[f32]) {
    let height = plane.len() / width;
    let before = plane.to_vec();
    let line = |row: isize| &before[row.clamp(0, height as isize - 1) as usize * width..][..width];
    for (row, out) in plane.chunks_exact_mut(width).enumerate() {
        out.iter_mut().for_each(|value| *value *= weights[0]);
        for (step, weight) in weights.iter().enumerate().skip(1) {
            let (above, below) = (line(row as isize - step as isize), line((row + step) as isize));
            for ((value, above), below) in out.iter_mut().zip(above).zip(below) {
                *value += weight * (above + below);
            }
        }
    }
}
