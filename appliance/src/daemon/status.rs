//! Making the status and writing it where people and monitoring look.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use rusqlite::Connection;

use crate::clock;
use crate::files::{self, Dir, Points};
use crate::intake::desk::Load;
use crate::intake::{Intake, Sight};
use crate::ledger::{FileRow, LedgerError, Trouble, open, read};
use crate::progress::Activity;
use crate::report::status::{self, Level, Status};

const LATEST: u32 = 20;
const POINTS: Points = Points { write: "status.write", rename: "status.write" };
/// A stage that takes longer than this is shown.
const LONG: Duration = Duration::from_secs(5);

/// The status at this moment. A ledger that cannot be read is a notice in it.
pub fn now(intake: &Intake, started_at: &str) -> Status {
    let load = intake.desk.load();
    let sight = intake.sight.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let busy = intake.board.busy();
    let trouble = intake.ledger.health().trouble();
    // Never through the writer's connection: while a write waits, the status must not wait with it.
    let known = open::reader(intake.ledger.path()).and_then(|connection| known(&connection));
    let unread = known.as_ref().err().map(|error| format!("the ledger cannot be read: {error}"));
    let Known { reported_today, failed_today, latest, unreadable } = known.unwrap_or_default();
    let mut notices = sight.notices.clone();
    notices.extend(unread);
    notices.extend(intake.notices.iter().chain(&intake.rules.provider.note).cloned());
    notices.extend(intake.reading.missing());
    notices.extend(unreadable.iter().map(|row| format!("{}: {}", row.path_text, row.message.as_deref().unwrap_or(""))));
    if let Some(reason) = load.reason.as_ref().filter(|_| load.later > unreadable.len()) {
        notices.push(format!("{} files are tried again later: {reason}", load.later));
    }
    let help = needs_help(intake.safe_mode.as_ref(), &busy, trouble.as_ref());
    let full = trouble.filter(|trouble| trouble.full).map(|trouble| format!("disk full: {}", trouble.reason));
    let pause = full.as_ref().or(load.pause.as_ref());
    let (headline, level) = headline(&load, &sight, help, pause, !notices.is_empty());
    Status {
        headline,
        level,
        notices,
        queued: load.ready + load.working + load.later + sight.settling,
        working: busy.iter().filter(|activity| !activity.file.is_empty()).map(line).collect(),
        reported_today,
        failed_today,
        device: device(intake),
        bundle: intake.served.clone(),
        free: intake.free_space().map_or(0, |(free, _)| free),
        latest,
        written_at: clock::utc_now(),
        started_at: started_at.to_owned(),
    }
}

/// What the ledger says.
#[derive(Default)]
struct Known {
    reported_today: i64,
    failed_today: i64,
    latest: Vec<FileRow>,
    unreadable: Vec<FileRow>,
}

fn known(connection: &Connection) -> Result<Known, LedgerError> {
    let (reported_today, failed_today, _) = read::counts(connection, &clock::today_utc())?;
    let (latest, unreadable) = (read::latest(connection, LATEST)?, read::unreadable(connection)?);
    Ok(Known { reported_today, failed_today, latest, unreadable })
}

fn device(intake: &Intake) -> String {
    let provider = &intake.rules.provider;
    match &provider.note {
        Some(note) => format!("{} ({note})", provider.name),
        None => provider.name.to_owned(),
    }
}

fn line(activity: &Activity) -> String {
    match activity.for_ > LONG {
        true => format!("{} ({}, {} s)", activity.file, activity.stage, activity.for_.as_secs()),
        false => format!("{} ({})", activity.file, activity.stage),
    }
}

fn needs_help(safe_mode: Option<&String>, busy: &[Activity], trouble: Option<&Trouble>) -> Option<String> {
    if safe_mode.is_some() {
        return safe_mode.cloned();
    }
    if let Some(Trouble { reason, .. }) = trouble.filter(|trouble| !trouble.full) {
        return Some(format!("the ledger cannot be written: {reason}"));
    }
    let stuck = busy.iter().find(|activity| activity.overdue().is_some())?;
    Some(format!("{} makes no progress ({}, {} s)", stuck.file, stuck.stage, stuck.silent.as_secs()))
}

fn headline(load: &Load, sight: &Sight, help: Option<String>, pause: Option<&String>, notices: bool) -> (String, Level) {
    if let Some(help) = help {
        return (format!("NEEDS HELP: {help}"), Level::Red);
    }
    if let Some(reason) = &sight.blind {
        return (format!("WAITING: {reason}"), Level::Amber);
    }
    if let Some(reason) = pause {
        return (format!("PAUSED: {reason}"), Level::Amber);
    }
    let level = if notices { Level::Amber } else { Level::Green };
    let all = load.ready + load.working + load.later + sight.settling;
    match all {
        0 => ("READY".to_owned(), level),
        _ => (format!("WORKING {} of {all}", load.working), level),
    }
}

/// Writes `STATUS.html` and `STATUS.txt` to inbox and done, and the status for monitoring.
pub fn write(intake: &Intake, status: &Status) {
    // Never into an inbox that is not mounted: what is written there would lie hidden beneath the share.
    for folder in [intake.folder.inbox(), intake.folder.end(true)].into_iter().flatten() {
        let page = status::page(status, folder.path());
        log(folder.path(), files::write(&folder, OsStr::new("STATUS.html"), page.as_bytes(), POINTS));
        log(folder.path(), files::write(&folder, OsStr::new("STATUS.txt"), status::text(status).as_bytes(), POINTS));
    }
    let file = &intake.config.status_file;
    log(file, write_for_all(file, &format!("{:#}\n", status::json(status))));
}

/// Monitoring runs as another user, and the file holds no names: everyone may read it.
fn write_for_all(file: &Path, text: &str) -> io::Result<()> {
    let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    files::write_for_all(&Dir::open(folder)?, name, text.as_bytes(), POINTS)
}

fn log(place: &Path, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(event = "status", place = %place.display(), %error);
    }
}
