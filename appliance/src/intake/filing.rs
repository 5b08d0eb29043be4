//! The last step of a file: its page is written, it is moved, the ledger notes where. Commit first, move after; each step may be repeated.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Stat;

use super::Intake;
use super::desk::{Key, Task};
use super::folder::Folder;
use super::sidecars::Sidecars;
use crate::error::{Exit, Failure};
use crate::failpoint;
use crate::files::{self, Dir, Moved, Points, Source, Stamp, names};
use crate::ledger::{FileEvent, FileRow, FileState, LedgerError, NewReport, ReportRow, read, record};
use crate::report::{hex, json, note, page};
use crate::{progress, world};

const BUDGET: Duration = Duration::from_secs(120);
/// The last number of cases at which pages are written anew.
const MOST_CASES: u32 = 8;
/// A file that was never read is looked for under so many names.
const MOST_NAMES: usize = 1000;
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
    /// Puts judged files away, and those that other threads bring meanwhile; what the file system refuses is tried again later.
    pub(super) fn put_away(&self, rows: Vec<FileRow>) -> Result<(), LedgerError> {
        self.filing.waiting().extend(rows);
        // Whoever has the turn may be copying a large file, and shows life for itself.
        progress::idle();
        let mut sidecars = world::lock(&self.filing.turn);
        loop {
            let rows = self.filing.take();
            if rows.is_empty() {
                return Ok(());
            }
            self.put_together(rows, &mut sidecars)?;
        }
    }

    /// Moves each file, then writes all receipts at once. A crash in between leaves files that the next start finds at their places.
    fn put_together(&self, rows: Vec<FileRow>, sidecars: &mut Sidecars) -> Result<(), LedgerError> {
        let mut placed = Vec::new();
        for row in rows {
            progress::enter("file", &row.path_text, BUDGET);
            match self.end_of(&row, sidecars) {
                Ok(End::Placed(path)) => placed.push((row, path)),
                Ok(End::Left(event)) => {
                    let state = self.ledger.write("ledger.left", |tx| record::left(tx, row.id, event))?;
                    tracing::info!(event = state.name(), job = row.id);
                    self.desk.forget(&Key::from(&row));
                }
                Ok(End::Stays) => {
                    tracing::info!(event = "refused", job = row.id, code = row.code);
                    self.desk.rest(Key::from(&row));
                }
                Err(FilingError::Ledger(error)) => return Err(error),
                Err(FilingError::Io(error)) => {
                    let reason = format!("{} cannot be put away: {error}", row.path_text);
                    let wait = self.desk.later(Task::PutAway(Box::new(row)), &reason);
                    tracing::warn!(event = "retry", reason, next_s = wait.as_secs());
                }
            }
        }
        if placed.is_empty() { Ok(()) } else { self.receipt(&placed) }
    }

    fn receipt(&self, placed: &[(FileRow, PathBuf)]) -> Result<(), LedgerError> {
        let mut contents: BTreeMap<[u8; 32], usize> = BTreeMap::new();
        for sha256 in placed.iter().filter_map(|(row, _)| row.sha256.filter(|_| row.state == FileState::Reported)) {
            if let Entry::Vacant(entry) = contents.entry(sha256) {
                entry.insert(self.cases_of(&sha256)?);
            }
        }
        // Before the rows say so: a worker that has read one of them meanwhile must not claim it after that.
        placed.iter().for_each(|(row, _)| self.desk.forget(&Key::from(row)));
        let states: Vec<FileState> = self
            .ledger
            .write("ledger.filed", |tx| placed.iter().map(|(row, path)| record::placed(tx, row.id, path)).collect())?;
        for ((row, _), state) in placed.iter().zip(states) {
            self.pass_point("filed.after");
            let sha8 = row.sha256.map(|sha256| hex(&sha256[..4])).unwrap_or_default();
            tracing::info!(event = state.name(), job = row.id, file = sha8, code = row.code);
        }
        let outdated = self.filing.take_outdated();
        contents.iter().try_for_each(|(sha256, before)| self.renew_twins(sha256, *before))?;
        outdated.iter().try_for_each(|sha256| self.render_twins(sha256))
    }

    fn end_of(&self, row: &FileRow, sidecars: &mut Sidecars) -> Result<End, FilingError> {
        let root = self.folder.inbox()?;
        let source = source_of(&root, row);
        let state = files::state(&source)?;
        if row.state == FileState::Refused {
            return Ok(match state {
                Moved::Yes => self.note_beside(row, &root)?,
                Moved::Gone | Moved::Changed | Moved::Taken => {
                    // Another slide of its name gets a note of its own.
                    if let Ok(folder) = root.below(row.path.parent().unwrap_or(Path::new(""))) {
                        remove_notes(&folder, &slides_name(row));
                    }
                    End::Left(if state == Moved::Gone { FileEvent::Vanish } else { FileEvent::Replace })
                }
            });
        }
        let parent = row.path.parent().unwrap_or(Path::new(""));
        let end = self.folder.end(row.state == FileState::Reported)?;
        let folder = end.make_below(parent).map_err(|error| in_the_way(&end, parent, error))?;
        match state {
            Moved::Yes => self.carry(row, &source, &folder, sidecars),
            // What has its name now may have come after it was moved and before that was noted.
            Moved::Changed | Moved::Taken => match self.moved_before(row, &folder)? {
                End::Left(_) => Ok(End::Left(FileEvent::Replace)),
                found => Ok(found),
            },
            Moved::Gone => self.moved_before(row, &folder),
        }
    }

    /// Renders beside the chosen name and moves the image there. What was never read is not hashed here either: it has no twin.
    fn carry(&self, row: &FileRow, source: &Source<'_>, folder: &Dir, sidecars: &mut Sidecars) -> Result<End, FilingError> {
        let name = row.path.file_name().unwrap_or(OsStr::new("unnamed"));
        for _ in 0..8 {
            let same = |name: &OsStr, found: &Stat| match row.sha256 {
                Some(_) => same_bytes(row, folder, name, found),
                None => same_unread(row, source, folder, name, found),
            };
            let (name, there) = files::choose(folder, name, &mark_of(row), same)?;
            self.render(row, folder, &name)?;
            let moved = match self.carry_sidecars(row, source.root, (folder, &name), sidecars) {
                Ok(()) if there => files::remove(source, folder, &name)?,
                Ok(()) => files::relocate(source, folder, &name)?,
                // Its folder was renamed or taken away meanwhile, and the image with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Moved::Gone,
                Err(error) => return Err(error.into()),
            };
            match moved {
                Moved::Yes => return Ok(End::Placed(folder.path().join(name))),
                Moved::Gone if there => return Ok(End::Placed(folder.path().join(name))),
                Moved::Taken => self.return_sidecars(row, source.root, (folder, &name), sidecars)?,
                Moved::Gone | Moved::Changed => {
                    self.return_sidecars(row, source.root, (folder, &name), sidecars)?;
                    self.unrender(row, folder, &name)?;
                    return Ok(End::Left(if moved == Moved::Gone { FileEvent::Vanish } else { FileEvent::Replace }));
                }
            }
        }
        Err(io::Error::from(rustix::io::Errno::EXIST).into())
    }

    /// What was carried for an image that did not follow lies beside it again, as far as its folder is still there.
    fn return_sidecars(&self, row: &FileRow, root: &Dir, from: (&Dir, &OsStr), sidecars: &mut Sidecars) -> io::Result<()> {
        let patterns = self.folder.sidecars();
        let image = row.path.file_name().unwrap_or_default();
        match root.below(row.path.parent().unwrap_or(Path::new(""))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            beside => sidecars.carry(patterns, from, (&beside?, image), &mark_of(row)),
        }
    }

    /// Takes page and JSON, or the note, away again that were written for an image that then did not come. Where another image lies under that
    /// name they are written anew for it.
    fn unrender(&self, row: &FileRow, folder: &Dir, name: &OsStr) -> Result<(), FilingError> {
        let kind = if row.report.is_some() && row.state.has_report() { ".report" } else { ".note" };
        let pages = [".html", ".json"].map(|ending| names::beside(name, &format!("{kind}{ending}")));
        if pages.iter().all(|page| folder.stat(page).is_ok_and(|found| found.is_none())) {
            return Ok(());
        }
        let path = folder.path().join(name);
        let owner = self.ledger.read(|connection| read::filed_at(connection, &path))?;
        match (owner, folder.stat(name)?) {
            (Some(owner), Some(_)) => self.render(&owner, folder, name),
            // Its image was taken away by somebody; what is known of it stays.
            (Some(_), None) => Ok(()),
            (None, _) => Ok(pages.iter().try_for_each(|page| folder.remove(page))?),
        }
    }

    fn carry_sidecars(&self, row: &FileRow, root: &Dir, to: (&Dir, &OsStr), sidecars: &mut Sidecars) -> io::Result<()> {
        let patterns = self.folder.sidecars();
        if patterns.is_empty() {
            return Ok(());
        }
        let beside = root.below(row.path.parent().unwrap_or(Path::new("")))?;
        sidecars.carry(patterns, (&beside, row.path.file_name().unwrap_or_default()), to, &mark_of(row))
    }

    /// The image is not in the inbox: it was moved before a crash, or someone took it away.
    fn moved_before(&self, row: &FileRow, folder: &Dir) -> Result<End, FilingError> {
        let Some(name) = row.path.file_name().filter(|_| row.sha256.is_some()) else { return self.moved_unhashed(row, folder) };
        let (name, there) = files::choose(folder, name, &mark_of(row), |name, found| same_bytes(row, folder, name, found))?;
        if !there {
            folder.remove(&names::part(&name))?;
            // An earlier try may have written them.
            self.unrender(row, folder, &name)?;
            return Ok(End::Left(FileEvent::Vanish));
        }
        self.render(row, folder, &name)?;
        folder.sync_file(&name)?;
        folder.sync()?;
        Ok(End::Placed(folder.path().join(name)))
    }

    /// A file that was never read is recognised by its inode, or on another file system, as which it was copied, by size and time where no other
    /// row lies there: under one of the names that it can have got. Under another one it is the same file, but was renamed in the inbox and has
    /// a row of its own.
    fn moved_unhashed(&self, row: &FileRow, folder: &Dir) -> Result<End, FilingError> {
        let name = row.path.file_name().unwrap_or(OsStr::new("unnamed"));
        for name in files::candidates(name, &mark_of(row)).take(MOST_NAMES) {
            let Some(found) = folder.stat(&name)? else { break };
            let copied = || -> Result<bool, LedgerError> {
                let path = folder.path().join(&name);
                Ok(is_copy(row, &found) && self.ledger.read(|connection| read::filed_at(connection, &path))?.is_none())
            };
            if Stamp::from(&found) == row.stamp || copied()? {
                self.render(row, folder, &name)?;
                return Ok(End::Placed(folder.path().join(name)));
            }
        }
        Ok(End::Left(FileEvent::Vanish))
    }

    /// The note of a slide; where nobody may write there is none, and the ledger tells alone.
    fn note_beside(&self, row: &FileRow, root: &Dir) -> Result<End, FilingError> {
        let folder = root.below(row.path.parent().unwrap_or(Path::new("")))?;
        match self.render(row, &folder, &slides_name(row)) {
            Err(FilingError::Io(error)) if is_denied(&error) => tracing::warn!(event = "note", job = row.id, %error),
            other => other?,
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
        let Some(id) = row.report.filter(|_| row.state.has_report()) else { return Ok(None) };
        Ok(self.ledger.read(|connection| read::report(connection, id))?)
    }

    /// The same image in another case is a possible mix-up: pages that were written before learn of it. All of them are written anew when
    /// the number of cases reaches 2, 4 or 8: each page then names a case, the first ones several, and the work grows as the files do.
    fn renew_twins(&self, sha256: &[u8; 32], before: usize) -> Result<(), LedgerError> {
        let cases = self.cases_of(sha256)?;
        if ![2, 4, 8].iter().any(|step| before < *step && cases >= *step) {
            return Ok(());
        }
        self.render_twins(sha256)
    }

    /// Writes the pages anew that the program may have been about to write when it died, see `renew_twins`.
    ///
    /// # Errors
    /// The ledger.
    pub fn catch_up(&self) -> Result<(), LedgerError> {
        let contents = self.ledger.read(read::lately_in_several_cases)?;
        contents.iter().try_for_each(|sha256| self.render_twins(sha256))
    }

    /// Pages that cannot be written now, e.g. while `done` is away, are tried again with the next files that are put away.
    fn render_twins(&self, sha256: &[u8; 32]) -> Result<(), LedgerError> {
        let twins = self.ledger.read(|connection| read::filed_with(connection, sha256))?;
        for twin in &twins {
            progress::beat();
            let Some(path) = &twin.filed_path else { continue };
            let found = self.folder.placed(path).and_then(|(folder, name)| Ok(folder.stat(&name)?.map(|_| (folder, name))));
            let rendered = match found.map_err(FilingError::from) {
                Ok(None) => Ok(()),
                Ok(Some((folder, name))) => self.render(twin, &folder, &name),
                Err(error) => Err(error),
            };
            match rendered {
                Ok(()) => {}
                Err(FilingError::Ledger(error)) => return Err(error),
                Err(FilingError::Io(error)) => {
                    tracing::warn!(event = "render", job = twin.id, %error);
                    self.filing.outdated(sha256);
                }
            }
        }
        Ok(())
    }

    /// Under how many cases files with these bytes lie in `done`; more than are asked for are not counted.
    fn cases_of(&self, sha256: &[u8; 32]) -> Result<usize, LedgerError> {
        self.ledger.read(|connection| read::filed_cases(connection, sha256, MOST_CASES))
    }

    /// Moves a failed file back to the inbox. A crash in between leaves the row `retrying`, which the next start finishes.
    ///
    /// # Errors
    /// The file is not where it failed any more ([`Exit::NotFound`]), or I/O; its row is then as it was.
    pub fn bring_back(&self, row: &FileRow, actor: &str) -> Result<(), Failure> {
        // Nobody else puts files away meanwhile: one that fails anew at once has its new note where the old one is removed.
        let mut sidecars = world::lock(&self.filing.turn);
        bring_back(&self.ledger, &self.folder, row, actor, &mut sidecars)?;
        // One that stayed in the inbox was resting there; one that came back may be in work already.
        if row.filed_path.is_none() {
            self.desk.forget(&Key::from(row));
        }
        Ok(())
    }
}

