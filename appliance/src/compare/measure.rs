//! What both bundles' answers come to, as one JSON object.

use std::collections::BTreeMap;

use mmlnb_models::measures::divergence::summary;
use mmlnb_models::measures::facts::{self, Agreement};
use mmlnb_models::measures::intervals::{Estimates, Units, estimate};
use mmlnb_models::measures::{MeasureError, paired, texts};
use serde_json::{Value, json};

use super::answers::{Answer, Compared};
use super::side::Along;
use crate::ledger::NewReport;
use crate::verdict::leading;

/// What a measure is made of: a numerator and a denominator for each item, whose sums are divided.
type Parts = Vec<(f64, f64)>;

/// The describers' half; null where there are none.
///
/// # Errors
/// Nothing to measure.
pub fn describers(all: &[Compared], seed: u64) -> Result<Value, MeasureError> {
    let along: Vec<&Along> = all.iter().filter_map(|one| one.along.as_ref()).collect();
    if along.is_empty() {
        return Ok(Value::Null);
    }
    let divergences: Vec<f64> = along.iter().flat_map(|along| along.divergences.iter().copied()).collect();
    let tokens = all.iter().filter_map(|one| Some((written(&one.reference)?.0, written(&one.bundle)?.0)));
    let common: Vec<(usize, bool)> =
        tokens.map(|(reference, bundle)| (common_prefix(reference, bundle), reference == bundle)).collect();
    let of = |value: &dyn Fn(&Along) -> f64| along.iter().map(|one| (value(one), one.same.len() as f64)).collect::<Parts>();
    let measures = [
        ("kl", of(&|one| one.divergences.iter().sum())),
        ("same_token", of(&|one| count(&one.same))),
        ("same_text", common.iter().map(|(_, equal)| (f64::from(*equal), 1.0)).collect()),
        ("common_prefix", common.iter().map(|(prefix, _)| (*prefix as f64, 1.0)).collect()),
    ];
    let intervals = shares(&units(all), seed, &measures);
    let words: Vec<(&str, &str)> =
        all.iter().filter_map(|one| Some((written(&one.bundle)?.1, written(&one.reference)?.1))).collect();
    let (bundle, reference): (Vec<&str>, Vec<&str>) = words.into_iter().unzip();
    Ok(json!({
        "kl": summary(&divergences)?,
        "same_token": intervals.measures["same_token"].value,
        "same_text": intervals.measures["same_text"].value,
        "common_prefix": intervals.measures["common_prefix"].value,
        "tokens": mean(all.iter().filter_map(|one| Some(written(&one.reference)?.0.len() as f64))),
        "intervals": intervals,
        "texts": texts::measure(&bundle, &reference)?,
        "facts": against_descriptions(all, seed)?,
    }))
}

/// The facts of both bundles' texts against the given descriptions; null where none is given.
fn against_descriptions(all: &[Compared], seed: u64) -> Result<Value, MeasureError> {
    let described = all.iter().filter_map(|one| {
        let given = one.row.description.as_deref()?;
        Some((one, given, [written(&one.reference)?.1, written(&one.bundle)?.1]))
    });
    let described: Vec<(&Compared, &str, [&str; 2])> = described.collect();
    if described.is_empty() {
        return Ok(Value::Null);
    }
    let given: Vec<&str> = described.iter().map(|(_, given, _)| *given).collect();
    let [reference, bundle] = [0, 1].map(|side| described.iter().map(|(_, _, words)| words[side]).collect::<Vec<&str>>());
    let agreements = |words: &[&str]| -> Vec<Agreement> {
        words.iter().zip(&given).map(|(text, given)| Agreement::of(&facts::read(text), &facts::read(given))).collect()
    };
    let f1 = |agreements: &[Agreement], counts: &[u32]| {
        let drawn = agreements.iter().zip(counts).flat_map(|(one, count)| std::iter::repeat_n(*one, *count as usize));
        drawn.fold(Agreement::default(), Agreement::plus).shares().2
    };
    let (first, second) = (agreements(&reference), agreements(&bundle));
    let groups: Vec<Option<&str>> = described.iter().map(|(one, ..)| one.row.group.as_deref()).collect();
    Ok(json!({
        "reference": facts::measure(&reference, &given)?,
        "bundle": facts::measure(&bundle, &given)?,
        "f1": paired_figure(&Units::new(&groups), seed, |counts| f1(&first, counts), |counts| f1(&second, counts)),
    }))
}

