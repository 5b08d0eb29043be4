//! `mmlnb-train classify`

use super::place::Place;
use crate::{
    classify::{Options, Protocol, Recipe, RunMeasures, check_options, run as train},
    data::SPLIT_SEED,
    error::TrainError,
};
use std::{num::NonZeroU16, path::PathBuf};

/// Trains the classifier with its curriculum (MMLNB, arXiv 2503.12927), calibrates it and measures it.
///
/// All of the data is checked first, and everything that is wrong is listed at once (exit code 2). The run's folder gets best/ and last/ (classifier
/// folders, ready for `mmlnb-export bundle --classifier`), metrics.jsonl, predictions.jsonl, measures.json and run.toml. Ctrl-C saves; the same command
/// with --resume goes on bit for bit (on the CPU).
///
/// Recipes: paper, released, no-prmf-concat, no-prmf-fixed-0.3, no-prmf-fixed-0.5, no-prmf-fixed-0.7, no-curriculum, slow, image-only, text-only, swin,
/// swin-image-only, base-vlm, human-text, robust.
#[derive(clap::Args)]
pub struct Args {
    /// CSV file with the columns file_name, description, class and, if known, group (patient), site, split
    #[arg(long, value_name = "CSV")]
    data: PathBuf,
    /// The folder below which the images lie
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// The folder of this run
    #[arg(long, value_name = "RUN")]
    output: PathBuf,
    /// Who describes the images: a run of `describe`, an adapter's folder or a Qwen2.5-VL checkpoint [default: the CSV file]
    #[arg(long, value_name = "DIR")]
    describer: Option<PathBuf>,
    /// The checkpoint beside which the describer's adapter was trained [default: the one that its run names]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// How to train
    #[arg(long, value_name = "NAME", default_value = "paper")]
    recipe: String,
    /// TOML file that changes keys of the recipe, among them start, image_weights and text_weights
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Names of the classes from the lowest to the highest, so that kappa is weighted [default: UD,PD,D where those are the names]
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    class_order: Option<Vec<String>>,
    /// paper: a random fifth of the images chooses the best epoch and is reported, patients or not, as in the paper's code
    #[arg(long, value_name = "NAME", value_parser = ["paper"], conflicts_with_all = ["folds", "leave_out"])]
    protocol: Option<String>,
    /// Cut the patients into so many folds
    #[arg(long, value_name = "K", requires = "fold", conflicts_with = "leave_out")]
    folds: Option<usize>,
    /// The fold that is reported, from 1
    #[arg(long, value_name = "N", requires = "folds")]
    fold: Option<usize>,
    /// The site that is reported; the others train and validate
    #[arg(long, value_name = "SITE")]
    leave_out: Option<String>,
    /// Report also where the describer was tuned on images that are reported; every report will say so
    #[arg(long)]
    allow_overlap: bool,
    #[command(flatten)]
    place: Place,
    /// Seed of weights, order, dropout and augmentation [default: the recipe's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Seed of the split, so that several trainings share one
    #[arg(long, value_name = "N", default_value_t = SPLIT_SEED)]
    split_seed: u64,
    /// Threads of libtorch [default: the recipe's, else one for small networks, else the physical cores]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroU16>,
    /// Go on with a run that was stopped
    #[arg(long)]
    resume: bool,
    /// Check the data, print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Wrong data or settings, a signal, and what the work itself meets.
pub fn run(args: Args) -> Result<(), TrainError> {
    let device = args.place.device()?;
    let mut recipe = Recipe::load(&args.recipe, args.config.as_deref())?;
    recipe.seed = args.seed.unwrap_or(recipe.seed);
    recipe.threads = args.threads.or(recipe.threads);
    check_options(&recipe, args.describer.as_deref(), args.base.as_deref())?;
    let protocol = match (&args.protocol, args.folds, args.fold, &args.leave_out) {
        (Some(_), ..) => Protocol::Paper,
        (None, Some(of), Some(number), _) if number >= 1 && number <= of => Protocol::Fold { number: number - 1, of },
        (None, Some(of), Some(number), _) => {
            return Err(TrainError::Asked(format!("--fold {number} is none of {of}; they count from 1")));
        }
        (_, _, _, Some(site)) => Protocol::LeaveOut(site.clone()),
        _ => Protocol::Usual,
    };
    let measured = train(&Options {
        data: args.data,
        images: args.images,
        output: args.output.clone(),
        recipe_name: args.recipe,
        recipe,
        describer: args.describer,
        base: args.base,
        class_order: args.class_order,
        protocol,
        split_seed: args.split_seed,
        allow_overlap: args.allow_overlap,
        device,
        resume: args.resume,
        dry_run: args.dry_run,
    })?;
    if let Some(measured) = measured {
        println!("{}", told(&measured));
    }
    Ok(())
}

/// The figures that matter, a line each.
fn told(measured: &RunMeasures) -> String {
    let (part, reported) = match &measured.test {
        Some(test) => ("test", test),
        None => ("validation", &measured.validation),
    };
    let mut lines = vec![format!("best epoch {} ({} {:.4})", measured.best.epoch + 1, measured.chosen_by, measured.best.value)];
    for name in ["accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece"] {
        let Some(estimate) = reported.estimates.measures.get(name) else { continue };
        let value = estimate.value.map_or("undefined".to_string(), |value| format!("{value:.4}"));
        let interval =
            estimate.interval.map_or(String::new(), |interval| format!(" [{:.4}, {:.4}]", interval.low, interval.high));
        lines.push(format!("{part} {name} {value}{interval}"));
    }
    let accepted = &reported.accepted;
    lines.push(format!("{part} accepted {} of {}, {} of these wrong", accepted.accepted, accepted.items, accepted.errors));
    lines.extend(measured.warnings.iter().map(|warning| format!("WARNING: {warning}")));
    lines.join("\n")
}
