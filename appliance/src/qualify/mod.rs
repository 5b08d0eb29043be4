//! Measures a bundle where it will be served: calibration, thresholds, figures and known answers at its own precision, written beside its manifest.
//!
//! ```text
//! CSV, images ─► rows, two halves by patient ─► items: the engine's answers, kept beside the bundle
//!                fitted half: temperature, thresholds, known answers      reported half: classes, verdicts
//!                all: descriptions, agreement with the trainer            ─► qualification.json, QUALIFICATION.md, exchanged at once
//! ```
#![expect(clippy::disallowed_methods, reason = "bundle, data and images are the operator's own")]

mod agreement;
pub mod answers;
mod card;
mod items;
mod measure;
mod replace;
pub mod rows;
mod upgrade;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use mmlnb_models::bundle::{
    Bundle, CLASSIFIER, Calibration, DESCRIBER, FORMAT, KnownAnswer, Manifest, NOVELTY, NoveltyLimit, Qualification, Standing,
};
use mmlnb_models::measures::MeasureError;
use mmlnb_models::measures::novelty::NEIGHBOURS;
use mmlnb_models::provenance::TrainingData;
use mmlnb_models::record::RecordError;
use serde_json::{Value, json};

use crate::assess::pipeline;
use crate::assess::reader::Reader;
use crate::bundle;
use crate::commands::print;
use crate::engine::{Engine, Mode};
use crate::error::{Exit, Failure};
use items::Store;
use measure::{Answered, Fitted, Options};
use replace::Written;
use rows::{Found, Half, Needs, Row};

/// The figures for people.
const PAGE: &str = "QUALIFICATION.md";

/// `qualify`.
#[derive(Args, Clone, Debug)]
pub struct Qualify {
    /// The bundle.
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// CSV with file_name, class, and if known description, group (patient) and split; rows of the split `train` are left out.
    #[arg(long, value_name = "CSV")]
    pub data: PathBuf,
    /// The folder of the images.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// A run of mmlnb-train classify, to compare its answers for the same images.
    #[arg(long, value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// Largest share of errors among accepted answers.
    #[arg(long, default_value_t = 0.10, value_parser = share)]
    pub risk: f64,
    /// Confidence with which it holds.
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    pub confidence: f64,
    /// Share of images like the training's that may be called far from it.
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    pub false_alarm: f64,
    /// Images that go into the bundle as known answers.
    #[arg(long, default_value_t = 3)]
    pub known_answers: usize,
    /// Decides the halves and the intervals' draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
    /// auto, cpu or cuda.
    #[arg(long, value_parser = ["auto", "cpu", "cuda"], default_value = "auto", env = "MMLNB_PROVIDER")]
    pub provider: String,
    /// Threads for computing; 0: all cores less one.
    #[arg(long, default_value_t = 0, env = "MMLNB_THREADS")]
    pub threads: usize,
    /// Images that are described together.
    #[arg(long, default_value_t = 4, env = "MMLNB_SLOTS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub slots: u16,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("expected a number between 0 and 1".to_owned()),
    }
}