/// The classifiers' half; null where there are none.
///
/// # Errors
/// Nothing to measure.
pub fn classifiers(all: &[Compared], seed: u64) -> Result<Value, MeasureError> {
    let both = all.iter().map(|one| Some((one, one.reference.report.as_ref()?, one.bundle.report.as_ref()?)));
    let Some(both) = both.collect::<Option<Vec<(&Compared, &NewReport, &NewReport)>>>() else { return Ok(Value::Null) };
    let per_item = |value: &dyn Fn(&NewReport, &NewReport) -> Option<f64>| {
        both.iter().map(|(_, one, other)| value(one, other).map_or((0.0, 0.0), |value| (value, 1.0))).collect::<Parts>()
    };
    let measures = [
        ("same_class", per_item(&|one, other| Some(f64::from(one.leading_class == other.leading_class)))),
        ("same_verdict", per_item(&|one, other| Some(f64::from(one.verdict == other.verdict)))),
        ("same_image_class", per_item(&|one, other| Some(f64::from(image_class(one)? == image_class(other)?)))),
        ("mean_difference", per_item(&|one, other| mean(differences(one, other)))),
    ];
    let units = units(all);
    let intervals = shares(&units, seed, &measures);
    let largest = both.iter().flat_map(|(_, one, other)| differences(one, other)).fold(0.0, f64::max);
    let verdicts = |side: fn(&(&Compared, &NewReport, &NewReport)) -> String| {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        both.iter().for_each(|one| *counts.entry(side(one)).or_default() += 1);
        counts
    };
    Ok(json!({
        "same_class": intervals.measures["same_class"].value,
        "same_verdict": intervals.measures["same_verdict"].value,
        "same_image_class": intervals.measures["same_image_class"].value,
        "mean_difference": intervals.measures["mean_difference"].value,
        "largest_difference": largest,
        "intervals": intervals,
        "verdicts": {
            "reference": verdicts(|(_, one, _)| one.verdict.clone()),
            "bundle": verdicts(|(_, _, other)| other.verdict.clone()),
        },
        "accuracy": accuracy(&both, &units, seed)?,
    }))
}

/// How often each is right, where the table has classes.
fn accuracy(both: &[(&Compared, &NewReport, &NewReport)], units: &Units, seed: u64) -> Result<Value, MeasureError> {
    let right = |report: &NewReport, class: usize| leading(&report.classified.probabilities) == Some(class);
    let known = both.iter().map(|(one, first, second)| {
        let class = one.row.class?;
        Some((right(first, class), right(second, class)))
    });
    let Some(known) = known.collect::<Option<Vec<(bool, bool)>>>() else { return Ok(Value::Null) };
    let (first, second): (Vec<bool>, Vec<bool>) = known.into_iter().unzip();
    let [one, other] = [&first, &second].map(|right| right.iter().map(|right| (f64::from(*right), 1.0)).collect::<Parts>());
    let mut figure = paired_figure(units, seed, |counts| ratio(&one, counts), |counts| ratio(&other, counts));
    figure["mcnemar"] = json!(paired::mcnemar(&first, &second)?);
    Ok(figure)
}

/// A figure of both bundles with its intervals, and that of the difference, bundle less reference, over the same draws.
fn paired_figure(
    units: &Units,
    seed: u64,
    reference: impl Fn(&[u32]) -> Option<f64>,
    bundle: impl Fn(&[u32]) -> Option<f64>,
) -> Value {
    let alone = estimate(units, seed, |counts| vec![("reference", reference(counts)), ("bundle", bundle(counts))]);
    let between = paired::compare(units, seed, |counts| vec![("", reference(counts))], |counts| vec![("", bundle(counts))]);
    let difference = &between[0];
    json!({
        "reference": alone.measures["reference"],
        "bundle": alone.measures["bundle"],
        "difference": {"value": difference.difference, "interval": difference.interval},
        "not_above": difference.not_above,
        "not_below": difference.not_below,
        "draws": alone.draws,
    })
}

fn units(all: &[Compared]) -> Units {
    Units::new(&all.iter().map(|one| one.row.group.as_deref()).collect::<Vec<_>>())
}

