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
use crate::error::{Exit, Failure};
use crate::failpoint;
use crate::ledger::{FileEvent, FileRow, FileState, LedgerError, ReportRow, read, record};
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
    Left(FileEvent),
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
                let state = self.ledger.write("ledger.filed", |tx| record::placed(tx, row.id, path))?;
                self.pass_point("filed.after");
                let sha8 = row.sha256.map(|sha256| hex(&sha256[..4])).unwrap_or_default();
                tracing::info!(event = state.name(), job = row.id, file = sha8, code = row.code);
                self.renew_twins(row)?;
            }
            End::Left(event) => {
                let state = self.ledger.write("ledger.left", |tx| record::left(tx, row.id, *event))?;
                tracing::info!(event = state.name(), job = row.id);
            }
            End::Stays => tracing::info!(event = "refused", job = row.id, code = row.code),
        }
        Ok(end)
    }

    fn end_of(&self, row: &FileRow) -> Result<End, FilingError> {
        let root = beneath::open_root(&self.config.inbox)?;
        let source = Source { root: &root, path: &row.path, stamp: row.stamp, sha256: row.sha256 };
        let state = place::state(&source)?;
        if row.state == FileState::Refused {
            return Ok(match state {
                Moved::Yes => self.note_beside(row)?,
                Moved::Gone => End::Left(FileEvent::Vanish),
                Moved::Changed | Moved::Taken => End::Left(FileEvent::Replace),
            });
        }
        let with_report = row.state == FileState::Reported;
        let base = self.folder(with_report);
        let parent = row.path.parent().unwrap_or(Path::new(""));
        place::make_folders(base, parent)?;
        let folder = base.join(parent);
        match state {
            Moved::Yes => self.carry(row, &source, &folder),
            Moved::Changed | Moved::Taken => Ok(End::Left(FileEvent::Replace)),
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
                Moved::Gone => return Ok(End::Left(FileEvent::Vanish)),
                Moved::Changed => return Ok(End::Left(FileEvent::Replace)),
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
            return Ok(End::Left(FileEvent::Vanish));
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
        Ok(End::Left(FileEvent::Vanish))
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
        let Some(id) = row.report.filter(|_| row.state.has_report()) else { return Ok(None) };
        Ok(self.ledger.read(|connection| read::report(connection, id))?)
    }

    /// The same image in another case is a possible mix-up: pages that were written before learn of it. All of them are written anew when
    /// the number of cases becomes 2, 4 or 8: each page then names a case, the first ones several, and the work grows as the files do.
    fn renew_twins(&self, row: &FileRow) -> Result<(), FilingError> {
        let Some(sha256) = row.sha256.filter(|_| row.state == FileState::Reported) else { return Ok(()) };
        let (first, cases) = self.ledger.read(|connection| read::filed_cases(connection, &sha256, &row.case_id, 9))?;
        if !first || !matches!(cases, 2 | 4 | 8) {
            return Ok(());
        }
        let twins = self.ledger.read(|connection| read::filed_with(connection, &sha256))?;
        for twin in twins.iter().filter(|twin| twin.case_id != row.case_id) {
            progress::beat();
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
    /// The file is not where it failed any more ([`Exit::NotFound`]), or I/O; its row is then as it was.
    pub fn bring_back(&self, row: &FileRow, actor: &str) -> Result<(), Failure> {
        bring_back(&self.ledger, &self.config.inbox, row, actor)?;
        self.desk.forget(&Key::from(row));
        Ok(())
    }
}

/// [`Intake::bring_back`] without a running daemon.
///
/// # Errors
/// As there.
pub fn bring_back(ledger: &crate::ledger::Ledger, inbox: &Path, row: &FileRow, actor: &str) -> Result<(), Failure> {
    let lies_at = row.filed_path.clone().unwrap_or_else(|| inbox.join(&row.path));
    if row.state != FileState::Retrying && !is_there(&lies_at).map_err(|error| cannot_return(row, &lies_at, &error))? {
        return Err(Failure::new(
            Exit::NotFound,
            format!("file {} is gone: nothing lies there any more", row.id),
            lies_at.display().to_string(),
            "drop the image into the inbox again",
        ));
    }
    ledger.write("ledger.retry", |tx| record::begin_retry(tx, row, actor))?;
    match move_back(inbox, row, &lies_at) {
        Ok(()) => Ok(ledger.write("ledger.retry", |tx| record::end_retry(tx, row.id))?),
        Err(_) if row.filed_path.is_some() && is_there(&lies_at).is_ok_and(|there| !there) => {
            Ok(ledger.write("ledger.retry", |tx| record::end_retry(tx, row.id))?)
        }
        Err(error) => {
            ledger.write("ledger.retry", |tx| record::give_up_retry(tx, row))?;
            Err(cannot_return(row, &lies_at, &error))
        }
    }
}

fn is_there(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

fn cannot_return(row: &FileRow, at: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("file {} cannot be brought back to the inbox", row.id), at, error)
}

/// The file's way back. One that is not in `failed` any more, after a crash, was moved before it.
fn move_back(inbox: &Path, row: &FileRow, lies_at: &Path) -> io::Result<()> {
    failpoint::pass("retry.before_move")?;
    if row.filed_path.is_some() && is_there(lies_at)? {
        let mark = row.sha256.map_or_else(|| format!("{:08x}", row.id), |sha256| hex(&sha256[..4]));
        place::bring_back(lies_at, inbox, &row.path, &mark)?;
    }
    remove_notes(lies_at);
    failpoint::pass("retry.after_move")
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
