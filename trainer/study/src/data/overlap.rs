//! What a training has seen, for others to leave out; and whether weights or texts that a classifier takes over know images that it is to be tested on.

use super::{
    split::Split,
    table::{Row, Table},
};
use crate::{error::StudyError, run::files};
use mmlnb_models::{
    problems::Problems,
    provenance::{Known, Role, TRAINING_DATA, TrainingData, beside_table, new_salt},
    rows::Part,
    sheet::Sheet,
};
use std::path::Path;

/// How test images and what somebody was trained on stand to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// They have no image and no patient in common.
    None,
    /// Somebody does not say what it was trained on.
    Unknown,
    /// They overlap, and `--allow-overlap` lets it be; every report has to say so.
    Allowed {
        /// Test rows whose image or patient was seen.
        rows: usize,
    },
}

/// What a run uses to fit (the part train) and to choose (validation); `before`: what its weights had seen at their start.
pub fn training_data(table: &Table, split: &Split, salt: String, before: Option<TrainingData>) -> TrainingData {
    let mut data = TrainingData::new(salt, before);
    for (row, part) in table.rows.iter().zip(&split.parts) {
        let role = match part {
            Part::Train => Role::Trained,
            Part::Validation => Role::Chosen,
            Part::Test => continue,
        };
        data.add(role, &row.sha256, row.group.as_deref());
    }
    data
}

/// The salt of a run: the one that it has already, or a new one.
///
/// # Errors
/// A file of the run that is damaged, or no random numbers.
pub fn salt_of(run: &Path) -> Result<String, StudyError> {
    let earlier = TrainingData::read(&run.join("last"))?.map(|data| data.salt().to_string()).filter(|salt| !salt.is_empty());
    earlier.map_or_else(|| new_salt().map_err(StudyError::io("read", Path::new("/dev/urandom"))), Ok)
}

/// Writes [`TRAINING_DATA`] into a folder.
///
/// # Errors
/// What the operating system refuses.
pub fn write_training_data(data: &TrainingData, folder: &Path) -> Result<(), StudyError> {
    files::replace_file(&folder.join(TRAINING_DATA), &data.to_bytes())
}

/// Who wrote a table's own descriptions: nobody but experts (`None`), or a describer, which says what it was tuned on or does not.
///
/// # Errors
/// A file that cannot be read.
pub fn tables_describer(file: &Path) -> Result<Option<Option<TrainingData>>, StudyError> {
    let known = TrainingData::read_file(&beside_table(file))?;
    Ok(if known.is_some() || Sheet::read(file)?.is_generated() { Some(known) } else { None })
}

/// Compares the reported part with what others have seen whose texts are read or whose weights are taken over; `None`: one that does not say. `who` stands
/// in the messages: "the describer", "the start".
///
/// # Errors
/// [`StudyError::Data`]: they overlap, unless `allowed`; the rows are listed.
pub fn check_overlap(
    table: &Table,
    split: &Split,
    who: &str,
    others: &[Option<TrainingData>],
    allowed: bool,
) -> Result<Overlap, StudyError> {
    let reported = split.rows(split.reported());
    let seen_by = |row: &Row| others.iter().flatten().find_map(|data| data.seen(&row.sha256, row.group.as_deref()));
    let seen: Vec<(&Row, Known)> =
        reported.iter().map(|row| &table.rows[*row]).filter_map(|row| Some((row, seen_by(row)?.1))).collect();
    match seen.len() {
        0 if others.contains(&None) => return Ok(Overlap::Unknown),
        0 => return Ok(Overlap::None),
        rows if allowed => return Ok(Overlap::Allowed { rows }),
        _ => {}
    }
    let mut problems = Problems::default();
    problems.whole(format!(
        "{} of the {} test images were seen by {who}; use one file with one column `split` for both, or --allow-overlap, which marks every report",
        seen.len(),
        reported.len()
    ));
    for (row, known) in seen {
        let what = match known {
            Known::Image => row.file_name.clone(),
            Known::Patient => format!("images of {}", row.group.as_deref().unwrap_or_default()),
        };
        problems.at(row.line, "test images that were seen before", format!("{who} was trained on {what}"));
    }
    StudyError::data(&table.file, problems)?;
    Ok(Overlap::None)
}