/// [`Intake::bring_back`] without a running daemon.
///
/// # Errors
/// As there.
pub fn bring_back(
    ledger: &crate::ledger::Ledger,
    folder: &Folder,
    row: &FileRow,
    actor: &str,
    sidecars: &mut Sidecars,
) -> Result<(), Failure> {
    let now = ledger.read(|connection| read::file(connection, row.id))?;
    if now.is_some_and(|now| now.state == FileState::Retried) {
        // Its file went back with another row that it stood for.
        return Ok(());
    }
    let path = row.filed_path.clone().unwrap_or_else(|| folder.path().join(&row.path));
    let lies = lies_at(folder, row, &path).map_err(|error| cannot_return(row, &path, &error))?;
    if row.state != FileState::Retrying && lies.is_none() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("file {} is gone: nothing lies there any more, or another file of its name", row.id),
            path.display().to_string(),
            "drop the image into the inbox again",
        ));
    }
    ledger.write("ledger.retry", |tx| record::begin_retry(tx, row, actor))?;
    match move_back(folder, row, lies, sidecars) {
        Ok(()) => Ok(ledger.write("ledger.retry", |tx| record::end_retry(tx, row))?),
        Err(_) if row.filed_path.is_some() && lies_at(folder, row, &path).is_ok_and(|lies| lies.is_none()) => {
            remove_left_notes(folder, row).map_err(|error| cannot_return(row, &path, &error))?;
            Ok(ledger.write("ledger.retry", |tx| record::end_retry(tx, row))?)
        }
        Err(error) => {
            ledger.write("ledger.retry", |tx| record::give_up_retry(tx, row))?;
            Err(cannot_return(row, &path, &error))
        }
    }
}

