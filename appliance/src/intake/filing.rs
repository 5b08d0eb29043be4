//! The last step of a file: its page is written, it is moved, the ledger notes where. Commit first, move after; each step may be repeated.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use super::Intake;
use super::desk::{Key, Task};
use super::folder::Folder;
use crate::error::{Exit, Failure};
use crate::failpoint;
use crate::files::{self, Dir, Moved, Points, Source, Stamp, names};
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
        let root = self.folder.inbox()?;
        let source = source_of(&root, row);
        let state = files::state(&source)?;
        if row.state == "refused" {
            return Ok(match state {
                Moved::Yes => self.note_beside(row, &root)?,
                _ => End::Stays,
            });
        }
        let parent = row.path.parent().unwrap_or(Path::new(""));
        let end = self.folder.end(row.state == "reported")?;
        let folder = end.make_below(parent).map_err(|error| in_the_way(&end, parent, error))?;
        match state {
            Moved::Yes => self.carry(row, &source, &folder),
            Moved::Changed | Moved::Taken => Ok(End::Left("replaced")),
            Moved::Gone => self.moved_before(row, &folder),
        }
    }

    /// Renders beside the chosen name and moves the image there. What was never read is not hashed here either: it has no twin.
    fn carry(&self, row: &FileRow, source: &Source<'_>, folder: &Dir) -> Result<End, FilingError> {
        let name = row.path.file_name().unwrap_or(OsStr::new("unnamed"));
        for _ in 0..8 {
            let (name, there) = files::choose(folder, name, &mark_of(row), |name| same_bytes(row, folder, name))?;
            self.render(row, folder, &name)?;
            let moved = if there { files::remove(source, folder, &name)? } else { files::relocate(source, folder, &name)? };
            match moved {
                Moved::Yes => return Ok(End::Placed(folder.path().join(name))),
                Moved::Gone if there => return Ok(End::Placed(folder.path().join(name))),
                Moved::Taken => continue,
                Moved::Gone => return Ok(End::Left("vanished")),
                Moved::Changed => return Ok(End::Left("replaced")),
            }
        }
        Err(io::Error::from(rustix::io::Errno::EXIST).into())
    }

    /// The image is not in the inbox: it was moved before a crash, or someone took it away.
    fn moved_before(&self, row: &FileRow, folder: &Dir) -> Result<End, FilingError> {
        let Some(name) = row.path.file_name().filter(|_| row.sha256.is_some()) else { return self.moved_unhashed(row, folder) };
        let (name, there) = files::choose(folder, name, &mark_of(row), |name| same_bytes(row, folder, name))?;
        if !there {
            folder.remove(&names::part(&name))?;
            return Ok(End::Left("vanished"));
        }
        self.render(row, folder, &name)?;
        folder.sync_file(&name)?;
        folder.sync()?;
        Ok(End::Placed(folder.path().join(name)))
    }

    /// A file that was never read is recognised by its inode.
    fn moved_unhashed(&self, row: &FileRow, folder: &Dir) -> Result<End, FilingError> {
        for (name, found) in folder.entries()? {
            progress::beat();
            if Stamp::from(&found) == row.stamp {
                self.render(row, folder, &name)?;
                return Ok(End::Placed(folder.path().join(name)));
            }
        }
        Ok(End::Left("vanished"))
    }

    fn note_beside(&self, row: &FileRow, root: &Dir) -> Result<End, FilingError> {
        let parent = row.path.parent().unwrap_or(Path::new(""));
        let name = row.path.file_name().unwrap_or(OsStr::new("unnamed"));
        if let Err(error) = root
            .below(parent)
            .map_err(FilingError::from)
            .and_then(|folder| self.render(row, &folder, &names::target(name, "long")))
        {
            tracing::warn!(event = "note", job = row.id, %error);
        }
        Ok(End::Stays)
    }

    /// Writes page and JSON, or note and JSON, beside `name`.
    fn render(&self, row: &FileRow, folder: &Dir, name: &OsStr) -> Result<(), FilingError> {
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
        let write_json = || files::write(folder, &json, text.as_bytes(), JSON);
        Ok(files::both(|| files::write(folder, &html, page.as_bytes(), points), write_json)?)
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
            let Some(path) = &twin.filed_path else { continue };
            let rendered = self.folder.placed(path).and_then(|(folder, name)| Ok(folder.stat(&name)?.map(|_| (folder, name))));
            match rendered.map_err(FilingError::from) {
                Ok(None) => {}
                Ok(Some((folder, name))) => {
                    if let Err(error) = self.render(twin, &folder, &name) {
                        tracing::warn!(event = "render", job = twin.id, %error);
                    }
                }
                Err(error) => tracing::warn!(event = "render", job = twin.id, %error),
            }
        }
        Ok(())
    }

    /// Moves a failed file back to the inbox. A crash in between leaves the row `retrying`, which the next start finishes.
    ///
    /// # Errors
    /// The file is not in `failed` any more, or I/O.
    pub fn bring_back(&self, row: &FileRow) -> Result<(), Failure> {
        bring_back(&self.ledger, &self.folder, row)?;
        self.desk.forget(&Key::from(row));
        Ok(())
    }
}

