//! Stains as amounts of dye: jitter for training, Macenko's and Reinhard's normalisation.
//!
//! By Lambert and Beer the optical densities of a pixel, one a channel, are amounts of dye times the dye's vector. Glass stays as it is throughout.

use serde::{Deserialize, Serialize};

use super::decode::Rgb8Image;
use super::tissue::GLASS;
use crate::random::Draw;

/// Haematoxylin and eosin, red, green, blue (Ruifrok and Johnston 2001).
pub(super) const HAEMATOXYLIN: [f32; 3] = [0.650, 0.704, 0.286];
pub(super) const EOSIN: [f32; 3] = [0.072, 0.990, 0.105];
/// Least optical density of a pixel from which Macenko's method learns, in every channel (Macenko 2009).
const STAINED: f32 = 0.15;
/// Least share of stained pixels for learning anything.
const LEAST_SHARE: f64 = 0.02;
/// Two stains closer than this cosine are one.
const ONE_STAIN: f32 = 0.98;

type Vector = [f32; 3];

/// Random change of both dyes: amounts times `1 +- alpha`, plus `+- beta`, drawn once for each dye and image (tiatoolbox's StainAugmentor).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StainJitter {
    /// Largest relative change.
    pub alpha: f32,
    /// Largest shift, in optical density.
    pub beta: f32,
}

impl StainJitter {
    /// The image with changed amounts of dye; the same for the same seed.
    pub fn apply(&self, image: &Rgb8Image, seed: u64) -> Rgb8Image {
        let mut draw = Draw::numbered(seed, 0);
        let mut drawn = |width: f32| width * (2.0 * (draw.half_bits() as f32 / u32::MAX as f32) - 1.0);
        let scale = [1.0 + drawn(self.alpha), 1.0 + drawn(self.alpha), 1.0];
        let shift = [drawn(self.beta), drawn(self.beta), 0.0];
        let dyes = [unit(HAEMATOXYLIN), unit(EOSIN), unit(cross(HAEMATOXYLIN, EOSIN))];
        let amounts = Amounts::of(dyes);
        changed(image, |density| {
            let mut amount = amounts.in_density(density);
            (0..3).for_each(|dye| amount[dye] = amount[dye] * scale[dye] + shift[dye]);
            mixed(&amount, &dyes)
        })
    }
}

/// A normalisation with its target, recorded in a classifier's `config.json` as `stain_normalisation`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase", deny_unknown_fields)]
pub enum StainNormalisation {
    /// Each image's own dyes, found from its densities, are replaced by the target's (Macenko 2009).
    Macenko {
        /// The target's haematoxylin and eosin, of length 1.
        dyes: [[f32; 3]; 2],
        /// 99th percentile of each dye's amount in the target.
        amounts: [f32; 2],
    },
    /// Mean and spread of each channel in CIE L*a*b* become the target's (Reinhard 2001).
    Reinhard {
        /// The target's means.
        mean: [f32; 3],
        /// The target's standard deviations.
        std: [f32; 3],
    },
}

