//! The predictions of several runs, brought to one order of items.

use crate::{
    data::Part,
    error::StudyError,
    report::record::Record,
    run::predictions::{PREDICTIONS, Prediction},
};
use mmlnb_models::measures::{
    classes::{Predictions, softmax},
    intervals::Units,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// How many differing items an error names.
const NAMED: usize = 3;

/// The items that all runs were measured on.
#[derive(Clone, Debug)]
pub struct Items {
    /// test or validation.
    pub part: Part,
    /// In the order of the logits.
    pub classes: Vec<String>,
    /// Whether their order means something.
    pub ordinal: bool,
    /// In the order of the images' hashes.
    pub rows: Vec<Item>,
}

/// One item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its image, as the first run calls it.
    pub file_name: String,
    /// The patient.
    pub group: Option<String>,
    /// Number of its class.
    pub class: usize,
}

/// A run's answers to the items.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its folder as it was given.
    pub name: String,
    /// Its recipe.
    pub recipe: String,
    /// Seed of its training.
    pub seed: Option<i64>,
    /// At its temperature.
    pub predictions: Predictions,
    /// Which answers were accepted.
    pub accepted: Vec<bool>,
    /// Mean alpha_text.
    pub alpha: Option<f64>,
    /// The descriptions that it read.
    pub descriptions: Option<Vec<String>>,
    /// Where the text alone leads, for each item.
    pub text_leading: Option<Vec<usize>>,
}

impl Items {
    /// Patients where all items name one.
    pub fn units(&self) -> Units {
        Units::new(&self.rows.iter().map(|row| row.group.as_deref()).collect::<Vec<_>>())
    }
}

/// Reads runs of `classify` and checks that they were measured on the same items with the same classes.
///
/// # Errors
/// [`StudyError::Asked`] names what differs: the part, the classes, items of one run only, an item's class or patient. Files that cannot be read.
pub fn read(folders: &[PathBuf]) -> Result<(Items, Vec<Run>), StudyError> {
    let records = folders.iter().map(|folder| record(folder)).collect::<Result<Vec<_>, _>>()?;
    let Some((first, others)) = records.split_first() else {
        return Err(StudyError::Asked("give at least one run".into()));
    };
    let name = |folder: &Path| folder.display().to_string();
    let mut problems = Vec::new();
    for (record, folder) in others.iter().zip(&folders[1..]) {
        let found = differences(first, record, (&name(&folders[0]), &name(folder)));
        problems.extend(found.into_iter().map(|problem| format!("  {problem}")));
    }
    if !problems.is_empty() {
        return Err(StudyError::Asked(format!(
            "these runs were not measured on the same items, so their figures cannot be compared; train them on the same data with the same \
             split:\n{}",
            problems.join("\n")
        )));
    }
    let part = first.reported();
    let rows = keyed(first, part).into_values().map(|one| item(first, one)).collect();
    let ordinal = first.setting("data", "ordinal").and_then(toml::Value::as_bool).unwrap_or(false);
    let items = Items { part, classes: first.classes.clone(), ordinal, rows };
    let runs =
        records.iter().zip(folders).map(|(record, folder)| answers(&items, record, name(folder))).collect::<Result<_, _>>()?;
    Ok((items, runs))
}

fn record(folder: &Path) -> Result<Record, StudyError> {
    let record = Record::read(folder)?;
    if record.predictions.is_empty() {
        return Err(StudyError::Asked(format!(
            "{} has no {PREDICTIONS}: it is no finished run of classify; finish it with --resume, or leave it out",
            folder.display()
        )));
    }
    Ok(record)
}

/// Items of a part by the hash of their image; images of equal content are numbered.
fn keyed(record: &Record, part: Part) -> BTreeMap<(String, usize), &Prediction> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut items = record.part(part);
    items.sort_by(|one, other| one.file_name.cmp(&other.file_name));
    let key = |one: &&'_ Prediction, counts: usize| (one.sha256.clone(), counts);
    let mut keyed = BTreeMap::new();
    for one in items {
        let count = counts.entry(&one.sha256).or_default();
        keyed.insert(key(&one, *count), one);
        *count += 1;
    }
    keyed
}

