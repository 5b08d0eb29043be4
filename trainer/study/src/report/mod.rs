//! What a run leaves for people: `plots/*.png`, `report.html` and `MODEL_CARD.md`, made from the files of the run's folder and the images alone, so that
//! they can be made again at any time.

mod card;
mod counts;
mod curves;
pub mod examples;
mod figures;
mod measured;
mod page;
pub mod plot;
pub mod record;
mod scores;
pub mod sheet;
mod words;

use crate::{error::StudyError, run::files};
use figures::Figure;
use mmlnb_models::prepare::phantom::is_marked;
use record::Record;
use scores::Scores;
use std::{fs, path::Path};

/// Writes plots, page and card into the folder of a run whose numbers are all there; `images`: the image folder, for thumbnails.
///
/// # Errors
/// A file of the run that cannot be read or contradicts another, and what the operating system refuses.
pub fn write(run: &Path, images: &Path) -> Result<(), StudyError> {
    let record = Record::read(run)?;
    if record.predictions.is_empty() { describer(run, &record, images) } else { classifier(run, &record, images) }
}

fn classifier(run: &Path, record: &Record, images: &Path) -> Result<(), StudyError> {
    let scores = Scores::new(record)?;
    let (training, answers) = (figures::training(record), figures::answers(record, &scores));
    let phantoms = are_phantoms(scores.items.iter().map(|item| item.file_name.as_str()), images);
    write_plots(run, training.iter().chain(&answers))?;
    let page =
        page::classifier(&page::Classified { record, scores: &scores, training: &training, answers: &answers, images, phantoms });
    files::replace_file(&run.join("report.html"), page.as_bytes())?;
    files::replace_file(&run.join("MODEL_CARD.md"), card::classifier(record, &scores, phantoms).as_bytes())
}

fn describer(run: &Path, record: &Record, images: &Path) -> Result<(), StudyError> {
    let figures = figures::describing(record);
    let phantoms = are_phantoms(record.examples.iter().map(|example| example.file_name.as_str()), images);
    write_plots(run, figures.iter())?;
    let page = page::describer(record, &figures, images, phantoms);
    files::replace_file(&run.join("report.html"), page.as_bytes())?;
    files::replace_file(&run.join("MODEL_CARD.md"), card::describer(record, phantoms).as_bytes())
}

fn write_plots<'a>(run: &Path, figures: impl Iterator<Item = &'a Figure>) -> Result<(), StudyError> {
    files::replace_folder(&run.join("plots"), |folder| {
        figures.into_iter().try_for_each(|figure| figure.svg.write(folder, figure.name))
    })
}

/// The first images tell for all.
fn are_phantoms<'a>(files: impl Iterator<Item = &'a str>, images: &Path) -> bool {
    files.take(3).any(|file| fs::read(images.join(file)).is_ok_and(|bytes| is_marked(&bytes)))
}

#[cfg(test)]
mod tests;
