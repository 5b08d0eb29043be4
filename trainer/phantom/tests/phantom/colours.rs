//! Colour must not give the class away: a classifier of each image's mean and deviation of red, green and blue, by patient.

use super::plan;
use mmlnb_models::rows::Part;
use mmlnb_phantom::{plan::Plan, sets::Set};

/// One patch as a row of features.
struct Item {
    colours: Vec<f64>,
    truth: Vec<f64>,
    class: usize,
    part: Part,
}

fn items() -> Vec<Item> {
    let plan = Plan { patches: 4..=4, size: 112, um_per_px: 1.0, ..plan(Set::Standard, 20, 90) };
    let scanners = plan.scanners();
    let mut items = Vec::new();
    for planned in plan.draw_patients() {
        for patch in 0..planned.patient.patches {
            let drawn = plan.draw_patch(&planned.patient, &scanners[planned.patient.scanner], patch);
            let truth = drawn.truth.unwrap();
            items.push(Item {
                colours: colours(&drawn.image),
                truth: vec![
                    f64::from(truth.differentiating_share).max(0.002).ln(),
                    f64::from(truth.neuropil_area).max(0.002).ln(),
                ],
                class: truth.class() as usize,
                part: planned.part,
            });
        }
    }
    items
}

fn colours(image: &image::RgbImage) -> Vec<f64> {
    let count = f64::from(image.width() * image.height());
    let mean =
        |power: i32, channel: usize| image.pixels().map(|pixel| f64::from(pixel.0[channel]).powi(power)).sum::<f64>() / count;
    (0..3).flat_map(|channel| [mean(1, channel), (mean(2, channel) - mean(1, channel).powi(2)).max(0.0).sqrt()]).collect()
}

/// Balanced accuracy on the other patients of a multinomial logistic regression on standardised features and their products.
fn balanced_accuracy(items: &[Item], features: impl Fn(&Item) -> Vec<f64>, tested: impl Fn(&Item, usize) -> bool) -> f64 {
    let rows: Vec<Vec<f64>> = items.iter().map(&features).collect();
    let rows = standardised(rows.iter().map(|row| with_products(row)).collect());
    let train: Vec<usize> = (0..items.len()).filter(|index| !tested(&items[*index], *index)).collect();
    let weights = fit(&rows, items, &train);
    let mut right = [0.0; 3];
    let mut all = [0.0; 3];
    for index in (0..items.len()).filter(|index| tested(&items[*index], *index)) {
        let scores = scores(&weights, &rows[index]);
        let best = (0..3).max_by(|one, other| scores[*one].total_cmp(&scores[*other])).unwrap();
        all[items[index].class] += 1.0;
        right[items[index].class] += f64::from(best == items[index].class);
    }
    (0..3).map(|class| right[class] / all[class]).sum::<f64>() / 3.0
}

fn with_products(row: &[f64]) -> Vec<f64> {
    let products = (0..row.len()).flat_map(|one| (one..row.len()).map(move |other| row[one] * row[other]));
    row.iter().copied().chain(products).collect()
}

fn standardised(mut rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let count = rows.len() as f64;
    for column in 0..rows[0].len() {
        let mean = rows.iter().map(|row| row[column]).sum::<f64>() / count;
        let deviation = (rows.iter().map(|row| (row[column] - mean).powi(2)).sum::<f64>() / count).sqrt().max(1e-9);
        rows.iter_mut().for_each(|row| row[column] = (row[column] - mean) / deviation);
    }
    rows.iter_mut().for_each(|row| row.push(1.0));
    rows
}

fn fit(rows: &[Vec<f64>], items: &[Item], train: &[usize]) -> Vec<Vec<f64>> {
    let mut weights = vec![vec![0.0; rows[0].len()]; 3];
    let mut speed = vec![vec![0.0; rows[0].len()]; 3];
    for _ in 0..500 {
        let mut slope = weights.iter().map(|row| row.iter().map(|weight| 1e-3 * weight).collect()).collect::<Vec<Vec<f64>>>();
        for &index in train {
            let scores = scores(&weights, &rows[index]);
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let parts = scores.map(|score| (score - most).exp());
            let sum: f64 = parts.iter().sum();
            for class in 0..3 {
                let error = (parts[class] / sum - f64::from(items[index].class == class)) / train.len() as f64;
                slope[class].iter_mut().zip(&rows[index]).for_each(|(slope, value)| *slope += error * value);
            }
        }
        for class in 0..3 {
            for column in 0..weights[class].len() {
                speed[class][column] = 0.9 * speed[class][column] - 0.1 * slope[class][column];
                weights[class][column] += speed[class][column];
            }
        }
    }
    weights
}

fn scores(weights: &[Vec<f64>], row: &[f64]) -> [f64; 3] {
    [0, 1, 2].map(|class| weights[class].iter().zip(row).map(|(weight, value)| weight * value).sum())
}

#[test]
fn colour_does_not_give_the_class_away_but_the_truth_does() {
    let items = items();
    let other_patients = |item: &Item, _: usize| item.part != Part::Train;
    let by_colour = balanced_accuracy(&items, |item| item.colours.clone(), other_patients);
    let by_truth = balanced_accuracy(&items, |item| item.truth.clone(), other_patients);
    let any_patches = balanced_accuracy(&items, |item| item.colours.clone(), |_, index| index % 4 > 1);
    println!("balanced accuracy: colour by patient {by_colour:.3}, colour by patch {any_patches:.3}, truth {by_truth:.3}");
    assert!(by_colour <= 0.65, "colour alone tells the class of other patients' patches: {by_colour:.3}");
    assert!(by_truth >= 0.98, "the truth does not tell the class: {by_truth:.3}");
    assert!(any_patches > by_colour, "a split by patch does not look better than one by patient: {any_patches:.3}");
}
