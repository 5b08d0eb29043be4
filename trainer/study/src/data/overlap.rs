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
    spelling::folded,
};
use std::{collections::BTreeMap, path::Path};

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

/// What each row of a table was used for. Where an image was used, the other images of its patient are known too, by this table's own groups: the
/// training may have known the patient under another name, or under none.
pub fn seen_rows(table: &Table, data: &TrainingData) -> Vec<Option<(Role, Known)>> {
    let own: Vec<Option<(Role, Known)>> = table.rows.iter().map(|row| data.seen(&row.sha256, row.group.as_deref())).collect();
    let group = |row: &Row| row.group.as_deref().map(folded);
    let mut of_patient: BTreeMap<String, Role> = BTreeMap::new();
    for (group, (role, _)) in table.rows.iter().zip(&own).filter_map(|(row, seen)| Some((group(row)?, (*seen)?))) {
        let most = of_patient.entry(group).or_insert(role);
        *most = role.max(*most);
    }
    let patient = |row: &Row| Some((*of_patient.get(&group(row)?)?, Known::Patient));
    table.rows.iter().zip(own).map(|(row, own)| own.max(patient(row))).collect()
}

/// Whose texts are read, or whose weights a training begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Of the texts that a classifier reads.
    Describer,
    /// The classifier that another one starts from.
    Start,
    /// The checkpoint that a describer is tuned on.
    Base,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Describer => "the describer",
            Who::Start => "the start",
            Who::Base => "the base",
        }
    }

    /// Whether a row of this part must not have been seen. Weights that were fitted on validation rows would choose their own best epoch and
    /// thresholds; that such a row chose for an earlier training on the same split does no harm.
    fn spoils(self, part: Part, reported: Part, role: Role) -> bool {
        match self {
            Who::Describer => part == reported,
            Who::Start | Who::Base if part == Part::Validation && part != reported => role == Role::Trained,
            Who::Start | Who::Base => part != Part::Train,
        }
    }

    fn mend(self) -> &'static str {
        match self {
            Who::Describer | Who::Start => {
                "use one file with one column `split` for both, or --allow-overlap, which marks every report"
            }
            Who::Base => "use one file with one column `split` for both, or begin with a base that has not seen them",
        }
    }
}

