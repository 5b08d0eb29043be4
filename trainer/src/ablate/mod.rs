//! The paper's comparisons: recipes over seeds on one split, beside the paper's figures and as paired differences.

mod alphas;
mod asked;
pub mod ranks;
mod table;
mod told;
mod variations;

pub use alphas::{Alphas, Condition, Suppressed};
pub use table::{Ablation, Row};
pub use told::{lines, markdown, page};
pub use variations::{NULLS, USUAL, Variation, published, variations};

use crate::{
    classify::{self, Protocol},
    compare::{self, Items, Run, mean_numbers},
    error::TrainError,
    run::{files, stop_requested},
};
use mmlnb_models::{
    hash,
    measures::{
        classes::Predictions,
        intervals,
        paired::{self, Difference},
    },
};
use std::path::PathBuf;
use tch::Device;

/// Fewest seeds of a variation for a p-value: with three the draws of seeds take few different values, and one lucky run decides.
const LEAST_SEEDS: usize = 5;

/// What to train, on what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The CSV file.
    pub data: PathBuf,
    /// The image folder.
    pub images: PathBuf,
    /// The folder of all runs and of the table.
    pub output: PathBuf,
    /// What to train; the others are compared with the first.
    pub variations: Vec<Variation>,
    /// Of weights, order and dropout; the split is the same for all.
    pub seeds: Vec<u64>,
    /// Who describes the images; none: the CSV file.
    pub describer: Option<PathBuf>,
    /// The checkpoint beside which the describer was trained.
    pub base: Option<PathBuf>,
    /// Finished runs of `describe` whose ranks are compared.
    pub ranks: Vec<ranks::Rank>,
    /// From the lowest class to the highest.
    pub class_order: Option<Vec<String>>,
    /// Seed of the split, and of the bootstrap.
    pub split_seed: u64,
    /// Where to compute.
    pub device: Device,
}

