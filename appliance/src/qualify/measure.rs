//! Fits temperature and thresholds on one half of the data, and measures the other half with them.

use std::collections::BTreeMap;

use mmlnb_models::bundle::{Calibration, ColourLimit, NoveltyLimit};
use mmlnb_models::measures::calibration::{Temperature, temperature};
use mmlnb_models::measures::classes::{Predictions, softmax};
use mmlnb_models::measures::generated::{self, Generated};
use mmlnb_models::measures::intervals::{Units, estimate, of_classes};
use mmlnb_models::measures::promise::{Abstention, Answer, abstention};
use mmlnb_models::measures::{MeasureError, facts, novelty, texts};
use mmlnb_models::verdict::{Decision, Evidence, Text, verdict};
use serde_json::{Value, json};

use super::items::Item;
use super::rows::{Half, Row};
use crate::verdict::leading;

/// What is promised, and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Largest share of errors among accepted answers.
    pub risk: f64,
    /// With this confidence.
    pub confidence: f64,
    /// Share of familiar images that may be called unfamiliar.
    pub false_alarm: f64,
    /// Of halves and intervals.
    pub seed: u64,
    /// Known answers to record.
    pub answers: usize,
}

/// A row with what the bundle says about its image.
pub type Answered<'a> = (&'a Row, &'a Item);

/// What was fitted on one half.
pub struct Fitted {
    /// For the bundle.
    pub calibration: Calibration,
    /// How the temperature was found.
    pub temperature: Temperature,
    /// How the threshold was found.
    pub abstention: Abstention,
    /// What did not work, in sentences.
    pub warnings: Vec<String>,
}

/// Fits on the items of [`Half::Fitted`]; ranges, generic texts and what is known about the split stay the trainer's.
///
/// # Errors
/// There is no such item, or one without usable numbers.
pub fn fit(
    all: &[Answered<'_>],
    trainer: Option<&Calibration>,
    limit: Option<&NoveltyLimit>,
    options: &Options,
) -> Result<Fitted, MeasureError> {
    let items: Vec<Answered<'_>> = half(all, Half::Fitted);
    let (logits, labels) = (logits(&items), labels(&items));
    let temperature = temperature(&logits, &labels)?;
    let scores: Vec<f64> = items.iter().filter_map(|(_, item)| item.novelty).collect();
    let threshold = limit.and_then(|_| novelty::threshold(&scores, options.false_alarm));
    let mut warnings: Vec<String> = temperature.warning.iter().cloned().collect();
    let mut too_few = |what: &str, images: usize, then: &str| {
        warnings.push(format!("{images} images are too few for a threshold of {what}; {then}"));
    };
    if limit.is_some() && threshold.is_none() {
        let kept = trainer.and_then(|trainer| trainer.novelty.as_ref());
        let then = if kept.is_some() { "the trainer's stays" } else { "none is set" };
        too_few("the distance to the training data", scores.len(), then);
    }
    let refitted = limit.zip(threshold).map(|(limit, threshold)| NoveltyLimit {
        threshold,
        false_alarm: options.false_alarm,
        neighbours: limit.neighbours,
    });
    let trainer = trainer.cloned().unwrap_or_default();
    let colours = trainer.colours.clone().map(|limit| {
        let scores: Vec<f64> = items.iter().map(|(_, item)| limit.score(&item.appearance.colours)).collect();
        match novelty::threshold(&scores, options.false_alarm) {
            Some(threshold) => ColourLimit { threshold, false_alarm: options.false_alarm, ..limit },
            None => {
                too_few("unusual colours", scores.len(), "the trainer's stays");
                limit
            }
        }
    });
    let mut calibration =
        Calibration { temperature: temperature.temperature, novelty: refitted.or(trainer.novelty.clone()), colours, ..trainer };
    let abstention = abstention(&answers(&items, &logits, &labels, &calibration), options.risk, options.confidence)?;
    calibration.threshold = abstention.threshold;
    calibration.guarantee = abstention.guarantee.clone();
    let after_temperature = usize::from(temperature.warning.is_some());
    abstention.reason.iter().for_each(|reason| warnings.insert(after_temperature, reason.clone()));
    Ok(Fitted { calibration, temperature, abstention, warnings })
}

/// The answers of items with every reason but their confidence judged: what the others decline is never accepted, so the promise is not about it.
fn answers<'a>(items: &[Answered<'a>], logits: &[Vec<f64>], labels: &[usize], calibration: &Calibration) -> Vec<Answer<'a>> {
    let every = Calibration { threshold: Some(0.0), ..calibration.clone() };
    let answer = |(((row, item), logits), label): ((&Answered<'a>, &Vec<f64>), &usize)| {
        let probabilities = softmax(logits, calibration.temperature);
        let top = leading(&probabilities);
        Answer {
            confidence: top.map_or(0.0, |top| probabilities[top]),
            correct: top == Some(*label),
            patient: row.group.as_deref(),
            declined: verdict(&evidence(item, &probabilities), Some(&every)).0 != Decision::Accepted,
        }
    };
    items.iter().zip(logits).zip(labels).map(answer).collect()
}

