//! Which rows train, which choose, which are reported.
//!
//! Everything follows from SHA-256 of (seed, patient), so that a split depends neither on the file's order nor on this program's version of a random
//! generator. Patients are never divided (CLAM#11, MIL_BASELINE#29: what happens otherwise).

use super::table::{Row, Table};
use crate::error::StudyError;
use mmlnb_models::{hash, problems::Problems, rows::Part};
use std::collections::BTreeMap;

/// The seed of both stages' splits unless the user gives another: the same patients train the describer and the classifier.
pub const SPLIT_SEED: u64 = 2024;

/// How to split.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitOptions {
    /// Another seed, another split.
    pub seed: u64,
    /// Shares of train, validation and test.
    pub fractions: [f64; 3],
    /// What decides.
    pub by: SplitBy,
}

impl SplitOptions {
    /// 70, 15 and 15 % by patient, or as the file's column `split` says.
    pub fn usual(table: &Table, seed: u64) -> SplitOptions {
        let column = table.rows.iter().any(|row| row.split.is_some());
        SplitOptions { seed, fractions: [0.7, 0.15, 0.15], by: if column { SplitBy::Column } else { SplitBy::Patient } }
    }
}

/// What decides a row's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitBy {
    /// The file's column `split`.
    Column,
    /// Patients, stratified by class; single images where the file names no patients.
    Patient,
    /// As the paper's code does: a random fifth of all patches, whoever they come from, is validation part and reported part at once.
    Paper,
    /// Fold `number` (from 0) of `of` is the test part, the next one validation.
    Fold {
        /// From 0.
        number: usize,
        /// 3 or more.
        of: usize,
    },
    /// One site is the test part; the others train and validate.
    LeaveOut(String),
}

/// A part for each row.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// In the table's order.
    pub parts: Vec<Part>,
    /// Whether no patient stands on two sides. False also when nobody knows.
    pub by_patient: bool,
    /// `--protocol paper`: the best epoch is chosen on the very images that are reported.
    pub reported_is_validation: bool,
}

impl Split {
    /// Numbers of the rows of a part.
    pub fn rows(&self, part: Part) -> Vec<usize> {
        (0..self.parts.len()).filter(|row| self.parts[*row] == part).collect()
    }

    /// The part whose measures are reported.
    pub fn reported(&self) -> Part {
        if self.reported_is_validation { Part::Validation } else { Part::Test }
    }

    /// What every reader of this run's figures has to know.
    pub fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if !self.by_patient {
            warnings.push(
                "NOT SPLIT BY PATIENT: patches of one patient may stand in several parts, and the figures are then too good. \
                 Add a column `group` with the patient to the CSV.",
            );
        }
        if self.reported_is_validation {
            warnings.push(
                "PROTOCOL OF THE PAPER: the best epoch is chosen on the images that are reported; the figures are too good.",
            );
        }
        warnings
    }
}

/// Splits a table.
///
/// # Errors
/// [`StudyError::Asked`]: too few patients, an unknown site, shares that are none; [`StudyError::Data`]: rows without a site, or a patient of two sites
/// of which one is left out.
pub fn split(table: &Table, options: &SplitOptions) -> Result<Split, StudyError> {
    let by_patient = table.has_groups() && !table.rows.is_empty() && options.by != SplitBy::Paper;
    let parts = match &options.by {
        SplitBy::Column => column(table)?,
        SplitBy::Patient => by_units(table, &usable(options.fractions)?, options.seed, |_| true)?,
        SplitBy::Paper => paper(table, options.seed),
        SplitBy::Fold { number, of } => fold(table, options.seed, *number, *of)?,
        SplitBy::LeaveOut(site) => leave_out(table, options, site)?,
    };
    for part in [Part::Train, Part::Validation] {
        if !parts.contains(&part) {
            return Err(StudyError::Asked(format!("no row is in the part {part}; it needs some")));
        }
    }
    Ok(Split { parts, by_patient, reported_is_validation: options.by == SplitBy::Paper })
}

fn usable(fractions: [f64; 3]) -> Result<Vec<(Part, f64)>, StudyError> {
    let sum: f64 = fractions.iter().sum();
    if fractions.iter().any(|share| !(0.0..1.0).contains(share)) || (sum - 1.0).abs() > 1e-6 {
        return Err(StudyError::Asked(format!(
            "the shares of train, validation and test are {fractions:?}; they lie below 1 and make 1"
        )));
    }
    Ok(Part::ALL.into_iter().zip(fractions).filter(|(_, share)| *share > 0.0).collect())
}

