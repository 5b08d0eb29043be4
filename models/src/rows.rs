//! What the rows of a table say about each other: images that stand there twice, patients in several parts, columns that are filled in some rows only. One
//! set of rules for all who read such tables, so that what training refuses is not measured on elsewhere.

use crate::{
    problems::Problems,
    sheet::Sheet,
    spelling::{folded, folded_name, is_placeholder, shown},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Component, Path, PathBuf},
};

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Weights are fitted here.
    Train,
    /// The best epoch, the temperature and the thresholds are chosen here.
    Validation,
    /// What is reported.
    Test,
}

impl Part {
    /// In the order of a run.
    pub const ALL: [Part; 3] = [Part::Train, Part::Validation, Part::Test];

    /// As the column `split` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Validation => "validation",
            Part::Test => "test",
        }
    }

    /// From a field of the column `split`, in any case.
    pub fn read(text: &str, line: u64, problems: &mut Problems) -> Option<Part> {
        let part = Part::ALL.into_iter().find(|part| part.name() == folded(text));
        if part.is_none() && !is_placeholder(text) {
            problems.at(line, "unknown parts", format!("`split` is `{text}`; it is train, validation or test"));
        }
        part
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What tells a row from others and where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Line of the CSV file, from 1.
    pub line: u64,
    /// The image, as written.
    pub file_name: &'a str,
    /// SHA-256 of the image file; empty where it is not known.
    pub sha256: &'a str,
    /// The patient.
    pub group: Option<&'a str>,
    /// The part that the file assigns.
    pub part: Option<Part>,
}

/// Whether each record is the first to name its image; those that are not need not be looked at. Names that differ only in spelling are one image on many
/// machines and two on others: they are refused.
pub fn first_names(sheet: &Sheet, problems: &mut Problems) -> Vec<bool> {
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
    let name = |record| sheet.field(record, "file_name");
    sheet.records.iter().map(|record| name(record).is_none_or(|name| first_of(record.line, name))).collect()
}

/// `./a//b.png` as `a/b.png`.
fn plain(name: &str) -> String {
    let parts = Path::new(name).components().filter(|part| *part != Component::CurDir);
    parts.collect::<PathBuf>().to_string_lossy().into_owned()
}

/// The same content under two names.
pub fn duplicates<'a>(rows: impl IntoIterator<Item = Identity<'a>>, problems: &mut Problems) {
    let mut contents: HashMap<&str, Identity<'a>> = HashMap::new();
    for row in rows.into_iter().filter(|row| !row.sha256.is_empty()) {
        match contents.get(row.sha256) {
            None => drop(contents.insert(row.sha256, row)),
            Some(first) => problems.at(row.line, "images that stand there under another name", same_content(&row, first)),
        }
    }
}

fn same_content(row: &Identity<'_>, first: &Identity<'_>) -> String {
    let parts = match (first.part, row.part) {
        (Some(there), Some(here)) if there != here => format!(", which is in another part ({there}; here {here})"),
        _ => String::new(),
    };
    format!("{} is the same image as {} in line {}{parts}; keep one of them", row.file_name, first.file_name, first.line)
}

/// Columns that some rows fill and others leave empty; parts that share a patient.
pub fn assignments<'a>(rows: impl IntoIterator<Item = Identity<'a>>, problems: &mut Problems) {
    let rows: Vec<Identity<'a>> = rows.into_iter().collect();
    half_filled(&rows, "group", |row| row.group.is_some(), problems);
    half_filled(&rows, "split", |row| row.part.is_some(), problems);
    let mut parts: BTreeMap<&str, BTreeMap<Part, Vec<u64>>> = BTreeMap::new();
    for row in &rows {
        if let (Some(group), Some(part)) = (row.group, row.part) {
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

fn half_filled(rows: &[Identity<'_>], column: &str, filled: impl Fn(&Identity<'_>) -> bool, problems: &mut Problems) {
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

/// The path of an image that lies below `root` (an absolute path without links), links followed; or why there is none, as a sentence.
///
/// # Errors
/// A name that leaves the folder, by itself or by a link; an absent or unreadable file.
pub fn inside(root: &Path, name: &str) -> Result<PathBuf, String> {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(format!("{name} leaves the image folder; `file_name` is a path below it"));
    }
    let path = root.join(name).canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound if name.contains('\\') => {
            format!("{name} is not in the image folder; folders are separated by `/`, not `\\`")
        }
        std::io::ErrorKind::NotFound => format!("{name} is not in the image folder"),
        _ => format!("{name} cannot be read: {error}"),
    })?;
    match path.starts_with(root) {
        true => Ok(path),
        false => Err(format!("{name} is a link that leaves the image folder; put the image itself there")),
    }
}
