//! From opinions to predictions with verdicts, and to measures with intervals.

use super::{
    corpus::{Corpus, Opinion},
    descriptions::Described,
};
use crate::{
    data::{Part, Table},
    error::TrainError,
    run::predictions::Prediction,
};
use mmlnb_models::{
    bundle::Calibration,
    measures::{
        MeasureError,
        classes::{ClassMeasures, Predictions, softmax},
        generated::{Generated, GeneratedMeasures, measure as measure_texts},
        intervals::{Estimates, Units, of_classes},
        novelty::Neighbours,
    },
    verdict::{Evidence, Text, leading, verdict},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What verdicts are made with.
#[derive(Clone, Copy)]
pub(super) struct Judge<'j> {
    pub calibration: Option<&'j Calibration>,
    pub neighbours: Option<&'j Neighbours>,
}

/// Predictions of rows, with verdicts; texts are judged where a describer wrote them.
///
/// # Errors
/// An image that cannot be read.
pub(super) fn predictions(
    table: &Table,
    corpus: &Corpus,
    described: Option<&Described>,
    rows: &[(usize, Part)],
    opinions: &[Opinion],
    judge: Judge<'_>,
) -> Result<Vec<Prediction>, TrainError> {
    rows.iter()
        .zip(opinions)
        .map(|((number, part), opinion)| {
            let row = &table.rows[*number];
            let novelty = judge.neighbours.map(|neighbours| neighbours.score(&opinion.features));
            let temperature = judge.calibration.map_or(1.0, |calibration| calibration.temperature);
            let probabilities = softmax(&opinion.logits, temperature);
            let words = described.map(|described| described.served[*number].as_str());
            let finished = described.and_then(|described| described.finished.as_ref()).map(|finished| finished[*number]);
            let seen = corpus.pictures.as_ref().map(|pictures| pictures.seen(*number)).transpose()?;
            let evidence = Evidence {
                probabilities: &probabilities,
                image_leading: opinion.image_logits.as_deref().and_then(leading),
                novelty,
                colours: seen.map(|seen| seen.colours),
                tissue_share: seen.map(|seen| seen.tissue),
                image_size: Some([row.width as usize, row.height as usize]),
                microns_per_pixel: seen.and_then(|seen| seen.microns_per_pixel),
                blank_tail: false,
                damaged: false,
                text: words.zip(finished).map(|(words, finished)| Text { words, finished }),
            };
            let (decision, reasons) = verdict(&evidence, judge.calibration);
            Ok(Prediction {
                file_name: row.file_name.clone(),
                sha256: row.sha256.clone(),
                line: row.line,
                group: row.group.clone(),
                site: row.site.clone(),
                part: *part,
                class: table.classes[corpus.labels[*number]].clone(),
                logits: opinion.logits.clone(),
                image_logits: opinion.image_logits.clone(),
                text_logits: opinion.text_logits.clone(),
                alpha_text: opinion.alpha,
                description: words.map(str::to_string),
                novelty,
                verdict: decision.name().to_string(),
                verdict_reasons: reasons.iter().map(|reason| reason.code().to_string()).collect(),
            })
        })
        .collect()
}

/// Everything measured about one part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartMeasures {
    /// Numbers with intervals over patients, at the temperature.
    pub estimates: Estimates,
    /// Confusion, each class, reliability.
    pub classes: ClassMeasures,
    /// The same of the image head alone, at temperature 1.
    pub image_only: Option<ClassMeasures>,
    /// The same of the text alone (alpha = 1), at temperature 1.
    pub text_only: Option<ClassMeasures>,
    /// Verdicts.
    pub accepted: Accepted,
    /// Mean and spread of alpha_text.
    pub alpha: Option<[f64; 2]>,
    /// The texts as such.
    pub texts: Option<GeneratedMeasures>,
    /// Each site for itself, where the data name them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sites: BTreeMap<String, ClassMeasures>,
}

