//! The two views that other programs rely on, read as they read them.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Row};
use serde_json::Value;

/// A row of the view `reports`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportRow {
    /// Its id.
    pub id: i64,
    /// The image's hash.
    pub image_sha256: String,
    /// Path below the inbox.
    pub source: String,
    /// The first folder of the path, or empty.
    pub case_id: String,
    /// When the file was first judged, UTC.
    pub received_at: String,
    /// When the report was committed, UTC.
    pub reported_at: String,
    /// The class, unless the verdict abstains.
    pub class: Option<String>,
    /// The class with the top probability.
    pub leading_class: String,
    /// The top probability, or a calibrated one.
    pub confidence: f64,
    /// Class to probability.
    pub probabilities: Value,
    /// The image head's class.
    pub image_only_class: Option<String>,
    /// The share of the text.
    pub alpha_text: Option<f64>,
    /// accepted, abstain or not_assessed.
    pub verdict: String,
    /// The description.
    pub description: Option<String>,
    /// The bundle's hash.
    pub bundle_sha256: String,
    /// cpu or cuda.
    pub provider: String,
}

/// A row of the view `files`.
#[derive(Clone, Debug, PartialEq)]
pub struct FileRow {
    /// Its id: a note's `job`, and what `retry` takes.
    pub id: i64,
    /// Path below the inbox.
    pub source: String,
    /// The first folder of the path, or empty.
    pub case_id: String,
    /// Null when the file was never hashed.
    pub image_sha256: Option<String>,
    /// Where the file is in its life.
    pub state: String,
    /// Why it has no report.
    pub code: Option<String>,
    /// Its report.
    pub report_id: Option<i64>,
    /// When it was first judged, UTC.
    pub seen_at: String,
    /// When it reached its last place, UTC.
    pub filed_at: Option<String>,
}

/// All rows of `reports`, oldest first.
pub(crate) fn reports(ledger: &Path) -> Vec<ReportRow> {
    let columns = "id, image_sha256, source, case_id, received_at, reported_at, class, leading_class, confidence, probabilities,
        image_only_class, alpha_text, verdict, description, bundle_sha256, provider";
    rows(ledger, &format!("SELECT {columns} FROM reports ORDER BY id"), |row| {
        let probabilities: String = row.get(9)?;
        Ok(ReportRow {
            id: row.get(0)?,
            image_sha256: row.get(1)?,
            source: row.get(2)?,
            case_id: row.get(3)?,
            received_at: row.get(4)?,
            reported_at: row.get(5)?,
            class: row.get(6)?,
            leading_class: row.get(7)?,
            confidence: row.get(8)?,
            probabilities: serde_json::from_str(&probabilities).expect("probabilities are JSON"),
            image_only_class: row.get(10)?,
            alpha_text: row.get(11)?,
            verdict: row.get(12)?,
            description: row.get(13)?,
            bundle_sha256: row.get(14)?,
            provider: row.get(15)?,
        })
    })
}

/// All rows of `files`, oldest first.
pub(crate) fn files(ledger: &Path) -> Vec<FileRow> {
    let columns = "id, source, case_id, image_sha256, state, code, report_id, seen_at, filed_at";
    rows(ledger, &format!("SELECT {columns} FROM files ORDER BY id"), |row| {
        Ok(FileRow {
            id: row.get(0)?,
            source: row.get(1)?,
            case_id: row.get(2)?,
            image_sha256: row.get(3)?,
            state: row.get(4)?,
            code: row.get(5)?,
            report_id: row.get(6)?,
            seen_at: row.get(7)?,
            filed_at: row.get(8)?,
        })
    })
}

fn rows<T>(ledger: &Path, query: &str, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
    let connection = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the ledger can be opened");
    connection.busy_timeout(std::time::Duration::from_secs(5)).expect("a time limit can be set");
    let mut statement = connection.prepare(query).expect("the view has its columns");
    let rows = statement.query_map([], read).expect("the view can be read");
    rows.collect::<rusqlite::Result<_>>().expect("each row has the promised types")
}

/// The only number of a query on a ledger's file, read as any other program would.
///
/// # Panics
/// When the query gives something else.
pub fn number_in(ledger: &Path, query: &str) -> i64 {
    let found = rows(ledger, query, |row| row.get(0));
    assert_eq!(found.len(), 1, "{query}");
    found[0]
}

/// A ledger as version 1 of its schema left it: thousands of rows, or its tables alone.
pub(crate) fn write_old(ledger: &Path, with_rows: bool) {
    let file = crate::checkout().join("appliance/tests/data/ledger-1.sql");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let tables = text.find("\nINSERT INTO").expect("the fixture has rows");
    let connection = Connection::open(ledger).expect("the state folder is writable");
    connection.execute_batch(if with_rows { &text } else { &text[..tables] }).expect("the fixture is SQL");
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("the log can be emptied");
}

/// Runs statements on a ledger that no daemon holds.
pub(crate) fn execute(ledger: &Path, statements: &str) {
    Connection::open(ledger).and_then(|connection| connection.execute_batch(statements)).expect("the statements fit the ledger");
}