fn cannot_return(row: &FileRow, at: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("file {} cannot be brought back to the inbox", row.id), at, error)
}

/// The file's way back, with its sidecars. One that is not in `failed` any more, after a crash, was moved before it.
fn move_back(folder: &Folder, row: &FileRow, lies: Option<(Dir, OsString, Stamp)>, sidecars: &mut Sidecars) -> io::Result<()> {
    failpoint::pass("retry.before_move")?;
    if let Some((from, name, stamp)) = lies {
        if row.filed_path.is_some() {
            let source = Source { root: &from, path: Path::new(&name), stamp, sha256: row.sha256 };
            let inbox = folder.inbox()?.make_below(row.path.parent().unwrap_or(Path::new("")))?;
            let (image, mark) = (row.path.file_name().unwrap_or_default(), mark_of(row));
            let (free, _) = files::choose(&inbox, image, &mark, |_, _| Ok(false))?;
            sidecars.carry(folder.sidecars(), (&from, &name), (&inbox, &free), &mark)?;
            let moved = match files::relocate(&source, &inbox, &free) {
                Ok(Moved::Yes) => Ok(()),
                Ok(Moved::Gone) => Err(rustix::io::Errno::NOENT.into()),
                Ok(Moved::Changed | Moved::Taken) => Err(rustix::io::Errno::BUSY.into()),
                Err(error) => Err(error),
            };
            if moved.is_err() {
                sidecars.carry(folder.sidecars(), (&inbox, &free), (&from, &name), &mark)?;
            }
            moved?;
        }
        // The last thing that can fail: a slide that stays after all keeps its note.
        failpoint::pass("retry.after_move")?;
        remove_notes(&from, &name);
        return Ok(());
    }
    failpoint::pass("retry.after_move")?;
    remove_left_notes(folder, row)
}