fn item(record: &Record, one: &Prediction) -> Item {
    let class = record.classes.iter().position(|class| *class == one.class).unwrap_or(0);
    Item { file_name: one.file_name.clone(), group: one.group.clone(), class }
}

/// What keeps two runs from being compared.
fn differences(first: &Record, other: &Record, (first_name, other_name): (&str, &str)) -> Vec<String> {
    let (part, other_part) = (first.reported(), other.reported());
    if part != other_part {
        return vec![format!("{first_name} reports the part {part}, {other_name} the part {other_part}")];
    }
    let names = |record: &Record| record.classes.iter().cloned().collect::<BTreeSet<_>>();
    if names(first) != names(other) {
        return vec![format!(
            "classes: {} in {first_name}, {} in {other_name}",
            first.classes.join(", "),
            other.classes.join(", ")
        )];
    }
    let (ours, theirs) = (keyed(first, part), keyed(other, part));
    let only = |these: &BTreeMap<(String, usize), &Prediction>, those: &BTreeMap<(String, usize), &Prediction>| {
        these.iter().filter(|(key, _)| !those.contains_key(*key)).map(|(_, one)| one.file_name.clone()).collect::<Vec<_>>()
    };
    let mut problems = Vec::new();
    for (missing, name) in [(only(&ours, &theirs), first_name), (only(&theirs, &ours), other_name)] {
        if !missing.is_empty() {
            problems.push(format!("{} {part} items are in {name} alone: {}", missing.len(), listed(&missing)));
        }
    }
    for (what, value) in [
        ("class", (|one| one.class.clone()) as fn(&Prediction) -> String),
        ("patient", |one| one.group.clone().unwrap_or_default()),
    ] {
        let differ = ours.iter().filter_map(|(key, one)| theirs.get(key).map(|other| (one, other)));
        let differ: Vec<String> = differ
            .filter(|(one, other)| value(one) != value(other))
            .map(|(one, other)| format!("{} ({:?} and {:?})", one.file_name, value(one), value(other)))
            .collect();
        if !differ.is_empty() {
            problems.push(format!(
                "the {what} of {} items differs between {first_name} and {other_name}: {}",
                differ.len(),
                listed(&differ)
            ));
        }
    }
    problems
}

fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED)].join(", ");
    if names.len() > NAMED { format!("{shown} and {} more", names.len() - NAMED) } else { shown }
}

/// A run's answers in the order of the items and of the first run's classes.
fn answers(items: &Items, record: &Record, name: String) -> Result<Run, StudyError> {
    let places: Vec<usize> =
        items.classes.iter().filter_map(|class| record.classes.iter().position(|other| other == class)).collect();
    let keyed = keyed(record, items.part);
    let in_order = |values: &[f64]| places.iter().map(|place| values[*place]).collect::<Vec<f64>>();
    let row = |one: &&Prediction| in_order(&softmax(&one.logits, record.temperature()));
    let labels = items.rows.iter().map(|item| item.class).collect();
    let predictions = Predictions::new(&items.classes, items.ordinal, labels, keyed.values().map(row).collect())
        .map_err(|error| StudyError::Failed(format!("{name}: the predictions cannot be measured: {error}")))?;
    let alphas: Option<Vec<f64>> = keyed.values().map(|one| one.alpha_text).collect();
    Ok(Run {
        name,
        recipe: record.setting("recipe", "name").and_then(toml::Value::as_str).unwrap_or("unknown").to_string(),
        seed: record.setting("seeds", "training").and_then(toml::Value::as_integer),
        predictions,
        accepted: keyed.values().map(|one| one.verdict == "accepted").collect(),
        alpha: alphas.map(|values| values.iter().sum::<f64>() / values.len() as f64),
        text_leading: keyed.values().map(|one| Some(leading(&in_order(one.text_logits.as_deref()?)))).collect(),
        descriptions: keyed.values().map(|one| one.description.clone()).collect(),
    })
}

fn leading(values: &[f64]) -> usize {
    values.iter().enumerate().fold(0, |best, (place, value)| if *value > values[best] { place } else { best })
}