impl StainNormalisation {
    /// Macenko's method with the target of these images: the median over those from which two dyes can be told apart; none if there is none.
    pub fn macenko<'a>(images: impl IntoIterator<Item = &'a Rgb8Image>) -> Option<StainNormalisation> {
        let found: Vec<Stains> = images.into_iter().filter_map(Stains::of).collect();
        let dye = |at: usize| {
            let channel = |c: usize| median(found.iter().map(|stains| stains.dyes[at][c]).collect());
            Some(unit([channel(0)?, channel(1)?, channel(2)?]))
        };
        let amount = |at: usize| median(found.iter().map(|stains| stains.amounts[at]).collect());
        Some(StainNormalisation::Macenko { dyes: [dye(0)?, dye(1)?], amounts: [amount(0)?, amount(1)?] })
    }

    /// Reinhard's method with the target of these images: the means over those with tissue; none if there is none.
    pub fn reinhard<'a>(images: impl IntoIterator<Item = &'a Rgb8Image>) -> Option<StainNormalisation> {
        let found: Vec<Spread> = images.into_iter().filter_map(Spread::of).collect();
        if found.is_empty() {
            return None;
        }
        let average = |of: fn(&Spread) -> Vector| {
            [0, 1, 2].map(|channel| found.iter().map(|spread| of(spread)[channel]).sum::<f32>() / found.len() as f32)
        };
        Some(StainNormalisation::Reinhard { mean: average(|spread| spread.mean), std: average(|spread| spread.std) })
    }

    /// The normalised image; none where the image has too little tissue or only one dye, which no method can normalise.
    pub fn apply(&self, image: &Rgb8Image) -> Option<Rgb8Image> {
        match self {
            StainNormalisation::Macenko { dyes, amounts } => {
                let own = Stains::of(image)?;
                let scale = [amounts[0] / own.amounts[0], amounts[1] / own.amounts[1]];
                let in_image = Amounts::of([own.dyes[0], own.dyes[1], unit(cross(own.dyes[0], own.dyes[1]))]);
                Some(changed(image, |density| {
                    let [first, second, _] = in_image.in_density(density);
                    mixed(&[first * scale[0], second * scale[1]], dyes)
                }))
            }
            StainNormalisation::Reinhard { mean, std } => {
                let own = Spread::of(image)?;
                Some(changed_colours(image, |lab| {
                    let channel = |c: usize| (lab[c] - own.mean[c]) / own.std[c] * std[c] + mean[c];
                    [channel(0), channel(1), channel(2)]
                }))
            }
        }
    }

    /// What is impossible in it, if anything.
    pub fn problem(&self) -> Option<String> {
        let (one_stain, least) = match self {
            StainNormalisation::Macenko { dyes, amounts } => {
                let likeness = dot(unit(dyes[0]), unit(dyes[1]));
                (likeness.is_nan() || likeness >= ONE_STAIN, amounts.iter().copied().fold(f32::INFINITY, f32::min))
            }
            StainNormalisation::Reinhard { std, .. } => (false, std.iter().copied().fold(f32::INFINITY, f32::min)),
        };
        if one_stain {
            return Some("the two dyes are the same".to_string());
        }
        (least.is_nan() || least <= 0.0).then(|| format!("{least} is not above zero"))
    }
}

/// The two dyes of an image and the 99th percentile of their amounts.
struct Stains {
    dyes: [Vector; 2],
    amounts: [f32; 2],
}

impl Stains {
    fn of(image: &Rgb8Image) -> Option<Stains> {
        let pixels = || image.pixels.chunks_exact(3).map(density);
        let stained: Vec<Vector> = pixels().filter(|density| density.iter().all(|&value| value > STAINED)).collect();
        if (stained.len() as f64) < LEAST_SHARE * (image.pixels.len() / 3) as f64 || stained.len() < 16 {
            return None;
        }
        let dyes = two_dyes(&stained)?;
        let in_image = Amounts::of([dyes[0], dyes[1], unit(cross(dyes[0], dyes[1]))]);
        let all: Vec<Vector> = pixels().map(|density| in_image.in_density(density)).collect();
        let amounts = [0, 1].map(|dye| percentile(all.iter().map(|amount| amount[dye]).collect(), 0.99));
        amounts.iter().all(|&amount| amount > 0.05).then_some(Stains { dyes, amounts })
    }
}

/// The extreme directions of the densities in their plane of largest variance, haematoxylin (more red absorbed) first.
fn two_dyes(stained: &[Vector]) -> Option<[Vector; 2]> {
    let [first, second] = plane(stained).map(|axis| if axis[0] < 0.0 { axis.map(|value| -value) } else { axis });
    let angles: Vec<f32> = stained.iter().map(|density| dot(*density, second).atan2(dot(*density, first))).collect();
    let (least, most) = (percentile(angles.clone(), 0.01), percentile(angles, 0.99));
    let direction = |angle: f32| unit([0, 1, 2].map(|c| first[c] * angle.cos() + second[c] * angle.sin()));
    let dyes = [direction(least), direction(most)];
    let usable = dyes.iter().all(|dye| dye.iter().all(|value| value.is_finite())) && dot(dyes[0], dyes[1]) < ONE_STAIN;
    let dyes = if dyes[0][0] > dyes[1][0] { dyes } else { [dyes[1], dyes[0]] };
    usable.then_some(dyes)
}