fn column(table: &Table) -> Result<Vec<Part>, StudyError> {
    let parts: Option<Vec<Part>> = table.rows.iter().map(|row| row.split).collect();
    parts.ok_or_else(|| StudyError::Asked(format!("{} has no column `split` that is filled in every row", table.file.display())))
}

fn paper(table: &Table, seed: u64) -> Vec<Part> {
    let mut rows: Vec<usize> = (0..table.rows.len()).collect();
    rows.sort_by_cached_key(|row| hashed(seed, &table.rows[*row].sha256));
    let fifth = (rows.len() as f64 * 0.2).round() as usize;
    let mut parts = vec![Part::Train; rows.len()];
    rows[..fifth].iter().for_each(|row| parts[*row] = Part::Validation);
    parts
}

fn fold(table: &Table, seed: u64, number: usize, of: usize) -> Result<Vec<Part>, StudyError> {
    if of < 3 || number >= of {
        return Err(StudyError::Asked(format!("fold {number} of {of}: there are 3 folds or more, counted from 0")));
    }
    let folds: Vec<(usize, f64)> = (0..of).map(|fold| (fold, 1.0 / of as f64)).collect();
    let folds = by_units(table, &folds, seed, |_| true)?;
    let part = |fold| match fold {
        fold if fold == number => Part::Test,
        fold if fold == (number + 1) % of => Part::Validation,
        _ => Part::Train,
    };
    Ok(folds.into_iter().map(part).collect())
}

fn leave_out(table: &Table, options: &SplitOptions, site: &str) -> Result<Vec<Part>, StudyError> {
    let mut problems = Problems::default();
    let mut sites: BTreeMap<&str, &str> = BTreeMap::new();
    for row in &table.rows {
        match (&row.site, &row.group) {
            (None, _) => {
                problems.at(row.line, "rows without a site", "`site` is empty; leaving a site out needs it in every row".into());
            }
            (Some(here), Some(group)) => {
                let there = *sites.entry(group).or_insert(here);
                if there != here && (there == site || here == site) {
                    problems.at(
                        row.line,
                        "patients of two sites",
                        format!("group {group} is of {here}, and of {there} in an earlier line; {site} cannot be left out"),
                    );
                }
            }
            _ => {}
        }
    }
    StudyError::data(&table.file, problems)?;
    let outside = |row: &Row| row.site.as_deref() == Some(site);
    if !table.rows.iter().any(outside) {
        let known: std::collections::BTreeSet<&str> = table.rows.iter().filter_map(|row| row.site.as_deref()).collect();
        let known: Vec<&str> = known.into_iter().collect();
        return Err(StudyError::Asked(format!("no row is of the site {site}; there are {}", known.join(", "))));
    }
    let [train, validation, _] = options.fractions;
    let rest = [(Part::Train, train / (train + validation)), (Part::Validation, validation / (train + validation))];
    let mut parts = by_units(table, &rest, options.seed, |row| !outside(row))?;
    table.rows.iter().zip(&mut parts).filter(|(row, _)| outside(row)).for_each(|(_, part)| *part = Part::Test);
    Ok(parts)
}

/// Patients, or single images where there are none: never divided.
struct Unit<'t> {
    name: &'t str,
    rows: Vec<usize>,
    /// Rows by class; those without one at the end.
    counts: Vec<f64>,
}

fn units<'t>(table: &'t Table, wanted: impl Fn(&Row) -> bool) -> Vec<Unit<'t>> {
    let grouped = table.has_groups();
    let mut units: BTreeMap<&str, Unit<'t>> = BTreeMap::new();
    for (number, row) in table.rows.iter().enumerate().filter(|(_, row)| wanted(row)) {
        let name = row.group.as_deref().filter(|_| grouped).unwrap_or(&row.sha256);
        let unit =
            units.entry(name).or_insert_with(|| Unit { name, rows: Vec::new(), counts: vec![0.0; table.classes.len() + 1] });
        unit.rows.push(number);
        unit.counts[row.class.unwrap_or(table.classes.len())] += 1.0;
    }
    units.into_values().collect()
}

