//! `predictions.jsonl`: what a classifier said about every validation and test image; reports, comparisons and ablations read it.

use super::files;
use crate::{data::Part, error::StudyError};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// Its name in a run's folder.
pub const PREDICTIONS: &str = "predictions.jsonl";

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Path of the image below the image folder.
    pub file_name: String,
    /// Of the image file, lower-case hex.
    pub sha256: String,
    /// Line of the CSV file, from 1.
    pub line: u64,
    /// The patient.
    pub group: Option<String>,
    /// Hospital or scanner.
    pub site: Option<String>,
    /// Validation or test.
    pub part: Part,
    /// Name of the true class.
    pub class: String,
    /// Of the fused head, before the temperature, in the order of the classes.
    pub logits: Vec<f64>,
    /// Of the image alone.
    pub image_logits: Option<Vec<f64>>,
    /// Of the text alone: what the fused head says at alpha = 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_logits: Option<Vec<f64>>,
    /// Weight of the text in the fusion.
    pub alpha_text: Option<f64>,
    /// The words that the classifier read.
    pub description: Option<String>,
    /// Distance from the training data.
    pub novelty: Option<f64>,
    /// `accepted`, `abstain` or `not_assessed`.
    pub verdict: String,
    /// Why it abstains.
    pub verdict_reasons: Vec<String>,
}

/// All predictions of a run's folder.
pub fn read(run: &Path) -> Result<Vec<Prediction>, StudyError> {
    let path = run.join(PREDICTIONS);
    let text = fs::read_to_string(&path).map_err(StudyError::io("read", &path))?;
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| StudyError::File {
            path: path.clone(),
            problem: format!(
                "line {} is not a prediction: {error}; train the run anew or take the file from a backup",
                number + 1
            ),
        })
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

/// Writes all predictions of a run's folder.
pub fn write(run: &Path, predictions: &[Prediction]) -> Result<(), StudyError> {
    let path = run.join(PREDICTIONS);
    let mut text = Vec::new();
    for prediction in predictions {
        serde_json::to_writer(&mut text, prediction).map_err(|error| StudyError::io("write", &path)(error.into()))?;
        text.push(b'\n');
    }
    files::replace_file(&path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_read_as_they_were_written_and_a_broken_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let one = Prediction {
            file_name: "a/b.png".into(),
            sha256: "00".into(),
            line: 2,
            group: Some("p1".into()),
            site: None,
            part: Part::Test,
            class: "PD".into(),
            logits: vec![0.1, -2.5e-7, 1.0 / 3.0],
            image_logits: None,
            text_logits: None,
            alpha_text: Some(0.25),
            description: Some("line\nbreak \"quoted\"".into()),
            novelty: None,
            verdict: "abstain".into(),
            verdict_reasons: vec!["low_confidence".into()],
        };
        let all = [one.clone(), Prediction { part: Part::Validation, ..one }];
        write(folder.path(), &all).unwrap();
        assert_eq!(read(folder.path()).unwrap(), all);

        let path = folder.path().join(PREDICTIONS);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + "{\"file_name\":").unwrap();
        let error = read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("line 3 is not a prediction"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
