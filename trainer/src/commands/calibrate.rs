//! `mmlnb-train calibrate`

use crate::{
    calibrate::{Example, Found, calibrate},
    classify::{IMAGES, Recorder},
    data::{self, Needs, Row, Table},
    error::TrainError,
    generate::{BATCH, Prompter, computed_in},
    run::{files, listen},
    start, threads,
};
use mmlnb_models::{
    activations::ACTIVATIONS,
    cost,
    graph::Graph,
    problems::Problems,
    statistics::{CALIBRATION, FORMAT, Gathered, Statistics, TENSORS},
    weights::{Adapter, Checkpoint, Naming, Weights},
};
use mmlnb_study::error::StudyError;
use std::{
    fs,
    num::NonZeroU16,
    path::{Path, PathBuf},
};
use tch::{Device, Kind};

/// Gathers statistics of what goes through a network, for weights in few bits: of a describer for `mmlnb-export --calibration`, of a classifier into its folder.
///
/// With --base, the describer (base, or base with adapter) reads images and prompts of a CSV file as it does when it is served, and after them the column `description`;
/// where that is absent or empty, it writes a description itself, by the likeliest tokens. OUTPUT holds statistics.safetensors (two numbers for each input channel
/// of each layer) and calibration.json, which names base, adapter and data by their hashes; it appears whole or not at all. A hundred images are usually enough.
///
/// With --classifier, the image encoder (VGG16) sees the images as it does when it is served, and the largest activation behind each of its convolutions, and the mean of what goes in,
/// are written into the folder as activations.json, with the hashes of weights and data. Every training does this at its end; older runs, and weights that did not come from a training, need it for
/// convolutions in 8 bits. Give images like those that trained.
#[derive(clap::Args)]
pub struct Args {
    /// CSV file with the column `file_name`; `description` is used if there
    #[arg(long, value_name = "CSV")]
    data: PathBuf,
    /// The folder below which the images lie
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// The Qwen2.5-VL checkpoint
    #[arg(long, value_name = "DIR", required_unless_present = "classifier", requires = "output", conflicts_with = "classifier")]
    base: Option<PathBuf>,
    /// A classifier's folder, which gets activations.json; one that is there is replaced
    #[arg(long, value_name = "DIR")]
    classifier: Option<PathBuf>,
    /// An adapter, in PEFT's format, merged into the checkpoint
    #[arg(long, value_name = "DIR", conflicts_with = "classifier")]
    adapter: Option<PathBuf>,
    /// Accept an adapter that lacks modules that its configuration names: they stay as in the base
    #[arg(long, requires = "adapter")]
    allow_partial: bool,
    /// The folder of a describer's statistics; those of an earlier time there are replaced
    #[arg(long, value_name = "DIR", conflicts_with = "classifier")]
    output: Option<PathBuf>,
    /// Prompt and generation settings (TOML), as for `mmlnb-export bundle`
    #[arg(long, value_name = "FILE", conflicts_with = "classifier")]
    settings: Option<PathBuf>,
    /// Width and height that every image gets, multiples of 28 [default: those of the adapter's training, else by smart_resize]
    #[arg(long, value_name = "WxH", value_parser = super::image_size, conflicts_with = "classifier")]
    image_size: Option<[i64; 2]>,
    /// Most rows that are read; they are spread evenly over the file
    #[arg(long, value_name = "N", default_value_t = IMAGES, value_parser = super::at_least_one)]
    rows: usize,
    /// Threads of libtorch [default: one for small networks, else the physical cores]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroU16>,
    #[command(flatten)]
    place: super::place::Place,
    /// Check everything, say what would be read, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Everything that is wrong with settings, data and weights, before anything is computed; then whatever stops the work.
pub fn run(args: Args) -> Result<(), TrainError> {
    listen();
    match (&args.classifier, &args.base, &args.output) {
        (Some(folder), ..) => classifier(&args, folder),
        (None, Some(base), Some(output)) => describer(&args, base, output),
        _ => Err(TrainError::Asked("give --base and --output for a describer, or --classifier".into())),
    }
}

/// The activations of a classifier's image encoder.
fn classifier(args: &Args, folder: &Path) -> Result<(), TrainError> {
    let recorder = Recorder::open(folder, args.place.device()?)?;
    let table = data::load(&args.data, &args.images, &Needs::default())?;
    eprintln!("{} of {} images", table.rows.len().min(args.rows), table.rows.len());
    if args.dry_run {
        return Ok(());
    }
    start::set_threads(recorder.threads(args.threads)?);
    let recorded = recorder.record(&table, args.rows)?;
    println!("{}: {} layers, {} images", folder.join(ACTIVATIONS).display(), recorded.layers.len(), recorded.images);
    Ok(())
}

/// Statistics of a describer's linear layers.
fn describer(args: &Args, base: &Path, output: &Path) -> Result<(), TrainError> {
    let device = args.place.device()?;
    free_for_output(args, base, output)?;
    let prompter = Prompter::open(base, args.adapter.as_deref(), args.settings.as_deref(), args.image_size)?;
    let table = checked_data(args, &prompter)?;
    let checkpoint = Checkpoint::open(base, Naming::Qwen)?;
    let adapter = args.adapter.as_deref().map(Adapter::open).transpose()?;
    let adapter = adapter.map(|adapter| adapter.allowing_partial(args.allow_partial));
    let weights = match &adapter {
        Some(adapter) => Weights::with_adapter(&checkpoint, adapter)?,
        None => Weights::new(&checkpoint),
    };
    let graphs = crate::describe::graphs(&prompter.config, &weights);
    checkpoint.check_all(graphs.iter().map(Graph::parameters))?;
    checkpoint.check_finite()?;
    if let Some(adapter) = &adapter {
        adapter.verify_changes(&weights, &graphs.iter().collect::<Vec<_>>())?;
        adapter.told_partial(&checkpoint).iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
    let examples = spread(&table, args.rows);
    say_plan(&examples, &table, &graphs, (computed_in(&checkpoint, device), device));
    if args.dry_run {
        return Ok(());
    }
    let threads = threads::chosen(args.threads, None, threads::of_describer(&prompter.config))?;
    start::set_threads(threads);
    let Found { layers, tokens } = calibrate(&prompter, &weights, &examples, device, BATCH)?;
    let gathered = Gathered {
        format: FORMAT,
        producer: format!("mmlnb-train {}", env!("CARGO_PKG_VERSION")),
        checkpoint_sha256: checkpoint.sha256()?.to_string(),
        adapter_sha256: adapter.as_ref().map(Adapter::sha256).transpose()?.map(str::to_string),
        data_sha256: table.sha256(),
        rows: examples.len(),
        written: written(&examples),
        tokens,
        statistics_sha256: String::new(),
    };
    files::replace_folder(output, |folder| -> Result<(), TrainError> { Ok(Statistics::write(&layers, gathered, folder)?) })?;
    println!("{}: {} layers, {} images, {tokens} tokens", output.display(), layers.len(), examples.len());
    Ok(())
}

/// Refuses an output that is an input, or holds something else than statistics.
fn free_for_output(args: &Args, base: &Path, output: &Path) -> Result<(), TrainError> {
    let Args { data, images, adapter, .. } = args;
    let inputs = [("--data", data.as_path()), ("--images", images), ("--base", base)];
    let inputs: Vec<(&str, &Path)> = inputs.into_iter().chain(adapter.iter().map(|dir| ("--adapter", dir.as_path()))).collect();
    files::not_an_input(output, &inputs)?;
    let problem = |what: &str| TrainError::Asked(format!("{} {what}; choose another --output", output.display()));
    if !output.exists() {
        return Ok(());
    }
    if !output.is_dir() {
        return Err(problem("is a file"));
    }
    let entries = fs::read_dir(output).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.map_err(TrainError::io("read", output))?;
    let ours = |name: &std::ffi::OsStr| name == CALIBRATION || name == TENSORS;
    if entries.iter().all(|entry| ours(&entry.file_name())) { Ok(()) } else { Err(problem("holds other files")) }
}

fn checked_data(args: &Args, prompter: &Prompter) -> Result<Table, TrainError> {
    let table = data::load(&args.data, &args.images, &Needs::default())?;
    let control = prompter.tokenizer().special_tokens();
    let mut problems = Problems::default();
    for Row { line, file_name, description, width, height, .. } in &table.rows {
        if let Err(error) = prompter.processor.resized(i64::from(*width), i64::from(*height)) {
            problems.at(*line, "images that cannot be described", format!("{file_name}: {error}"));
        }
        if let Some(token) = control.iter().find(|token| description.as_ref().is_some_and(|text| text.contains(*token))) {
            problems.at(*line, "texts with control tokens", format!("the description holds {token}; take it out"));
        }
    }
    StudyError::data(&table.file, problems)?;
    Ok(table)
}

/// At most so many rows, the first one and others at equal distances.
fn spread(table: &Table, most: usize) -> Vec<Example> {
    let count = table.rows.len().min(most);
    let chosen = (0..count).map(|number| &table.rows[number * table.rows.len() / count]);
    let example = |row: &Row| {
        let description = row.description.clone().filter(|text| !text.trim().is_empty());
        Example { image: table.image(row), sha256: row.sha256.clone(), description }
    };
    chosen.map(example).collect()
}

/// Examples whose description the describer writes itself.
fn written(examples: &[Example]) -> usize {
    examples.iter().filter(|example| example.description.is_none()).count()
}

fn say_plan(examples: &[Example], table: &Table, graphs: &[Graph], (kind, device): (Kind, Device)) {
    let (rows, own) = (examples.len(), written(examples));
    eprintln!("{rows} of {} rows, {} with their descriptions, {own} described first", table.rows.len(), rows - own);
    let parameters = cost::parameters(&graphs.iter().collect::<Vec<_>>()) as f64;
    let gib = parameters * kind.elt_size_in_bytes() as f64 / f64::from(1 << 30);
    eprintln!(
        "{:.2} billion parameters in {kind:?} on {device:?}: {gib:.1} GiB, and what images and texts need",
        parameters / 1e9
    );
}
