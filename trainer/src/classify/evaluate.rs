//! A trained classifier on other data.

use super::{
    assess::{Judge, PartMeasures, measures, predictions},
    corpus::{Corpus, Known, judge},
    descriptions::{Described, of_table},
    folder::{self, Opened},
    pictures::Pictures,
    start::tokenizer,
    texts::Written,
};
use crate::{
    data::{Part, Table},
    error::TrainError,
    generate::Source,
    run::predictions::Prediction,
};
use std::path::{Path, PathBuf};
use tch::Device;

/// Items of a batch.
const BATCH: usize = 16;
/// Of the draws of intervals.
const SEED: u64 = 2024;

/// What a classifier said about other data, and how right it was.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// One for each row.
    pub predictions: Vec<Prediction>,
    /// Over all rows.
    pub measures: PartMeasures,
}

/// Judges every row of a table with the classifier in `folder`, whose classes the table must have in the same order ([`crate::data::ClassOrder::Fixed`]).
/// Texts are the table's own or, with `describer`, the describer's; `cache` keeps those.
///
/// # Errors
/// A folder that is no classifier, other classes, rows without a text, and what cannot be computed.
pub fn evaluate(
    folder: &Path,
    table: &Table,
    describer: Option<&Source>,
    cache: &Path,
    device: Device,
) -> Result<Evaluation, TrainError> {
    let Opened { network, calibration, neighbours, tokenizer: words } = folder::open(folder, device)?;
    if network.config().classes != table.classes {
        let problem = format!(
            "the classifier knows the classes {}, the data have {}",
            network.config().classes.join(", "),
            table.classes.join(", ")
        );
        return Err(TrainError::Asked(problem));
    }
    let described: Option<Described> = match &network.config().text {
        Some(_) => Some(of_table(table, describer, cache)?),
        None => None,
    };
    let written = match (&described, &network.config().text, words) {
        (Some(described), Some(text), Some(folder)) => {
            Some(Written::new(&described.served, None, &tokenizer(&folder, text)?, text.longest_text() as usize, SEED)?)
        }
        _ => None,
    };
    let files: Vec<PathBuf> = table.rows.iter().map(|row| table.image(row)).collect();
    let pictures = network.config().image.as_ref().map(|(_, input)| Pictures::new(files, input, false));
    let labels = table.rows.iter().map(|row| row.class.unwrap_or(0)).collect();
    let corpus = Corpus { pictures, written, labels, batch: BATCH, device };
    let rows: Vec<usize> = (0..table.rows.len()).collect();
    let opinions = judge(&network, &corpus, &rows, &Known::nothing())?;
    let judge = Judge { calibration: calibration.as_ref(), neighbours: neighbours.as_ref() };
    let placed: Vec<(usize, Part)> = rows.iter().map(|row| (*row, Part::Test)).collect();
    let predictions = predictions(table, &corpus, described.as_ref(), &placed, &opinions, judge)?;
    let cut: Vec<Option<usize>> = rows.iter().map(|row| corpus.written.as_ref().map(|written| written.lost(*row))).collect();
    let temperature = calibration.as_ref().map_or(1.0, |calibration| calibration.temperature);
    let measures = measures(table, &predictions, temperature, &cut, SEED)
        .map_err(|error| TrainError::Failed(format!("the data cannot be measured: {error}")))?;
    Ok(Evaluation { predictions, measures })
}
