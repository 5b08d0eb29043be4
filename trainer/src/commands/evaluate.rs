//! `mmlnb-train evaluate`

use crate::{
    classify,
    data::{self, ClassOrder, Needs, Part, Row, Table, TrainingData, tables_describer},
    error::TrainError,
    evaluate::{Pair, compare_descriptions, write_blind, write_page},
    generate::{BATCH, Generated, Source, write_descriptions},
    run::{files, predictions},
    start, threads,
};
use mmlnb_models::{
    config::{CLASSIFIER_MODEL_TYPE, ClassifierConfig},
    prepare::bert_tokenizer::SPECIAL_TOKENS,
    provenance::{Known, Role},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
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
///
/// Rows that trained the model or chose its best epoch, and rows of their patients, are left out, and the number is told: a run keeps hashes of them.
/// Of a classifier without them (imported, or of an earlier version) only rows whose column `split` says test are measured.
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
        control: &SPECIAL_TOKENS,
        ..Needs::default()
    };
    let mut table = data::load(&args.data, &args.images, &needs)?;
    let texts = match &describer {
        Some(source) => Some(TrainingData::read(source.adapter.as_deref().unwrap_or(&source.base))?),
        None if config.text.is_some() => tables_describer(&args.data)?,
        None => None,
    };
    if texts == Some(None) {
        eprintln!(
            "WARNING: unknown: what the describer of the texts was tuned on; images that are measured here may be among it"
        );
    }
    let trained = TrainingData::read(best)?;
    let left_out = leave_out(&mut table, (Model::Classifier, trained.as_ref()), texts.flatten().as_ref())?;
    let found = classify::evaluate(best, &table, describer.as_ref(), &output.join("descriptions.jsonl"), device)?;
    predictions::write(output, &found.predictions)?;
    let measures = serde_json::json!({ "test": found.measures, "left_out": left_out });
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
    let mut table = data::load(&args.data, &args.images, &Needs::default())?;
    let found = Source::of(&args.run, args.base.as_deref(), device)?;
    let trained = TrainingData::read(found.adapter.as_deref().unwrap_or(&found.base))?;
    let left_out = leave_out(&mut table, (Model::Describer, trained.as_ref()), None)?;
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
    let failed = |error: serde_json::Error| TrainError::Failed(error.to_string());
    let mut measures = serde_json::to_value(&compared.measures).map_err(failed)?;
    measures["left_out"] = serde_json::json!(left_out);
    let measures = serde_json::to_string_pretty(&measures).map_err(failed)?;
    files::replace_file(&output.join("measures.json"), format!("{measures}\n").as_bytes())?;
    let sheet = data::Sheet::read(&args.data)?;
    let pairs: BTreeMap<u64, &Pair> = compared.pairs.iter().map(|pair| (pair.line, pair)).collect();
    for (name, of) in [("base.csv", false), ("tuned.csv", true)] {
        let written = |record: &data::Record| -> Option<&Generated> {
            let pair = pairs.get(&record.line)?;
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

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Model {
    Describer,
    Classifier,
}

/// Rows that are not measured, and why.
#[derive(Debug, Serialize)]
struct LeftOut {
    /// Whether the model says what it was trained on.
    known: bool,
    /// The image trained the model, or the file's column `split` says so.
    trained: usize,
    /// Another image of its patient did.
    patients: usize,
    /// It, or another image of its patient, chose the best epoch.
    chosen: usize,
    /// The describer of the texts has seen it or its patient.
    described: usize,
}

/// Leaves the rows out of a table that the model, or the describer of its texts, has seen.
fn leave_out(
    table: &mut Table,
    (what, model): (Model, Option<&TrainingData>),
    texts: Option<&TrainingData>,
) -> Result<LeftOut, TrainError> {
    let mut out = LeftOut { known: model.is_some(), trained: 0, patients: 0, chosen: 0, described: 0 };
    let unsaid = model.is_none() && table.rows.iter().any(|row| row.split.is_none());
    if unsaid && what == Model::Describer {
        eprintln!("WARNING: unknown: which images trained the describer; those that are measured here may be among them");
    } else if unsaid {
        return Err(TrainError::Asked(format!(
            "the classifier does not say which images trained it (it was imported, or trained with an earlier version), and {} has no column `split`; \
             add one that says train, validation or test, or train the model again",
            table.file.display()
        )));
    }
    let seen = |data: Option<&TrainingData>, row: &Row| data.and_then(|data| data.seen(&row.sha256, row.group.as_deref()));
    table.rows.retain(|row| {
        let count = match (seen(model, row), row.split) {
            (Some((Role::Trained, Known::Image)), _) | (None, Some(Part::Train)) => &mut out.trained,
            (Some((Role::Trained, Known::Patient)), _) => &mut out.patients,
            (Some((Role::Chosen, _)), _) => &mut out.chosen,
            (None, Some(Part::Validation)) if model.is_none() => &mut out.chosen,
            _ if seen(texts, row).is_some() => &mut out.described,
            _ => return true,
        };
        *count += 1;
        false
    });
    let LeftOut { trained, patients, chosen, described, .. } = out;
    let sum = trained + patients + chosen + described;
    if sum > 0 {
        eprintln!(
            "{sum} rows are left out: {trained} trained the model, {patients} are of patients that did, {chosen} chose its best epoch, \
             {described} were seen by the describer of the texts; {} are measured",
            table.rows.len()
        );
    }
    match table.rows.is_empty() {
        true => Err(TrainError::Asked(format!(
            "all {sum} rows of {} trained the model or chose its best epoch: they say nothing about it; give images that it has not seen",
            table.file.display()
        ))),
        false => Ok(out),
    }
}

fn named(run: &Path) -> String {
    run.file_name().map_or_else(|| run.display().to_string(), |name| name.to_string_lossy().into_owned())
}
