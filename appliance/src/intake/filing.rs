//! The last step of a file: its page is written, it is moved, the ledger notes where. Commit first, move after; each step may be repeated.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use super::desk::{Key, Task};
use super::place::{self, Moved, Points, Source};
use super::{Intake, beneath, names};
use crate::failpoint;
use crate::ledger::{FileRow, LedgerError, ReportRow, read, record};
use crate::progress;
use crate::report::{hex, json, note, page};

const BUDGET: Duration = Duration::from_secs(120);
const HTML: Points = Points { write: "render.html_write", rename: "render.html_rename" };
const JSON: Points = Points { write: "render.json_write", rename: "render.json_rename" };
const NOTE: Points = Points { write: "render.note_write", rename: "render.note_rename" };

/// Where a file ended.
enum End {
    /// At this place.
    Placed(PathBuf),
    /// It stays in the inbox, with its note beside it.
    Stays,
    /// It was gone, or another had its name.
    Left(&'static str),
}

#[derive(Debug, thiserror::Error)]
enum FilingError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Intake {
    /// Puts a judged file away; what the file system refuses is tried again later.
    pub(super) fn put_away(&self, row: FileRow) -> Result<(), LedgerError> {
        progress::enter("file", &row.path_text, BUDGET);
        let key = Key::from(&row);
        match self.try_put_away(&row) {
            Ok(End::Stays) => self.desk.rest(key),
            Ok(End::Placed(_) | End::Left(_)) => self.desk.forget(&key),
            Err(FilingError::Ledger(error)) => return Err(error),
            Err(FilingError::Io(error)) => {
                let reason = format!("{} cannot be put away: {error}", row.path_text);
                let wait = self.desk.later(Task::PutAway(Box::new(row)), &reason);
                tracing::warn!(event = "retry", reason, next_s = wait.as_secs());
            }
        }
        Ok(())
    }

    fn try_put_away(&self, row: &FileRow) -> Result<End, FilingError> {
        let _one = self.filing.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.end_of(row)?;
        match &end {
            End::Placed(path) => {
                let state = if row.state == "reported" { "filed" } else { "failed" };
                self.ledger.write("ledger.filed", |tx| record::filed(tx, row.id, state, path))?;
                self.pass_point("filed.after");
                let sha8 = row.sha256.map(|sha256| hex(&sha256[..4])).unwrap_or_default();
                tracing::info!(event = state, job = row.id, file = sha8, code = row.code);
                self.renew_twins(row)?;
            }
            End::Left(state) => {
                self.ledger.write("ledger.left", |tx| record::left(tx, row.id, state))?;
                tracing::info!(event = state, job = row.id);
            }
            End::Stays => tracing::info!(event = "refused", job = row.id, code = row.code),
        }
        Ok(end)
    }

    fn end_of(&self, row: &FileRow) -> Result<End, FilingError> {
        let root = beneath::open_root(&self.config.inbox)?;
        let source = Source { root: &root, path: &row.path, stamp: row.stamp, sha256: row.sha256 };
        let state = place::state(&source)?;
        if row.state == "refused" {
            return Ok(match state {
                Moved::Yes => self.note_beside(row)?,
                _ => End::Stays,
            });
        }
        let with_report = row.state == "reported";
        let base = self.folder(with_report);
        let parent = row.path.parent().unwrap_or(Path::new(""));
        place::make_folders(base, parent)?;
        let folder = base.join(parent);
        match state {
            Moved::Yes => self.carry(row, &source, &folder),
            Moved::Changed | Moved::Taken => Ok(End::Left("replaced")),
            Moved::Gone => self.moved_before(row, &folder),
        }
    }

    /// Renders beside the chosen name and moves the image there.
    fn carry(&self, row: &FileRow, source: &Source<'_>, folder: &Path) -> Result<End, FilingError> {
        let name = row.path.file_name().unwrap_or(OsStr::new("unnamed"));
        let sha256 = match row.sha256 {
            Some(sha256) => Some(sha256),
            None => place::sha256_of(&self.config.inbox.join(&row.path)).ok(),
        };
        let mark = sha256.map_or_else(|| format!("{:08x}", row.id), |sha256| hex(&sha256[..4]));
        let same = |path: &Path| match sha256 {
            Some(sha256) => Ok(place::sha256_of(path)? == sha256),
            None => Ok(false),
        };
        for _ in 0..8 {
            let (name, there) = place::choose(folder, name, &mark, same)?;
            self.render(row, folder, &name)?;
            let moved = if there { place::remove(source)? } else { place::relocate(source, folder, &name)? };
            match moved {
                Moved::Yes => return Ok(End::Placed(folder.join(name))),
                Moved::Gone if there => return Ok(End::Placed(folder.join(name))),
                Moved::Taken => continue,
                Moved::Gone => return Ok(End::Left("vanished")),
                Moved::Changed => return Ok(End::Left("replaced")),
            }
        }
        Err(io::Error::from(rustix::io::Errno::EXIST).into())
    }

    /// The image is not in the inbox: it was moved before a crash, or someone took it away.
    fn moved_before(&self, row: &FileRow, folder: &Path) -> Result<End, FilingError> {
        let (Some(sha256), Some(name)) = (row.sha256, row.path.file_name()) else { return self.moved_unhashed(row, folder) };
        let same = |path: &Path| Ok(place::sha256_of(path)? == sha256);
        let (name, there) = place::choose(folder, name, &hex(&sha256[..4]), same)?;
        if !there {
            let part = folder.join(names::part(&name));
            if part.exists() {
                std::fs::remove_file(part)?;
            }
            return Ok(End::Left("vanished"));
        }
        self.render(row, folder, &name)?;
        place::sync_folder(folder)?;
        Ok(End::Placed(folder.join(name)))
    }

