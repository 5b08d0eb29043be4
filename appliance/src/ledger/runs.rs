//! How the runs before this one ended.

use rusqlite::{Connection, params};

use super::LedgerError;

/// The end of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunEnd {
    /// Its row.
    pub id: i64,
    /// When it started, UTC.
    pub started_at: String,
    /// Whether it was asked to end.
    pub clean: bool,
}

/// The last `count` runs before `run`, the latest first.
///
/// # Errors
/// The ledger.
pub fn before(connection: &Connection, run: i64, count: u32) -> Result<Vec<RunEnd>, LedgerError> {
    let mut statement = connection
        .prepare("SELECT id, started_at, coalesce(end_reason, '') = 'stop' FROM run WHERE id < ?1 ORDER BY id DESC LIMIT ?2")?;
    let rows = statement
        .query_map(params![run, count], |row| Ok(RunEnd { id: row.get(0)?, started_at: row.get(1)?, clean: row.get(2)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whether the runs from `first` on brought any image to an end.
///
/// # Errors
/// The ledger.
pub fn achieved(connection: &Connection, first: i64) -> Result<bool, LedgerError> {
    let sql = "SELECT EXISTS(SELECT 1 FROM job WHERE run_id >= ?1 AND state IN ('committed', 'rejected'))";
    Ok(connection.query_row(sql, [first], |row| row.get(0))?)
}
