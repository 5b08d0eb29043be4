//! What rows have wrong together: images twice, patients in several parts, columns that are half filled.

use super::table::{Part, Row};
use mmlnb_models::{
    problems::Problems,
    sheet::Sheet,
    spelling::{folded_name, shown},
};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Component, Path},
};

/// Whether each record is the first to name its image; those that are not need not be looked at. Names that differ only in spelling are one image on many
/// machines and two on others: they are refused.
pub(super) fn first_names(sheet: &Sheet, column: usize, problems: &mut Problems) -> Vec<bool> {
    let mut names: HashMap<String, u64> = HashMap::new();
    let mut folds: HashMap<String, (&str, u64)> = HashMap::new();
    let mut first_of = |line: u64, name| {
        let plain = plain(name);
        if let Some(first) = names.get(&plain) {
            problems.at(line, "names that stand in an earlier line", format!("{name} stands in line {first} too"));
            return false;
        }
        let (first, at) = *folds.entry(folded_name(&plain)).or_insert((name, line));
        if at != line {
            let (name, first) = (shown(name), shown(first));
            let problem = format!(
                "file_name `{name}` is spelled `{first}` in line {at}: they differ only in spelling; rename one, or keep one"
            );
            problems.at(line, "names that are spelled in another way elsewhere", problem);
        }
        names.insert(plain, line);
        true
    };
    sheet
        .records
        .iter()
        .map(|record| record.fields[column].is_empty() || first_of(record.line, record.fields[column].as_str()))
        .collect()
}

/// `./a//b.png` as `a/b.png`.
fn plain(name: &str) -> String {
    let parts = Path::new(name).components().filter(|part| *part != Component::CurDir);
    parts.collect::<std::path::PathBuf>().to_string_lossy().into_owned()
}

/// The same content under two names.
pub(super) fn duplicates(rows: &[Row], problems: &mut Problems) {
    let mut contents: HashMap<&str, &Row> = HashMap::new();
    for row in rows.iter().filter(|row| !row.sha256.is_empty()) {
        match contents.get(row.sha256.as_str()) {
            None => {
                contents.insert(&row.sha256, row);
            }
            Some(first) => problems.at(row.line, "images that stand there under another name", same_content(row, first)),
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
                "columns that are filled elsewhere",
                format!("`{column}` is empty here and filled elsewhere; fill it in every row or leave the column out"),
            );
        }
    }
}
