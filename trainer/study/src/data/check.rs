//! What is wrong with the data, collected until all of it has been looked at.

use super::table::{Part, Row};
use crate::error::TrainError;
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// Problems by line; those of the file as a whole come first.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<(u64, String)>);

impl Problems {
    pub fn at(&mut self, line: u64, problem: String) {
        self.0.push((line, problem));
    }

    pub fn whole(&mut self, problem: String) {
        self.0.push((0, problem));
    }

    /// One list, or nothing.
    pub fn into_result(mut self, file: &Path) -> Result<(), TrainError> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by_key(|(line, _)| *line);
        let spelled = |(line, problem)| if line == 0 { format!("  {problem}") } else { format!("  line {line}: {problem}") };
        Err(TrainError::Data { file: file.into(), problems: self.0.into_iter().map(spelled).collect() })
    }
}

/// The same file twice, and the same content under two names.
pub(super) fn duplicates(rows: &[Row], problems: &mut Problems) {
    let mut names: HashMap<&str, &Row> = HashMap::new();
    let mut contents: HashMap<&str, &Row> = HashMap::new();
    for row in rows {
        if let Some(first) = names.get(row.file_name.as_str()) {
            problems.at(row.line, format!("{} stands in line {} too", row.file_name, first.line));
            continue;
        }
        names.insert(&row.file_name, row);
        if row.sha256.is_empty() {
            continue;
        }
        match contents.get(row.sha256.as_str()) {
            None => {
                contents.insert(&row.sha256, row);
            }
            Some(first) => problems.at(row.line, same_content(row, first)),
        }
    }
}

fn same_content(row: &Row, first: &Row) -> String {
    let parts = match (first.split, row.split) {
        (Some(there), Some(here)) if there != here => format!(", which is in another part ({there}; here {here})"),
        _ => String::new(),
    };
    format!("{} is the same image as {} in line {}{parts}; keep one of them", row.file_name, first.file_name, first.line)
}

/// Columns that some rows fill and others leave empty; parts that share a patient.
pub(super) fn assignments(rows: &[Row], problems: &mut Problems) {
    half_filled(rows, "group", |row| row.group.is_some(), problems);
    half_filled(rows, "split", |row| row.split.is_some(), problems);
    let mut parts: BTreeMap<&str, BTreeMap<Part, Vec<u64>>> = BTreeMap::new();
    for row in rows {
        if let (Some(group), Some(part)) = (&row.group, row.split) {
            parts.entry(group).or_default().entry(part).or_default().push(row.line);
        }
    }
    for (group, parts) in parts.iter().filter(|(_, parts)| parts.len() > 1) {
        let spelled: Vec<String> = parts.iter().map(|(part, lines)| format!("{part} ({})", spelled_lines(lines))).collect();
        problems.whole(format!("group {group} is in several parts: {}; one patient belongs to one part", spelled.join(", ")));
    }
}

/// `line 3`, or `lines 3, 9 and 5 more`.
fn spelled_lines(lines: &[u64]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = lines.iter().take(SHOWN).map(u64::to_string).collect();
    let more = if lines.len() > SHOWN { format!(" and {} more", lines.len() - SHOWN) } else { String::new() };
    format!("{} {}{more}", if lines.len() == 1 { "line" } else { "lines" }, shown.join(", "))
}

fn half_filled(rows: &[Row], column: &str, filled: impl Fn(&Row) -> bool, problems: &mut Problems) {
    if rows.iter().any(&filled) {
        for row in rows.iter().filter(|row| !filled(row)) {
            problems.at(
                row.line,
                format!("`{column}` is empty here and filled elsewhere; fill it in every row or leave the column out"),
            );
        }
    }
}
