//! Whether a describer's texts are better about the rows that a classifier trains on than about others. Where they tuned the describer too, they are: the
//! classifier then learns to trust texts more than those deserve that it will read in service (out-of-fold texts would not have this).

use super::Diagnostic;
use mmlnb_models::measures::{MeasureError, facts};
use serde::{Deserialize, Serialize};

/// Above this difference of F1 it is worth a word.
const WORSE: f64 = 0.05;

/// How right a describer's texts are, on both sides of the split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextFacts {
    /// Rows that the classifier trains on.
    pub trained: SideFacts,
    /// Rows that choose, calibrate or are reported.
    pub others: SideFacts,
    /// How many of `trained` tuned the describer, by image or patient; `None`: it does not say.
    pub tuned: Option<usize>,
}

/// How right texts are about some rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SideFacts {
    /// Rows with a description to compare with.
    pub rows: usize,
    /// Micro F1 of findings and their states, as `models::measures::facts` reads them.
    pub f1: Option<f64>,
}

impl SideFacts {
    /// Of texts and what experts wrote about the same images; `None` where there is nothing to compare.
    ///
    /// # Errors
    /// None that lists of one length can cause.
    pub fn of(texts: &[&str], references: &[&str]) -> Result<Option<SideFacts>, MeasureError> {
        if texts.is_empty() {
            return Ok(None);
        }
        Ok(Some(SideFacts { rows: texts.len(), f1: facts::measure(texts, references)?.f1 }))
    }
}

impl TextFacts {
    /// Both figures, for readers.
    pub fn words(&self) -> String {
        let f1 = |side: &SideFacts| side.f1.map_or("none".to_string(), |f1| format!("{f1:.3}"));
        let tuned = self.tuned.map_or("unknown how many".to_string(), |rows| rows.to_string());
        format!(
            "facts F1 of the describer's texts: {} on the {} rows that train the classifier ({tuned} of them tuned the describer), {} on the {} others",
            f1(&self.trained),
            self.trained.rows,
            f1(&self.others),
            self.others.rows
        )
    }

    /// `texts_better_in_training`: the classifier trains on better texts than it will read.
    pub fn diagnostic(&self) -> Option<Diagnostic> {
        let better = self.trained.f1? - self.others.f1?;
        (better > WORSE).then(|| Diagnostic {
            code: "texts_better_in_training",
            message: format!("The classifier trains on better texts than it will read: {}.", self.words()),
            remedy: "tune the describer on other patients than the classifier (one file for each, no patient in both), or for fewer epochs; until then alpha \
                     leans on the text more than it should.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(trained: Option<f64>, others: Option<f64>) -> TextFacts {
        TextFacts { trained: SideFacts { rows: 40, f1: trained }, others: SideFacts { rows: 20, f1: others }, tuned: Some(40) }
    }

    #[test]
    fn a_describer_that_knows_the_training_rows_is_told() {
        let found = facts(Some(0.98), Some(0.71)).diagnostic().unwrap();
        assert_eq!(found.code, "texts_better_in_training");
        assert!(found.message.contains("0.980 on the 40 rows") && found.message.contains("0.710 on the 20"), "{}", found.message);
        for (trained, others) in [(Some(0.8), Some(0.78)), (Some(0.7), Some(0.9)), (None, Some(0.5)), (Some(0.9), None)] {
            assert_eq!(facts(trained, others).diagnostic(), None);
        }
    }

    #[test]
    fn texts_are_compared_with_what_experts_wrote() {
        let expert = ["Neuropil is abundant. Ganglion cells are present.", "Neuropil is absent. Ganglion cells are absent."];
        let same = SideFacts::of(&expert, &expert).unwrap().unwrap();
        let swapped = SideFacts::of(&[expert[1], expert[0]], &expert).unwrap().unwrap();
        assert_eq!((same.rows, same.f1), (2, Some(1.0)));
        assert!(swapped.f1 < Some(0.5), "{swapped:?}");
        assert_eq!(SideFacts::of(&[], &[]).unwrap(), None);
    }
}