/// Measures of the items of [`Half::Reported`] under a calibration: classes with intervals, and how often the bundle abstains.
///
/// # Errors
/// There is no such item, or one without usable numbers.
pub fn classes(all: &[Answered<'_>], names: &[String], calibration: &Calibration, seed: u64) -> Result<Value, MeasureError> {
    let items = half(all, Half::Reported);
    let predictions = Predictions::from_logits(names, false, labels(&items), &logits(&items), calibration.temperature)?;
    let units = Units::new(&groups(&items));
    Ok(json!({
        "items": items.len(),
        "intervals": of_classes(&predictions, &units, seed),
        "measures": predictions.measure(),
        "verdicts": verdicts(&items, &predictions, calibration, &units, seed),
    }))
}

/// How often the bundle answers, why it does not, and how often it is right when it does; shares with intervals over patients.
fn verdicts(items: &[Answered<'_>], predictions: &Predictions, calibration: &Calibration, units: &Units, seed: u64) -> Value {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let correct = predictions.correct();
    let mut accepted: Vec<bool> = Vec::with_capacity(items.len());
    for ((_, item), probabilities) in items.iter().zip(predictions.probabilities()) {
        let (decision, why) = verdict(&evidence(item, probabilities), Some(calibration));
        accepted.push(decision == Decision::Accepted);
        why.into_iter().for_each(|reason| *reasons.entry(reason.code()).or_default() += 1);
    }
    let shares = estimate(units, seed, |counts| {
        let sum = |of: &dyn Fn(usize) -> bool| {
            (0..items.len()).filter(|item| of(*item)).map(|item| u64::from(counts[item])).sum::<u64>() as usize
        };
        let taken = sum(&|item| accepted[item]);
        let all = sum(&|_| true);
        vec![
            ("abstain_rate", fraction(all - taken, all)),
            ("accepted_accuracy", fraction(sum(&|item| accepted[item] && correct[item]), taken)),
        ]
    });
    let count = accepted.iter().filter(|accepted| **accepted).count();
    json!({
        "accepted": count,
        "abstain": items.len() - count,
        "abstain_rate": shares.measures["abstain_rate"].value,
        "accepted_accuracy": shares.measures["accepted_accuracy"].value,
        "intervals": shares,
        "reasons": reasons,
    })
}

/// The evidence that the appliance will have about such an image.
fn evidence<'a>(item: &'a Item, probabilities: &'a [f64]) -> Evidence<'a> {
    let read = item.text.as_ref().filter(|text| text.read_whole.is_some());
    Evidence {
        probabilities,
        image_leading: item.image_leading(),
        novelty: item.novelty,
        colours: Some(item.appearance.colours),
        tissue_share: Some(item.appearance.tissue),
        image_size: Some(item.appearance.size),
        microns_per_pixel: item.appearance.microns_per_pixel,
        blank_tail: item.appearance.blank_tail,
        damaged: item.appearance.damaged,
        text: read.map(|text| Text { words: &text.words, finished: text.finished }),
    }
}

/// Measures of the describer's texts: how they behave, and against the given descriptions where there are any. Over all items: nothing is fitted here.
///
/// # Errors
/// There is no text.
pub fn descriptions(all: &[Answered<'_>]) -> Result<Value, MeasureError> {
    let written: Vec<(&Row, &super::items::Written)> =
        all.iter().filter_map(|(row, item)| Some((*row, item.text.as_ref()?))).collect();
    let made: Vec<Generated<'_>> = written
        .iter()
        .map(|(_, text)| Generated {
            text: &text.words,
            tokens: Some(text.tokens),
            stopped: Some(text.finished),
            tokens_cut: None,
        })
        .collect();
    let (ours, given): (Vec<&str>, Vec<&str>) =
        written.iter().filter_map(|(row, text)| Some((text.words.as_str(), row.description.as_deref()?))).unzip();
    let whole: Vec<bool> = written.iter().filter_map(|(_, text)| text.read_whole).collect();
    let compared = !given.is_empty();
    Ok(json!({
        "generated": generated::measure(&made)?,
        "read_whole": fraction(whole.iter().filter(|whole| **whole).count(), whole.len()),
        "overlap": if compared { json!(texts::measure(&ours, &given)?) } else { Value::Null },
        "facts": if compared { json!(facts::measure(&ours, &given)?) } else { Value::Null },
    }))
}

fn half<'a>(all: &[Answered<'a>], half: Half) -> Vec<Answered<'a>> {
    all.iter().filter(|(row, _)| row.half == half).copied().collect()
}