fn shares(units: &Units, seed: u64, measures: &[(&'static str, Parts)]) -> Estimates {
    estimate(units, seed, |counts| measures.iter().map(|(name, parts)| (*name, ratio(parts, counts))).collect())
}

/// Sum of numerators / sum of denominators of a draw; nothing where the latter is 0.
fn ratio(parts: &[(f64, f64)], counts: &[u32]) -> Option<f64> {
    let drawn = parts.iter().zip(counts).map(|((part, whole), count)| (part * f64::from(*count), whole * f64::from(*count)));
    let (part, whole) = drawn.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    (whole > 0.0).then(|| part / whole)
}

/// Tokens and words of a text.
fn written(answer: &Answer) -> Option<(&[i64], &str)> {
    answer.written.as_ref().map(|written| (&*written.tokens, written.description.text.as_str()))
}

fn common_prefix(one: &[i64], other: &[i64]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

fn image_class(report: &NewReport) -> Option<usize> {
    report.classified.image_only.as_deref().and_then(leading)
}

/// Differences of the probabilities, class by class.
fn differences<'a>(one: &'a NewReport, other: &'a NewReport) -> impl Iterator<Item = f64> + 'a {
    one.classified.probabilities.iter().zip(&other.classified.probabilities).map(|(one, other)| (one - other).abs())
}

fn count(flags: &[bool]) -> f64 {
    flags.iter().filter(|flag| **flag).count() as f64
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::side::Written;
    use crate::engine::{Description, StopReason};
    use crate::ledger::Classified;
    use crate::qualify::rows::{Half, Row};

    /// An image of a patient, with the reference's tokens and words, and those of the bundle.
    fn texts(group: &str, given: Option<&str>, written: [(&[i64], &str); 2], along: &[(f64, bool)]) -> Compared {
        let row = Row {
            line: 2,
            file_name: String::new(),
            path: Default::default(),
            sha256: String::new(),
            class: None,
            group: Some(group.to_owned()),
            description: given.map(str::to_owned),
            half: Half::Reported,
        };
        let [reference, bundle] = written.map(|(tokens, words)| {
            let (tokens, text) = (tokens.into(), words.to_owned());
            let stop_reason = StopReason::EndToken;
            let description = Description { text, tokens: 0, mean_token_logprob: 0.0, stop_reason };
            Answer { written: Some(Written { tokens, description }), report: None }
        });
        let (divergences, same) = along.iter().copied().unzip();
        Compared { row, reference, bundle, along: Some(Along { divergences, same }) }
    }

    fn report(probabilities: [f64; 2], image_only: Option<[f64; 2]>, verdict: &str) -> NewReport {
        let classes = ["A", "B"].map(String::from).to_vec();
        let top = usize::from(probabilities[1] > probabilities[0]);
        NewReport {
            verdict: verdict.to_owned(),
            verdict_reasons: Vec::new(),
            class: None,
            leading_class: classes[top].clone(),
            confidence: probabilities[top],
            classified: Classified {
                classes,
                probabilities: probabilities.to_vec(),
                logits: Vec::new(),
                image_only: image_only.map(|image| image.to_vec()),
                image_logits: None,
                logits_without_text: None,
                alpha_text: None,
            },
            described: None,
            flags: Vec::new(),
            temperature: None,
            provider: "cpu".to_owned(),
            provider_note: None,
            elapsed_ms: Vec::new(),
        }
    }

    fn number(value: &Value) -> f64 {
        value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
    }

    #[test]
    fn texts_count_by_token_and_by_image() {
        let equal: (&[i64], &str) = (&[5, 6, 9], "small round cells");
        let all = [
            texts("p1", Some("No neuropil."), [equal, equal], &[(0.0, true), (0.0, true), (0.2, true)]),
            texts("p2", None, [(&[5, 7, 8, 9], "a b c"), (&[5, 9], "a")], &[(0.4, true), (1.0, false), (0.1, true), (0.3, true)]),
        ];
        let found = describers(&all, 0).unwrap();
        assert_eq!(found["kl"]["positions"], 7);
        assert!((number(&found["kl"]["mean"]) - 2.0 / 7.0).abs() < 1e-12, "every position counts alike: {found}");
        assert_eq!((number(&found["kl"]["median"]), number(&found["kl"]["largest"])), (0.2, 1.0));
        assert!((number(&found["intervals"]["measures"]["kl"]["value"]) - number(&found["kl"]["mean"])).abs() < 1e-12);
        assert_eq!(number(&found["same_token"]), 6.0 / 7.0);
        assert_eq!((number(&found["same_text"]), number(&found["common_prefix"])), (0.5, 2.0));
        assert_eq!(number(&found["tokens"]), 3.5);
        assert!(found["intervals"]["no_interval"].as_str().is_some_and(|why| why.starts_with("2 patients are too few")));
        assert_eq!(found["texts"]["pairs"], 2);
        assert_eq!(found["facts"]["reference"]["pairs"], 1, "only one image is described by the table");
    }

    #[test]
    fn facts_are_compared_with_the_given_texts_and_the_difference_is_paired() {
        let given = "No necrosis. Abundant neuropil.";
        let image = |at: usize| {
            let bundle = if at.is_multiple_of(2) { given } else { "No necrosis. No neuropil." };
            texts(&format!("p{at}"), Some(given), [(&[1], given), (&[2], bundle)], &[(0.5, false)])
        };
        let all: Vec<Compared> = (0..20).map(image).collect();
        let found = describers(&all, 3).unwrap();
        let f1 = &found["facts"]["f1"];
        assert_eq!((number(&f1["reference"]["value"]), number(&f1["bundle"]["value"])), (1.0, 0.75));
        assert_eq!(number(&f1["difference"]["value"]), -0.25);
        let [low, high] = ["low", "high"].map(|end| number(&f1["difference"]["interval"][end]));
        assert!(-0.45 < low && low < -0.25 && -0.25 < high && high < -0.05, "{low} {high}");
        assert_eq!((number(&f1["not_above"]), number(&f1["not_below"])), (1.0, 0.0));
        assert_eq!(number(&found["facts"]["bundle"]["f1"]), 0.75, "the same as facts::measure says");
    }

    #[test]
    fn classifiers_agree_where_their_reports_do() {
        let image = |at: usize, class: Option<usize>, reference: NewReport, bundle: NewReport| {
            let mut one = texts(&format!("p{at}"), None, [(&[], ""), (&[], "")], &[]);
            (one.row.class, one.along) = (class, None);
            (one.reference.report, one.bundle.report) = (Some(reference), Some(bundle));
            one
        };
        let mut all = vec![
            image(1, Some(0), report([0.9, 0.1], Some([0.6, 0.4]), "accepted"), report([0.8, 0.2], Some([0.4, 0.6]), "abstain")),
            image(2, Some(1), report([0.4, 0.6], Some([0.6, 0.4]), "accepted"), report([0.7, 0.3], Some([0.7, 0.3]), "accepted")),
        ];
        let found = classifiers(&all, 0).unwrap();
        for key in ["same_class", "same_verdict", "same_image_class"] {
            assert_eq!(number(&found[key]), 0.5, "{key}");
        }
        assert!((number(&found["mean_difference"]) - 0.2).abs() < 1e-12, "{found}");
        assert!((number(&found["largest_difference"]) - 0.3).abs() < 1e-12, "{found}");
        assert_eq!(found["verdicts"], json!({"reference": {"accepted": 2}, "bundle": {"abstain": 1, "accepted": 1}}));
        let accuracy = &found["accuracy"];
        assert_eq!((&accuracy["reference"]["value"], &accuracy["bundle"]["value"]), (&json!(1.0), &json!(0.5)));
        assert_eq!((&accuracy["difference"]["value"], &accuracy["mcnemar"]["only_first"]), (&json!(-0.5), &json!(1)));
        all[1].row.class = None;
        all[1].bundle.report = Some(report([0.7, 0.3], None, "accepted"));
        let found = classifiers(&all, 0).unwrap();
        assert!(found["accuracy"].is_null(), "a table without classes: {found}");
        assert_eq!(number(&found["same_image_class"]), 0.0, "only of images on which both have an opinion of the image");
        assert!(describers(&all, 0).unwrap().is_null());
        all[0].bundle.report = None;
        assert!(classifiers(&all, 0).unwrap().is_null());
    }
}