/// The notes of a file that left `failed` before they could be removed; another one of its name keeps its own.
fn remove_left_notes(folder: &Folder, row: &FileRow) -> io::Result<()> {
    if let Some(path) = &row.filed_path
        && let Ok((from, name)) = folder.placed(path)
        && from.stat(&name)?.is_none()
    {
        remove_notes(&from, &name);
    }
    Ok(())
}

/// The folder, name and state of a file that failed or was refused; none when it is not there any more, or another one of its name is.
/// While the whole folder is away nobody knows, and that is an error.
fn lies_at(folder: &Folder, row: &FileRow, path: &Path) -> io::Result<Option<(Dir, OsString, Stamp)>> {
    if row.filed_path.is_some() {
        let away = |error: io::Error| io::Error::other(format!("the folder of failed files is not there: {error}"));
        folder.end(false).map_err(away)?;
    }
    let (folder, name) = match folder.placed(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    let Some(found) = folder.stat(&name)? else { return Ok(None) };
    let stamp = Stamp::from(&found);
    let its_own = match row.sha256 {
        Some(_) if files::is_regular(&found) => same_bytes(row, &folder, &name, &found)?,
        // Never read: moving, also to another file system, keeps size and time.
        _ => (stamp.size, stamp.mtime_ns) == (row.stamp.size, row.stamp.mtime_ns) || !files::is_regular(&found),
    };
    Ok(its_own.then_some((folder, name, stamp)))
}

/// Under which name a slide's note lies beside it.
fn slides_name(row: &FileRow) -> OsString {
    names::target(row.path.file_name().unwrap_or(OsStr::new("unnamed")), "long")
}

/// Whether a slide has its note.
///
/// # Errors
/// I/O.
pub fn has_note(root: &Dir, row: &FileRow) -> io::Result<bool> {
    let folder = root.below(row.path.parent().unwrap_or(Path::new("")))?;
    let name = slides_name(row);
    let there = |suffix: &str| -> io::Result<bool> { Ok(folder.stat(&names::beside(&name, suffix))?.is_some()) };
    Ok(there(".note.html")? && there(".note.json")?)
}

fn is_denied(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::ACCESS | Errno::PERM | Errno::ROFS))
}