/// Each unit in the order of its hash goes to the part that still lacks most of what the unit brings, class by class.
fn by_units<P: Copy>(table: &Table, shares: &[(P, f64)], seed: u64, wanted: impl Fn(&Row) -> bool) -> Result<Vec<P>, StudyError> {
    let mut units = units(table, wanted);
    if units.len() < shares.len() {
        let what = if table.has_groups() { "patients" } else { "images" };
        return Err(StudyError::Asked(format!("{} {what} cannot be split into {} parts", units.len(), shares.len())));
    }
    units.sort_by_cached_key(|unit| hashed(seed, unit.name));
    let classes = table.classes.len() + 1;
    let totals: Vec<f64> = (0..classes).map(|class| units.iter().map(|unit| unit.counts[class]).sum()).collect();
    let mut given = vec![vec![0.0; classes]; shares.len()];
    let mut parts = vec![shares[0].0; table.rows.len()];
    for unit in &units {
        let lack = |part: usize| -> f64 {
            let share = |class: usize| given[part][class] / (shares[part].1 * totals[class]);
            (0..classes).filter(|class| unit.counts[*class] > 0.0).map(|class| unit.counts[class] * (1.0 - share(class))).sum()
        };
        let empty = |part: usize| given[part].iter().all(|count| *count == 0.0);
        let key = |part: usize| (empty(part), lack(part), shares[part].1);
        let best = (0..shares.len()).max_by(|a, b| {
            let ((empty_a, lack_a, share_a), (empty_b, lack_b, share_b)) = (key(*a), key(*b));
            empty_a.cmp(&empty_b).then(lack_a.total_cmp(&lack_b)).then(share_a.total_cmp(&share_b)).then(b.cmp(a))
        });
        let best = best.expect("there is a part at least");
        given[best].iter_mut().zip(&unit.counts).for_each(|(given, count)| *given += count);
        unit.rows.iter().for_each(|row| parts[*row] = shares[best].0);
    }
    Ok(parts)
}