    /// A file that was never read is recognised by its inode.
    fn moved_unhashed(&self, row: &FileRow, folder: &Path) -> Result<End, FilingError> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let found = super::scan::stamp(&entry.metadata()?);
            if found == row.stamp {
                self.render(row, folder, &entry.file_name())?;
                return Ok(End::Placed(entry.path()));
            }
        }
        Ok(End::Left("vanished"))
    }

    fn note_beside(&self, row: &FileRow) -> Result<End, FilingError> {
        let parent = row.path.parent().unwrap_or(Path::new(""));
        let name = row.path.file_name().unwrap_or(OsStr::new("unnamed"));
        if let Err(error) = self.render(row, &self.config.inbox.join(parent), &names::target(name, "long")) {
            tracing::warn!(event = "note", job = row.id, %error);
        }
        Ok(End::Stays)
    }

    /// Writes page and JSON, or note and JSON, beside `name`.
    fn render(&self, row: &FileRow, folder: &Path, name: &OsStr) -> Result<(), FilingError> {
        let (kind, page, data, points) = match self.report_of(row)? {
            Some(report) => {
                let at =
                    page::Placement { source: &row.path_text, case_id: &row.case_id, file: row.id, received_at: &row.seen_at };
                (".report", page::page(&report, &at), report_json(&report, row), HTML)
            }
            None => (".note", note::page(row), note::json(row), NOTE),
        };
        let text = format!("{data:#}\n");
        let (html, json) = (names::beside(name, &format!("{kind}.html")), names::beside(name, &format!("{kind}.json")));
        let write_json = || place::write(folder, &json, text.as_bytes(), JSON);
        Ok(place::both(|| place::write(folder, &html, page.as_bytes(), points), write_json)?)
    }

    fn report_of(&self, row: &FileRow) -> Result<Option<ReportRow>, FilingError> {
        let (Some(id), "reported" | "filed") = (row.report, row.state.as_str()) else { return Ok(None) };
        Ok(self.ledger.read(|connection| read::report(connection, id))?)
    }

    /// The same image in another case is a possible mix-up: pages that were written before learn of it.
    fn renew_twins(&self, row: &FileRow) -> Result<(), FilingError> {
        let (Some(job), "reported") = (row.job, row.state.as_str()) else { return Ok(()) };
        let twins = self.ledger.read(|connection| read::filed_of(connection, job))?;
        let of_my_case = twins.iter().filter(|twin| twin.case_id == row.case_id).count();
        if of_my_case > 1 {
            return Ok(());
        }
        for twin in twins.iter().filter(|twin| twin.case_id != row.case_id) {
            let Some(path) = twin.filed_path.as_ref().filter(|path| path.exists()) else { continue };
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
            if let Err(error) = self.render(twin, folder, name) {
                tracing::warn!(event = "render", job = twin.id, %error);
            }
        }
        Ok(())
    }

    /// Moves a failed file back to the inbox. A crash in between leaves the row `retrying`, which the next start finishes.
    ///
    /// # Errors
    /// The file is not in `failed` any more, or I/O.
    pub fn bring_back(&self, row: &FileRow) -> Result<(), crate::error::Failure> {
        bring_back(&self.ledger, &self.config.inbox, row)?;
        self.desk.forget(&Key::from(row));
        Ok(())
    }
}

/// [`Intake::bring_back`] without a running daemon.
///
/// # Errors
/// The file is not in `failed` any more, or I/O.
pub fn bring_back(ledger: &crate::ledger::Ledger, inbox: &Path, row: &FileRow) -> Result<(), crate::error::Failure> {
    let failure = |error: &io::Error| {
        crate::error::Failure::io(format!("file {} cannot be brought back to the inbox", row.id), &inbox.join(&row.path), error)
    };
    ledger.write("ledger.retry", |tx| record::begin_retry(tx, row))?;
    failpoint::pass("retry.before_move").map_err(|error| failure(&error))?;
    if let Some(from) = row.filed_path.as_ref().filter(|path| path.symlink_metadata().is_ok()) {
        let mark = row.sha256.map_or_else(|| format!("{:08x}", row.id), |sha256| hex(&sha256[..4]));
        place::bring_back(from, inbox, &row.path, &mark).map_err(|error| failure(&error))?;
        remove_notes(from);
    } else if row.state == "refused" {
        remove_notes(&inbox.join(&row.path));
    }
    failpoint::pass("retry.after_move").map_err(|error| failure(&error))?;
    ledger.write("ledger.retry", |tx| record::end_retry(tx, row.id))?;
    Ok(())
}

fn remove_notes(image: &Path) {
    let (Some(folder), Some(name)) = (image.parent(), image.file_name()) else { return };
    for suffix in [".note.html", ".note.json"] {
        let note = folder.join(names::beside(name, suffix));
        if let Err(error) = std::fs::remove_file(&note)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(event = "note", path = %note.display(), %error);
        }
    }
}

/// The JSON of a report as it belongs to one of its files.
pub fn report_json(report: &ReportRow, row: &FileRow) -> serde_json::Value {
    let mut content = report.report.clone();
    if report.cases.iter().any(|case| *case != row.case_id) {
        content.flags.push("same_image_other_case".into());
    }
    let subject = json::Subject {
        id: Some(report.id),
        case_id: &row.case_id,
        file: &row.path_text,
        sha256: &hex(&report.sha256),
        bundle_sha256: &report.bundle_sha256,
    };
    json::report(&subject, &content)
}

/// The handle and path of a file in the inbox.
pub fn source_of<'a>(root: &'a OwnedFd, row: &'a FileRow) -> Source<'a> {
    Source { root, path: &row.path, stamp: row.stamp, sha256: row.sha256 }
}
