//! The promise of the drop folder: every dropped file ends exactly once, and no byte of an image is lost.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::{Appliance, FileRow, sha256_hex};

/// How a file has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In `done`, with a report.
    Report,
    /// In `failed`, with a reason.
    Failure,
    /// In either of the two.
    Either,
}

/// A file that was dropped under a name of its own.
#[derive(Clone, Debug)]
pub struct Dropped {
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// How it has to end.
    pub end: End,
}

impl Dropped {
    /// These bytes, to end so.
    pub fn new(bytes: &[u8], end: End) -> Dropped {
        Dropped { sha256: sha256_hex(bytes), end }
    }
}

/// What lies below `done` or `failed`.
#[derive(Default)]
struct Lying {
    /// How many images of each content.
    images: BTreeMap<String, usize>,
    /// Names of pages and JSON.
    beside: Vec<PathBuf>,
    /// Half written files.
    parts: Vec<PathBuf>,
}

impl Appliance {
    /// Every dropped file has ended exactly once, each under a name of its own: one row, one image with all its bytes, one report for
    /// each content in `done`, a reason for each file in `failed`, nothing left in the inbox, and a ledger that `verify` finds whole.
    /// To be called when nothing is in work any more.
    ///
    /// # Panics
    /// When something is lost, doubled, left or not told; `story` is told then.
    #[track_caller]
    pub fn assert_each_ended_once(&self, dropped: &[Dropped], story: &str) {
        let (done, failed) = (lying(&self.done("")), lying(&self.failed("")));
        let mut wanted: BTreeMap<&str, (usize, End)> = BTreeMap::new();
        for file in dropped {
            wanted.entry(&file.sha256).or_insert((0, file.end)).0 += 1;
        }
        self.rows_agree(&wanted, &done, &failed, story);
        for (sha256, (count, end)) in &wanted {
            let lie = (done.count(sha256), failed.count(sha256));
            let right = match end {
                End::Report => lie == (*count, 0),
                End::Failure => lie == (0, *count),
                End::Either => lie == (*count, 0) || lie == (0, *count),
            };
            assert!(right, "{story}: {count} files {sha256} ({end:?}), in done and failed there are {lie:?}");
        }
        assert_eq!(done.total() + failed.total(), dropped.len(), "{story}: images that nobody dropped");
        assert_eq!((&done.parts, &failed.parts), (&vec![], &vec![]), "{story}: half written files");
        let reports: Vec<String> = self.reports().into_iter().map(|report| report.image_sha256).collect();
        let mut once = reports.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), reports.len(), "{story}: double reports");
        let whole = once.iter().eq(done.images.keys());
        assert!(whole, "{story}: {} reports, {} contents in done: not one for each", once.len(), done.images.len());
        done.pages_agree("report", story);
        failed.pages_agree("note", story);
        let left: Vec<String> = self.listing("inbox");
        assert_eq!(left, [] as [String; 0], "{story}: left in the inbox");
        self.operator(&["verify"]).expect(0);
    }

    #[track_caller]
    fn rows_agree(&self, wanted: &BTreeMap<&str, (usize, End)>, done: &Lying, failed: &Lying, story: &str) {
        let mut rows: BTreeMap<String, usize> = BTreeMap::new();
        let all = self.files();
        // A file that went back to the inbox got a row of its own there; one that was claimed while it was still being written, and the
        // program killed before it knew, is told as replaced by what it became.
        let followed = |row: &FileRow| {
            row.state == "retried"
                || row.state == "replaced"
                    && all.iter().any(|other| other.source == row.source && other.id > row.id && other.state != "replaced")
        };
        for row in all.iter().filter(|row| !followed(row)) {
            let sha256 = row.image_sha256.clone().unwrap_or_default();
            let lies = match row.state.as_str() {
                "filed" => done.count(&sha256) > 0 && row.report_id.is_some(),
                "failed" => failed.count(&sha256) > 0 && row.code.is_some(),
                _ => false,
            };
            assert!(lies && row.filed_at.is_some(), "{story}: {row:?}");
            *rows.entry(sha256).or_default() += 1;
        }
        let wanted: BTreeMap<String, usize> = wanted.iter().map(|(sha256, (count, _))| ((*sha256).to_owned(), *count)).collect();
        let wrong = wanted.iter().filter(|(sha256, count)| rows.get(*sha256).copied().unwrap_or(0) != **count);
        for (sha256, count) in wrong {
            let found: Vec<_> = self.files().into_iter().filter(|row| row.image_sha256.as_ref() == Some(sha256)).collect();
            assert_eq!(found.len(), *count, "{story}: rows of one content: {found:#?}");
        }
        let foreign: Vec<_> = rows.keys().filter(|sha256| !wanted.contains_key(*sha256)).collect();
        assert_eq!(foreign, [] as [&String; 0], "{story}: rows of contents that nobody dropped");
    }

    /// What the ledger says at this moment is true: a file whose row says that it was put away lies there with all its bytes, and no
    /// content has two reports. Holds at any time, whatever is in work.
    ///
    /// # Panics
    /// When a row lies.
    #[track_caller]
    pub fn assert_rows_are_true(&self, story: &str) {
        let (done, failed) = (lying(&self.done("")), lying(&self.failed("")));
        for row in self.files() {
            let sha256 = row.image_sha256.clone().unwrap_or_default();
            let lies = match row.state.as_str() {
                "filed" => done.count(&sha256) > 0,
                "failed" => failed.count(&sha256) > 0,
                _ => true,
            };
            assert!(lies, "{story}: {row:?} lies nowhere");
        }
        let mut reports: Vec<String> = self.reports().into_iter().map(|report| report.image_sha256).collect();
        reports.sort();
        let count = reports.len();
        reports.dedup();
        assert_eq!(count, reports.len(), "{story}: double reports");
    }
}

