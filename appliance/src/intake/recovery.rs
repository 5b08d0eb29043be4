//! What a start does with everything that the last end left half done. Each state on disk and in the ledger has one way on.

use std::path::Path;

use super::Intake;
use super::desk::{Key, Task};
use super::filing::source_of;
use crate::error::Failure;
use crate::failpoint;
use crate::files::{self, Moved};
use crate::ledger::{FileRow, read, record};

/// Finishes retries, gives claims of ended runs back, and puts on the desk what was judged but not put away. `died`: the last run ended
/// by a fault of its own.
///
/// # Errors
/// The ledger, or the inbox cannot be opened.
pub fn recover(intake: &Intake, died: bool) -> Result<(), Failure> {
    let inbox = &intake.config.inbox;
    failpoint::pass("recovery.before").map_err(|error| Failure::io("recovery", inbox, &error))?;
    for row in intake.ledger.read(read::half_retried)? {
        intake.bring_back(&row)?;
    }
    let (run, limit) = (intake.run, intake.config.max_attempts);
    for job in intake.ledger.write("ledger.begin_run", |tx| record::recover(tx, run, died, limit))? {
        tracing::warn!(event = "recovered", job = job.job, rejected = job.rejected, died);
    }
    // While the inbox is absent nothing is known of its files; the rows that are to be put away are tried until it comes back.
    let root = intake.folder.inbox();
    for row in intake.ledger.read(read::unfinished)? {
        match root.as_ref().map(|root| files::state(&source_of(root, &row))) {
            Ok(Ok(state)) => resume(intake, row, state)?,
            Ok(Err(error)) => {
                tracing::warn!(event = "recovery", file = row.id, %error);
                resume(intake, row, Moved::Yes)?;
            }
            Err(_) => resume(intake, row, Moved::Yes)?,
        }
    }
    failpoint::pass("recovery.after").map_err(|error| Failure::io("recovery", Path::new(inbox), &error))
}

fn resume(intake: &Intake, row: FileRow, state: Moved) -> Result<(), Failure> {
    match (row.state.as_str(), state) {
        ("reported" | "rejected", _) => drop(intake.desk.offer(Task::PutAway(Box::new(row)))),
        ("refused", Moved::Yes) => intake.desk.rest(Key::from(&row)),
        ("waiting", Moved::Gone) => intake.ledger.write("ledger.left", |tx| record::left(tx, row.id, "vanished"))?,
        ("waiting", Moved::Changed | Moved::Taken) => {
            intake.ledger.write("ledger.left", |tx| record::left(tx, row.id, "replaced"))?;
        }
        // A waiting file that lies there unchanged is found by the scan and finds its row again.
        _ => {}
    }
    Ok(())
}
