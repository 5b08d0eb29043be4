//! `mmlnb-train evaluate`

use super::place::Place;
use crate::{
    classify,
    data::{self, ClassOrder, Needs, Part, Table, TrainingData, seen_rows, tables_describer},
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
/// Rows that trained the model or chose its best epoch, and rows of their patients (as the run or this CSV file groups them), are left out, and the
/// number is told: a run keeps hashes of them.
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
    /// Of the order of the blind page [default: 0]
    #[arg(long, value_name = "N", requires = "blind")]
    seed: Option<u64>,
    /// Images that are described together [default: 8]
    #[arg(long, value_name = "N", value_parser = super::at_least_one)]
    batch: Option<usize>,
    /// Threads of libtorch [default: one for small networks, else the physical cores]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroU16>,
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
///
/// # Errors
/// Wrong input, a run that cannot be used; [`TrainError::Partly`] when some images have no description.
pub fn run(args: Args) -> Result<(), TrainError> {
    let device = args.place.device()?;
    let best = args.run.join("best");
    if !best.is_dir() {
        return Err(TrainError::Asked(format!("{} is no run: there is no folder `best` in it", args.run.display())));
    }
    let name = args.data.file_stem().unwrap_or_default();
    let output = args.output.clone().unwrap_or_else(|| args.run.join("evaluations").join(name));
    check_output(&args, &best, &output)?;
    let create = || fs::create_dir_all(&output).map_err(TrainError::io("create", &output));
    if is_classifier(&best)? {
        if args.blind {
            return Err(TrainError::Asked("--blind compares texts, but this is a classifier's run".into()));
        }
        check_asked(&args, &ClassifierConfig::from_dir(&best)?)?;
        create()?;
        return classifier(&args, &best, &output, device);
    }
    if args.describer.is_some() {
        return Err(TrainError::Asked("--describer is for a classifier's run, but this is a describer's".into()));
    }
    create()?;
    describer(&args, &output, device)
}

/// Refuses options that a classifier's evaluation would not use.
fn check_asked(args: &Args, config: &ClassifierConfig) -> Result<(), TrainError> {
    let about_describer =
        [(args.settings.is_some(), "--settings"), (args.base.is_some(), "--base"), (args.batch.is_some(), "--batch")];
    let given = about_describer.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect::<Vec<_>>();
    let problem = match &args.describer {
        None if !given.is_empty() => {
            format!("{} would not be used: it is for the describer; give --describer too", given.join(", "))
        }
        Some(_) if config.text.is_none() => "--describer would not be used: this classifier reads no texts; leave it out".into(),
        Some(folder) if args.base.is_some() && Source::is_whole(folder) => {
            "--base would not be used: the describer is a whole checkpoint, which needs no other; leave it out".into()
        }
        _ => return Ok(()),
    };
    Err(TrainError::Asked(problem))
}

/// Refuses an output whose files would take the place of what is read: --data and --settings, or the run's own measures.
fn check_output(args: &Args, best: &Path, output: &Path) -> Result<(), TrainError> {
    const WRITTEN: [&str; 9] = [
        "measures.json",
        "predictions.jsonl",
        "descriptions.jsonl",
        "base.csv",
        "tuned.csv",
        "evaluation.html",
        "blind.html",
        "blind_answers.csv",
        "blind_key.json",
    ];
    let folders =
        [Some(args.run.as_path()), Some(best), Some(args.images.as_path()), args.describer.as_deref(), args.base.as_deref()];
    let names = ["RUN", "RUN", "--images", "--describer", "--base"];
    let folders: Vec<(&str, &Path)> = names.into_iter().zip(folders).filter_map(|(name, folder)| Some((name, folder?))).collect();
    files::not_an_input(output, &folders)?;
    let inputs = [Some(("--data", args.data.as_path())), args.settings.as_deref().map(|file| ("--settings", file))];
    let inputs: Vec<(&str, &Path)> = inputs.into_iter().flatten().collect();
    WRITTEN.iter().try_for_each(|name| Ok(files::not_an_input(&output.join(name), &inputs)?))
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
    let describer =
        describer.map(|source| Source { batch: args.batch.unwrap_or(BATCH), settings: args.settings.clone(), ..source });
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
        Some(source) => Some(TrainingData::of_describer(&source.base, source.adapter.as_deref())?),
        None if config.text.is_some() => tables_describer(&args.data)?,
        None => None,
    };
    if texts.as_ref().is_some_and(|data| data.as_ref().is_none_or(|data| !data.is_complete())) {
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
    // With --base, that is the one that texts are compared with; of a run that trained all weights it is another checkpoint than the run's.
    let tuned = found.adapter.as_deref().unwrap_or(&found.base);
    let trained = TrainingData::of_describer(args.base.as_deref().unwrap_or(&found.base), Some(tuned))?;
    let left_out = leave_out(&mut table, (Model::Describer, trained.as_ref()), None)?;
    let tuned = Source { batch: args.batch.unwrap_or(BATCH), settings: args.settings.clone(), ..found };
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
        write_blind(output, &compared.pairs, &args.images, args.seed.unwrap_or(0))?;
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
    /// Whether the model says what it was trained on, all of it.
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
    let complete = model.is_some_and(TrainingData::is_complete);
    let mut out = LeftOut { known: complete, trained: 0, patients: 0, chosen: 0, described: 0 };
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
    if model.is_some() && !complete {
        eprintln!("WARNING: unknown: a part of what the model was trained on; images that are measured here may be among it");
    }
    let seen = |data: Option<&TrainingData>| data.map_or_else(|| vec![None; table.rows.len()], |data| seen_rows(table, data));
    let (by_model, by_describer) = (seen(model), seen(texts));
    let mut uses = by_model.into_iter().zip(by_describer);
    table.rows.retain(|row| {
        let (by_model, by_describer) = uses.next().unwrap_or_default();
        let count = match (by_model, row.split) {
            (Some((Role::Trained, Known::Image)), _) | (None, Some(Part::Train)) => &mut out.trained,
            (Some((Role::Trained, Known::Patient)), _) => &mut out.patients,
            (Some((Role::Chosen, _)), _) => &mut out.chosen,
            (None, Some(Part::Validation)) if model.is_none() => &mut out.chosen,
            _ if by_describer.is_some() => &mut out.described,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Row;
    use mmlnb_models::provenance::new_salt;

    #[test]
    fn a_seen_image_takes_its_whole_patient_out_whatever_the_training_called_it() {
        let row = |name: &str, group: Option<&str>| Row {
            line: 2,
            file_name: name.into(),
            description: None,
            class: None,
            group: group.map(str::to_string),
            site: None,
            split: None,
            sha256: name.into(),
            width: 64,
            height: 64,
        };
        let rows = [("a1", "P1"), ("a2", "P1"), ("b1", "P2"), ("c1", "P3"), ("c2", "P3"), ("d1", "P4"), ("d2", "P4")];
        let table = || Table {
            file: "data.csv".into(),
            images: "images".into(),
            rows: rows.iter().map(|(name, group)| row(name, Some(*group))).collect(),
            classes: Vec::new(),
            ordinal: false,
        };
        let mut model = TrainingData::new(new_salt().unwrap(), None);
        model.add(Role::Trained, "a1", None);
        model.add(Role::Chosen, "c1", Some("a pseudonym"));
        let mut texts = TrainingData::new(new_salt().unwrap(), None);
        texts.add(Role::Trained, "d2", None);
        let mut left = table();
        let out = leave_out(&mut left, (Model::Classifier, Some(&model)), Some(&texts)).unwrap();
        assert_eq!((out.trained, out.patients, out.chosen, out.described), (1, 1, 2, 2));
        assert_eq!(left.rows.iter().map(|row| row.file_name.as_str()).collect::<Vec<_>>(), ["b1"]);
        let mut without_groups = table();
        without_groups.rows.iter_mut().for_each(|row| row.group = None);
        leave_out(&mut without_groups, (Model::Classifier, Some(&model)), None).unwrap();
        assert_eq!(without_groups.rows.len(), 5, "without groups only images are known");
    }
}
