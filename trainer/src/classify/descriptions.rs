//! Whose words the texts are: the CSV file's, the tuned describer's, or its base's.

use super::recipe::{Descriptions, NullText, Recipe};
use crate::{
    data::{Part, Table, TrainingData, tables_describer},
    error::TrainError,
    generate::{Source, StopReason, describe_files},
};
use mmlnb_models::{measures::facts::mask_class_words, problems::Problems};
use mmlnb_study::error::StudyError;
use std::path::{Path, PathBuf};
use tch::Device;

/// The file in a run's folder that keeps descriptions as they are made.
pub(super) const CACHE: &str = "descriptions.jsonl";

/// Texts of all rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Described {
    /// What validation, test and serving read.
    pub served: Vec<String>,
    /// What training reads too, in some epochs.
    pub other: Option<Vec<String>>,
    /// Of generated texts: whether the model ended it.
    pub finished: Option<Vec<bool>>,
}

/// Who describes, as the recipe and the command line say; none when the CSV file does.
///
/// # Errors
/// A describer that the recipe wants and nobody names.
pub(super) fn source(
    recipe: &Recipe,
    describer: Option<&Path>,
    base: Option<&Path>,
    device: Device,
) -> Result<(Descriptions, Option<Source>), TrainError> {
    let kind = recipe.descriptions.unwrap_or(if describer.is_some() { Descriptions::Generated } else { Descriptions::Csv });
    if !recipe.reads_texts() || kind == Descriptions::Csv {
        return Ok((Descriptions::Csv, None));
    }
    let found = match (describer, base) {
        (Some(folder), base) => Source::of(folder, base, device)?,
        (None, Some(base)) if kind == Descriptions::Base => Source::new(base, None, device),
        (None, Some(_)) => return Err(TrainError::Asked("descriptions of a tuned describer need --describer".into())),
        (None, None) => {
            return Err(TrainError::Asked("this recipe's descriptions are generated; give --describer (and --base)".into()));
        }
    };
    // The base is asked as the tuned one is: the same question, the same size of image.
    let source = match kind {
        Descriptions::Base => Source { asked_as: found.adapter.clone(), adapter: None, ..found },
        Descriptions::Csv | Descriptions::Generated | Descriptions::Mixed => found,
    };
    Ok((kind, Some(source)))
}

/// What those describers were tuned on whose texts a recipe reads, those among them that wrote the table's own; `None`: one that does not say.
///
/// # Errors
/// Records that cannot be read.
pub(super) fn describers(
    kind: Descriptions,
    recipe: &Recipe,
    source: Option<&Source>,
    table: &Table,
) -> Result<Vec<Option<TrainingData>>, TrainError> {
    let mut found = source.map(tuned_on).transpose()?.into_iter().collect::<Vec<_>>();
    if recipe.reads_texts() && matches!(kind, Descriptions::Csv | Descriptions::Mixed) {
        found.extend(tables_describer(&table.file)?);
    }
    Ok(found)
}

/// What a describer was tuned on, as the folder of its adapter or checkpoint says.
///
/// # Errors
/// A record that cannot be read.
pub(super) fn tuned_on(source: &Source) -> Result<Option<TrainingData>, TrainError> {
    Ok(TrainingData::read(source.adapter.as_deref().unwrap_or(&source.base))?)
}

/// The texts of all rows, generated where need be; what was generated before is taken from `cache`.
///
/// # Errors
/// Rows without a text, all of them listed; a describer that cannot be used.
pub(super) fn described(
    table: &Table,
    parts: &[Part],
    recipe: &Recipe,
    (kind, source): (Descriptions, Option<&Source>),
    cache: &Path,
) -> Result<Described, TrainError> {
    let mut described = of_table(table, source, cache)?;
    if kind == Descriptions::Mixed {
        described.other = Some(of_file(table)?);
    }
    if recipe.null_text == NullText::Shuffled {
        described.served = super::texts::shuffled(&described.served, table, parts, recipe.seed);
        described.other = None;
        described.finished = None;
    }
    if recipe.null_text == NullText::Masked {
        let mask = |text: &mut String| *text = mask_class_words(text, &table.classes);
        described.served.iter_mut().chain(described.other.iter_mut().flatten()).for_each(mask);
    }
    Ok(described)
}

/// The describer's texts of all rows or, without one, the table's own.
///
/// # Errors
/// As [`described`].
pub(super) fn of_table(table: &Table, source: Option<&Source>, cache: &Path) -> Result<Described, TrainError> {
    let Some(source) = source else { return Ok(Described { served: of_file(table)?, other: None, finished: None }) };
    let files: Vec<PathBuf> = table.rows.iter().map(|row| table.image(row)).collect();
    let made = whole(table, describe_files(source, &files, cache)?)?;
    let finished = made.iter().map(|one| one.stop_reason == StopReason::EndToken).collect();
    Ok(Described { served: made.into_iter().map(|one| one.text).collect(), other: None, finished: Some(finished) })
}

fn of_file(table: &Table) -> Result<Vec<String>, TrainError> {
    let text = |text: &Option<String>| text.clone().ok_or_else(|| "`description` is empty".to_string());
    whole(table, table.rows.iter().map(|row| text(&row.description)).collect())
}

/// All of them, or every row that has none.
fn whole<T>(table: &Table, found: Vec<Result<T, String>>) -> Result<Vec<T>, TrainError> {
    let mut problems = Problems::default();
    let mut all = Vec::with_capacity(found.len());
    for (row, one) in table.rows.iter().zip(found) {
        match one {
            Ok(one) => all.push(one),
            Err(problem) => problems.at(row.line, "rows without a text", format!("{}: {problem}", row.file_name)),
        }
    }
    StudyError::data(&table.file, problems)?;
    Ok(all)
}