#[cfg(test)]
mod tests {
    use super::{super::split::tests::table, *};
    use crate::data::{SplitOptions, split};
    use mmlnb_models::provenance::Known;
    use std::fs;

    #[test]
    fn one_split_for_both_stages_does_not_overlap() {
        let table = table(20, 1, true);
        let split = split(&table, &SplitOptions::usual(&table, 4)).unwrap();
        assert_eq!(check_overlap(&table, &split, "the describer", &[None], false).unwrap(), Overlap::Unknown);
        assert_eq!(check_overlap(&table, &split, "the describer", &[], false).unwrap(), Overlap::None);
        let data = training_data(&table, &split, new_salt().unwrap(), None);
        assert_eq!(check_overlap(&table, &split, "the describer", &[Some(data.clone())], false).unwrap(), Overlap::None);
        assert_eq!(check_overlap(&table, &split, "the describer", &[Some(data), None], false).unwrap(), Overlap::Unknown);
    }

    #[test]
    fn each_test_row_that_the_describer_has_seen_is_listed() {
        let table = table(20, 1, true);
        let split = split(&table, &SplitOptions::usual(&table, 4)).unwrap();
        let row = &table.rows[split.rows(Part::Test)[0]];
        let group = row.group.clone().unwrap();
        let of_group: Vec<&Row> = table.rows.iter().filter(|other| other.group.as_ref() == Some(&group)).collect();
        let (mut images, mut groups) = (TrainingData::new(new_salt().unwrap(), None), TrainingData::default());
        images.add(Role::Trained, &row.sha256, None);
        groups.add(Role::Chosen, "of another image", Some(&group));
        for (data, rows) in [(images, vec![row]), (groups, of_group)] {
            let error = check_overlap(&table, &split, "the describer", &[None, Some(data.clone())], false).unwrap_err();
            let StudyError::Data { problems, .. } = &error else { panic!("{error}") };
            assert_eq!(problems.len(), rows.len() + 1, "{error}");
            assert!(problems[0].contains("--allow-overlap"));
            for (row, problem) in rows.iter().zip(&problems[1..]) {
                assert!(problem.contains(&format!("line {}: the describer was trained", row.line)), "{problem}");
            }
            let allowed = check_overlap(&table, &split, "the describer", &[Some(data)], true).unwrap();
            assert_eq!(allowed, Overlap::Allowed { rows: rows.len() });
        }
    }

    #[test]
    fn patients_are_recorded_by_their_salted_hash_only() {
        let table = table(6, 2, true);
        let split = split(&table, &SplitOptions::usual(&table, 0)).unwrap();
        let run = tempfile::tempdir().unwrap();
        let folder = run.path().join("last");
        fs::create_dir(&folder).unwrap();
        let data = training_data(&table, &split, salt_of(run.path()).unwrap(), None);
        write_training_data(&data, &folder).unwrap();
        let text = fs::read_to_string(folder.join(TRAINING_DATA)).unwrap();
        assert!(!text.contains("\"P"), "{text}");
        assert!(table.rows.iter().all(|row| !text.contains(&row.sha256)));
        for (row, part) in table.rows.iter().zip(&split.parts) {
            let expected = match part {
                Part::Train => Some((Role::Trained, Known::Image)),
                Part::Validation => Some((Role::Chosen, Known::Image)),
                Part::Test => None,
            };
            assert_eq!(data.seen(&row.sha256, row.group.as_deref()), expected);
        }
        assert_eq!(salt_of(run.path()).unwrap(), data.salt(), "a run that goes on keeps its salt");
        fs::write(folder.join(TRAINING_DATA), "{").unwrap();
        assert_eq!(salt_of(run.path()).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_table_says_who_wrote_its_texts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.csv");
        fs::write(&file, "file_name,description\na.png,t\n").unwrap();
        assert_eq!(tables_describer(&file).unwrap(), None, "an expert");
        fs::write(&file, "file_name,description,stop_reason\na.png,t,end_token\n").unwrap();
        assert_eq!(tables_describer(&file).unwrap(), Some(None), "a describer that nobody names");
        let data = TrainingData::new(new_salt().unwrap(), None);
        fs::write(beside_table(&file), data.to_bytes()).unwrap();
        assert_eq!(tables_describer(&file).unwrap(), Some(Some(data)));
    }
}