/// [`Intake::bring_back`] without a running daemon.
///
/// # Errors
/// The file is not in `failed` any more, or I/O.
pub fn bring_back(ledger: &crate::ledger::Ledger, folder: &Folder, row: &FileRow) -> Result<(), Failure> {
    let failure = |error: &io::Error| {
        let doing = format!("file {} cannot be brought back to the inbox", row.id);
        Failure::io(doing, &folder.path().join(&row.path), error)
    };
    let inbox = folder.inbox().map_err(|error| failure(&error))?;
    let lies = match row.filed_path.as_ref().map(|path| lies_at(folder, path)).transpose().map_err(|error| failure(&error))? {
        Some(None) if row.state != "retrying" => return Err(lost(row)),
        lies => lies.flatten(),
    };
    ledger.write("ledger.retry", |tx| record::begin_retry(tx, row))?;
    failpoint::pass("retry.before_move").map_err(|error| failure(&error))?;
    if let Some((from, name, stamp)) = lies {
        let source = Source { root: &from, path: Path::new(&name), stamp, sha256: row.sha256 };
        files::bring_back(&source, &inbox, &row.path, &mark_of(row)).map_err(|error| failure(&error))?;
        remove_notes(&from, &name);
    } else if row.state == "refused" {
        let parent = inbox.below(row.path.parent().unwrap_or(Path::new(""))).map_err(|error| failure(&error))?;
        remove_notes(&parent, row.path.file_name().unwrap_or_default());
    }
    failpoint::pass("retry.after_move").map_err(|error| failure(&error))?;
    ledger.write("ledger.retry", |tx| record::end_retry(tx, row.id))?;
    Ok(())
}

/// The folder, name and state of a file that was put away; none when it is not there any more.
fn lies_at(folder: &Folder, path: &Path) -> io::Result<Option<(Dir, OsString, Stamp)>> {
    let found =
        folder.placed(path).and_then(|(folder, name)| Ok(folder.stat(&name)?.map(|found| (folder, name, Stamp::from(&found)))));
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other,
    }
}

fn lost(row: &FileRow) -> Failure {
    let place = row.filed_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    Failure::new(
        Exit::NotFound,
        format!("file {} is gone: somebody took it away", row.id),
        place,
        "drop the image again if it is still needed",
    )
}

/// The mark that tells a file from others of its name.
fn mark_of(row: &FileRow) -> String {
    row.sha256.map_or_else(|| format!("{:08x}", row.id), |sha256| hex(&sha256[..4]))
}

fn same_bytes(row: &FileRow, folder: &Dir, name: &OsStr) -> io::Result<bool> {
    match row.sha256 {
        Some(sha256) => Ok(folder.sha256_of(name)? == sha256),
        None => Ok(false),
    }
}

/// A link or a file that stands where a case's folder has to be is named: only a person can take it away.
fn in_the_way(end: &Dir, parent: &Path, error: io::Error) -> io::Error {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
            let path = end.path().join(parent);
            io::Error::other(format!("a part of {} is a link or a file, not a folder; take it away", path.display()))
        }
        _ => error,
    }
}

fn remove_notes(folder: &Dir, image: &OsStr) {
    for suffix in [".note.html", ".note.json"] {
        if let Err(error) = folder.remove(&names::beside(image, suffix)) {
            tracing::warn!(event = "note", folder = %folder.path().display(), %error);
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
pub fn source_of<'a>(root: &'a Dir, row: &'a FileRow) -> Source<'a> {
    Source { root, path: &row.path, stamp: row.stamp, sha256: row.sha256 }
}
