//! What has to hold after a history: every file ended exactly once, as it should, with its bytes where the ledger says.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mmlnb_appliance::files::names;
use mmlnb_appliance::intake::Intake;
use mmlnb_appliance::ledger::{FileRow, FileState, check, open, read};
use rusqlite::Connection;

use crate::content;
use crate::program::Place;

/// A file's inode, size and time: they stay when it moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(u64, u64, i64);

impl Stamp {
    pub fn of(found: &Metadata) -> Stamp {
        Stamp(found.ino(), found.size(), found.mtime() * 1_000_000_000 + found.mtime_nsec())
    }
}

/// A file that was dropped and never withdrawn.
pub struct Dropped {
    /// Below the inbox.
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    /// The codes with which it may end; none: with a report.
    pub codes: &'static [&'static str],
    pub stamp: Stamp,
}

fn ledger(place: &Place) -> Connection {
    open::reader(&place.config.ledger()).unwrap()
}

fn count(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Every row, for whoever reads what was wrong.
pub fn rows(place: &Place) -> String {
    let Ok(connection) = open::reader(&place.config.ledger()) else { return "there is no ledger".into() };
    let mut statement = connection
        .prepare(
            "SELECT f.id || ' ' || f.path_text || ' ino ' || f.ino || ' ' || f.state || ' ' || coalesce(f.code, '') || ' ' || coalesce(f.message, '')
             || ' job ' || coalesce(j.id || ' ' || j.state || ' attempts ' || j.attempts || ' crashes ' || j.crashes || ' kills ' || j.kills, 'none')
             FROM file f LEFT JOIN job j ON j.id = f.job_id ORDER BY f.id",
        )
        .unwrap();
    let rows: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    rows.join("\n")
}

/// What the ledger counts.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Runs that began.
    pub runs: i64,
    /// Another number whenever a job ended, also one that had been rejected before: bytes that come again are looked at anew.
    pub ended: i64,
}

/// What holds whenever the program is not running, and what the ledger counts then.
pub fn between(place: &Place, clean: bool) -> Result<Counts, String> {
    let Ok(connection) = open::reader(&place.config.ledger()) else { return Ok(Counts::default()) };
    let claimed = count(&connection, "SELECT count(*) FROM job WHERE state = 'claimed'");
    if clean && claimed > 0 {
        return Err(format!("{claimed} claims were not given back"));
    }
    let ended = count(&connection, "SELECT coalesce(sum(1 + run_id), 0) FROM job WHERE state IN ('committed', 'rejected')");
    Ok(Counts { runs: count(&connection, "SELECT count(*) FROM run"), ended })
}

/// Whether the ledger knows the inbox.
pub fn is_adopted(place: &Place) -> bool {
    open::reader(&place.config.ledger()).is_ok_and(|connection| count(&connection, "SELECT count(*) FROM folder") > 0)
}

/// The files with these bytes that were sent back to the inbox and got no row of their own there.
pub fn went_back(place: &Place, bytes: &[u8]) -> Vec<Stamp> {
    let Ok(connection) = open::reader(&place.config.ledger()) else { return Vec::new() };
    let sha256 = Some(content::hash(bytes));
    let rows: Vec<FileRow> = all(&connection).into_iter().filter(|row| row.sha256 == sha256).collect();
    let is_back = |row: &&FileRow| matches!(row.state, FileState::Retrying | FileState::Retried);
    let elsewhere: Vec<Stamp> = rows.iter().filter(|row| !is_back(row)).map(stamp).collect();
    rows.iter().filter(is_back).map(stamp).filter(|stamp| !elsewhere.contains(stamp)).collect()
}

fn stamp(row: &FileRow) -> Stamp {
    Stamp(row.stamp.ino, row.stamp.size, row.stamp.mtime_ns)
}

/// Whether nothing is left to be done.
pub fn is_quiet(intake: &Intake) -> bool {
    let load = intake.desk.load();
    let sight = intake.sight.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if load.ready + load.working + load.later + sight.settling > 0 || !sight.ready || sight.blind.is_some() {
        return false;
    }
    // What lies in the inbox rests there.
    let Ok(connection) = open::reader(intake.ledger.path()) else { return false };
    let resting = all(&connection).into_iter().filter(|row| row.state == FileState::Refused);
    let resting: BTreeSet<PathBuf> = resting.map(|row| intake.config.inbox.join(row.path)).collect();
    files_below(&intake.config.inbox).iter().all(|path| resting.contains(path))
}

/// All files below a folder but those that the product writes there itself.
fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false if names::ignored_file(&entry.file_name()) => {}
                false => found.push(entry.path()),
            }
        }
    }
    found
}

