//! What a trained classifier's answers are worth: temperature, threshold with its promise, distance to the training data, ranges.

use super::{
    assess::{Judge, predictions},
    corpus::{Corpus, Opinion},
    descriptions::Described,
    recipe::Recipe,
};
use crate::{
    data::{Part, Table},
    error::TrainError,
};
use mmlnb_models::{
    bundle::{Calibration, ColourLimit, NoveltyLimit, Ranges},
    measures::{
        MeasureError,
        calibration::{RiskCoverage, Temperature, confidence, risk_coverage, temperature},
        novelty::{self, Mahalanobis, Neighbours},
        promise::{Abstention, Answer, abstention},
    },
    verdict::leading,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A text that the describer writes for this share of the training images (and for [`GENERIC_COUNT`] at least), whatever their class, says nothing about
/// one of them.
const GENERIC_SHARE: f64 = 0.05;
const GENERIC_COUNT: usize = 3;

/// How the calibration was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibrated {
    /// Items that temperature and thresholds were fitted on.
    pub items: usize,
    /// Temperature, with the likelihood before and after.
    pub temperature: Temperature,
    /// Every threshold that was tried.
    pub abstention: Abstention,
    /// Error against share answered, on these items.
    pub risk_coverage: RiskCoverage,
    /// Training items stored for the distance.
    pub stored: usize,
    /// Why there is no limit for the distance, or for the colours.
    pub missing_limits: Vec<String>,
}

/// Rows with what the network says about them.
pub(super) type Opinions<'o> = (&'o [usize], &'o [Opinion]);

/// A classifier's calibration, the stored features, and how it was found.
pub(super) struct Found {
    pub calibration: Calibration,
    pub neighbours: Neighbours,
    pub report: Calibrated,
}

impl Found {
    pub fn judge(&self) -> Judge<'_> {
        Judge { calibration: Some(&self.calibration), neighbours: Some(&self.neighbours) }
    }
}

/// Fits everything on `held`, with the training items for distances and ranges.
///
/// # Errors
/// Parts without items, an image that cannot be read.
pub(super) fn calibrate(
    recipe: &Recipe,
    table: &Table,
    corpus: &Corpus,
    described: Option<&Described>,
    held: Opinions<'_>,
    trained: Opinions<'_>,
) -> Result<Found, TrainError> {
    let failed = |error: MeasureError| TrainError::Failed(format!("the calibration part cannot be measured: {error}"));
    let logits: Vec<Vec<f64>> = held.1.iter().map(|opinion| opinion.logits.clone()).collect();
    let labels: Vec<usize> = held.0.iter().map(|row| corpus.labels[*row]).collect();
    let groups = |rows: &[usize]| -> Vec<Option<&str>> { rows.iter().map(|row| table.rows[*row].group.as_deref()).collect() };
    let fitted = temperature(&logits, &labels).map_err(failed)?;
    let confidences: Vec<f64> = logits.iter().map(|row| confidence(row, fitted.temperature)).collect();
    let correct: Vec<bool> = logits.iter().zip(&labels).map(|(row, label)| leading(row) == Some(*label)).collect();
    let features: Vec<Vec<f32>> = trained.1.iter().map(|opinion| opinion.features.clone()).collect();
    let neighbours = Neighbours::fit(&features, &groups(trained.0), recipe.seed).map_err(failed)?;
    let scores: Vec<f64> = held.1.iter().map(|opinion| neighbours.score(&opinion.features)).collect();
    let mut missing_limits = Vec::new();
    let mut limit_of = |what: &str, scores: &[f64]| {
        let limit = novelty::threshold(scores, recipe.false_alarm);
        missing_limits.extend(limit.is_none().then(|| too_few(what, scores.len(), recipe.false_alarm)));
        limit
    };
    let limit = limit_of("the distance to the training data", &scores);
    let colours = match colours(corpus, held.0, trained.0)? {
        Ok((distance, scores)) => limit_of("unusual colours", &scores).map(|threshold| ColourLimit {
            distance,
            threshold,
            false_alarm: recipe.false_alarm,
        }),
        Err(reason) => {
            missing_limits.push(reason);
            None
        }
    };
    let mut calibration = Calibration {
        temperature: fitted.temperature,
        novelty: limit.map(|threshold| NoveltyLimit {
            threshold,
            false_alarm: recipe.false_alarm,
            neighbours: neighbours.neighbours(),
        }),
        colours,
        ranges: Some(ranges(table, corpus, trained.0)?),
        generic_texts: described.map_or_else(Vec::new, |described| generic(described, trained.0, &corpus.labels)),
        ..Calibration::default()
    };
    // Last of all: what other reasons decline is never accepted, so the promise is not about it.
    let declined = declined(table, corpus, described, held, &calibration, &neighbours)?;
    let answers: Vec<Answer<'_>> = (0..labels.len())
        .map(|item| Answer {
            confidence: confidences[item],
            correct: correct[item],
            patient: table.rows[held.0[item]].group.as_deref(),
            declined: declined[item],
        })
        .collect();
    let threshold = abstention(&answers, recipe.accepted_error, recipe.accepted_confidence).map_err(failed)?;
    calibration.threshold = threshold.threshold;
    calibration.guarantee = threshold.guarantee.clone();
    let report = Calibrated {
        items: labels.len(),
        temperature: fitted,
        abstention: threshold,
        risk_coverage: risk_coverage(&confidences, &correct).map_err(failed)?,
        stored: neighbours.stored(),
        missing_limits,
    };
    Ok(Found { calibration, neighbours, report })
}