impl Lying {
    fn count(&self, sha256: &str) -> usize {
        self.images.get(sha256).copied().unwrap_or(0)
    }

    fn total(&self) -> usize {
        self.images.values().sum()
    }

    /// A page and a JSON for each image, which name its content or its reason.
    #[track_caller]
    fn pages_agree(&self, kind: &str, story: &str) {
        let ending = |end: &str| {
            let end = format!(".{kind}.{end}");
            self.beside.iter().filter(move |path| path.as_os_str().as_bytes().ends_with(end.as_bytes())).collect::<Vec<_>>()
        };
        let (pages, data) = (ending("html"), ending("json"));
        assert_eq!((pages.len(), data.len()), (self.total(), self.total()), "{story}: one {kind} beside each image, twice");
        assert_eq!(self.beside.len(), pages.len() + data.len(), "{story}: only {kind}s: {:?}", self.beside);
        for page in pages {
            let text = fs::read_to_string(page).unwrap_or_else(|error| panic!("{story}: {}: {error}", page.display()));
            assert!(text.trim_end().ends_with("</html>"), "{story}: {} is cut", page.display());
        }
        let mut told: BTreeMap<String, usize> = BTreeMap::new();
        for file in data {
            let text = fs::read(file).unwrap_or_else(|error| panic!("{story}: {}: {error}", file.display()));
            let json: serde_json::Value =
                serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{story}: {}: {error}", file.display()));
            let key = if kind == "report" { "sha256" } else { "code" };
            let value = json[key].as_str().unwrap_or_else(|| panic!("{story}: {} has no {key}", file.display()));
            assert!(!value.is_empty(), "{story}: {} has an empty {key}", file.display());
            *told.entry(value.to_owned()).or_default() += 1;
        }
        if kind == "report" {
            assert!(told == self.images, "{story}: the reports' JSON does not name each image");
        }
    }
}

fn lying(folder: &Path) -> Lying {
    let mut found = Lying::default();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let entry = entry.expect("the folder can be listed");
            let (path, name) = (entry.path(), entry.file_name());
            let ends = |ends: &[&str]| ends.iter().any(|end| name.as_bytes().ends_with(end.as_bytes()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            } else if name.as_bytes().starts_with(b".") && ends(&[".part"]) && !name.as_bytes().starts_with(b".STATUS.") {
                found.parts.push(path);
            } else if ends(&[".report.html", ".report.json", ".note.html", ".note.json"]) {
                found.beside.push(path);
            } else if !name.as_bytes().starts_with(b".") && !name.as_bytes().starts_with(b"STATUS.") {
                // One that is being moved at this moment is counted where it arrives.
                if let Ok(bytes) = fs::read(&path) {
                    *found.images.entry(sha256_hex(&bytes)).or_default() += 1;
                }
            }
        }
    }
    found
}