fn hashed(seed: u64, name: &str) -> String {
    hash::sha256_hex(format!("split {seed} {name}").as_bytes())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// `patients` with 1 to 12 images each, of mostly one class.
    pub fn table(patients: usize, seed: u64, grouped: bool) -> Table {
        let mut rows = Vec::new();
        for patient in 0..patients {
            let draw = |what: &str, of: u64| {
                u64::from_str_radix(&hash::sha256_hex(format!("{seed} {patient} {what}").as_bytes())[..8], 16).unwrap() % of
            };
            let class = draw("class", 3) as usize;
            for image in 0..=draw("images", 12) {
                let line = rows.len() as u64 + 2;
                rows.push(Row {
                    line,
                    file_name: format!("{line}.png"),
                    description: None,
                    class: Some(if image % 5 == 4 { (class + 1) % 3 } else { class }),
                    group: grouped.then(|| format!("P{patient}")),
                    site: Some(format!("S{}", patient % 3)),
                    split: None,
                    sha256: hash::sha256_hex(format!("{seed} {line}").as_bytes()),
                    width: 224,
                    height: 224,
                });
            }
        }
        let classes = ["UD", "PD", "D"].map(String::from).to_vec();
        Table { file: "data.csv".into(), images: "images".into(), rows, classes, ordinal: true }
    }

    fn options(seed: u64, by: SplitBy) -> SplitOptions {
        SplitOptions { seed, fractions: [0.7, 0.15, 0.15], by }
    }

    fn share(table: &Table, split: &Split, part: Part, class: Option<usize>) -> f64 {
        let counted = |row: &&usize| class.is_none() || table.rows[**row].class == class;
        let all = (0..table.rows.len()).collect::<Vec<_>>();
        split.rows(part).iter().filter(counted).count() as f64 / all.iter().filter(counted).count() as f64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn no_patient_is_divided_and_no_order_matters(seed: u64, patients in 3usize..60) {
            let table = table(patients, seed, true);
            let one = split(&table, &options(seed, SplitBy::Patient)).unwrap();
            prop_assert!(one.by_patient && one.warnings().is_empty());
            let mut part_of = BTreeMap::new();
            for (row, part) in table.rows.iter().zip(&one.parts) {
                prop_assert_eq!(*part_of.entry(row.group.clone()).or_insert(*part), *part);
            }
            for part in Part::ALL {
                prop_assert!(!one.rows(part).is_empty());
            }
            let mut turned = table.clone();
            turned.rows.reverse();
            let mut parts = split(&turned, &options(seed, SplitBy::Patient)).unwrap().parts;
            parts.reverse();
            prop_assert_eq!(parts, one.parts);
        }

        #[test]
        fn shares_are_met_class_by_class(seed: u64) {
            let table = table(150, seed, true);
            let split = split(&table, &options(seed, SplitBy::Patient)).unwrap();
            for (part, wanted) in Part::ALL.into_iter().zip([0.7, 0.15, 0.15]) {
                for class in [None, Some(0), Some(1), Some(2)] {
                    let share = share(&table, &split, part, class);
                    prop_assert!((share - wanted).abs() < 0.06, "{part} has {share} of class {class:?}");
                }
            }
        }

        #[test]
        fn every_patient_is_tested_in_one_fold(seed: u64, of in 3usize..8) {
            let table = table(30, seed, true);
            let mut tested = vec![0; table.rows.len()];
            for number in 0..of {
                let split = split(&table, &options(seed, SplitBy::Fold { number, of })).unwrap();
                split.rows(Part::Test).into_iter().for_each(|row| tested[row] += 1);
                let groups = |part| split.rows(part).into_iter().map(|row| table.rows[row].group.clone()).collect::<BTreeSet<_>>();
                prop_assert!(groups(Part::Train).is_disjoint(&groups(Part::Test)) && groups(Part::Train).is_disjoint(&groups(Part::Validation)));
            }
            prop_assert!(tested.iter().all(|times| *times == 1));
        }
    }

    #[test]
    fn another_seed_is_another_split() {
        let table = table(40, 1, true);
        let parts = |seed| split(&table, &options(seed, SplitBy::Patient)).unwrap().parts;
        assert_eq!(parts(1), parts(1));
        assert_ne!(parts(1), parts(2));
    }

    #[test]
    fn without_patients_the_split_is_by_image_and_says_so() {
        let table = table(60, 3, false);
        let split = split(&table, &SplitOptions::usual(&table, 3)).unwrap();
        assert!(!split.by_patient && split.warnings()[0].contains("NOT SPLIT BY PATIENT"));
        assert!((share(&table, &split, Part::Test, Some(1)) - 0.15).abs() < 0.01);
    }

    #[test]
    fn the_papers_protocol_is_a_fifth_of_the_patches_and_marked() {
        let table = table(60, 3, true);
        let split = split(&table, &options(9, SplitBy::Paper)).unwrap();
        assert!(!split.by_patient && split.reported_is_validation && split.warnings().len() == 2);
        assert_eq!(split.rows(split.reported()).len(), (table.rows.len() as f64 / 5.0).round() as usize);
        assert!(split.rows(Part::Test).is_empty());
    }

    #[test]
    fn a_site_is_left_out_whole() {
        let mut table = table(30, 4, true);
        let split_of = |table: &Table, site: &str| split(table, &options(1, SplitBy::LeaveOut(site.into())));
        let split = split_of(&table, "S1").unwrap();
        for (row, part) in table.rows.iter().zip(&split.parts) {
            assert_eq!(row.site.as_deref() == Some("S1"), *part == Part::Test);
        }
        assert!(split_of(&table, "S9").unwrap_err().to_string().contains("there are S0, S1, S2"));
        let moved = table.rows.iter().rposition(|row| row.group.as_deref() == Some("P1")).unwrap();
        table.rows[moved].site = Some("S0".into());
        let error = split_of(&table, "S1").unwrap_err().to_string();
        assert!(error.contains(&format!("line {}: group P1", table.rows[moved].line)) || table.rows[moved].line == 2, "{error}");
        table.rows[0].site = None;
        assert!(split_of(&table, "S1").unwrap_err().to_string().contains("line 2: `site` is empty"));
    }

    #[test]
    fn the_column_decides_where_there_is_one() {
        let mut table = table(9, 5, true);
        for (number, row) in table.rows.iter_mut().enumerate() {
            row.split = Some(Part::ALL[number % 3]);
        }
        let split = split(&table, &SplitOptions::usual(&table, 0)).unwrap();
        assert_eq!(split.parts, table.rows.iter().map(|row| row.split.unwrap()).collect::<Vec<_>>());
    }

    #[test]
    fn impossible_wishes_are_refused() {
        let small = table(2, 6, true);
        assert!(split(&small, &options(0, SplitBy::Patient)).unwrap_err().to_string().contains("2 patients"));
        let table = table(20, 6, true);
        for by in [SplitBy::Fold { number: 3, of: 3 }, SplitBy::Fold { number: 0, of: 2 }, SplitBy::Column] {
            assert_eq!(split(&table, &options(0, by)).unwrap_err().exit_code(), 2);
        }
        let wrong = SplitOptions { seed: 0, fractions: [0.7, 0.1, 0.1], by: SplitBy::Patient };
        assert!(split(&table, &wrong).unwrap_err().to_string().contains("make 1"));
    }
}
