//! `mmlnb-train ablate`

use super::{describe, place::Place};
use crate::{
    ablate::{Options, USUAL, lines, markdown, ranks, run as train, variations},
    classify::check_options,
    error::TrainError,
    run::files,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Trains recipes over seeds on one split and compares them with the first: the paper's figure, ours with its interval, and the paired difference.
///
/// Besides recipes there are three variations of `paper` that take away what the method should need: shuffled-text (the text of another patient),
/// blank-image, and masked-text (words that name a class). The first variation's classifiers are then asked with true, swapped, generic and empty texts:
/// how alpha answers to worse texts. Each run has its own folder, OUTPUT/NAME/seed-N; finished runs are kept and stopped ones go on, so the same
/// command continues after Ctrl-C. With --ranks a describer is tuned for each rank first, on the images of --describe-data, and the recipe `paper` is trained
/// on its texts as variation rank-N. The tables are printed and written to ablation.md, ablation.json and ablation.html in OUTPUT.
///
/// Exit code 3: some runs could not be trained, and the table holds the others.
#[derive(clap::Args)]
pub struct Args {
    /// CSV file with the columns file_name, description, class and, if known, group (patient), site, split
    #[arg(long, value_name = "CSV")]
    data: PathBuf,
    /// The folder below which the images lie
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// The folder of all runs and of the table
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Recipes and variations; the others are compared with the first
    #[arg(long, value_name = "A,B,..", value_delimiter = ',', default_values_t = USUAL.map(String::from))]
    recipes: Vec<String>,
    /// Seeds of weights, order and dropout
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', default_values_t = [1, 2, 3])]
    seeds: Vec<u64>,
    /// TOML file with keys for all recipes, and tables named like one with keys for it alone
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Who describes the images: a run of `describe`, an adapter's folder or a Qwen2.5-VL checkpoint [default: the CSV file]
    #[arg(long, value_name = "DIR")]
    describer: Option<PathBuf>,
    /// The checkpoint beside which the describer's adapter was trained [default: the one that its run names]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Ranks of describers to compare, tuned on --base
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', requires_all = ["base", "describe_data"])]
    ranks: Vec<i64>,
    /// CSV file of the images and descriptions on which these describers are tuned; the images lie below --images too
    #[arg(long, value_name = "CSV", requires = "ranks")]
    describe_data: Option<PathBuf>,
    /// TOML file with keys of `describe` for all ranks
    #[arg(long, value_name = "FILE", requires = "ranks")]
    describe_config: Option<PathBuf>,
    /// Names of the classes from the lowest to the highest [default: UD,PD,D where those are the names]
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    class_order: Option<Vec<String>>,
    /// Seed of the split, the same for all runs, and of the draws
    #[arg(long, value_name = "N", default_value_t = 2024)]
    split_seed: u64,
    #[command(flatten)]
    place: Place,
    /// Lines of JSON instead of Markdown: one a variation, then one a condition of the texts
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Wrong data or settings, a signal, and [`TrainError::Partly`] when some runs could not be trained.
pub fn run(args: Args) -> Result<(), TrainError> {
    let device = args.place.device()?;
    let config = table(args.config.as_deref())?;
    let names: Vec<String> =
        args.recipes.iter().cloned().chain(args.ranks.iter().map(|rank| ranks::variation_of(*rank))).collect();
    let mut variations = variations(&names, &config)?;
    let checks: Vec<Result<(), TrainError>> = variations
        .iter()
        .filter(|variation| ranks::rank_of(&variation.name).is_none())
        .map(|variation| check_options(&variation.recipe, args.describer.as_deref(), args.base.as_deref()))
        .collect();
    // One that uses them is enough; ranks are tuned on --base.
    if args.ranks.is_empty() && checks.iter().all(Result::is_err) {
        checks.into_iter().collect::<Result<(), TrainError>>()?;
    }
    let mut tuned = Vec::new();
    for variation in &mut variations {
        if let Some(rank) = ranks::rank_of(&variation.name) {
            let run = tune(&args, rank)?;
            tuned.push(ranks::read(rank, &run)?);
            variation.describer = Some(run);
        }
    }
    let mut seeds = args.seeds;
    seeds.sort_unstable();
    seeds.dedup();
    let ablation = train(&Options {
        data: args.data,
        images: args.images,
        output: args.output,
        variations,
        seeds,
        describer: args.describer,
        base: args.base,
        ranks: tuned,
        class_order: args.class_order,
        split_seed: args.split_seed,
        device,
    })?;
    if args.json {
        lines(&ablation).iter().for_each(|line| println!("{line}"));
    } else {
        print!("{}", markdown(&ablation));
    }
    if ablation.failed.is_empty() {
        return Ok(());
    }
    Err(TrainError::Partly(format!("{} runs could not be trained:\n{}", ablation.failed.len(), ablation.failed.join("\n"))))
}

/// Tunes the describer of one rank in a run below --output, or goes on with it.
fn tune(args: &Args, rank: i64) -> Result<PathBuf, TrainError> {
    let missing = |option: &str| TrainError::Asked(format!("the variation rank-{rank} needs {option}; see --ranks"));
    let folder = args.output.join("describers");
    fs::create_dir_all(&folder).map_err(TrainError::io("create", &folder))?;
    let run = folder.join(ranks::variation_of(rank));
    let mut config = table(args.describe_config.as_deref())?;
    config.insert("rank".into(), rank.into());
    let file = run.with_extension("toml");
    files::replace_file(&file, config.to_string().as_bytes())?;
    eprintln!("a describer of rank {rank}");
    describe::run(describe::Args {
        data: args.describe_data.clone().ok_or_else(|| missing("--describe-data"))?,
        images: args.images.clone(),
        base: args.base.clone().ok_or_else(|| missing("--base"))?,
        output: run.clone(),
        config: Some(file),
        place: args.place.clone(),
        threads: None,
        resume: true,
        dry_run: false,
    })?;
    Ok(run)
}

fn table(file: Option<&Path>) -> Result<toml::Table, TrainError> {
    let Some(file) = file else { return Ok(toml::Table::new()) };
    let text = fs::read_to_string(file).map_err(TrainError::io("read", file))?;
    text.parse().map_err(|error| TrainError::file(file, error))
}
