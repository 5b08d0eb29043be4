//! Images with the answers that they must get, for a check on the machine that serves a bundle.
//!
//! A classifier's or an adapter's folder may hold them as `known_answers/`, with `answers.json` (a list of [`KnownAnswer`], `image` a name in that
//! folder) beside the images; the exporter carries them into the bundle.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

use super::{BundleError, Precision};

/// The folder of known answers, in a classifier's or adapter's folder and in a bundle.
pub const KNOWN_ANSWERS: &str = "known_answers";
/// The list in that folder; a bundle has it in its manifest instead.
pub const ANSWERS: &str = "answers.json";

/// One image with the answers it must get.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct KnownAnswer {
    /// Path of the image: in the bundle, or in the folder of `answers.json`.
    pub image: String,
    /// The describer's half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub describer: Option<KnownTokens>,
    /// The classifier's half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier: Option<KnownProbabilities>,
}

/// The first tokens of a greedy description (without repetition penalty) and their raw logits.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct KnownTokens {
    /// The tokens, from the first one.
    pub token_ids: Vec<i64>,
    /// Each token's own logit.
    pub logits: Vec<f32>,
    /// Largest allowed difference of a logit.
    pub tolerance: f32,
}

/// Probabilities of the classes for the image with a fixed description.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct KnownProbabilities {
    /// The text; null for a classifier that reads none.
    pub description: Option<String>,
    /// softmax(logits), at temperature 1 whatever the calibration, in the order of the classes.
    pub probabilities: Vec<f32>,
    /// Largest allowed difference of a probability.
    pub tolerance: f32,
}

impl KnownAnswer {
    /// The list in `folder/known_answers/answers.json`; empty where there is none.
    ///
    /// # Errors
    /// The file is unreadable or not such a list, or an image is no plain name of a file in the folder.
    pub fn read_all(folder: &Path) -> Result<Vec<KnownAnswer>, BundleError> {
        let folder = folder.join(KNOWN_ANSWERS);
        let file = folder.join(ANSWERS);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(BundleError::Io { file, source }),
        };
        let wrong = |problem: String| BundleError::Record { file: file.clone(), problem };
        let answers: Vec<KnownAnswer> = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        for answer in &answers {
            let plain = Path::new(&answer.image).file_name().is_some_and(|name| name == answer.image.as_str());
            if !plain || !folder.join(&answer.image).is_file() {
                return Err(wrong(format!("`{}` is not an image in the folder", answer.image)));
            }
        }
        Ok(answers)
    }

    /// Writes `folder/known_answers/` anew: the images by their names, then `answers.json`.
    ///
    /// # Errors
    /// Something cannot be written.
    pub fn write_all(folder: &Path, answers: &[(KnownAnswer, Vec<u8>)]) -> Result<(), BundleError> {
        let folder = folder.join(KNOWN_ANSWERS);
        let io = |source| BundleError::Io { file: folder.clone(), source };
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(io)?;
        }
        fs::create_dir_all(&folder).map_err(io)?;
        for (answer, image) in answers {
            fs::write(folder.join(&answer.image), image).map_err(io)?;
        }
        let list: Vec<&KnownAnswer> = answers.iter().map(|(answer, _)| answer).collect();
        let json = serde_json::to_vec_pretty(&list).map_err(|error| io(error.into()))?;
        fs::write(folder.join(ANSWERS), json).map_err(io)
    }

    /// Recorded in f32, for a bundle at `precision`: what holds in f32 holds in fewer bits within a wider tolerance (docs/exporter.md). A describer
    /// in 4 bits writes texts of its own, one in bf16 may: `qualify` records them. `None` when nothing is left.
    pub fn from_f32(mut self, precision: Precision) -> Option<KnownAnswer> {
        match precision {
            Precision::F32 => {}
            Precision::F16 => self.widen(0.02, 0.02),
            Precision::Int8 => self.widen(0.1, 0.05),
            Precision::Int4 | Precision::Int4Int8 | Precision::Bf16 => {
                self.describer = None;
                self.widen(0.0, 0.05);
            }
        }
        (self.describer.is_some() || self.classifier.is_some()).then_some(self)
    }

    /// Recorded by a bundle of `precision` itself: another processor's last bits tip roundings to 16, 8 or 4 bits over.
    pub fn of_its_own(mut self, precision: Precision) -> KnownAnswer {
        match precision {
            Precision::F32 => {}
            Precision::F16 | Precision::Bf16 | Precision::Int8 | Precision::Int4 | Precision::Int4Int8 => self.widen(0.02, 0.02),
        }
        self
    }

    /// Allows at least so much: of logits relative to the largest, of probabilities.
    fn widen(&mut self, logit: f32, probability: f32) {
        if let Some(half) = &mut self.describer {
            let most = half.logits.iter().fold(1.0f32, |most, logit| most.max(logit.abs()));
            half.tolerance = half.tolerance.max(logit * most);
        }
        if let Some(half) = &mut self.classifier {
            half.tolerance = half.tolerance.max(probability);
        }
    }
}

impl KnownTokens {
    /// Tokens and logits with the tolerance of f32 on another machine: a thousandth of the largest logit.
    pub fn recorded(token_ids: Vec<i64>, logits: Vec<f32>) -> KnownTokens {
        let most = logits.iter().fold(1.0f32, |most, logit| most.max(logit.abs()));
        KnownTokens { token_ids, logits, tolerance: 1e-3 * most }
    }