/// The mark that tells a file from others of its name.
fn mark_of(row: &FileRow) -> String {
    row.sha256.map_or_else(|| format!("{:08x}", row.id), |sha256| hex(&sha256[..4]))
}

/// Whether the bytes of the row lie under a name. A file of another size is not read, however large somebody made it.
fn same_bytes(row: &FileRow, folder: &Dir, name: &OsStr, found: &Stat) -> io::Result<bool> {
    match row.sha256 {
        Some(sha256) => Ok(found.st_size == row.stamp.size as i64 && folder.sha256_of(name)? == sha256),
        None => Ok(false),
    }
}

/// The same of a file that was never read: whether a whole copy of it lies there, as a crash leaves it between two file systems.
fn same_unread(row: &FileRow, source: &Source<'_>, folder: &Dir, name: &OsStr, found: &Stat) -> io::Result<bool> {
    if !is_copy(row, found) {
        return Ok(false);
    }
    let beside = source.root.below(row.path.parent().unwrap_or(Path::new("")))?;
    folder.same_bytes(name, (&beside, row.path.file_name().unwrap_or_default()))
}

/// Whether it may be a copy of the row's file on another file system: a copy keeps size and time.
fn is_copy(row: &FileRow, found: &Stat) -> bool {
    let stamp = Stamp::from(found);
    files::is_regular(found) && stamp.dev != row.stamp.dev && (stamp.size, stamp.mtime_ns) == (row.stamp.size, row.stamp.mtime_ns)
}