/// Compares the rows that are reported, and those that choose, with what others have seen whose texts are read or whose weights are taken over; `None`:
/// one that does not say.
///
/// # Errors
/// [`StudyError::Data`]: they overlap, unless `allowed`; the rows are listed.
pub fn check_overlap(
    table: &Table,
    split: &Split,
    who: Who,
    others: &[Option<TrainingData>],
    allowed: bool,
) -> Result<Overlap, StudyError> {
    let by_all: Vec<Vec<Option<(Role, Known)>>> = others.iter().flatten().map(|data| seen_rows(table, data)).collect();
    let spoilt = |row: usize| {
        let part = split.parts[row];
        let uses = by_all.iter().filter_map(|seen| seen[row]);
        let known = uses.filter(|(role, _)| who.spoils(part, split.reported(), *role)).map(|(_, known)| known).max();
        known.map(|known| (&table.rows[row], known))
    };
    let seen: Vec<(&Row, Known)> = (0..table.rows.len()).filter_map(spoilt).collect();
    let unknown = || others.iter().any(|data| data.as_ref().is_none_or(|data| !data.is_complete()));
    match seen.len() {
        0 if unknown() => return Ok(Overlap::Unknown),
        0 => return Ok(Overlap::None),
        rows if allowed => return Ok(Overlap::Allowed { rows }),
        _ => {}
    }
    let mut problems = Problems::default();
    problems.whole(format!(
        "{} images that must be new (for test, or to choose the best epoch) were seen by {}; {}",
        seen.len(),
        who.name(),
        who.mend()
    ));
    for (row, known) in seen {
        let what = match known {
            Known::Image => row.file_name.clone(),
            Known::Patient => format!("images of {}", row.group.as_deref().unwrap_or_default()),
        };
        problems.at(row.line, "images that were seen before", format!("{} was trained on {what}", who.name()));
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
        assert_eq!(check_overlap(&table, &split, Who::Describer, &[None], false).unwrap(), Overlap::Unknown);
        assert_eq!(check_overlap(&table, &split, Who::Describer, &[], false).unwrap(), Overlap::None);
        let data = training_data(&table, &split, new_salt().unwrap(), None);
        assert_eq!(check_overlap(&table, &split, Who::Describer, &[Some(data.clone())], false).unwrap(), Overlap::None);
        assert_eq!(check_overlap(&table, &split, Who::Describer, &[Some(data), None], false).unwrap(), Overlap::Unknown);
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
        for (data, rows) in [(images, of_group.clone()), (groups, of_group)] {
            let error = check_overlap(&table, &split, Who::Describer, &[None, Some(data.clone())], false).unwrap_err();
            let StudyError::Data { problems, .. } = &error else { panic!("{error}") };
            assert_eq!(problems.len(), rows.len() + 1, "{error}");
            assert!(problems[0].contains("--allow-overlap"));
            for (row, problem) in rows.iter().zip(&problems[1..]) {
                assert!(problem.contains(&format!("line {}: the describer was trained", row.line)), "{problem}");
            }
            let allowed = check_overlap(&table, &split, Who::Describer, &[Some(data)], true).unwrap();
            assert_eq!(allowed, Overlap::Allowed { rows: rows.len() });
        }
    }

    #[test]
    fn a_patient_is_known_by_one_image_and_this_tables_groups() {
        let table = table(20, 1, true);
        let of_group = |group: &Option<String>| table.rows.iter().filter(|row| row.group == *group).count();
        let row = table.rows.iter().find(|row| of_group(&row.group) > 1).unwrap();
        for group in [None, Some("a pseudonym")] {
            let mut data = TrainingData::new(new_salt().unwrap(), None);
            data.add(Role::Trained, &row.sha256, group);
            for (other, seen) in table.rows.iter().zip(seen_rows(&table, &data)) {
                let expected = match (other.sha256 == row.sha256, other.group == row.group) {
                    (true, _) => Some((Role::Trained, Known::Image)),
                    (false, true) => Some((Role::Trained, Known::Patient)),
                    (false, false) => None,
                };
                assert_eq!(seen, expected, "line {}", other.line);
            }
        }
    }

    #[test]
    fn weights_must_not_have_been_fitted_on_what_chooses_or_is_reported() {
        let table = table(20, 1, true);
        let split = split(&table, &SplitOptions::usual(&table, 4)).unwrap();
        let seen = |part: Part, role: Role| {
            let mut data = TrainingData::new(new_salt().unwrap(), None);
            data.add(role, &table.rows[split.rows(part)[0]].sha256, None);
            Some(data)
        };
        for who in [Who::Start, Who::Base] {
            for (part, role, refused) in [
                (Part::Train, Role::Trained, false),
                (Part::Validation, Role::Chosen, false),
                (Part::Validation, Role::Trained, true),
                (Part::Test, Role::Chosen, true),
                (Part::Test, Role::Trained, true),
            ] {
                let outcome = check_overlap(&table, &split, who, &[seen(part, role)], false);
                assert_eq!(outcome.is_err(), refused, "{who:?} {part} {role:?}: {outcome:?}");
            }
        }
        let text = check_overlap(&table, &split, Who::Base, &[seen(Part::Test, Role::Trained)], false).unwrap_err().to_string();
        assert!(text.contains("seen by the base") && text.contains("begin with a base"), "{text}");
        assert!(!text.contains("--allow-overlap"), "`describe` has no such option: {text}");
        let part_unknown = [Some(TrainingData::unknown())];
        assert_eq!(check_overlap(&table, &split, Who::Start, &part_unknown, false).unwrap(), Overlap::Unknown);
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
