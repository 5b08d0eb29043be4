//! Known answers of a classifier: images with a fixed text and the probabilities that they must get wherever the classifier is served.

use super::{corpus::Opinion, descriptions::Described};
use crate::{
    data::{Part, Table},
    error::TrainError,
};
use mmlnb_models::{
    bundle::{KnownAnswer, KnownProbabilities},
    measures::classes::softmax,
};
use std::{fs, path::Path};

/// Images that travel with a classifier.
const COUNT: usize = 4;

/// Answers with the images' bytes: the first rows that differ in class, from the test part where there is one.
///
/// # Errors
/// An image that cannot be read.
pub(super) fn record(
    table: &Table,
    texts: Option<&Described>,
    rows: &[(usize, Part)],
    said: &[Opinion],
) -> Result<Vec<(KnownAnswer, Vec<u8>)>, TrainError> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    // How many of its class and part came before; then the test part first.
    let rank = |at: usize| {
        rows[..at]
            .iter()
            .filter(|other| other.1 == rows[at].1 && table.rows[other.0].class == table.rows[rows[at].0].class)
            .count()
    };
    order.sort_by_key(|at| (rows[*at].1 != Part::Test, rank(*at)));
    order
        .into_iter()
        .take(COUNT)
        .enumerate()
        .map(|(number, at)| {
            let row = &table.rows[rows[at].0];
            let file = table.image(row);
            let extension = file.extension().map_or(String::new(), |extension| format!(".{}", extension.to_string_lossy()));
            let description = texts.map(|texts| texts.served[rows[at].0].clone());
            let probabilities = softmax(&said[at].logits, 1.0).into_iter().map(|p| p as f32).collect();
            let answer = KnownAnswer {
                image: format!("{}{extension}", number + 1),
                describer: None,
                classifier: Some(KnownProbabilities::recorded(description, probabilities)),
            };
            Ok((answer, fs::read(&file).map_err(TrainError::io("read", &file))?))
        })
        .collect()
}

/// Writes them into a classifier's folder.
///
/// # Errors
/// What cannot be written.
pub(super) fn write(folder: &Path, answers: &[(KnownAnswer, Vec<u8>)]) -> Result<(), TrainError> {
    KnownAnswer::write_all(folder, answers).map_err(|error| TrainError::Failed(error.to_string()))
}