/// A link or a file that stands where a case's folder has to be is named: only a person can take it away.
fn in_the_way(end: &Dir, parent: &Path, error: io::Error) -> io::Error {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
            let path = end.path().join(parent);
            io::Error::other(format!("a part of {} is a link or a file, not a folder; take it away", names::shown(&path)))
        }
        _ => error,
    }
}

fn remove_notes(folder: &Dir, image: &OsStr) {
    for suffix in [".note.html", ".note.json"] {
        if let Err(error) = folder.remove(&names::beside(image, suffix)) {
            tracing::warn!(event = "note", folder = names::shown(folder.path()), %error);
        }
    }
}

/// The JSON of a report as it belongs to one of its files.
pub fn report_json(report: &ReportRow, row: &FileRow) -> serde_json::Value {
    let content = NewReport { flags: report.flags_for(&row.case_id), ..report.report.clone() };
    let subject = json::Subject {
        id: Some(report.id),
        case_id: &row.case_id,
        file: &row.path_text,
        sha256: &hex(&report.sha256),
        bundle_sha256: &report.bundle_sha256,
        qualification_sha256: report.qualification_sha256.as_deref(),
        trust: report.trust.as_ref(),
    };
    json::report(&subject, &content)
}

/// The handle and path of a file in the inbox.
pub fn source_of<'a>(root: &'a Dir, row: &'a FileRow) -> Source<'a> {
    Source { root, path: &row.path, stamp: row.stamp, sha256: row.sha256 }
}
