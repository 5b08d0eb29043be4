//! What the rows outside training are for: some choose the epoch, others calibrate, others are reported; no patient has two of these roles.

use super::{split::Split, table::Table};
use crate::error::StudyError;
use mmlnb_models::{random::Draw, rows::Part};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Rows by their role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    /// By these the best epoch is chosen.
    pub chosen: Vec<usize>,
    /// On these temperature, threshold and limits are fitted.
    pub fitted: Vec<usize>,
    /// The figures are those of these.
    pub reported: Vec<usize>,
    /// Why rows have several roles, where they must.
    pub shared: Option<String>,
}

/// How many rows have each role, for readers of `measures.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleCounts {
    /// Rows that chose the best epoch.
    pub chosen: usize,
    /// Rows that temperature, threshold and limits were fitted on.
    pub fitted: usize,
    /// Rows that are reported.
    pub reported: usize,
    /// Why rows have several roles, where they must.
    pub shared: Option<String>,
}

impl Roles {
    /// With a test part that is reported, and the validation patients choose or calibrate; without one these are dealt into three.
    ///
    /// # Errors
    /// A patient with two roles, which would be a fault of this program.
    pub fn new(table: &Table, split: &Split, seed: u64) -> Result<Roles, StudyError> {
        let (validation, test) = (split.rows(Part::Validation), split.rows(Part::Test));
        let wanted = if test.is_empty() { 3 } else { 2 };
        if split.reported_is_validation {
            let shared =
                "the paper's protocol reports the rows that the best epoch was chosen by, and half of them calibrate too";
            let fitted = dealt(table, &validation, seed, 2).swap_remove(0);
            return Ok(Roles { chosen: validation.clone(), fitted, reported: validation, shared: Some(shared.into()) });
        }
        let mut hands = dealt(table, &validation, seed, wanted);
        if hands.iter().any(Vec::is_empty) {
            let shared = format!(
                "the validation part has fewer than {wanted} patients (images, where no patients are named), so the rows that choose the best \
                 epoch calibrate too{}: give more patients to it",
                if test.is_empty() { ", and are reported" } else { "" }
            );
            let reported = if test.is_empty() { validation.clone() } else { test };
            return Ok(Roles { chosen: validation.clone(), fitted: validation, reported, shared: Some(shared) });
        }
        let (fitted, chosen) = (hands.remove(0), hands.remove(0));
        let roles = Roles { chosen, fitted, reported: hands.pop().unwrap_or(test), shared: None };
        roles.check(table, split)?;
        Ok(roles)
    }

    /// No row has two roles or was trained on; where the split is by patient, no patient either.
    fn check(&self, table: &Table, split: &Split) -> Result<(), StudyError> {
        let own = |row: &usize| format!("row {row}");
        let patient = |row: &usize| match (&table.rows[*row].group, split.by_patient) {
            (Some(group), true) => format!("patient {group}"),
            _ => own(row),
        };
        let trained = split.rows(Part::Train);
        let mut known: BTreeMap<String, &str> = BTreeMap::new();
        for (role, rows) in
            [("trains", &trained), ("chooses", &self.chosen), ("is fitted on", &self.fitted), ("is reported", &self.reported)]
        {
            for who in rows.iter().map(patient).collect::<BTreeSet<_>>() {
                if let Some(other) = known.insert(who.clone(), role) {
                    return Err(StudyError::Failed(format!("{who} both {other} and {role}")));
                }
            }
        }
        Ok(())
    }

    /// How many rows have each.
    pub fn counts(&self) -> RoleCounts {
        RoleCounts {
            chosen: self.chosen.len(),
            fitted: self.fitted.len(),
            reported: self.reported.len(),
            shared: self.shared.clone(),
        }
    }
}

/// The patients (the rows, where there are none) dealt into hands of about as many rows, by their hashes.
fn dealt(table: &Table, rows: &[usize], seed: u64, hands: usize) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for row in rows {
        let group = table.rows[*row].group.clone().unwrap_or_else(|| table.rows[*row].sha256.clone());
        groups.entry(group).or_default().push(*row);
    }
    let mut ordered: Vec<(u64, Vec<usize>)> =
        groups.into_iter().map(|(group, rows)| (Draw::new(seed, &group, &[]).below(usize::MAX) as u64, rows)).collect();
    ordered.sort();
    let mut dealt = vec![Vec::new(); hands];
    for (_, rows) in ordered {
        if let Some(smallest) = dealt.iter_mut().min_by_key(|hand| hand.len()) {
            smallest.extend(rows);
        }
    }
    dealt.iter_mut().for_each(|hand| hand.sort());
    dealt
}