/// What came of the verdicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// Items.
    pub items: usize,
    /// Accepted ones.
    pub accepted: usize,
    /// Wrong ones among these.
    pub errors: usize,
    /// How often each reason stood against acceptance.
    pub reasons: BTreeMap<String, usize>,
}

/// Measures the predictions of one part; `cut`: tokens of each text that were not read, `temperature`: of the fused logits.
///
/// # Errors
/// Nothing to measure.
pub(super) fn measures(
    table: &Table,
    predictions: &[Prediction],
    temperature: f64,
    cut: &[Option<usize>],
    seed: u64,
) -> Result<PartMeasures, MeasureError> {
    let classes = &table.classes;
    let labels = |items: &[&Prediction]| -> Vec<usize> {
        items.iter().map(|item| classes.iter().position(|name| *name == item.class).unwrap_or(0)).collect()
    };
    let all: Vec<&Prediction> = predictions.iter().collect();
    let of = |items: &[&Prediction], logits: &dyn Fn(&Prediction) -> Option<Vec<f64>>, temperature: f64| {
        let logits: Option<Vec<Vec<f64>>> = items.iter().map(|item| logits(item)).collect();
        logits.map(|logits| Predictions::from_logits(classes, table.ordinal, labels(items), &logits, temperature)).transpose()
    };
    let fused = of(&all, &|item| Some(item.logits.clone()), temperature)?.ok_or(MeasureError::Empty)?;
    let alone = |logits: &dyn Fn(&Prediction) -> Option<Vec<f64>>| Ok(of(&all, logits, 1.0)?.map(|found| found.measure()));
    let groups: Vec<Option<&str>> = predictions.iter().map(|item| item.group.as_deref()).collect();
    let mut sites: BTreeMap<String, Vec<&Prediction>> = BTreeMap::new();
    predictions
        .iter()
        .filter_map(|item| Some((item.site.clone()?, item)))
        .for_each(|(site, item)| sites.entry(site).or_default().push(item));
    let sites = sites
        .into_iter()
        .filter_map(|(site, items)| {
            let found = of(&items, &|item| Some(item.logits.clone()), temperature).transpose()?;
            Some(found.map(|found| (site, found.measure())))
        })
        .collect::<Result<_, _>>()?;
    Ok(PartMeasures {
        estimates: of_classes(&fused, &Units::new(&groups), seed),
        classes: fused.measure(),
        image_only: alone(&|item| item.image_logits.clone())?,
        text_only: alone(&|item| item.text_logits.clone())?,
        accepted: accepted(predictions, &fused),
        alpha: alpha(predictions),
        texts: texts(predictions, cut)?,
        sites,
    })
}

fn accepted(predictions: &[Prediction], fused: &Predictions) -> Accepted {
    let taken = predictions.iter().zip(fused.correct()).filter(|(item, _)| item.verdict == "accepted");
    let mut reasons = BTreeMap::new();
    predictions.iter().flat_map(|item| &item.verdict_reasons).for_each(|reason| *reasons.entry(reason.clone()).or_insert(0) += 1);
    Accepted {
        items: predictions.len(),
        accepted: taken.clone().count(),
        errors: taken.filter(|(_, right)| !right).count(),
        reasons,
    }
}

fn alpha(predictions: &[Prediction]) -> Option<[f64; 2]> {
    let values: Vec<f64> = predictions.iter().map(|item| item.alpha_text).collect::<Option<_>>()?;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    Some([mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()])
}

fn texts(predictions: &[Prediction], cut: &[Option<usize>]) -> Result<Option<GeneratedMeasures>, MeasureError> {
    let words: Option<Vec<&str>> = predictions.iter().map(|item| item.description.as_deref()).collect();
    let Some(words) = words else { return Ok(None) };
    let texts: Vec<Generated<'_>> =
        words.iter().zip(cut).map(|(text, cut)| Generated { text, tokens_cut: *cut, ..Generated::default() }).collect();
    measure_texts(&texts).map(Some)
}