fn logits(items: &[Answered<'_>]) -> Vec<Vec<f64>> {
    items.iter().map(|(_, item)| item.logits.clone().unwrap_or_default()).collect()
}

/// A row without a class does not come here: its file was refused.
fn labels(items: &[Answered<'_>]) -> Vec<usize> {
    items.iter().map(|(row, _)| row.class.unwrap_or(usize::MAX)).collect()
}

fn groups<'a>(items: &[Answered<'a>]) -> Vec<Option<&'a str>> {
    items.iter().map(|(row, _)| row.group.as_deref()).collect()
}

/// part / whole; nothing of nothing.
pub fn fraction(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assess::appearance::Appearance;
    use mmlnb_models::measures::novelty::Mahalanobis;

    fn options() -> Options {
        Options { risk: 0.1, confidence: 0.95, false_alarm: 0.05, seed: 1, answers: 0 }
    }

    /// Items whose logits are right nine times in ten when they are confident, without patients.
    fn data(count: usize) -> (Vec<Row>, Vec<Item>) {
        let appearance = Appearance {
            size: [224, 224],
            microns_per_pixel: None,
            background: 0.0,
            tissue: 1.0,
            sharpness: 99.0,
            colours: [0.0; 7],
            trailing_bytes: false,
            phantom: false,
            blank_tail: false,
            damaged: false,
        };
        let row = |at: usize| Row {
            line: at as u64,
            file_name: format!("{at}.png"),
            path: Default::default(),
            sha256: format!("{at}"),
            class: Some(at % 2),
            group: None,
            description: None,
            half: if at % 4 < 2 { Half::Fitted } else { Half::Reported },
        };
        let item = |at: usize| {
            let sure = !at.is_multiple_of(5);
            let says = if !sure && at.is_multiple_of(10) { 1 - at % 2 } else { at % 2 };
            let strength = if sure { 6.0 } else { 0.4 };
            let logits = [0, 1].map(|class| if class == says { strength } else { 0.0 }).to_vec();
            let novelty = Some(at as f64 / count as f64);
            Item {
                sha256: format!("{at}"),
                appearance,
                logits: Some(logits),
                image_logits: None,
                alpha_text: None,
                novelty,
                text: None,
            }
        };
        ((0..count).map(row).collect(), (0..count).map(item).collect())
    }

    #[test]
    fn a_threshold_is_found_and_reported_on_the_other_half() {
        let (rows, items) = data(400);
        let all: Vec<Answered<'_>> = rows.iter().zip(&items).collect();
        let limit = NoveltyLimit { threshold: 0.0, false_alarm: 0.5, neighbours: 3 };
        let fitted = fit(&all, None, Some(&limit), &options()).unwrap();
        let threshold = fitted.calibration.threshold.unwrap();
        assert!(fitted.calibration.guarantee.as_ref().unwrap().items > 100 && threshold > 0.4, "{threshold}");
        let found = fitted.calibration.novelty.clone().unwrap();
        assert!(found.threshold > 0.9 && (found.false_alarm, found.neighbours) == (0.05, 3), "{found:?}");
        let names = ["A", "B"].map(String::from);
        let measured = classes(&all, &names, &fitted.calibration, 1).unwrap();
        assert_eq!(measured["items"], 200);
        assert_eq!(measured["verdicts"]["accepted_accuracy"], 1.0);
        let abstained = measured["verdicts"]["abstain"].as_u64().unwrap();
        assert!(abstained >= 40 && measured["verdicts"]["reasons"]["low_confidence"] == 40, "{}", measured["verdicts"]);
    }

    #[test]
    fn too_few_items_give_no_threshold_and_say_so() {
        let (rows, items) = data(24);
        let all: Vec<Answered<'_>> = rows.iter().zip(&items).collect();
        let trainer = Calibration { generic_texts: vec!["x".into()], protocol: Some("default".into()), ..Calibration::default() };
        let limit = NoveltyLimit { threshold: 0.3, false_alarm: 0.05, neighbours: 3 };
        let fitted = fit(&all, Some(&trainer), Some(&limit), &options()).unwrap();
        assert_eq!((fitted.calibration.threshold, fitted.calibration.novelty.clone()), (None, None));
        assert_eq!((fitted.calibration.generic_texts.len(), fitted.calibration.protocol.as_deref()), (1, Some("default")));
        assert_eq!(fitted.warnings.len(), 2, "{:?}", fitted.warnings);
        let stained: Vec<Vec<f32>> = (0..40).map(|at| (0..7).map(|n| ((at * (n + 2)) % 11) as f32).collect()).collect();
        let distance = Mahalanobis::fit(&stained, &[0; 40]).unwrap();
        let colours = ColourLimit { distance, threshold: 7.0, false_alarm: 0.05 };
        let stays = fit(&all, Some(&Calibration { colours: Some(colours.clone()), ..trainer }), None, &options()).unwrap();
        assert!(
            stays.calibration.colours == Some(colours) && stays.warnings[1].contains("unusual colours"),
            "{:?}",
            stays.warnings
        );
        let none: Vec<Answered<'_>> = all.iter().filter(|(row, _)| row.half == Half::Reported).copied().collect();
        assert!(fit(&none, None, None, &options()).is_err());
    }
}
