//! What a description says, as facts that can be counted: overlap of words reacts weakly to an invented or denied finding.
//!
//! A lexicon of findings is looked for with rules for denial and amount (`no necrosis, haemorrhage or calcification`, `rosettes cannot be seen`,
//! `about 8 % of the cells show ganglion-like change`). The rules are our own and deliberately plain: wordings outside the lexicon and denials that reach over a full stop are missed.

mod class;
mod clause;
mod lexicon;
mod read;

pub use class::{ClassRule, mask_class_words};
pub use read::read;

use super::{MeasureError, same_length};
use serde::{Deserialize, Serialize};

/// What a text says about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is denied.
    Absent,
    /// It is there, without an amount.
    Present,
    /// Scant, few, rare, a small share.
    Little,
    /// Moderate, some.
    Moderate,
    /// Abundant, many, marked.
    Much,
}

/// A finding and what is said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// One of [`findings`].
    pub finding: &'static str,
    /// What is said.
    pub state: State,
}

/// Facts of texts against facts of their references.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactMeasures {
    /// Number of pairs.
    pub pairs: u64,
    /// Facts that the texts state.
    pub stated: u64,
    /// Facts that the references state.
    pub expected: u64,
    /// Stated facts that agree with the reference; null when none is stated.
    pub precision: Option<f64>,
    /// Expected facts that the text states; null when none is expected.
    pub recall: Option<f64>,
    /// 2 agreed / (stated + expected); null when both are 0.
    pub f1: Option<f64>,
    /// Share of texts that deny and state the same finding.
    pub self_contradicting: f64,
    /// One row a finding that occurs.
    pub per_finding: Vec<FindingRow>,
}

/// One finding over all pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingRow {
    /// Its name.
    pub finding: String,
    /// Texts that say something about it.
    pub stated: u64,
    /// References that do.
    pub expected: u64,
    /// Agreed among stated.
    pub precision: Option<f64>,
    /// Agreed among expected.
    pub recall: Option<f64>,
    /// Their harmonic mean.
    pub f1: Option<f64>,
}

/// Agreement of one text with its reference, in counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Facts of the text that agree with the reference.
    pub right: u64,
    /// Facts of the text.
    pub stated: u64,
    /// Facts of the reference that the text agrees with.
    pub found: u64,
    /// Facts of the reference.
    pub expected: u64,
}

/// Names of all findings.
pub fn findings() -> impl Iterator<Item = &'static str> {
    lexicon::LEXICON.iter().map(|entry| entry.name)
}

impl Fact {
    /// Same finding, both denied or both there, and no different amounts.
    pub fn agrees(self, other: Fact) -> bool {
        let same = match (self.state, other.state) {
            (State::Absent, State::Absent) => true,
            (State::Absent, _) | (_, State::Absent) => false,
            (State::Present, _) | (_, State::Present) => true,
            (one, other) => one == other,
        };
        self.finding == other.finding && same
    }
}

impl Agreement {
    /// Compares two texts by their facts.
    pub fn of(text: &[Fact], reference: &[Fact]) -> Self {
        let met = |facts: &[Fact], others: &[Fact]| {
            facts.iter().filter(|fact| others.iter().any(|other| fact.agrees(*other))).count() as u64
        };
        Agreement {
            right: met(text, reference),
            stated: text.len() as u64,
            found: met(reference, text),
            expected: reference.len() as u64,
        }
    }

    /// Sums counts.
    pub fn plus(self, other: Agreement) -> Self {
        Agreement {
            right: self.right + other.right,
            stated: self.stated + other.stated,
            found: self.found + other.found,
            expected: self.expected + other.expected,
        }
    }

    /// Precision, recall and F1; nothing where nothing is stated or expected.
    pub fn shares(self) -> (Option<f64>, Option<f64>, Option<f64>) {
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let (precision, recall) = (share(self.right, self.stated), share(self.found, self.expected));
        let f1 = match (precision, recall) {
            (Some(precision), Some(recall)) if precision + recall > 0.0 => Some(2.0 * precision * recall / (precision + recall)),
            (None, None) => None,
            _ => Some(0.0),
        };
        (precision, recall, f1)
    }
}

/// Measures texts against their references, one each.
pub fn measure<T: AsRef<str>, R: AsRef<str>>(texts: &[T], references: &[R]) -> Result<FactMeasures, MeasureError> {
    same_length("texts", texts.len(), "references", references.len())?;
    if texts.is_empty() {
        return Err(MeasureError::Empty);
    }
    let pairs: Vec<(Vec<Fact>, Vec<Fact>)> =
        texts.iter().zip(references).map(|(text, reference)| (read(text.as_ref()), read(reference.as_ref()))).collect();
    let total = pairs.iter().fold(Agreement::default(), |sum, (text, reference)| sum.plus(Agreement::of(text, reference)));
    let (precision, recall, f1) = total.shares();
    let contradicting = pairs.iter().filter(|(text, _)| contradicts_itself(text)).count();
    Ok(FactMeasures {
        pairs: pairs.len() as u64,
        stated: total.stated,
        expected: total.expected,
        precision,
        recall,
        f1,
        self_contradicting: contradicting as f64 / pairs.len() as f64,
        per_finding: findings().filter_map(|finding| row(finding, &pairs)).collect(),
    })
}

fn contradicts_itself(facts: &[Fact]) -> bool {
    facts.iter().enumerate().any(|(place, fact)| facts[..place].iter().any(|other| other.finding == fact.finding))
}

/// The row of a finding; nothing when neither texts nor references mention it.
fn row(finding: &str, pairs: &[(Vec<Fact>, Vec<Fact>)]) -> Option<FindingRow> {
    let only = |facts: &[Fact]| facts.iter().copied().filter(|fact| fact.finding == finding).collect::<Vec<_>>();
    let sum =
        pairs.iter().fold(Agreement::default(), |sum, (text, reference)| sum.plus(Agreement::of(&only(text), &only(reference))));
    let (precision, recall, f1) = sum.shares();
    let row = FindingRow { finding: finding.into(), stated: sum.stated, expected: sum.expected, precision, recall, f1 };
    (row.stated + row.expected > 0).then_some(row)
}
