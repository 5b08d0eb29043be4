//! `mmlnb-train describe`.

use super::place::Place;
use crate::{
    data::{
        self, Needs, Overlap, Part, Row, Split, SplitOptions, Summary, Table, TrainingData, Who, check_overlap, salt_of,
        training_data,
    },
    describe::{
        self, Item, Recipe, Templates, Training,
        memory::{self, Load},
    },
    error::TrainError,
    generate::Prompter,
    run::{Decided, Opened, RunFolder},
    start, threads,
};
use mmlnb_models::{
    graph::Graph,
    hash::sha256_hex,
    record::Record,
    weights::{Checkpoint, Naming, Weights},
};
use serde_json::json;
use std::{
    num::NonZeroU16,
    path::{Path, PathBuf, absolute},
};
use tch::Device;

/// Tune a Qwen2.5-VL describer on images and their descriptions (LoRA, rsLoRA, DoRA or all weights).
#[derive(clap::Args)]
pub struct Args {
    /// CSV file with the columns file_name and description; group, site and split are used if there.
    #[arg(long, value_name = "CSV")]
    pub(super) data: PathBuf,
    /// The folder that file_name is relative to.
    #[arg(long, value_name = "DIR")]
    pub(super) images: PathBuf,
    /// A Qwen2.5-VL checkpoint in the Hugging Face layout.
    #[arg(long, value_name = "DIR")]
    pub(super) base: PathBuf,
    /// The run's folder: best/, last/, metrics.jsonl, run.toml.
    #[arg(long, value_name = "RUN")]
    pub(super) output: PathBuf,
    /// Settings of the run (TOML); what it leaves out has the documented defaults.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) place: Place,
    /// Threads of libtorch [default: the recipe's, else one for small networks and the physical cores for others].
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<NonZeroU16>,
    /// Go on with the run in --output.
    #[arg(long)]
    pub(super) resume: bool,
    /// Check everything, show one sample token by token, the memory and the plan, and stop.
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Trains.
///
/// # Errors
/// Everything that is wrong with settings and data, before any weight is loaded; then whatever stops the training.
pub fn run(args: Args) -> Result<(), TrainError> {
    let device = args.place.device()?;
    let mut recipe = Recipe::read(args.config.as_deref())?;
    let prompter = Prompter::with_settings(&args.base, None, recipe.settings(), recipe.image_size)?;
    let resumed = args.resume.then_some(args.output.as_path());
    let threads = threads::chosen(args.threads.or(recipe.threads), resumed, threads::of_describer(&prompter.config))?;
    recipe.threads = Some(threads);
    start::set_threads(threads);
    if recipe.method != describe::Method::Full {
        describe::check_targets(&recipe, &prompter.config)?;
    }
    let templates = Templates::new(&prompter, &recipe)?;
    let control = prompter.tokenizer().special_tokens();
    let (table, split) = checked_data(&args, &recipe, &templates, &control)?;
    let [train, validation] = [Part::Train, Part::Validation].map(|part| templates.items(&table, &split.parts, part));
    let (train, validation) = (train?, validation?);
    let before = base_not_seen(&args.base, &table, &split)?;
    if train.is_empty() {
        return Err(TrainError::Asked(format!("{} has no row for training; see `split` and `fractions`", args.data.display())));
    }
    let base = Checkpoint::open(&args.base, Naming::Qwen)?;
    let weights = Weights::new(&base);
    base.check_all(describe::graphs(&prompter.config, &weights).iter().map(Graph::parameters))?;
    base.check_finite()?;
    let summary = Summary::of(&table, &split, None);
    eprintln!("{summary}");
    split.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
    say_plan(&recipe, &train, &validation, device);
    plan_memory(&recipe, &prompter, &base, device, &train)?;
    if args.dry_run {
        println!("{}", templates.shown(&train[0].sample).join("\n"));
        return Ok(());
    }
    let decided = decided(&recipe, &table, &split, &base, &prompter, &args)?
        .with("device", json!({ "kind": start::device_kind(device) }))?;
    let (mut folder, state) = match RunFolder::open(&args.output, &decided, args.resume)? {
        Opened::Fresh(folder) => (folder, None),
        Opened::Resumed(folder, state) => (folder, Some(state)),
        Opened::Finished => return Ok(()),
    };
    folder.write("measures.json", format!("{:#}\n", json!({ "data": summary })).as_bytes())?;
    let prompt = Some(prompter.settings.prompt.clone());
    let record = Record { image_size: recipe.image_size, prompt, data_sha256: table.sha256() };
    let training = Training {
        recipe: &recipe,
        prompter: &prompter,
        base: &base,
        images: &args.images,
        train: &train,
        validation: &validation,
        pad: templates.pad(),
        device,
        record: &record,
        training_data: &training_data(&table, &split, salt_of(&args.output)?, before),
    };
    let outcome = training.run(folder, state)?;
    let best = outcome.best.map_or(String::new(), |nll| format!(", best validation loss {nll:.4}"));
    println!("{}: {} epochs{best}", args.output.display(), outcome.epochs);
    Ok(())
}

fn checked_data(
    args: &Args,
    recipe: &Recipe,
    templates: &Templates<'_>,
    control: &[String],
) -> Result<(Table, Split), TrainError> {
    let control: Vec<&str> = control.iter().map(String::as_str).collect();
    let tokens = |row: &Row| templates.tokens(row);
    let limit = data::TextLimit { tokens: &tokens, most: recipe.max_tokens, cut: false };
    let needs = Needs { description: true, text: Some(limit), control: &control, ..Needs::default() };
    let table = data::load(&args.data, &args.images, &needs)?;
    let usual = SplitOptions::usual(&table, recipe.split_seed);
    let split = data::split(&table, &SplitOptions { fractions: recipe.fractions, ..usual })?;
    Ok((table, split))
}

/// What the base has seen, if it was tuned before: nothing that is to choose the best epoch or to be reported.
fn base_not_seen(base: &Path, table: &Table, split: &Split) -> Result<Option<TrainingData>, TrainError> {
    let before = TrainingData::read(base)?;
    // A checkpoint of the hub has no record, and knows none of these images.
    let known: Vec<Option<TrainingData>> = before.iter().cloned().map(Some).collect();
    if check_overlap(table, split, Who::Base, &known, false)? == Overlap::Unknown {
        eprintln!("WARNING: unknown: a part of what the base was trained on; images that are reported may be among it");
    }
    Ok(before)
}

fn say_plan(recipe: &Recipe, train: &[Item], validation: &[Item], device: Device) {
    let each = train.len().div_ceil(recipe.batch_size).div_ceil(recipe.accumulation);
    let longest = train.iter().map(|item| item.sample.ids.len()).max().unwrap_or(0);
    eprintln!(
        "{} images train, {} validate; longest sequence {longest} tokens; {} epochs of {each} steps of {} x {} images on {device:?}{}",
        train.len(),
        validation.len(),
        recipe.epochs,
        recipe.batch_size,
        recipe.accumulation,
        recipe.threads.map_or(String::new(), |threads| format!(", threads of libtorch: {threads}")),
    );
}

/// The memory table; a run that cannot fit is refused.
fn plan_memory(
    recipe: &Recipe,
    prompter: &Prompter,
    base: &Checkpoint,
    device: Device,
    train: &[Item],
) -> Result<(), TrainError> {
    let load = Load::of(train, recipe.batch_size);
    let place = (device, describe::base_kind(recipe, base));
    let given = recipe.memory_gib.map(|gib| (gib * (1u64 << 30) as f64) as i64);
    let plan = match given.or_else(|| memory::free(device)) {
        Some(available) => memory::check(recipe, &prompter.config, place, load, available)?,
        None => {
            eprintln!("warning: nobody says how much memory {device:?} has free; give `memory_gib` to have the plan checked");
            memory::plan(recipe, &prompter.config, place, load)?
        }
    };
    eprintln!("memory:\n{}", plan.lines().join("\n"));
    Ok(())
}

/// Everything that decides the result.
fn decided(
    recipe: &Recipe,
    table: &Table,
    split: &Split,
    base: &Checkpoint,
    prompter: &Prompter,
    args: &Args,
) -> Result<Decided, TrainError> {
    // Later commands look for the base here, from whatever folder they are started.
    let found = |path: &Path| absolute(path).map_err(TrainError::io("read", path));
    let paths = json!({ "data": found(&args.data)?, "images": found(&args.images)?, "base": found(&args.base)? });
    let parts: String = split.parts.iter().map(|part| format!("{part:?}\n")).collect();
    let decided = Decided::default()
        .with("recipe", recipe)?
        .with(
            "data",
            json!({ "sha256": table.sha256(), "split_sha256": sha256_hex(parts.as_bytes()), "rows": table.rows.len() }),
        )?
        .with("base", json!({ "sha256": base.sha256()?, "prompt": prompter.settings.prompt }))?
        .with("seeds", json!({ "seed": recipe.seed, "split_seed": recipe.split_seed }))?
        .with("versions", json!({ "mmlnb": env!("CARGO_PKG_VERSION"), "libtorch": start::TORCH_VERSION }))?
        .with("paths", paths)?;
    Ok(decided)
}