#[cfg(test)]
mod tests {
    use super::super::split::{SplitBy, SplitOptions, split, tests::table};
    use super::*;
    use proptest::prelude::*;

    fn of(patients: usize, seed: u64, grouped: bool, by: SplitBy) -> (Table, Split, Roles) {
        let table = table(patients, seed, grouped);
        let split = split(&table, &SplitOptions { seed, fractions: [0.5, 0.3, 0.2], by }).unwrap();
        let roles = Roles::new(&table, &split, seed).unwrap();
        (table, split, roles)
    }

    fn patients<'t>(table: &'t Table, rows: &[usize]) -> BTreeSet<&'t str> {
        rows.iter().map(|row| table.rows[*row].group.as_deref().unwrap_or(&table.rows[*row].sha256)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn no_patient_chooses_calibrates_and_is_reported(count in 20_usize..60, seed in 0_u64..1000, grouped: bool) {
            let (table, split, roles) = of(count, seed, grouped, SplitBy::Patient);
            let hands = [&split.rows(Part::Train), &roles.chosen, &roles.fitted, &roles.reported].map(|rows| patients(&table, rows));
            prop_assert_eq!(&roles.shared, &None);
            let all: usize = hands.iter().map(BTreeSet::len).sum();
            prop_assert_eq!(hands.iter().flatten().collect::<BTreeSet<_>>().len(), all, "a patient has two roles");
            prop_assert_eq!(&roles.reported, &split.rows(Part::Test));
            let mut validation = [roles.chosen.clone(), roles.fitted.clone()].concat();
            validation.sort();
            prop_assert_eq!(validation, split.rows(Part::Validation), "a validation row has no role");
            prop_assert_eq!(Roles::new(&table, &split, seed).unwrap(), roles, "the same every time");
        }
    }

    #[test]
    fn without_a_test_part_validation_is_dealt_into_three() {
        let table = table(40, 3, true);
        let mut split = split(&table, &SplitOptions { seed: 3, fractions: [0.5, 0.3, 0.2], by: SplitBy::Patient }).unwrap();
        split.parts.iter_mut().filter(|part| **part == Part::Test).for_each(|part| *part = Part::Validation);
        let roles = Roles::new(&table, &split, 3).unwrap();
        let sizes = [&roles.chosen, &roles.fitted, &roles.reported].map(Vec::len);
        assert!(
            sizes.iter().all(|size| *size > 0) && sizes.iter().sum::<usize>() == split.rows(Part::Validation).len(),
            "{sizes:?}"
        );
        assert!(patients(&table, &roles.fitted).is_disjoint(&patients(&table, &roles.reported)));
    }

    #[test]
    fn rows_with_two_roles_are_told() {
        let (_, split, paper) = of(20, 1, true, SplitBy::Paper);
        assert!(
            paper.shared.as_ref().is_some_and(|why| why.contains("the paper's protocol"))
                && paper.reported == split.rows(Part::Validation)
        );
        let table = table(6, 1, true);
        let mut split =
            super::super::split::split(&table, &SplitOptions { seed: 1, fractions: [0.5, 0.3, 0.2], by: SplitBy::Patient })
                .unwrap();
        let only = table.rows[split.rows(Part::Validation)[0]].group.clone();
        for (row, part) in table.rows.iter().zip(&mut split.parts) {
            *part = if row.group == only { Part::Validation } else { Part::Train };
        }
        let roles = Roles::new(&table, &split, 1).unwrap();
        assert!(roles.shared.as_ref().is_some_and(|why| why.contains("fewer than 3 patients")), "{roles:?}");
    }

    #[test]
    fn a_patient_with_two_roles_is_a_fault_of_this_program() {
        let (table, split, mut roles) = of(30, 2, true, SplitBy::Patient);
        roles.fitted.push(roles.reported[0]);
        assert!(roles.check(&table, &split).unwrap_err().to_string().contains("both"));
    }
}
