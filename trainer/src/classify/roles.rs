//! What the rows outside training are for: some choose the epoch, others calibrate, others are reported; no patient has two of these roles.

use crate::{
    data::{Part, Split, Table},
    error::TrainError,
};
use mmlnb_models::random::Draw;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Rows by their role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Roles {
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
    pub fn new(table: &Table, split: &Split, seed: u64) -> Result<Roles, TrainError> {
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
    fn check(&self, table: &Table, split: &Split) -> Result<(), TrainError> {
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
                    return Err(TrainError::Failed(format!("{who} both {other} and {role}")));
                }
            }
        }
        Ok(())
    }

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
