//! `mmlnb-train evaluate`

use crate::{
    classify,
    data::{self, ClassOrder, Needs},
    error::TrainError,
    evaluate::{compare_descriptions, write_blind, write_page},
    generate::{BATCH, Generated, Source, write_descriptions},
    run::{files, predictions},
    start, threads,
};
use mmlnb_models::config::{CLASSIFIER_MODEL_TYPE, ClassifierConfig};
use std::{
    fs,
    num::NonZeroU16,
    path::{Path, PathBuf},
};
use tch::Device;

/// Measures a trained model on other data than its own.
///
/// A run of `describe`: base and tuned descriptions side by side, with text measures and facts against the CSV file's descriptions, the difference of
/// both with its interval over patients, and a page; --blind adds a shuffled A/B page for an expert's reading and its key.
///
/// A run of `classify`: predictions.jsonl and measures.json as in the run's own folder, with intervals over patients. Texts are the CSV file's, or with
/// --describer a describer's.
#[derive(clap::Args)]
pub struct Args {
    /// The run's folder
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// CSV file with the column file_name; description, class and group are used if there
    #[arg(long, value_name = "CSV")]
    data: PathBuf,
    /// The folder that file_name is relative to
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// For a classifier: who describes the images, a run of `describe`, an adapter's folder or a checkpoint [default: the CSV file]
    #[arg(long, value_name = "DIR")]
    describer: Option<PathBuf>,
    /// The checkpoint that the describer was trained from [default: the one that the adapter names]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The folder to be written [default: evaluations/NAME in the run's folder, NAME that of the CSV file]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Prompt and generation settings (TOML), as for `mmlnb-export bundle`
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// A page with the texts of base and tuned describer in random order, for an expert, and the key apart from it
    #[arg(long)]
    blind: bool,
    /// Of the order of the blind page
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images that are described together
    #[arg(long, value_name = "N", default_value_t = BATCH, value_parser = super::at_least_one)]
    batch: usize,
    /// Threads of libtorch [default: one for small networks, else the physical cores]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroU16>,
    /// Where it computes: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// Runs the command.
///
/// # Errors
/// Wrong input, a run that cannot be used; [`TrainError::Partly`] when some images have no description.
pub fn run(args: Args) -> Result<(), TrainError> {
    let device = start::device(&args.device)?;
    let best = args.run.join("best");
    if !best.is_dir() {
        return Err(TrainError::Asked(format!("{} is no run: there is no folder `best` in it", args.run.display())));
    }
    let name = args.data.file_stem().unwrap_or_default();
    let output = args.output.clone().unwrap_or_else(|| args.run.join("evaluations").join(name));
    let create = || fs::create_dir_all(&output).map_err(TrainError::io("create", &output));
    if is_classifier(&best)? {
        if args.blind {
            return Err(TrainError::Asked("--blind compares texts, but this is a classifier's run".into()));
        }
        create()?;
        return classifier(&args, &best, &output, device);
    }
    if args.describer.is_some() {
        return Err(TrainError::Asked("--describer is for a classifier's run, but this is a describer's".into()));
    }
    create()?;
    describer(&args, &output, device)
}

fn use_threads(asked: Option<NonZeroU16>, operations: f64) -> Result<(), TrainError> {
    let threads = threads::chosen(asked, None, operations)?;
    start::set_threads(threads);
    eprintln!("threads of libtorch: {threads}");
    Ok(())
}

fn is_classifier(best: &Path) -> Result<bool, TrainError> {
    let file = best.join("config.json");
    if !file.is_file() {
        return Ok(false);
    }
    Ok(mmlnb_models::json::read(&file)?.get("model_type").and_then(|kind| kind.as_str()) == Some(CLASSIFIER_MODEL_TYPE))
}

fn classifier(args: &Args, best: &Path, output: &Path, device: Device) -> Result<(), TrainError> {
    let config = ClassifierConfig::from_dir(best)?;
    let describer = args.describer.as_deref().map(|folder| Source::of(folder, args.base.as_deref(), device)).transpose()?;
    let describer = describer.map(|source| Source { batch: args.batch, settings: args.settings.clone(), ..source });
    let asking = describer.as_ref().map(Source::prompter).transpose()?;
    let operations = threads::of_classifier(&config).max(asking.map_or(0.0, |asking| threads::of_describer(&asking.config)));
    use_threads(args.threads, operations)?;
    let needs = Needs {
        class: true,
        description: config.text.is_some() && describer.is_none(),
        order: ClassOrder::Fixed(&config.classes),
        ..Needs::default()
    };
    let table = data::load(&args.data, &args.images, &needs)?;
    let found = classify::evaluate(best, &table, describer.as_ref(), &output.join("descriptions.jsonl"), device)?;
    predictions::write(output, &found.predictions)?;
    let measures = serde_json::json!({ "test": found.measures });
    let text = serde_json::to_string_pretty(&measures).map_err(|error| TrainError::Failed(error.to_string()))?;
    files::replace_file(&output.join("measures.json"), format!("{text}\n").as_bytes())?;
    for (name, one) in &found.measures.estimates.measures {
        let interval = one.interval.map_or("no interval".into(), |i| format!("{:.3} to {:.3}", i.low, i.high));
        println!("{name}: {} ({interval})", one.value.map_or("-".into(), |value| format!("{value:.3}")));
    }
    let accepted = &found.measures.accepted;
    println!(
        "{}: {} images, {} accepted, {} of these wrong",
        output.display(),
        accepted.items,
        accepted.accepted,
        accepted.errors
    );
    Ok(())
}

fn describer(args: &Args, output: &Path, device: Device) -> Result<(), TrainError> {
    let table = data::load(&args.data, &args.images, &Needs::default())?;
    let found = Source::of(&args.run, args.base.as_deref(), device)?;
    let tuned = Source { batch: args.batch, settings: args.settings.clone(), ..found };
    use_threads(args.threads, threads::of_describer(&tuned.prompter()?.config))?;
    let base = match (&tuned.adapter, &args.base) {
        (Some(adapter), _) => Source { adapter: None, asked_as: Some(adapter.clone()), ..tuned.clone() },
        (None, Some(base)) => Source { base: base.clone(), asked_as: Some(tuned.base.clone()), ..tuned.clone() },
        (None, None) => {
            let problem = format!("{} trained all weights; give the checkpoint that it began with by --base", args.run.display());
            return Err(TrainError::Asked(problem));
        }
    };
    let compared = compare_descriptions(&table, &base, &tuned, &output.join("descriptions.jsonl"))?;
    let measures = serde_json::to_string_pretty(&compared.measures).map_err(|error| TrainError::Failed(error.to_string()))?;
    files::replace_file(&output.join("measures.json"), format!("{measures}\n").as_bytes())?;
    let sheet = data::Sheet::read(&args.data)?;
    for (name, of) in [("base.csv", false), ("tuned.csv", true)] {
        let written = |record: &data::Record| -> Option<&Generated> {
            let pair = compared.pairs.iter().find(|pair| pair.line == record.line)?;
            Some(if of { &pair.tuned } else { &pair.base })
        };
        write_descriptions(&sheet, &output.join(name), &sheet.records.iter().map(written).collect::<Vec<_>>())?;
    }
    write_page(output, &named(&args.run), &compared, &args.images)?;
    if args.blind {
        write_blind(output, &compared.pairs, &args.images, args.seed)?;
    }
    for one in &compared.measures.differences {
        let interval =
            one.interval.map_or("too few patients for an interval".into(), |i| format!("{:.3} to {:.3}", i.low, i.high));
        println!("{}: {} ({interval}), tuned minus base", one.measure, one.difference.map_or("-".into(), |d| format!("{d:+.3}")));
    }
    println!("{}: {} images", output.join("evaluation.html").display(), compared.pairs.len());
    match compared.failed.as_slice() {
        [] => Ok(()),
        failed => Err(TrainError::Partly(format!("{} rows have no description:\n{}", failed.len(), failed.join("\n")))),
    }
}

fn named(run: &Path) -> String {
    run.file_name().map_or_else(|| run.display().to_string(), |name| name.to_string_lossy().into_owned())
}
