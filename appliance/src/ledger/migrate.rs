//! Bringing a ledger of an older version to the present one: first a checked copy of it, then everything in one transaction, so that
//! whatever ends the program leaves the old ledger or the new one.
#![expect(clippy::disallowed_methods, reason = "the state folder is the appliance's own")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{LedgerError, check};
use crate::clock::utc_now;
use crate::{failpoint, progress};

/// "MMNB": the application id in the file's header.
pub const APPLICATION_ID: i32 = 0x4D4D_4E42;
/// The schema that this program writes.
pub const VERSION: i32 = 3;

const TABLES: &str = include_str!("schema.sql");
const NEW_IN_2: &str = include_str!("new-in-2.sql");
const VIEWS: &str = include_str!("views.sql");
const FROM_1: &str = include_str!("from-1.sql");
const FROM_2: &str = include_str!("from-2.sql");
/// Pages that are copied between two signs of life.
const PAGES: i32 = 4096;

/// Gives an empty file the schema, and a ledger of an older version the present one.
///
/// # Errors
/// I/O, damage, or a version that this program does not know.
pub fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let version: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match version {
        VERSION => Ok(()),
        0 => create(connection),
        1 | 2 => {
            let copy = keep_copy(connection, path, version)?;
            tracing::info!(event = "migrate", from = version, to = VERSION, copy = %copy.display());
            // A table that others refer to is made anew; that nothing dangles is checked before the end.
            connection.pragma_update(None, "foreign_keys", false)?;
            let outcome = from_older(connection, path, version, &copy);
            connection.pragma_update(None, "foreign_keys", true)?;
            outcome
        }
        other => Err(LedgerError::Newer { path: path.to_owned(), found: other, known: VERSION }),
    }
}

fn create(connection: &mut Connection) -> Result<(), LedgerError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(TABLES)?;
    transaction.execute_batch(NEW_IN_2)?;
    transaction.execute_batch(VIEWS)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

fn from_older(connection: &mut Connection, path: &Path, version: i32, copy: &Path) -> Result<(), LedgerError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    failpoint::pass("migrate.begun")?;
    if version == 1 {
        transaction.execute_batch(NEW_IN_2)?;
        transaction.execute_batch(FROM_1)?;
    }
    transaction.execute_batch(FROM_2)?;
    failpoint::pass("migrate.tables")?;
    transaction.execute_batch(VIEWS)?;
    let copy = copy.file_name().map(|name| name.to_string_lossy().into_owned());
    let detail = serde_json::json!({ "from": version, "to": VERSION, "copy": copy, "version": env!("CARGO_PKG_VERSION") });
    transaction.execute(
        "INSERT INTO event(at, actor, action, subject, detail) VALUES(?1, 'appliance', 'migrate', 'ledger', ?2)",
        [utc_now(), detail.to_string()],
    )?;
    let dangling = check::dangling(&transaction)?;
    if let Some(first) = dangling.first() {
        return Err(LedgerError::Damaged { path: path.to_owned(), found: first.clone() });
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    failpoint::pass("migrate.altered")?;
    transaction.commit()?;
    failpoint::pass("migrate.committed")?;
    Ok(())
}

/// A whole, checked and synced copy of the ledger in `backup/` beside it; its name appears only when it is complete.
fn keep_copy(connection: &Connection, path: &Path, version: i32) -> Result<PathBuf, LedgerError> {
    failpoint::pass("migrate.before")?;
    let folder = path.parent().unwrap_or(Path::new(".")).join("backup");
    std::fs::create_dir_all(&folder)?;
    let part = folder.join(format!(".ledger-v{version}.part"));
    if part.exists() {
        std::fs::remove_file(&part)?;
    }
    copy_into(connection, &part)?;
    failpoint::pass("migrate.copied")?;
    File::open(&part)?.sync_all()?;
    let stamp: String = utc_now().chars().filter(char::is_ascii_alphanumeric).collect();
    let copy = folder.join(format!("ledger-v{version}-{stamp}.sqlite"));
    std::fs::rename(&part, &copy)?;
    File::open(&folder)?.sync_all()?;
    if let Some(parent) = folder.parent() {
        File::open(parent)?.sync_all()?;
    }
    failpoint::pass("migrate.kept")?;
    Ok(copy)
}

fn copy_into(connection: &Connection, part: &Path) -> Result<(), LedgerError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut target = Connection::open_with_flags(part, flags)?;
    let backup = Backup::new(connection, &mut target)?;
    backup.run_to_completion(PAGES, Duration::ZERO, Some(|_| progress::beat()))?;
    drop(backup);
    check::check(&target, part, false)?;
    // The copy is one file: a write-ahead log beside it would be left behind by whoever takes it elsewhere.
    target.pragma_update(None, "journal_mode", "DELETE")?;
    target.close().map_err(|(_, error)| error)?;
    Ok(())
}