    /// What differs, in words, from the tokens that were written and the raw logits of all tokens at each. Another token may be written only where
    /// the expected one is as likely within the tolerance, a tie; what follows it is another text, and is not compared.
    pub fn difference(&self, token_ids: &[i64], rows: &[&[f32]]) -> Option<String> {
        let others = || format!("tokens {token_ids:?} instead of {:?}", self.token_ids);
        for (index, (expected, recorded)) in self.token_ids.iter().zip(&self.logits).enumerate() {
            let (Some(found), Some(row)) = (token_ids.get(index), rows.get(index)) else { return Some(others()) };
            let Some(own) = usize::try_from(*expected).ok().and_then(|id| row.get(id)) else { return Some(others()) };
            if let Some(off) = farthest(&[*own], &[*recorded], self.tolerance) {
                let parted = if found == expected { String::new() } else { format!("{}, and ", others()) };
                return Some(format!("{parted}a token's logit is {off}"));
            }
            if found != expected {
                let highest = row.iter().fold(f32::NEG_INFINITY, |most, logit| most.max(*logit));
                return (highest - own > self.tolerance).then(others);
            }
        }
        (token_ids.len() != self.token_ids.len()).then(others)
    }
}

impl KnownProbabilities {
    /// Probabilities with the tolerance of f32 on another machine, one thousandth.
    pub fn recorded(description: Option<String>, probabilities: Vec<f32>) -> KnownProbabilities {
        KnownProbabilities { description, probabilities, tolerance: 1e-3 }
    }

    /// What differs, in words.
    pub fn difference(&self, probabilities: &[f32]) -> Option<String> {
        farthest(probabilities, &self.probabilities, self.tolerance).map(|found| format!("a probability is {found}"))
    }
}

/// The pair that lies farthest apart, if outside of the tolerance.
fn farthest(found: &[f32], expected: &[f32], tolerance: f32) -> Option<String> {
    if found.len() != expected.len() {
        return Some(format!("one of {} instead of {}", found.len(), expected.len()));
    }
    let worst = found.iter().zip(expected).max_by(|a, b| (a.0 - a.1).abs().total_cmp(&(b.0 - b.1).abs()))?;
    let within = (worst.0 - worst.1).abs() <= tolerance;
    (!within).then(|| format!("{} instead of {} (allowed: {tolerance} apart)", worst.0, worst.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> KnownTokens {
        KnownTokens { token_ids: vec![1, 2], logits: vec![5.0, 4.0], tolerance: 0.5 }
    }

    #[test]
    fn equal_tokens_with_near_logits_are_the_answer() {
        assert_eq!(known().difference(&[1, 2], &[&[0.0, 5.2, 1.0], &[0.0, 1.0, 3.8]]), None);
        let off = known().difference(&[1, 2], &[&[0.0, 5.2, 1.0], &[0.0, 1.0, 3.0]]).unwrap();
        assert!(off.contains("a token's logit is 3 instead of 4"), "{off}");
        assert!(known().difference(&[1], &[&[0.0, 5.0, 1.0]]).is_some(), "one is missing");
        assert!(
            known().difference(&[1, 2, 0], &[&[0.0, 5.0, 1.0], &[0.0, 1.0, 4.0], &[1.0, 0.0, 0.0]]).is_some(),
            "one too many"
        );
        assert!(known().difference(&[1, 2], &[&[0.0], &[0.0]]).is_some(), "no such token here");
    }

    #[test]
    fn another_token_is_one_only_at_a_tie() {
        assert_eq!(known().difference(&[2, 0], &[&[0.0, 5.0, 5.3], &[9.0, 0.0, 0.0]]), None, "a tie, and another text behind it");
        let wrong = known().difference(&[2, 0], &[&[0.0, -5.0, 5.0], &[9.0, 0.0, 0.0]]).unwrap();
        assert!(wrong.contains("tokens [2, 0] instead of [1, 2]"), "as high a logit, but of another token: {wrong}");
        assert!(
            known().difference(&[2, 0], &[&[0.0, 5.0, 6.0], &[9.0, 0.0, 0.0]]).is_some(),
            "the expected one is no longer the likeliest"
        );
    }

    #[test]
    fn few_bits_widen_what_f32_recorded_and_four_leave_the_text_to_qualify() {
        let answer = || KnownAnswer {
            image: "a.png".into(),
            describer: Some(KnownTokens { token_ids: vec![1], logits: vec![16.0], tolerance: 0.02 }),
            classifier: Some(KnownProbabilities { description: None, probabilities: vec![0.5, 0.5], tolerance: 1e-3 }),
        };
        let tolerances =
            |answer: KnownAnswer| (answer.describer.map(|half| half.tolerance), answer.classifier.unwrap().tolerance);
        assert_eq!(tolerances(answer().from_f32(Precision::F32).unwrap()), (Some(0.02), 1e-3));
        assert_eq!(tolerances(answer().from_f32(Precision::Int8).unwrap()), (Some(16.0 * 0.1), 0.05));
        assert_eq!(tolerances(answer().from_f32(Precision::Int4Int8).unwrap()), (None, 0.05));
        assert_eq!(tolerances(answer().of_its_own(Precision::Int4)), (Some(16.0 * 0.02), 0.02));
        assert_eq!(KnownAnswer { classifier: None, ..answer() }.from_f32(Precision::Int4), None);
    }
}
