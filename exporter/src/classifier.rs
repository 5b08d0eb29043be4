//! A classifier's folder, opened for a bundle: what its files say must be possible, and clear to whoever reads a verdict.

use crate::{
    error::ExportError,
    few_bits::Convolutions,
    source::{Network, Sizes, Source},
};
use mmlnb_models::{
    bundle::{Calibration, NOVELTY, Precision},
    config::ClassifierConfig,
    json,
    measures::intervals::Estimates,
    prepare::bert_tokenizer::BertTokenizer,
    provenance::TrainingData,
    record::RecordError,
    spelling::unclear,
};
use serde_json::Value;
use std::path::Path;

/// The classifier's half, opened and checked.
pub(crate) struct ClassifierInput {
    pub source: Source,
    pub config: ClassifierConfig,
    pub calibration: Option<Calibration>,
    /// SHA-256 of the training data, if the trainer recorded it.
    pub data_sha256: Option<String>,
    /// What the trainer measured, if it recorded that.
    pub measures: Option<Estimates>,
    /// How the convolutions of its image encoder are stored.
    pub convolutions: Convolutions,
    /// What it has seen, if it says.
    pub trained_on: Option<TrainingData>,
}

impl ClassifierInput {
    pub fn open(dir: &Path, precision: Precision) -> Result<ClassifierInput, ExportError> {
        let source = Source::open(dir, None)?;
        let Sizes::Classifier(config) = source.sizes().clone() else {
            return Err(ExportError::Asked(format!("--classifier is for a classifier's folder, but {} is none", dir.display())));
        };
        let unfit = |problem: String| ExportError::Checkpoint { path: dir.to_path_buf(), problem };
        if let Some(text) = &config.text {
            let tokenizer = BertTokenizer::from_dir(dir).and_then(|tokenizer| tokenizer.within(text.vocabulary));
            tokenizer.map_err(|error| unfit(error.to_string()))?;
        }
        let file = dir.join("config.json");
        let wrong = |problem: String| ExportError::Checkpoint { path: file.clone(), problem };
        if let Some(problem) = unclear(&config.classes) {
            return Err(wrong(format!(
                "key `classes`: {problem}; a verdict could be read as another: give the classes other names in the data and train again"
            )));
        }
        let settings = json::read(&file)?;
        let calibration = calibration(&settings).map_err(|problem| {
            wrong(format!("key `calibration`: {problem}; train again, or give the folder as the training left it"))
        })?;
        if calibration.as_ref().is_some_and(|found| found.novelty.is_some()) && !dir.join(NOVELTY).is_file() {
            return Err(wrong(format!(
                "key `calibration.novelty` needs {NOVELTY} beside it, which is not there; train again or copy it"
            )));
        }
        let data_sha256 = settings.get("data_sha256").and_then(|found| found.as_str()).map(str::to_string);
        let measures = settings.get("measures").and_then(|found| found.get("estimates")).filter(|found| !found.is_null());
        let measures = measures.map(|found| serde_json::from_value(found.clone())).transpose();
        let measures = measures.map_err(|error| wrong(format!("key `measures.estimates`: {error}")))?;
        let trained_on = TrainingData::read(dir).map_err(|error| damaged_record(&error))?;
        let image = source.networks().into_iter().find(|network| matches!(network, Network::Vgg16 | Network::Swin));
        let convolutions = image.map(|network| Convolutions::open(&source, network, precision)).transpose()?.unwrap_or_default();
        Ok(ClassifierInput { source, config, calibration, data_sha256, measures, convolutions, trained_on })
    }
}

/// A record of what was seen that cannot be read: without it, rows that trained would be measured as new ones.
pub(crate) fn damaged_record(error: &RecordError) -> ExportError {
    let problem = format!("{}; copy it again from the run, or train again", error.problem);
    ExportError::Checkpoint { path: error.file.clone(), problem }
}

/// The `calibration` that training left in config.json.
fn calibration(settings: &Value) -> Result<Option<Calibration>, String> {
    let Some(value) = settings.get("calibration").filter(|value| !value.is_null()) else { return Ok(None) };
    let found: Calibration = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    found.problem().or_else(|| impossible(&found)).map_or(Ok(Some(found)), Err)
}

