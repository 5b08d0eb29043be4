//! What a start does with everything that the last end left half done. Each state on disk and in the ledger has one way on.

use std::io;
use std::path::Path;

use super::Intake;
use super::desk::{Key, Task};
use super::filing::{has_note, source_of};
use crate::error::Failure;
use crate::failpoint;
use crate::files::{self, Dir, Moved};
use crate::ledger::{FileEvent, FileRow, FileState, NewFile, read, record};

/// Finishes retries, gives claims of ended runs back, puts on the desk what was judged but not put away, and writes the pages anew that a run
/// which died may not have come to. `died`: the last run ended
/// by a fault of its own. A file that cannot be looked at is left to a later look: it keeps no other file, and no start, waiting.
///
/// # Errors
/// The ledger.
pub fn recover(intake: &Intake, died: bool) -> Result<(), Failure> {
    let inbox = &intake.config.inbox;
    failpoint::pass("recovery.before").map_err(|error| Failure::io("recovery", inbox, &error))?;
    for row in intake.ledger.read(read::half_retried)? {
        crate::progress::beat();
        if let Err(failure) = intake.bring_back(&row, "appliance") {
            tracing::warn!(event = "recovery", job = row.id, %failure, "the retry is given up");
        }
    }
    let (run, limit) = (intake.run, intake.config.max_attempts);
    let unclean = intake.ledger.read(|connection| record::unclean(connection, Some(run)))?;
    for job in intake.ledger.write("ledger.begin_run", |tx| record::recover(tx, run, died, limit))? {
        tracing::warn!(event = "recovered", job = job.job, rejected = job.rejected, died);
    }
    let root = intake.folder.inbox();
    for row in intake.ledger.read(read::unfinished)? {
        crate::progress::beat();
        let found = match &root {
            Ok(root) => look(root, &row).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match found {
            Ok((state, noted)) => resume(intake, row, state, noted)?,
            Err(error) => postpone(intake, row, &error),
        }
    }
    if unclean {
        intake.catch_up()?;
    }
    failpoint::pass("recovery.after").map_err(|error| Failure::io("recovery", Path::new(inbox), &error))
}

/// Where the file is, and whether it has its note if it is a slide.
fn look(root: &Dir, row: &FileRow) -> io::Result<(Moved, bool)> {
    let state = files::state(&source_of(root, row))?;
    Ok((state, row.state == FileState::Refused && state == Moved::Yes && has_note(root, row)?))
}

fn resume(intake: &Intake, row: FileRow, state: Moved, noted: bool) -> Result<(), Failure> {
    match (row.state, state) {
        (FileState::Reported | FileState::Rejected, _) => drop(intake.desk.offer(Task::PutAway(Box::new(row)))),
        (FileState::Refused, Moved::Yes) if noted => intake.desk.rest(Key::from(&row)),
        (FileState::Refused, _) => drop(intake.desk.offer(Task::PutAway(Box::new(row)))),
        (FileState::Waiting, Moved::Gone) => leave(intake, &row, FileEvent::Vanish)?,
        (FileState::Waiting, Moved::Changed | Moved::Taken) => leave(intake, &row, FileEvent::Replace)?,
        // It had settled: it is looked at before it can change and leave its row behind.
        (FileState::Waiting, Moved::Yes) => drop(intake.desk.offer(Task::Judge(file_of(row)))),
        // A retry that was given up a moment ago has its old state again; the others have a last place and are not read here.
        (
            FileState::Retrying
            | FileState::Retried
            | FileState::Filed
            | FileState::Failed
            | FileState::Vanished
            | FileState::Replaced,
            _,
        ) => {}
    }
    Ok(())
}

fn leave(intake: &Intake, row: &FileRow, event: FileEvent) -> Result<(), Failure> {
    intake.ledger.write("ledger.left", |tx| record::left(tx, row.id, event))?;
    Ok(())
}

fn file_of(row: FileRow) -> NewFile {
    NewFile { folder: row.folder, path: row.path, stamp: row.stamp, owner: row.owner }
}

/// The file could not be looked at: it is tried again by and by, with a notice in the status. One that was not judged yet too: it may
/// have been taken away, and then no scan would find it.
fn postpone(intake: &Intake, row: FileRow, error: &str) {
    let reason = format!("{} cannot be looked at: {error}", row.path_text);
    tracing::warn!(event = "recovery", job = row.id, reason);
    match row.state {
        FileState::Reported | FileState::Rejected | FileState::Refused => {
            intake.desk.later(Task::PutAway(Box::new(row)), &reason);
        }
        FileState::Waiting => {
            intake.desk.later(Task::Judge(file_of(row)), &reason);
        }
        FileState::Filed
        | FileState::Failed
        | FileState::Vanished
        | FileState::Replaced
        | FileState::Retrying
        | FileState::Retried => {}
    }
}
