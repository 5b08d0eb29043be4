//! How an image is stained, in seven numbers: what another scanner, another stain, or something that is no such tissue changes first.

use super::decode::Rgb8Image;

/// How many numbers there are.
pub const MEASURES: usize = 7;

/// Rows: haematoxylin, eosin, what neither explains; of the optical densities of red, green and blue, each row of length 1 (Ruifrok and Johnston 2001).
const DYES: [[f64; 3]; 3] = [[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]];
/// Most pixels that are looked at, evenly over the image.
const PIXELS: usize = 16_384;
/// Share of pixels below the strongest staining that counts.
const STRONGEST: f64 = 0.99;

/// Amounts of dye in optical density: means of haematoxylin, eosin and the rest; deviations of haematoxylin and eosin; their 99th percentiles.
///
/// # Panics
/// Never for an image with at least one pixel.
pub fn measures(image: &Rgb8Image) -> [f64; MEASURES] {
    let density: Vec<f64> = (0..=255u32).map(|value| -(f64::from(value + 1) / 256.0).log10()).collect();
    let unmix = inverse(DYES.map(|dye| {
        let length = dye.iter().map(|part| part * part).sum::<f64>().sqrt();
        dye.map(|part| part / length)
    }));
    let count = image.pixels.len() / 3;
    // An odd step, so that columns of an even width are not always the same.
    let step = count.div_ceil(PIXELS) | 1;
    let mut amounts: [Vec<f64>; 3] = Default::default();
    for pixel in image.pixels.chunks_exact(3).step_by(step) {
        let optical = [0, 1, 2].map(|channel| density[usize::from(pixel[channel])]);
        for (dye, amounts) in amounts.iter_mut().enumerate() {
            amounts.push((0..3).map(|channel| optical[channel] * unmix[channel][dye]).sum());
        }
    }
    let means = [0, 1, 2].map(|dye: usize| amounts[dye].iter().sum::<f64>() / amounts[dye].len() as f64);
    let deviation = |dye: usize| {
        let squares = amounts[dye].iter().map(|amount| (amount - means[dye]).powi(2)).sum::<f64>();
        (squares / amounts[dye].len() as f64).sqrt()
    };
    let deviations = [deviation(0), deviation(1)];
    let mut strongest = |dye: usize| {
        let at = ((amounts[dye].len() - 1) as f64 * STRONGEST) as usize;
        *amounts[dye].select_nth_unstable_by(at, f64::total_cmp).1
    };
    [means[0], means[1], means[2], deviations[0], deviations[1], strongest(0), strongest(1)]
}

/// By cofactors; the rows above are linearly independent.
fn inverse(m: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    let cofactor = |row: usize, column: usize| {
        let [a, b] = [(row + 1) % 3, (row + 2) % 3];
        let [c, d] = [(column + 1) % 3, (column + 2) % 3];
        m[a][c] * m[b][d] - m[a][d] * m[b][c]
    };
    let determinant: f64 = (0..3).map(|column| m[0][column] * cofactor(0, column)).sum();
    [0, 1, 2].map(|row| [0, 1, 2].map(|column| cofactor(column, row) / determinant))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stained(amounts: &[[f64; 2]]) -> Rgb8Image {
        let pixel = |[haematoxylin, eosin]: &[f64; 2]| {
            let length = |dye: [f64; 3]| dye.iter().map(|part| part * part).sum::<f64>().sqrt();
            [0, 1, 2].map(|channel| {
                let density = haematoxylin * DYES[0][channel] / length(DYES[0]) + eosin * DYES[1][channel] / length(DYES[1]);
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
