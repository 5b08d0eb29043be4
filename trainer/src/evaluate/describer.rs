//! A tuned describer beside its base: both describe the same images, and both are measured against the experts' texts.

use crate::{
    data::{Row, Table},
    error::TrainError,
    generate::{Generated, Source, StopReason, describe_files},
};
use mmlnb_models::measures::{
    MeasureError,
    facts::{self, Agreement, ClassRule, FactMeasures},
    generated::{self, GeneratedMeasures},
    intervals::Units,
    paired::{Difference, compare},
    texts::{self, TextMeasures, rouge},
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Of the draws of intervals.
const SEED: u64 = 2024;

/// An image with both descriptions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Path of the image below the image folder.
    pub file_name: String,
    /// Of the image file, lower-case hex.
    pub sha256: String,
    /// Line of the CSV file, from 1.
    pub line: u64,
    /// The patient.
    pub group: Option<String>,
    /// Name of the true class.
    pub class: Option<String>,
    /// The CSV file's text.
    pub reference: Option<String>,
    /// The base's words.
    pub base: Generated,
    /// The tuned describer's words.
    pub tuned: Generated,
}

/// What was said, and about which rows nothing.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Rows that both described.
    pub pairs: Vec<Pair>,
    /// One line for each other row.
    pub failed: Vec<String>,
    /// Everything measured.
    pub measures: DescriberMeasures,
}

/// Everything measured about both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DescriberMeasures {
    /// Images.
    pub items: usize,
    /// The model without adapter.
    pub base: Side,
    /// The tuned one.
    pub tuned: Side,
    /// Tuned minus base, with intervals over patients; empty without reference texts.
    pub differences: Vec<Difference>,
}

/// One describer's texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Words shared with the references.
    pub overlap: Option<TextMeasures>,
    /// Facts against those of the references.
    pub facts: Option<FactMeasures>,
    /// How the texts behave.
    pub behaviour: GeneratedMeasures,
    /// Share of texts that contradict the true class, where the classes are UD, PD and D.
    pub contradicts_class: Option<f64>,
}

/// Lets both describe every row of the table; `cache` keeps the texts. Measures against references when every row has a description.
///
/// # Errors
/// Describers that cannot be used, and a table of which nothing could be described.
pub fn compare_descriptions(table: &Table, base: &Source, tuned: &Source, cache: &Path) -> Result<Compared, TrainError> {
    let files: Vec<PathBuf> = table.rows.iter().map(|row| table.image(row)).collect();
    let by_base = describe_files(base, &files, cache)?;
    let by_tuned = describe_files(tuned, &files, cache)?;
    let (mut pairs, mut failed) = (Vec::new(), Vec::new());
    for ((row, base), tuned) in table.rows.iter().zip(by_base).zip(by_tuned) {
        match (base, tuned) {
            (Ok(base), Ok(tuned)) => pairs.push(pair(table, row, base, tuned)),
            (Err(problem), _) | (_, Err(problem)) => failed.push(format!("  line {}: {}: {problem}", row.line, row.file_name)),
        }
    }
    let measures = measure(table, &pairs).map_err(|error| TrainError::Failed(error.to_string()))?;
    Ok(Compared { pairs, failed, measures })
}

fn pair(table: &Table, row: &Row, base: Generated, tuned: Generated) -> Pair {
    Pair {
        file_name: row.file_name.clone(),
        sha256: row.sha256.clone(),
        line: row.line,
        group: row.group.clone(),
        class: row.class.map(|class| table.classes[class].clone()),
        reference: row.description.clone(),
        base,
        tuned,
    }
}

fn measure(table: &Table, pairs: &[Pair]) -> Result<DescriberMeasures, MeasureError> {
    let references: Option<Vec<&str>> = pairs.iter().map(|pair| pair.reference.as_deref()).collect();
    let [base, tuned] = [|pair: &Pair| pair.base.clone(), |pair: &Pair| pair.tuned.clone()]
        .map(|of: fn(&Pair) -> Generated| pairs.iter().map(of).collect::<Vec<Generated>>());
    let differences = match &references {
        Some(references) => differences(pairs, references, &base, &tuned),
        None => Vec::new(),
    };
    let side = |texts: &[Generated]| side(table, pairs, texts, references.as_deref());
    Ok(DescriberMeasures { items: pairs.len(), base: side(&base)?, tuned: side(&tuned)?, differences })
}