/// A number in it that no training can have found, if any.
fn impossible(calibration: &Calibration) -> Option<String> {
    let share = |name: &str, value: f64| {
        (!(0.0..=1.0).contains(&value)).then(|| format!("`{name}` is {value}, which is no share between 0 and 1"))
    };
    let size =
        |name: &str, value: f64| (!(value >= 0.0 && value.is_finite())).then(|| format!("`{name}` is {value}, which is no size"));
    let guarantee = calibration.guarantee.as_ref().and_then(|promise| {
        let errors = (promise.errors > promise.items)
            .then(|| format!("`guarantee` counts {} errors among {} items", promise.errors, promise.items));
        share("guarantee.risk", promise.risk)
            .or_else(|| share("guarantee.confidence", promise.confidence))
            .or_else(|| size("guarantee.effective_items", promise.effective_items))
            .or(errors)
    });
    // A distance of directions may lie a rounding below zero.
    let number = |name: &str, value: f64| (!value.is_finite()).then(|| format!("`{name}` is {value}, which is no number"));
    let novelty = calibration.novelty.as_ref().and_then(|limit| {
        number("novelty.threshold", limit.threshold).or_else(|| share("novelty.false_alarm", limit.false_alarm))
    });
    let colours = calibration
        .colours
        .as_ref()
        .and_then(|limit| size("colours.threshold", limit.threshold).or_else(|| share("colours.false_alarm", limit.false_alarm)));
    let ranges = calibration
        .ranges
        .iter()
        .flat_map(|ranges| [("ranges.image_side", ranges.image_side), ("ranges.microns_per_pixel", ranges.microns_per_pixel)]);
    let reversed = ranges.into_iter().find_map(|(name, range)| {
        let [least, most] = range?;
        size(name, least)
            .or_else(|| size(name, most))
            .or_else(|| (least > most).then(|| format!("`{name}` goes from {least} down to {most}")))
    });
    guarantee.or(novelty).or(colours).or(reversed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn impossible_calibrations_are_told_by_their_key() {
        let guarantee = |changes: Value| {
            let mut promise =
                json!({"risk": 0.05, "confidence": 0.95, "items": 40, "groups": 10, "effective_items": 9.5, "errors": 1});
            promise.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            json!({"guarantee": promise})
        };
        let told = |changes: Value| {
            let mut value = json!({"temperature": 1.5, "threshold": 0.7});
            value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            calibration(&json!({ "calibration": value })).err()
        };
        let novelty = |threshold: f64, false_alarm: f64| json!({"novelty": {"threshold": threshold, "false_alarm": false_alarm, "neighbours": 10}});
        for possible in [
            json!({}),
            guarantee(json!({})),
            novelty(0.3, 0.05),
            json!({"ranges": {"image_side": [224.0, 1024.0], "microns_per_pixel": [0.25, 0.25]}}),
        ] {
            assert_eq!(told(possible.clone()), None, "{possible}");
        }
        for (changes, part) in [
            (json!({"temperature": -1.0}), "temperature"),
            (json!({"threshold": 7.0}), "threshold"),
            (guarantee(json!({"risk": 7.0})), "`guarantee.risk` is 7"),
            (guarantee(json!({"confidence": -3.0})), "`guarantee.confidence` is -3"),
            (guarantee(json!({"effective_items": -1.0})), "`guarantee.effective_items`"),
            (guarantee(json!({"errors": 41})), "41 errors among 40 items"),
            (novelty(0.3, 5.0), "`novelty.false_alarm`"),
            (json!({"ranges": {"image_side": [1024.0, 224.0]}}), "`ranges.image_side` goes from 1024 down to 224"),
            (json!({"ranges": {"microns_per_pixel": [-0.25, 0.25]}}), "`ranges.microns_per_pixel`"),
            (json!({"threshold": null, "temperature": null}), "null"),
        ] {
            let told = told(changes.clone());
            assert!(told.as_ref().is_some_and(|told| told.contains(part)), "{changes}: {told:?}");
        }
        let mut infinite: Calibration = serde_json::from_value(json!({"temperature": 1.0, "threshold": null})).unwrap();
        infinite.ranges = Some(mmlnb_models::bundle::Ranges { image_side: Some([32.0, f64::INFINITY]), microns_per_pixel: None });
        assert!(impossible(&infinite).is_some());
    }
}
