//! Whether a ledger is whole: SQLite's own checks, and references that lead nowhere.

use std::path::Path;

use rusqlite::Connection;

use super::LedgerError;

/// SQLite's own check; `thorough` compares indexes with tables too.
///
/// # Errors
/// [`LedgerError::Damaged`] with the first findings.
pub fn check(connection: &Connection, path: &Path, thorough: bool) -> Result<(), LedgerError> {
    let pragma = if thorough { "PRAGMA integrity_check(20)" } else { "PRAGMA quick_check(20)" };
    let mut statement = connection.prepare(pragma)?;
    let lines: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if lines == ["ok"] { Ok(()) } else { Err(LedgerError::Damaged { path: path.to_owned(), found: lines.join("; ") }) }
}

/// References that lead nowhere, as sentences.
///
/// # Errors
/// I/O or damage.
pub fn dangling(connection: &Connection) -> Result<Vec<String>, LedgerError> {
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let rows = statement.query_map([], |row| {
        let (table, row_id, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(format!("table {table}, row {}: refers to a row of {parent} that is not there", row_id.unwrap_or(-1)))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