/// The two directions of largest variance, largest first.
fn plane(points: &[Vector]) -> [Vector; 2] {
    let count = points.len() as f64;
    let mean = [0, 1, 2].map(|c| points.iter().map(|point| f64::from(point[c])).sum::<f64>() / count);
    let covariance = [0, 1, 2].map(|i| {
        [0, 1, 2].map(|j| {
            points.iter().map(|point| (f64::from(point[i]) - mean[i]) * (f64::from(point[j]) - mean[j])).sum::<f64>() / count
        })
    });
    let mut axes = eigenvectors(covariance);
    axes.sort_by(|a, b| b.0.total_cmp(&a.0));
    [axes[0].1, axes[1].1].map(|axis| axis.map(|value| value as f32))
}

/// Eigenvalues with eigenvectors of a symmetric matrix, by Jacobi's rotations.
fn eigenvectors(mut matrix: [[f64; 3]; 3]) -> [(f64, [f64; 3]); 3] {
    let mut vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    for _ in 0..30 {
        for (p, q) in [(0, 1), (0, 2), (1, 2)] {
            if matrix[p][q] == 0.0 {
                continue;
            }
            let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
            let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
            let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
            let sine = tangent * cosine;
            for row in &mut matrix {
                (row[p], row[q]) = (cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]);
            }
            let (above, below) = (matrix[p], matrix[q]);
            matrix[p] = [0, 1, 2].map(|column| cosine * above[column] - sine * below[column]);
            matrix[q] = [0, 1, 2].map(|column| sine * above[column] + cosine * below[column]);
            for row in &mut vectors {
                (row[p], row[q]) = (cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]);
            }
        }
    }
    [0, 1, 2].map(|at| (matrix[at][at], vectors.map(|row| row[at])))
}

/// The inverse of three dyes: from a density to their amounts.
pub(super) struct Amounts([Vector; 3]);

impl Amounts {
    pub fn of([a, b, c]: [Vector; 3]) -> Amounts {
        let determinant = dot(a, cross(b, c));
        Amounts([cross(b, c), cross(c, a), cross(a, b)].map(|row| row.map(|value| value / determinant)))
    }

    pub fn in_density(&self, density: Vector) -> Vector {
        self.0.map(|row| dot(row, density))
    }
}

/// Mean and standard deviation of the tissue in CIE L*a*b*.
struct Spread {
    mean: Vector,
    std: Vector,
}

impl Spread {
    fn of(image: &Rgb8Image) -> Option<Spread> {
        let tissue = image.pixels.chunks_exact(3).filter(|pixel| !glass(pixel));
        let colours: Vec<[f32; 3]> = tissue.map(|pixel| lab([pixel[0], pixel[1], pixel[2]])).collect();
        if (colours.len() as f64) < LEAST_SHARE * (image.pixels.len() / 3) as f64 || colours.len() < 16 {
            return None;
        }
        let count = colours.len() as f64;
        let mean = [0, 1, 2].map(|c| colours.iter().map(|colour| f64::from(colour[c])).sum::<f64>() / count);
        let variance = |c: usize| colours.iter().map(|colour| (f64::from(colour[c]) - mean[c]).powi(2)).sum::<f64>() / count;
        let std = [0, 1, 2].map(|c| variance(c).sqrt() as f32);
        std.iter().all(|&value| value > 0.5).then(|| Spread { mean: mean.map(|value| value as f32), std })
    }
}

