//! Whether a describer was tuned on images that a classifier is to be tested on.

use super::{check::Problems, split::Split, table::Part, table::Row, table::Table};
use crate::{error::TrainError, run::files};
use mmlnb_models::hash;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fs, path::Path};

/// The file in a describer's folder that records what it was tuned on.
pub const TRAINING_DATA: &str = "training_data.json";

/// What a describer was tuned on: hashes only, so that the folder may be handed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingData {
    /// SHA-256 of the image files.
    pub images: BTreeSet<String>,
    /// SHA-256 of the patients' names.
    pub groups: BTreeSet<String>,
}

/// How test images and a describer's training images stand to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// They have no image and no patient in common.
    None,
    /// The describer's folder does not say what it was tuned on.
    Unknown,
    /// They overlap, and `--allow-overlap` lets it be; every report has to say so.
    Allowed {
        /// Test rows whose image or patient the describer has seen.
        rows: usize,
    },
}

impl TrainingData {
    /// What a run uses to fit and to choose: the parts train and validation.
    pub fn of(table: &Table, split: &Split) -> TrainingData {
        let mut data = TrainingData::default();
        for (row, _) in table.rows.iter().zip(&split.parts).filter(|(_, part)| **part != Part::Test) {
            data.images.insert(row.sha256.clone());
            data.groups.extend(row.group.as_deref().map(hashed));
        }
        data
    }

    /// Writes [`TRAINING_DATA`] into a describer's folder.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn write(&self, folder: &Path) -> Result<(), TrainError> {
        let path = folder.join(TRAINING_DATA);
        let text = serde_json::to_string_pretty(self).map_err(|error| TrainError::io("write", &path)(error.into()))?;
        files::replace_file(&path, format!("{text}\n").as_bytes())
    }

    /// None: the folder does not say.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn read(folder: &Path) -> Result<Option<TrainingData>, TrainError> {
        let path = folder.join(TRAINING_DATA);
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TrainError::io("read", &path)(error)),
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|error| TrainError::File { path, problem: error.to_string() })
            }
        }
    }

    fn seen(&self, row: &Row) -> Option<String> {
        if self.images.contains(&row.sha256) {
            return Some(format!("the describer was tuned on {}", row.file_name));
        }
        let group = row.group.as_deref().filter(|group| self.groups.contains(&hashed(group)))?;
        Some(format!("the describer was tuned on images of {group}"))
    }
}

fn hashed(group: &str) -> String {
    hash::sha256_hex(group.as_bytes())
}

/// Compares the reported part with what the describer in `folder` was tuned on.
///
/// # Errors
/// [`TrainError::Data`]: they overlap, unless `allowed`; all rows are listed.
pub fn check_overlap(table: &Table, split: &Split, folder: &Path, allowed: bool) -> Result<Overlap, TrainError> {
    let Some(data) = TrainingData::read(folder)? else { return Ok(Overlap::Unknown) };
    let reported = split.rows(split.reported());
    let seen: Vec<(u64, String)> =
        reported.iter().filter_map(|row| Some((table.rows[*row].line, data.seen(&table.rows[*row])?))).collect();
    if seen.is_empty() {
        return Ok(Overlap::None);
    }
    if allowed {
        return Ok(Overlap::Allowed { rows: seen.len() });
    }
    let mut problems = Problems::default();
    problems.whole(format!(
        "{} of the {} test images were seen by the describer; use one file with one column `split` for both stages, or --allow-overlap, which marks every report",
        seen.len(),
        reported.len()
    ));
    seen.into_iter().for_each(|(line, problem)| problems.at(line, problem));
    problems.into_result(&table.file)?;
    Ok(Overlap::None)
}

#[cfg(test)]
mod tests {
    use super::{super::split::tests::table, *};
    use crate::data::{SplitOptions, split};

    #[test]
    fn one_split_for_both_stages_does_not_overlap() {
        let table = table(20, 1, true);
        let split = split(&table, &SplitOptions::usual(&table, 4)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check_overlap(&table, &split, folder.path(), false).unwrap(), Overlap::Unknown);
        TrainingData::of(&table, &split).write(folder.path()).unwrap();
        assert_eq!(check_overlap(&table, &split, folder.path(), false).unwrap(), Overlap::None);
    }

    #[test]
    fn each_test_row_that_the_describer_has_seen_is_listed() {
        let table = table(20, 1, true);
        let split = split(&table, &SplitOptions::usual(&table, 4)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let row = &table.rows[split.rows(Part::Test)[0]];
        let group = row.group.clone().unwrap();
        let of_group: Vec<&Row> = table.rows.iter().filter(|other| other.group.as_ref() == Some(&group)).collect();
        let images = TrainingData { images: [row.sha256.clone()].into(), groups: BTreeSet::new() };
        let groups = TrainingData { images: BTreeSet::new(), groups: [hashed(&group)].into() };
        for (data, rows) in [(images, vec![row]), (groups, of_group)] {
            data.write(folder.path()).unwrap();
            let error = check_overlap(&table, &split, folder.path(), false).unwrap_err();
            let TrainError::Data { problems, .. } = &error else { panic!("{error}") };
            assert_eq!(problems.len(), rows.len() + 1, "{error}");
            assert!(problems[0].contains("--allow-overlap"));
            for (row, problem) in rows.iter().zip(&problems[1..]) {
                assert!(problem.contains(&format!("line {}: the describer was tuned", row.line)), "{problem}");
            }
            let allowed = check_overlap(&table, &split, folder.path(), true).unwrap();
            assert_eq!(allowed, Overlap::Allowed { rows: rows.len() });
        }
    }

    #[test]
    fn patients_are_recorded_by_their_hash_only() {
        let table = table(6, 2, true);
        let split = split(&table, &SplitOptions::usual(&table, 0)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        TrainingData::of(&table, &split).write(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join(TRAINING_DATA)).unwrap();
        assert!(!text.contains("\"P"), "{text}");
        fs::write(folder.path().join(TRAINING_DATA), "{").unwrap();
        assert_eq!(TrainingData::read(folder.path()).unwrap_err().exit_code(), 2);
    }
}