/// `qualify`.
///
/// # Errors
/// Data (all problems at once), bundle, engine, or the bundle cannot be written; it is then unchanged.
pub fn run(args: &Qualify) -> Result<Exit, Failure> {
    let options = Options {
        risk: args.risk,
        confidence: args.confidence,
        false_alarm: args.false_alarm,
        seed: args.seed,
        answers: args.known_answers,
    };
    let opened = bundle::open(&args.bundle)?;
    let manifest = upgrade::upgraded(&opened)?;
    let mode = mode(&opened.manifest);
    let classes = opened.manifest.classifier.as_ref().map(|part| part.classes.clone());
    let reads_text = opened.manifest.classifier.as_ref().is_some_and(|part| part.text.is_some());
    let (seen, unknown) = seen(&opened)?;
    let description = reads_text && mode == Mode::Classify;
    let needs = Needs { classes: classes.as_deref(), description, seed: options.seed, seen: &seen, unknown };
    let reading = pipeline::settings();
    let mut reader = Reader::new(reading.clone());
    let found = rows::read(&args.data, &args.images, &needs, &mut |path| pipeline::inspect(&mut reader, path))?;
    let Found { rows, left_out } = found;
    pipeline::warn(&reading);
    if left_out > 0 {
        eprintln!(
            "{left_out} rows are left out: they trained the bundle, or another image of their patient did; {} are used",
            rows.len()
        );
    }
    let trainer = args.run.as_deref().map(agreement::read).transpose()?;
    let limit = novelty_limit(&manifest);
    let engine = open_engine(args, &opened, limit.as_ref(), mode)?;
    let cannot = |error: &io::Error| Failure::io("the qualification cannot be kept", &args.bundle, error);
    let path = replace::beside(&opened.dir, "answers").map_err(|error| cannot(&error))?;
    let mut store = Store::open(path, &opened.sha256, engine.provider().name, description.then(|| rows::texts_sha256(&rows)))?;
    let differences = answers::check(&opened, &engine, &mut reader, usize::MAX)?;
    let (items, failed) = items::assess(&engine, mode, &rows, &reading, &mut store)?;
    let all: Vec<Answered<'_>> = rows.iter().zip(&items).filter_map(|(row, item)| Some((row, item.as_ref()?))).collect();
    if all.is_empty() {
        return Err(none(&failed, &args.data));
    }
    let trainers = manifest.classifier.as_ref().and_then(|part| part.calibration.as_ref());
    let fitted =
        classes.as_ref().map(|_| measure::fit(&all, trainers, limit.as_ref(), &options)).transpose().map_err(unmeasurable)?;
    let recorded = answers::record(&opened, &engine, &mut reader, &all, options.answers)?;
    let mut result = measured(&opened, &all, fitted.as_ref(), &options)?;
    result["data"]["left_out"] = left_out.into();
    result["data"]["training_rows_known"] = (!unknown).into();
    result["provider"] = engine.provider().name.into();
    result["known_answers"] =
        json!({"checked": opened.known_answers().count(), "differences": differences, "recorded": recorded.len()});
    result["trainer"] = json!({
        "measures": trainer_measures(&opened),
        "calibration": trainers,
        "agreement": trainer.as_ref().map(|predictions| agreement::compare(&all, predictions)),
    });
    result["failed"] = json!(failed);
    opened.check_untouched().map_err(|error| bundle::refused(&error, &args.bundle))?;
    let calibration = fitted.map(|fitted| fitted.calibration);
    let page = card::page(calibration.as_ref(), &result);
    let written = write(&opened, manifest, calibration, recorded, (&result, &page)).map_err(|error| cannot(&error))?;
    store.remove();
    tell(args, &opened, &written, &page, &result)?;
    Ok(match (failed.is_empty(), differences.is_empty()) {
        (false, _) => Exit::SomeFailed,
        (true, false) => Exit::NotAllRight,
        (true, true) => Exit::Done,
    })
}

/// What the bundle can do.
pub fn mode(manifest: &Manifest) -> Mode {
    match (manifest.describer.is_some(), manifest.classifier.is_some()) {
        (true, true) => Mode::Both,
        (true, false) => Mode::Describe,
        (false, _) => Mode::Classify,
    }
}

/// What the bundle's halves say that they have seen; and whether one of them does not say all of it. A describer without any record is a
/// checkpoint as it came: nobody here trained it.
///
/// # Errors
/// A record that cannot be read.
pub fn seen(opened: &Bundle) -> Result<(Vec<TrainingData>, bool), Failure> {
    let read = |half: &str| {
        let wrong = |error: RecordError| {
            Failure::new(Exit::Usage, error.problem, error.file.display().to_string(), "export the bundle again")
        };
        TrainingData::read(&opened.path(half)).map_err(wrong)
    };
    let describer = if opened.manifest.describer.is_some() { read(DESCRIBER)? } else { None };
    let classifier = if opened.manifest.classifier.is_some() { read(CLASSIFIER)? } else { None };
    let unrecorded = opened.manifest.classifier.is_some() && classifier.is_none();
    let seen: Vec<TrainingData> = describer.into_iter().chain(classifier).collect();
    let unknown = unrecorded || seen.iter().any(|data| !data.is_complete());
    Ok((seen, unknown))
}

/// The trainer's limit, or one to be fitted where the bundle has the features of training images.
fn novelty_limit(manifest: &Manifest) -> Option<NoveltyLimit> {
    let part = manifest.classifier.as_ref()?;
    let trainers = part.calibration.as_ref().and_then(|calibration| calibration.novelty.clone());
    let stored = manifest.files.contains_key(&format!("{CLASSIFIER}/{NOVELTY}"));
    trainers.or(stored.then_some(NoveltyLimit { threshold: 0.0, false_alarm: 0.0, neighbours: NEIGHBOURS }))
}

/// The engine as the daemon has it; distances are computed wherever a limit can be fitted.
fn open_engine(args: &Qualify, opened: &Bundle, limit: Option<&NoveltyLimit>, mode: Mode) -> Result<Engine, Failure> {
    let mut served = opened.clone();
    served.qualification = None;
    if let (Some(part), Some(limit)) = (&mut served.manifest.classifier, limit) {
        part.calibration = Some(Calibration { novelty: Some(limit.clone()), ..Calibration::default() });
    }
    let options = bundle::options(&args.provider, args.threads, usize::from(args.slots), mode, opened);
    let engine = Engine::open(&served, &options).map_err(|error| bundle::failure(&error, &args.bundle))?;
    engine.provider().note.iter().for_each(|note| eprintln!("warning: {note}"));
    Ok(engine)
}