fn side(table: &Table, pairs: &[Pair], written: &[Generated], references: Option<&[&str]>) -> Result<Side, MeasureError> {
    let words: Vec<&str> = written.iter().map(|one| one.text.as_str()).collect();
    let described: Vec<generated::Generated<'_>> = written
        .iter()
        .map(|one| generated::Generated {
            text: &one.text,
            tokens: Some(one.written_tokens()),
            stopped: Some(one.stop_reason == StopReason::EndToken),
            tokens_cut: None,
        })
        .collect();
    let place = |pair: &Pair| table.classes.iter().position(|name| Some(name) == pair.class.as_ref());
    let classes: Option<Vec<usize>> = pairs.iter().map(place).collect();
    Ok(Side {
        overlap: references.map(|references| texts::measure(&words, references)).transpose()?,
        facts: references.map(|references| facts::measure(&words, references)).transpose()?,
        behaviour: generated::measure(&described)?,
        contradicts_class: ClassRule::of(&table.classes)
            .zip(classes)
            .and_then(|(rule, classes)| rule.contradiction_rate(&words, &classes)),
    })
}

/// Per image, so that patients can be drawn: mean ROUGE, and F1 of all facts together.
fn differences(pairs: &[Pair], references: &[&str], base: &[Generated], tuned: &[Generated]) -> Vec<Difference> {
    let groups: Vec<Option<&str>> = pairs.iter().map(|pair| pair.group.as_deref()).collect();
    let known: Vec<_> = references.iter().map(|text| facts::read(text)).collect();
    let scored = |texts: &[Generated]| -> Vec<(f64, f64, Agreement)> {
        let one = |((text, reference), known): ((&Generated, &&str), &Vec<facts::Fact>)| {
            let rouge = rouge(&text.text, reference);
            (rouge.rouge1.f1, rouge.rouge_l.f1, Agreement::of(&facts::read(&text.text), known))
        };
        texts.iter().zip(references).zip(&known).map(one).collect()
    };
    let (base, tuned) = (scored(base), scored(tuned));
    compare(&Units::new(&groups), SEED, |counts| numbers(&base, counts), |counts| numbers(&tuned, counts))
}

fn numbers(scored: &[(f64, f64, Agreement)], counts: &[u32]) -> Vec<(&'static str, Option<f64>)> {
    let drawn = || scored.iter().zip(counts).map(|(one, count)| (one, f64::from(*count)));
    let items: f64 = drawn().map(|(_, count)| count).sum();
    let mean = |value: fn(&(f64, f64, Agreement)) -> f64| {
        (items > 0.0).then(|| drawn().map(|(one, count)| count * value(one)).sum::<f64>() / items)
    };
    let total = scored.iter().zip(counts).fold(Agreement::default(), |sum, ((_, _, one), count)| {
        let times = u64::from(*count);
        sum.plus(Agreement {
            right: one.right * times,
            stated: one.stated * times,
            found: one.found * times,
            expected: one.expected * times,
        })
    });
    vec![("rouge1", mean(|one| one.0)), ("rougeL", mean(|one| one.1)), ("facts_f1", total.shares().2)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Table;

    fn said(text: &str) -> Generated {
        Generated { text: text.into(), token_ids: vec![1, 2], stop_reason: StopReason::EndToken, mean_logprob: -0.5 }
    }

    #[test]
    fn a_describer_that_says_what_the_expert_said_is_better_by_patient() {
        let truth = ["Sheets of small round cells without neuropil.", "Abundant neuropil and Homer Wright rosettes."];
        let pairs: Vec<Pair> = (0..40)
            .map(|n| Pair {
                file_name: format!("{n}.png"),
                sha256: String::new(),
                line: n as u64 + 2,
                group: Some(format!("p{}", n / 2)),
                class: None,
                reference: Some(truth[n % 2].into()),
                base: said("A picture in pink."),
                tuned: said(truth[n % 2]),
            })
            .collect();
        let table = Table { file: "a".into(), images: "b".into(), rows: Vec::new(), classes: Vec::new(), ordinal: false };
        let found = measure(&table, &pairs).unwrap();
        assert_eq!((found.tuned.overlap.unwrap().rouge_l, found.tuned.facts.unwrap().f1), (1.0, Some(1.0)));
        assert_eq!((found.tuned.behaviour.distinct, found.base.behaviour.distinct), (2.0 / 40.0, 1.0 / 40.0));
        let measures: Vec<&str> = found.differences.iter().map(|one| one.measure.as_str()).collect();
        assert_eq!(measures, ["rouge1", "rougeL", "facts_f1"]);
        for one in &found.differences[..2] {
            assert!(one.difference.unwrap() > 0.5 && one.interval.unwrap().low > 0.0, "{one:?}");
        }
    }
}