/// Trains whatever is not trained yet, then compares everything.
///
/// # Errors
/// [`TrainError::Interrupted`] after a signal; [`TrainError::Changed`] where the folder holds runs with other settings; the first run's error when none
/// could be trained.
pub fn run(options: &Options) -> Result<Ablation, TrainError> {
    let (mut finished, mut failed, mut first_error) = (Vec::new(), Vec::new(), None);
    let total = options.variations.len() * options.seeds.len();
    for (number, (variation, seed)) in pairs(options).enumerate() {
        let folder = folder(options, variation, seed);
        eprintln!("[{}/{total}] {} with seed {seed}", number + 1, variation.name);
        match classify::run(&settings(options, variation, seed)) {
            Ok(_) => finished.push((variation.name.clone(), folder)),
            Err(error @ (TrainError::Interrupted | TrainError::Changed { .. })) => return Err(error),
            Err(_) if stop_requested() => return Err(TrainError::Interrupted),
            Err(error) => {
                eprintln!("error: {} with seed {seed}: {error}", variation.name);
                failed.push(format!("{} with seed {seed}: {error}", variation.name));
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error {
        Some(error) if finished.is_empty() => Err(error),
        _ => told_of(options, &finished, failed),
    }
}

fn pairs(options: &Options) -> impl Iterator<Item = (&Variation, u64)> {
    options.variations.iter().flat_map(|variation| options.seeds.iter().map(move |seed| (variation, *seed)))
}

fn folder(options: &Options, variation: &Variation, seed: u64) -> PathBuf {
    options.output.join(&variation.name).join(format!("seed-{seed}"))
}

fn settings(options: &Options, variation: &Variation, seed: u64) -> classify::Options {
    let mut recipe = variation.recipe.clone();
    recipe.seed = seed;
    classify::Options {
        data: options.data.clone(),
        images: options.images.clone(),
        output: folder(options, variation, seed),
        recipe_name: variation.name.clone(),
        recipe,
        describer: variation.describer.clone().or_else(|| options.describer.clone()),
        base: options.base.clone(),
        class_order: options.class_order.clone(),
        protocol: Protocol::Usual,
        split_seed: options.split_seed,
        allow_overlap: false,
        device: options.device,
        resume: true,
        dry_run: false,
    }
}

/// Measures the finished runs and writes `ablation.md`, `ablation.json` and `ablation.html`.
fn told_of(options: &Options, finished: &[(String, PathBuf)], failed: Vec<String>) -> Result<Ablation, TrainError> {
    let folders: Vec<PathBuf> = finished.iter().map(|(_, folder)| folder.clone()).collect();
    let (items, runs) = compare::read(&folders)?;
    let mut ablation = measured(&items, finished, &runs, options.split_seed);
    ablation.failed = failed;
    ablation.ranks = options.ranks.clone();
    let reference = &finished[0].0;
    let asked =
        finished.iter().zip(&runs).filter(|((name, _), _)| name == reference).map(|((_, folder), run)| (folder.as_path(), run));
    ablation.alphas = alphas::measure(&asked.collect::<Vec<_>>(), &items, &options.images, options.split_seed, options.device)?;
    let json = serde_json::to_string_pretty(&ablation).map_err(|error| TrainError::Failed(error.to_string()))?;
    for (name, content) in
        [("ablation.md", markdown(&ablation)), ("ablation.json", json + "\n"), ("ablation.html", page(&ablation))]
    {
        files::replace_file(&options.output.join(name), content.as_bytes())?;
    }
    Ok(ablation)
}

/// The table of finished runs, named by their variation, which stand in the order of `runs`.
fn measured(items: &Items, finished: &[(String, PathBuf)], runs: &[Run], seed: u64) -> Ablation {
    let mut names: Vec<&String> = Vec::new();
    finished.iter().for_each(|(name, _)| {
        if !names.contains(&name) {
            names.push(name)
        }
    });
    let of = |name: &String| {
        finished.iter().zip(runs).filter(|((other, _), _)| other == name).map(|(_, run)| run).collect::<Vec<&Run>>()
    };
    let units = items.units();
    let predictions = |runs: &[&Run]| runs.iter().map(|run| run.predictions.clone()).collect::<Vec<Predictions>>();
    let reference = predictions(&of(names[0]));
    let row = |(place, name): (usize, &&String)| {
        let runs = of(name);
        let all = predictions(&runs);
        let accuracies: Vec<f64> = all.iter().map(|one| one.measure().accuracy).collect();
        let alphas: Option<Vec<f64>> = runs.iter().map(|run| run.alpha).collect();
        let differences = if place == 0 {
            Vec::new()
        } else {
            paired::compare(
                &units,
                seed,
                |counts| over_seeds(&reference, counts, 0),
                |counts| over_seeds(&all, counts, place as u64),
            )
        };
        Row {
            name: (*name).clone(),
            published: published(name),
            seeds: runs.iter().map(|run| run.seed).collect(),
            measures: intervals::estimate(&units, seed, |counts| over_seeds(&all, counts, place as u64)),
            accuracy_range: [accuracies.iter().copied().fold(1.0, f64::min), accuracies.iter().copied().fold(0.0, f64::max)],
            alpha_text: alphas.map(|alphas| alphas.iter().sum::<f64>() / alphas.len() as f64),
            p: two_sided(&differences).filter(|_| runs.len().min(reference.len()) >= LEAST_SEEDS),
            differences,
        }
    };
    let mut rows: Vec<Row> = names.iter().enumerate().map(row).collect();
    let adjusted = paired::holm(&rows.iter().filter_map(|row| row.p).collect::<Vec<_>>());
    rows.iter_mut().filter(|row| row.p.is_some()).zip(adjusted).for_each(|(row, p)| row.p = Some(p));
    Ablation {
        part: items.part.to_string(),
        items: items.rows.len(),
        draws: units.basis(seed),
        no_p: no_p(&rows),
        rows,
        failed: Vec::new(),
        ranks: Vec::new(),
        alphas: None,
    }
}

/// Means over seeds drawn with replacement, on a draw of the items: another training would have had another seed, as another study other patients.
/// The draw of seeds follows from the draw of items and the variation's `place`; all items once are no draw, and keep all seeds once.
fn over_seeds(seeds: &[Predictions], counts: &[u32], place: u64) -> Vec<(&'static str, Option<f64>)> {
    if counts.iter().all(|count| *count == 1) {
        return mean_numbers(seeds, counts);
    }
    let mut bytes: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
    bytes.extend(place.to_le_bytes());
    let drawn = (0..seeds.len()).map(|number| {
        let digest = hash::sha256_hex(&[bytes.as_slice(), &(number as u64).to_le_bytes()].concat());
        // Fifteen hexadecimal digits of a SHA-256 always are a number.
        let random = u64::from_str_radix(&digest[..15], 16).unwrap_or_default();
        seeds[(random % seeds.len() as u64) as usize].clone()
    });
    mean_numbers(&drawn.collect::<Vec<_>>(), counts)
}

/// Why rows lack a p-value, where seeds are why.
fn no_p(rows: &[Row]) -> Option<String> {
    let fewest = rows.iter().map(|row| row.seeds.len()).min()?;
    (rows.len() > 1 && fewest < LEAST_SEEDS).then(|| {
        format!("no p-value where a variation or the first one has fewer than {LEAST_SEEDS} seeds: the spread over trainings cannot be told from {fewest}")
    })
}

/// Twice the smaller share of draws on one side of zero, at least one draw.
fn two_sided(differences: &[Difference]) -> Option<f64> {
    let accuracy = differences.iter().find(|row| row.measure == "accuracy")?;
    let smaller = accuracy.not_above?.min(accuracy.not_below?);
    Some((2.0 * smaller.max(1.0 / intervals::DRAWS as f64)).min(1.0))
}

#[cfg(test)]
mod tests;
