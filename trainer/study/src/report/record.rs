//! What a run's folder says about the run.

use crate::{
    data::Part,
    error::StudyError,
    run::predictions::{self, PREDICTIONS, Prediction},
};
use mmlnb_models::bundle::Calibration;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::{fs, path::Path};

/// A run as its files tell it.
pub struct Record {
    /// Name of its folder.
    pub name: String,
    /// `run.toml`.
    pub settings: toml::Table,
    /// `run.toml` as it is written.
    pub settings_text: String,
    /// `metrics.jsonl`.
    pub metrics: Vec<Metric>,
    /// `predictions.jsonl`; empty for a describer.
    pub predictions: Vec<Prediction>,
    /// `measures.json`; null when it is absent.
    pub measures: Value,
    /// Names in the order of the logits; empty for a describer.
    pub classes: Vec<String>,
    /// `examples.jsonl`; empty for a classifier.
    pub examples: Vec<Example>,
    /// Of the best epoch's classifier.
    pub calibration: Option<Calibration>,
}

/// A line of `examples.jsonl`: what a describer wrote about an image of the fixed validation subset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Path of the image below the image folder.
    pub file_name: String,
    /// The expert's words.
    pub reference: String,
    /// Before any training.
    pub base: Option<String>,
    /// At the best epoch.
    pub tuned: String,
}

/// A line of `metrics.jsonl`.
pub struct Metric {
    /// step, validation, test or diagnostic.
    pub kind: String,
    /// From 0.
    pub epoch: u64,
    /// Everything in the line.
    pub values: Map<String, Value>,
}

impl Metric {
    /// A number of the line.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.values.get(name)?.as_f64()
    }

    /// What was measured: everything but kind and place.
    pub fn measures(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.values.iter().filter(|(name, _)| !["kind", "step", "epoch"].contains(&name.as_str()))
    }

    /// A text of the line.
    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).and_then(Value::as_str).unwrap_or("")
    }
}

/// None where nothing calibrated.
fn calibration(found: &Value) -> Result<Option<Calibration>, serde_json::Error> {
    if found.is_null() { Ok(None) } else { serde_json::from_value(found.clone()).map(Some) }
}

impl Record {
    /// Reads a run's folder; files that a describer or an unfinished run does not have may be absent.
    pub fn read(run: &Path) -> Result<Record, StudyError> {
        let settings_path = run.join("run.toml");
        let settings_text = fs::read_to_string(&settings_path).map_err(StudyError::io("read", &settings_path))?;
        let settings = settings_text
            .parse()
            .map_err(|error: toml::de::Error| StudyError::File { path: settings_path, problem: error.to_string() })?;
        let predictions = if run.join(PREDICTIONS).exists() { predictions::read(run)? } else { Vec::new() };
        let config = json(&run.join("best/config.json"))?;
        let classes = config["classes"].as_array().into_iter().flatten();
        let record = Record {
            name: run.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned()),
            settings,
            settings_text,
            metrics: metrics(&run.join("metrics.jsonl"))?,
            predictions,
            measures: json(&run.join("measures.json"))?,
            examples: lines(&run.join("examples.jsonl"))?,
            classes: classes.filter_map(Value::as_str).map(String::from).collect(),
            calibration: calibration(&config["calibration"]).map_err(|error| StudyError::File {
                path: run.join("best/config.json"),
                problem: format!("its calibration is damaged ({error}); train again, or restore the file"),
            })?,
        };
        record.check(run)?;
        Ok(record)
    }

    /// Predictions must fit the classes, or every plot would lie.
    fn check(&self, run: &Path) -> Result<(), StudyError> {
        let count = self.classes.len();
        let fits = |item: &Prediction| {
            item.logits.len() == count
                && self.classes.contains(&item.class)
                && item.image_logits.as_ref().is_none_or(|logits| logits.len() == count)
        };
        match self.predictions.iter().position(|item| !fits(item)) {
            None => Ok(()),
            Some(at) => Err(StudyError::File {
                path: run.join(PREDICTIONS),
                problem: format!(
                    "line {}: class and logits do not fit the classes of best/config.json ({}); both must come from one run",
                    at + 1,
                    self.classes.join(", ")
                ),
            }),
        }
    }

    /// Lines of one kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Metric> {
        self.metrics.iter().filter(move |metric| metric.kind == kind)
    }

    /// The validation with the smallest loss.
    pub fn best_validation(&self) -> Option<&Metric> {
        let loss = |metric: &&Metric| metric.number("nll").unwrap_or(f64::INFINITY);
        self.of_kind("validation").min_by(|one, other| loss(one).total_cmp(&loss(other)))
    }

    /// The part that is reported: test where there is one, else validation.
    pub fn reported(&self) -> Part {
        let test = self.predictions.iter().any(|item| item.part == Part::Test);
        if test { Part::Test } else { Part::Validation }
    }

    /// Predictions of one part.
    pub fn part(&self, part: Part) -> Vec<&Prediction> {
        self.predictions.iter().filter(|item| item.part == part).collect()
    }

    /// Divides the logits.
    pub fn temperature(&self) -> f64 {
        self.calibration.as_ref().map_or(1.0, |calibration| calibration.temperature)
    }

    /// A setting of `run.toml`.
    pub fn setting(&self, section: &str, key: &str) -> Option<&toml::Value> {
        self.settings.get(section)?.get(key)
    }

    /// Epochs that were begun.
    pub fn epochs(&self) -> u64 {
        self.of_kind("step").map(|metric| metric.epoch + 1).max().unwrap_or(0)
    }
}

fn json(path: &Path) -> Result<Value, StudyError> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = fs::read_to_string(path).map_err(StudyError::io("read", path))?;
    serde_json::from_str(&text)
        .map_err(|error| StudyError::File { path: path.to_path_buf(), problem: format!("no JSON: {error}") })
}

fn metrics(path: &Path) -> Result<Vec<Metric>, StudyError> {
    let metric = |values: Map<String, Value>| {
        let kind = values.get("kind").and_then(Value::as_str).unwrap_or("").to_owned();
        let epoch = values.get("epoch").and_then(Value::as_u64).unwrap_or(0);
        Metric { kind, epoch, values }
    };
    Ok(lines(path)?.into_iter().map(metric).collect())
}

/// One value a line; none from a file that is absent.
fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, StudyError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).map_err(StudyError::io("read", path))?;
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| StudyError::File { path: path.to_path_buf(), problem: format!("line {}: {error}", number + 1) })
    };
    text.lines().enumerate().map(parse).collect()
}