/// Everything measured, as it stands in the qualification.
fn measured(opened: &Bundle, all: &[Answered<'_>], fitted: Option<&Fitted>, options: &Options) -> Result<Value, Failure> {
    let rows: Vec<Row> = all.iter().map(|(row, _)| (*row).clone()).collect();
    let groups: Option<std::collections::BTreeSet<&str>> = rows.iter().map(|row| row.group.as_deref()).collect();
    let in_half = |half: Half| rows.iter().filter(|row| row.half == half).count();
    let names = opened.manifest.classifier.as_ref().map(|part| part.classes.as_slice());
    let classes = fitted.zip(names).map(|(fitted, names)| measure::classes(all, names, &fitted.calibration, options.seed));
    let written = all.iter().any(|(_, item)| item.text.is_some());
    Ok(json!({
        "producer": format!("mmlnb-appliance {}", env!("CARGO_PKG_VERSION")),
        "precision": opened.manifest.precision,
        "data": {
            "sha256": rows::data_sha256(&rows),
            "images": rows.len(),
            "groups": groups.map(|groups| groups.len()),
            "fitted": in_half(Half::Fitted),
            "reported": in_half(Half::Reported),
        },
        "fit": fitted.map(|fitted| json!({"temperature": fitted.temperature, "abstention": fitted.abstention})),
        "classes": classes.transpose().map_err(unmeasurable)?,
        "descriptions": written.then(|| measure::descriptions(all)).transpose().map_err(unmeasurable)?,
        "warnings": fitted.map(|fitted| fitted.warnings.clone()).unwrap_or_default(),
    }))
}

/// What the trainer measured, as the classifier's config.json has it.
fn trainer_measures(opened: &Bundle) -> Value {
    let config = std::fs::read(opened.path(&format!("{CLASSIFIER}/config.json"))).ok();
    let config = config.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    config.map_or(Value::Null, |config| config["measures"].clone())
}

/// Puts the qualification beside the manifest.
fn write(
    opened: &Bundle,
    manifest: Manifest,
    calibration: Option<Calibration>,
    recorded: Vec<answers::Recorded>,
    (result, page): (&Value, &str),
) -> io::Result<Written> {
    let (known_answers, images): (Vec<_>, Vec<_>) = recorded.into_iter().unzip();
    let images = known_answers.iter().map(|answer: &KnownAnswer| answer.image.clone()).zip(images);
    let mut files: Vec<(String, Vec<u8>)> = images.collect();
    files.push((PAGE.to_owned(), page.as_bytes().to_vec()));
    let measured = result.clone();
    let found = Qualification {
        format: FORMAT,
        bundle_sha256: String::new(),
        calibration,
        known_answers,
        measured,
        files: BTreeMap::new(),
    };
    replace::replace(opened, manifest, found, &files)
}

fn tell(args: &Qualify, opened: &Bundle, written: &Written, page: &str, result: &Value) -> Result<(), Failure> {
    for warning in result["warnings"].as_array().into_iter().flatten().chain(result["failed"].as_array().into_iter().flatten()) {
        eprintln!("warning: {}", warning.as_str().unwrap_or_default());
    }
    for difference in result["known_answers"]["differences"].as_array().into_iter().flatten() {
        eprintln!("error: a known answer of the bundle is not met here: {}", difference.as_str().unwrap_or_default());
    }
    if opened.standing != Standing::Unsigned {
        eprintln!(
            "the qualification is not signed yet: sign it with your site's key, `mmlnb-export sign {} --key FILE`",
            opened.dir.display()
        );
    }
    if args.json {
        let mut whole = result.clone();
        whole["bundle_sha256"] = written.bundle_sha256.as_str().into();
        whole["qualification_sha256"] = written.qualification_sha256.as_str().into();
        return print(&format!("{whole}\n"));
    }
    print(&format!(
        "{page}\n{}: bundle_sha256 {}, qualification_sha256 {}; a daemon that runs with it must be restarted\n",
        opened.dir.display(),
        written.bundle_sha256,
        written.qualification_sha256
    ))
}

fn none(failed: &[String], data: &Path) -> Failure {
    let problem =
        |what: &String| crate::error::Problem::new(what, data.display().to_string(), "export the image again, best as 8-bit PNG");
    Failure { exit: Exit::Usage, problems: failed.iter().map(problem).collect() }
}

fn unmeasurable(error: MeasureError) -> Failure {
    let mend = "give more images: each half of the patients needs some";
    Failure::new(Exit::Usage, error.to_string(), "", mend)
}
