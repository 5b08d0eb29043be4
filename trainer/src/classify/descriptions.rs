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
    let source = match (kind, &found.adapter, base) {
        (Descriptions::Base, Some(adapter), _) => Source { asked_as: Some(adapter.clone()), adapter: None, ..found },
        // All weights were trained: the base is another checkpoint.
        (Descriptions::Base, None, Some(base)) => Source { base: base.into(), asked_as: Some(found.base.clone()), ..found },
        (Descriptions::Base, None, None) => found,
        (Descriptions::Csv | Descriptions::Generated | Descriptions::Mixed, _, _) => found,
    };
    Ok((kind, Some(source)))
}

/// Refuses options that say who describes where this recipe would not use them.
///
/// # Errors
/// [`TrainError::Asked`] with such an option, and why.
pub fn check_options(recipe: &Recipe, describer: Option<&Path>, base: Option<&Path>) -> Result<(), TrainError> {
    let not_read = match recipe.descriptions {
        _ if !recipe.reads_texts() => Some("this recipe reads no texts"),
        Some(Descriptions::Csv) => Some("this recipe reads the texts of the CSV file"),
        Some(Descriptions::Generated | Descriptions::Base | Descriptions::Mixed) | None => None,
    };
    let by_base = recipe.descriptions == Some(Descriptions::Base);
    let (unused, why) = match (not_read, describer, base) {
        (Some(why), Some(_), _) => ("--describer", why),
        (Some(why), None, Some(_)) => ("--base", why),
        (None, None, Some(_)) if recipe.descriptions.is_none() => {
            ("--base", "without --describer the texts are those of the CSV file")
        }
        (None, Some(folder), Some(_)) if !by_base && Source::is_whole(folder) => {
            ("--base", "the describer is a whole checkpoint, which needs no other")
        }
        _ => return Ok(()),
    };
    Err(TrainError::Asked(format!("{unused} would not be used: {why}; leave it out, or choose another recipe")))
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

/// What a describer was tuned on, as the folders of its adapter and its checkpoint say.
///
/// # Errors
/// A record that cannot be read.
pub(super) fn tuned_on(source: &Source) -> Result<Option<TrainingData>, TrainError> {
    Ok(TrainingData::of_describer(&source.base, source.adapter.as_deref())?)
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