/// For each row whether another reason than its confidence speaks against its answer.
fn declined(
    table: &Table,
    corpus: &Corpus,
    described: Option<&Described>,
    (rows, opinions): Opinions<'_>,
    calibration: &Calibration,
    neighbours: &Neighbours,
) -> Result<Vec<bool>, TrainError> {
    let every = Calibration { threshold: Some(0.0), ..calibration.clone() };
    let judge = Judge { calibration: Some(&every), neighbours: Some(neighbours) };
    let rows: Vec<(usize, Part)> = rows.iter().map(|row| (*row, Part::Validation)).collect();
    let judged = predictions(table, corpus, described, &rows, opinions, judge)?;
    Ok(judged.iter().map(|prediction| !prediction.verdict_reasons.is_empty()).collect())
}

fn too_few(what: &str, images: usize, false_alarm: f64) -> String {
    format!(
        "no limit is set for {what}: {images} calibration images are too few for a false-alarm rate of {false_alarm}; at least {} are needed",
        (1.0 / false_alarm).ceil() as usize - 1
    )
}

/// How far the staining of `held` images lies from that of the trained ones, or why that cannot be told.
fn colours(corpus: &Corpus, held: &[usize], trained: &[usize]) -> Result<Result<(Mahalanobis, Vec<f64>), String>, TrainError> {
    let Some(pictures) = &corpus.pictures else {
        return Ok(Err("no limit is set for unusual colours: the classifier sees no images".into()));
    };
    let of = |rows: &[usize]| -> Result<Vec<Vec<f32>>, TrainError> {
        let measured = rows.iter().map(|row| Ok(pictures.seen(*row)?.colours.iter().map(|value| *value as f32).collect()));
        measured.collect()
    };
    let distance = match Mahalanobis::fit(&of(trained)?, &vec![0; trained.len()]) {
        Ok(distance) => distance,
        Err(error) => return Ok(Err(format!("no limit is set for unusual colours: {error}"))),
    };
    let scores = of(held)?.iter().map(|colours| distance.score(colours)).collect();
    Ok(Ok((distance, scores)))
}

fn ranges(table: &Table, corpus: &Corpus, rows: &[usize]) -> Result<Ranges, TrainError> {
    let sides = rows.iter().flat_map(|row| [table.rows[*row].width, table.rows[*row].height]).map(f64::from);
    let mut scales = Vec::new();
    if let Some(pictures) = &corpus.pictures {
        for row in rows {
            scales.extend(pictures.seen(*row)?.microns_per_pixel);
        }
    }
    Ok(Ranges { image_side: range(sides), microns_per_pixel: range(scales.into_iter()) })
}

fn range(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    values.fold(None, |range, value| {
        let [least, most] = range.unwrap_or([value, value]);
        Some([f64::min(least, value), f64::max(most, value)])
    })
}

/// Generated texts that stand under many training images and hardly tell their classes apart: the share of the commonest class among these images is less than
/// halfway from its share among all images to certainty.
fn generic(described: &Described, rows: &[usize], labels: &[usize]) -> Vec<String> {
    if described.finished.is_none() {
        return Vec::new();
    }
    let mut images: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    rows.iter().for_each(|row| images.entry(&described.served[*row]).or_default().push(labels[*row]));
    let least = GENERIC_COUNT.max((GENERIC_SHARE * rows.len() as f64).ceil() as usize);
    let all: Vec<usize> = rows.iter().map(|row| labels[*row]).collect();
    let says_little = |classes: &[usize]| {
        let (class, share) = commonest(classes);
        let usual = all.iter().filter(|label| **label == class).count() as f64 / all.len() as f64;
        share < f64::midpoint(usual, 1.0)
    };
    images.retain(|_, classes| classes.len() >= least && says_little(classes));
    images.into_keys().map(String::from).collect()
}

/// The commonest class and its share.
fn commonest(classes: &[usize]) -> (usize, f64) {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    classes.iter().for_each(|class| *counts.entry(*class).or_default() += 1);
    let (class, count) = counts.into_iter().max_by_key(|(_, count)| *count).unwrap_or_default();
    (class, count as f64 / classes.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_under_many_images_is_generic_only_when_their_classes_differ() {
        // Of 30 images, ten a class: one text on seven of the first class alone, one on two of each class, one on a single image, others once.
        let labels: Vec<usize> = (0..30).map(|row| row / 10).collect();
        let text = |row: usize| match row % 10 {
            0..=6 if row < 10 => "High cellularity.".to_string(),
            8 | 9 => "A patch of tissue.".to_string(),
            _ => format!("Text {row}."),
        };
        let served: Vec<String> = (0..30).map(text).collect();
        let rows: Vec<usize> = (0..30).collect();
        let mut described = Described { served, other: None, finished: Some(vec![true; 30]) };
        assert_eq!(generic(&described, &rows, &labels), ["A patch of tissue."]);
        described.finished = None;
        assert!(generic(&described, &rows, &labels).is_empty(), "the table's own texts are never called so");
    }
}