/// Checks a history that has come to its end.
pub fn check(place: &Place, dropped: &[Dropped]) -> Result<(), String> {
    let connection = ledger(place);
    check::check(&connection, &place.config.ledger(), true).map_err(|error| error.to_string())?;
    let rows = all(&connection);
    if let Some(row) = rows
        .iter()
        .find(|row| matches!(row.state, FileState::Waiting | FileState::Reported | FileState::Rejected | FileState::Retrying))
    {
        return Err(format!("file {} ({}) is still {}", row.id, row.path_text, row.state.name()));
    }
    let gone = |row: &&FileRow| row.state == FileState::Refused && !place.config.inbox.join(&row.path).exists();
    if let Some(row) = rows.iter().find(gone) {
        return Err(format!("file {} ({}) is still refused, and left the inbox", row.id, row.path_text));
    }
    dropped.iter().try_for_each(|dropped| ended(place, &connection, &rows, dropped))?;
    let known: BTreeSet<&Path> = rows.iter().filter_map(|row| row.filed_path.as_deref()).collect();
    let places = [&place.config.done, &place.config.failed].map(|folder| files_below(folder)).concat();
    match places.iter().find(|path| !known.contains(path.as_path())) {
        Some(stray) => Err(format!("nobody knows why {} lies there", stray.display())),
        None => Ok(()),
    }
}

fn all(connection: &Connection) -> Vec<FileRow> {
    let last = count(connection, "SELECT coalesce(max(id), 0) FROM file");
    (1..=last).filter_map(|id| read::file(connection, id).unwrap()).collect()
}

fn ended(place: &Place, connection: &Connection, rows: &[FileRow], dropped: &Dropped) -> Result<(), String> {
    let name = dropped.path.display();
    // A copy that was merged with it may have been sent back in its place: then either stands for both.
    let sha256 = Some(content::hash(&dropped.bytes));
    let retried = rows.iter().any(|row| row.state == FileState::Retried && row.sha256 == sha256);
    let same = |row: &&FileRow| stamp(row) == dropped.stamp || retried && row.sha256 == sha256;
    let is_end = |row: &&FileRow| match row.state {
        FileState::Filed | FileState::Failed => true,
        // A slide that was renamed where it rested is refused anew.
        FileState::Refused => row.path == dropped.path,
        _ => false,
    };
    // Renamed after its report: what lies under its old name with the same bytes may be itself, moved before a crash.
    let merged = |row: &&FileRow| {
        let earlier = |other: &FileRow| other.id < row.id && other.sha256 == sha256 && other.path == row.path;
        row.path != dropped.path && sha256 == row.sha256 && rows.iter().any(|other| earlier(other) && is_end(&other))
    };
    let ends: Vec<&FileRow> = rows.iter().filter(same).filter(is_end).filter(|row| !merged(row)).collect();
    let (Some(end), true) = (ends.last(), ends.len() == 1 || retried) else {
        let states: Vec<&str> = rows.iter().filter(same).map(|row| row.state.name()).collect();
        return Err(format!("{name} ended {} times: {states:?}", ends.len()));
    };
    let fits = match (&end.code, end.state) {
        (None, FileState::Filed) => dropped.codes.is_empty() || dropped.codes == ["engine_failed"],
        (Some(code), FileState::Failed | FileState::Refused) => dropped.codes.contains(&code.as_str()),
        _ => false,
    };
    if !fits {
        let wanted = if dropped.codes.is_empty() { &["a report"] } else { dropped.codes };
        let (got, why) = (end.code.as_deref().unwrap_or("a report"), end.message.as_deref().unwrap_or(""));
        return Err(format!("{name} should have ended with {wanted:?}, not with {got}: {why}"));
    }
    let lies = end.filed_path.clone().unwrap_or_else(|| place.config.inbox.join(&dropped.path));
    if dropped.codes != ["not_a_file"] && std::fs::read(&lies).ok().as_ref() != Some(&dropped.bytes) {
        return Err(format!("the bytes of {name} do not lie at {}", lies.display()));
    }
    let page =
        names::beside(lies.file_name().unwrap(), if end.state == FileState::Filed { ".report.html" } else { ".note.html" });
    if !lies.with_file_name(&page).is_file() {
        return Err(format!("{name} has no page {}", page.display()));
    }
    let reports =
        connection.query_row("SELECT count(*) FROM report WHERE job_id = ?1", [end.job], |row| row.get::<_, i64>(0)).unwrap();
    if end.state == FileState::Filed && reports != 1 {
        return Err(format!("{name} has {reports} reports"));
    }
    Ok(())
}