/// sRGB to CIE L*a*b* under D65.
fn lab(pixel: [u8; 3]) -> Vector {
    let linear = pixel.map(|value| {
        let value = f32::from(value) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    });
    let rows = [[0.412_456, 0.357_576, 0.180_437], [0.212_673, 0.715_152, 0.072_175], [0.019_334, 0.119_192, 0.950_304]];
    let white = [0.950_47, 1.0, 1.088_83];
    let [x, y, z] = [0, 1, 2].map(|at| {
        let value = dot(rows[at], linear) / white[at];
        if value > 0.008_856 { value.cbrt() } else { 7.787 * value + 16.0 / 116.0 }
    });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// The nearest sRGB colour of an L*a*b* one.
fn rgb([l, a, b]: Vector) -> [u8; 3] {
    let y = (l + 16.0) / 116.0;
    let white = [0.950_47, 1.0, 1.088_83];
    let mut xyz = [y + a / 500.0, y, y - b / 200.0];
    for (value, white) in xyz.iter_mut().zip(white) {
        *value = white * if *value > 0.206_897 { value.powi(3) } else { (*value - 16.0 / 116.0) / 7.787 };
    }
    let rows = [[3.240_454, -1.537_139, -0.498_531], [-0.969_266, 1.876_011, 0.041_556], [0.055_643, -0.204_026, 1.057_225]];
    rows.map(|row| {
        let value = dot(row, xyz).max(0.0);
        let value = if value <= 0.003_130_8 { 12.92 * value } else { 1.055 * value.powf(1.0 / 2.4) - 0.055 };
        (value * 255.0).round().clamp(0.0, 255.0) as u8
    })
}

/// The image with the densities of every pixel but glass changed.
fn changed(image: &Rgb8Image, change: impl Fn(Vector) -> Vector) -> Rgb8Image {
    let mut pixels = image.pixels.clone();
    for pixel in pixels.chunks_exact_mut(3).filter(|pixel| !glass(pixel)) {
        let density = change(density(pixel));
        pixel.iter_mut().zip(density).for_each(|(value, density)| *value = intensity(density));
    }
    Rgb8Image { width: image.width, height: image.height, pixels }
}

/// The image with the colours of every pixel but glass changed, in L*a*b*.
fn changed_colours(image: &Rgb8Image, change: impl Fn(Vector) -> Vector) -> Rgb8Image {
    let mut pixels = image.pixels.clone();
    for pixel in pixels.chunks_exact_mut(3).filter(|pixel| !glass(pixel)) {
        pixel.copy_from_slice(&rgb(change(lab([pixel[0], pixel[1], pixel[2]]))));
    }
    Rgb8Image { width: image.width, height: image.height, pixels }
}

fn glass(pixel: &[u8]) -> bool {
    pixel.iter().all(|&value| value > GLASS)
}

/// -ln((v + 1) / 256), so that 0 has a density too.
fn density(pixel: &[u8]) -> Vector {
    [0, 1, 2].map(|channel| -((f32::from(pixel[channel]) + 1.0) / 256.0).ln())
}

fn intensity(density: f32) -> u8 {
    (256.0 * (-density).exp() - 1.0).round().clamp(0.0, 255.0) as u8
}

fn mixed<const N: usize>(amounts: &[f32; N], dyes: &[Vector; N]) -> Vector {
    [0, 1, 2].map(|channel| amounts.iter().zip(dyes).map(|(amount, dye)| amount * dye[channel]).sum())
}

fn dot(a: Vector, b: Vector) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: Vector, b: Vector) -> Vector {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub(super) fn unit(vector: Vector) -> Vector {
    let length = dot(vector, vector).sqrt();
    vector.map(|value| value / length)
}

fn median(values: Vec<f32>) -> Option<f32> {
    (!values.is_empty()).then(|| percentile(values, 0.5))
}

/// The value at a share of the sorted ones, the lower of two neighbours; `values` is not empty.
pub(super) fn percentile(mut values: Vec<f32>, share: f64) -> f32 {
    let at = ((values.len() - 1) as f64 * share) as usize;
    *values.select_nth_unstable_by(at, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Amounts that differ from pixel to pixel, mixed from two dyes.
    fn stained(dyes: [Vector; 2]) -> Rgb8Image {
        let amount = |at: usize, prime: usize| 0.05 + 0.9 * ((at * prime % 101) as f32 / 100.0).powi(2);
        let pixels = (0..48 * 48).flat_map(|at| mixed(&[amount(at, 37), amount(at, 53)], &dyes).map(intensity)).collect();
        Rgb8Image { width: 48, height: 48, pixels }
    }

    fn usual() -> Rgb8Image {
        stained([unit(HAEMATOXYLIN), unit(EOSIN)])
    }

    fn difference(a: &Rgb8Image, b: &Rgb8Image) -> f32 {
        let sum: f32 = a.pixels.iter().zip(&b.pixels).map(|(a, b)| (f32::from(*a) - f32::from(*b)).abs()).sum();
        sum / a.pixels.len() as f32
    }

    #[test]
    fn no_jitter_changes_nothing_and_jitter_depends_on_its_seed_alone() {
        let image = usual();
        assert_eq!(StainJitter { alpha: 0.0, beta: 0.0 }.apply(&image, 1).pixels, image.pixels);
        let jitter = StainJitter { alpha: 0.2, beta: 0.1 };
        assert_eq!(jitter.apply(&image, 7).pixels, jitter.apply(&image, 7).pixels);
        assert!(difference(&jitter.apply(&image, 7), &jitter.apply(&image, 8)) > 1.0);
        let glass = Rgb8Image { width: 4, height: 4, pixels: vec![240; 48] };
        assert_eq!(jitter.apply(&glass, 7).pixels, glass.pixels);
    }

    #[test]
    fn jitter_scales_the_amounts_of_each_dye() {
        let density_of = |pixel: &[u8]| {
            Amounts::of([unit(HAEMATOXYLIN), unit(EOSIN), unit(cross(HAEMATOXYLIN, EOSIN))]).in_density(density(pixel))
        };
        let (image, jittered) = (usual(), StainJitter { alpha: 0.3, beta: 0.0 }.apply(&usual(), 3));
        let sums = |image: &Rgb8Image| {
            image.pixels.chunks_exact(3).map(density_of).fold([0.0; 3], |sum, one| [0, 1, 2].map(|at| sum[at] + one[at]))
        };
        let (before, after) = (sums(&image), sums(&jittered));
        let ratios = [after[0] / before[0], after[1] / before[1]];
        assert!(ratios.iter().all(|ratio| (0.7..1.3).contains(ratio)) && (ratios[0] - ratios[1]).abs() > 0.01, "{ratios:?}");
        assert!(after[2].abs() / (after[0] + after[1]) < 0.01, "nothing leaves the plane of the two dyes");
    }

    #[test]
    fn macenko_finds_the_dyes_and_maps_one_laboratory_to_another() {
        let here = [unit([0.56, 0.72, 0.41]), unit([0.22, 0.80, 0.56])];
        let there = [unit([0.66, 0.68, 0.32]), unit([0.30, 0.90, 0.30])];
        let found = Stains::of(&stained(there)).unwrap();
        for (dye, expected) in found.dyes.iter().zip(there) {
            assert!(dot(*dye, expected) > 0.995, "{dye:?} {expected:?}");
        }
        let target = StainNormalisation::macenko([&stained(here)]).unwrap();
        assert_eq!(target.problem(), None);
        let before = difference(&stained(there), &stained(here));
        let after = difference(&target.apply(&stained(there)).unwrap(), &stained(here));
        assert!(before > 8.0 && after < 0.3 * before, "{before} {after}");
        assert!(difference(&target.apply(&stained(here)).unwrap(), &stained(here)) < 2.0);
    }

    #[test]
    fn reinhard_gives_every_image_the_targets_mean_and_spread() {
        let there = stained([unit([0.55, 0.72, 0.42]), unit([0.22, 0.80, 0.56])]);
        let target = StainNormalisation::reinhard([&usual()]).unwrap();
        let StainNormalisation::Reinhard { mean, std } = &target else { panic!() };
        let found = Spread::of(&target.apply(&there).unwrap()).unwrap();
        for channel in 0..3 {
            assert!((found.mean[channel] - mean[channel]).abs() < 2.5, "{:?} {mean:?}", found.mean);
            assert!((found.std[channel] / std[channel] - 1.0).abs() < 0.15, "{:?} {std:?}", found.std);
        }
        assert!(difference(&target.apply(&usual()).unwrap(), &usual()) < 1.0);
        assert_eq!(rgb(lab([200, 120, 170])), [200, 120, 170]);
    }

    #[test]
    fn what_cannot_be_normalised_is_left() {
        let images = [
            Rgb8Image { width: 32, height: 32, pixels: vec![245; 32 * 32 * 3] },
            Rgb8Image { width: 32, height: 32, pixels: [120, 60, 150].repeat(32 * 32) },
            stained([unit(HAEMATOXYLIN); 2]),
        ];
        let macenko = StainNormalisation::macenko([&usual()]).unwrap();
        assert!(images.iter().all(|image| macenko.apply(image).is_none()));
        assert!(StainNormalisation::macenko(&images).is_none());
        let reinhard = StainNormalisation::reinhard([&usual()]).unwrap();
        assert!(images[..2].iter().all(|image| reinhard.apply(image).is_none()));
        assert!(StainNormalisation::reinhard([&images[0]]).is_none());
    }

    #[test]
    fn it_is_written_and_read_as_json() {
        let target = StainNormalisation::macenko([&usual()]).unwrap();
        let json = serde_json::to_value(&target).unwrap();
        assert_eq!(json["method"], "macenko");
        assert_eq!(serde_json::from_value::<StainNormalisation>(json).unwrap(), target);
        let same = StainNormalisation::Macenko { dyes: [unit(EOSIN); 2], amounts: [1.0, 1.0] };
        assert!(same.problem().is_some());
    }
}
