//! How an image is stained, in seven numbers: what another scanner, another stain, or something that is no such tissue changes first.

use super::decode::Rgb8Image;
use super::stain::{Amounts, EOSIN, HAEMATOXYLIN, percentile, unit};

/// How many numbers there are.
pub const MEASURES: usize = 7;

/// What neither haematoxylin nor eosin explains (the third vector of Ruifrok and Johnston 2001).
const REST: [f32; 3] = [0.268, 0.570, 0.776];
/// Most pixels that are looked at, evenly over the image.
const PIXELS: usize = 16_384;
/// Share of pixels below the strongest staining that counts.
const STRONGEST: f64 = 0.99;

/// Amounts of dye in optical density: means of haematoxylin, eosin and the rest; deviations of haematoxylin and eosin; their 99th percentiles.
///
/// # Panics
/// Never for an image with at least one pixel.
pub fn measures(image: &Rgb8Image) -> [f64; MEASURES] {
    let density: Vec<f32> = (0..=255u32).map(|value| -((value + 1) as f32 / 256.0).log10()).collect();
    let dyes = Amounts::of([unit(HAEMATOXYLIN), unit(EOSIN), unit(REST)]);
    let count = image.pixels.len() / 3;
    // An odd step, so that columns of an even width are not always the same.
    let step = count.div_ceil(PIXELS) | 1;
    let mut amounts: [Vec<f32>; 3] = Default::default();
    for pixel in image.pixels.chunks_exact(3).step_by(step) {
        let found = dyes.in_density([0, 1, 2].map(|channel| density[usize::from(pixel[channel])]));
        amounts.iter_mut().zip(found).for_each(|(amounts, amount)| amounts.push(amount));
    }
    let mean = |of: &mut dyn Iterator<Item = f64>| of.sum::<f64>() / amounts[0].len() as f64;
    let means = [0, 1, 2].map(|dye: usize| mean(&mut amounts[dye].iter().map(|amount| f64::from(*amount))));
    let deviation = |dye: usize| mean(&mut amounts[dye].iter().map(|amount| (f64::from(*amount) - means[dye]).powi(2))).sqrt();
    let deviations = [deviation(0), deviation(1)];
    let [haematoxylin, eosin, _] = amounts;
    let strongest = [haematoxylin, eosin].map(|amounts| f64::from(percentile(amounts, STRONGEST)));
    [means[0], means[1], means[2], deviations[0], deviations[1], strongest[0], strongest[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stained(amounts: &[[f64; 2]]) -> Rgb8Image {
        let dyes = [unit(HAEMATOXYLIN), unit(EOSIN)];
        let pixel = |[haematoxylin, eosin]: &[f64; 2]| {
            [0, 1, 2].map(|channel| {
                let density = haematoxylin * f64::from(dyes[0][channel]) + eosin * f64::from(dyes[1][channel]);
                (256.0 * 10f64.powf(-density) - 1.0).round().clamp(0.0, 255.0) as u8
            })
        };
        Rgb8Image { width: amounts.len(), height: 1, pixels: amounts.iter().flat_map(pixel).collect() }
    }

    #[test]
    fn amounts_of_dye_are_found_again() {
        let image = stained(&[[0.1, 0.3], [0.5, 0.1], [0.3, 0.2], [0.3, 0.2]]);
        let found = measures(&image);
        for (found, expected) in found.iter().zip([0.3, 0.2, 0.0, 0.1414, 0.0707, 0.3, 0.2]) {
            assert!((found - expected).abs() < 0.02, "{found} is not {expected}");
        }
    }

    #[test]
    fn large_images_are_sampled_evenly() {
        let amounts: Vec<[f64; 2]> = (0..90_000).map(|at| [f64::from(at % 300) / 500.0, 0.2]).collect();
        let mut image = stained(&amounts);
        (image.width, image.height) = (300, 300);
        let found = measures(&image);
        assert!((found[0] - 0.299).abs() < 0.01 && (found[3] - 0.173).abs() < 0.01, "{found:?}");
    }

    #[test]
    fn glass_has_no_dye() {
        assert!(measures(&Rgb8Image { width: 2, height: 1, pixels: vec![255; 6] }).iter().all(|amount| amount.abs() < 1e-9));
    }
}
