//! The reading queries; they work on the writer's connection and on read-only ones.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde_json::{Map, Value};

use super::{Classified, Described, FileRow, INBOX, Image, LedgerError, NewReport, ReportRow};
use crate::files::Stamp;

/// So many other cases or reports are named; more would make each page, and all together their square, longer.
pub const LISTED: u32 = 10;

type Result<T> = std::result::Result<T, LedgerError>;

/// Columns and tables of a [`FileRow`], to be followed by `WHERE`.
pub const FILE_COLUMNS: &str =
    "f.id, f.path, f.path_text, f.case_id, f.dev, f.ino, f.size, f.mtime_ns, f.owner_uid, f.sha256, f.job_id,
  f.state, f.code, f.message, f.seen_at, f.filed_path, f.filed_at, (SELECT id FROM report WHERE job_id = f.job_id), f.folder FROM file f";

/// Reads a row of [`FILE_COLUMNS`].
pub fn file_row(row: &Row<'_>) -> rusqlite::Result<FileRow> {
    let path = |bytes: Vec<u8>| PathBuf::from(OsString::from_vec(bytes));
    Ok(FileRow {
        id: row.get(0)?,
        folder: row.get::<_, String>(18)?.into(),
        path: path(row.get(1)?),
        path_text: row.get(2)?,
        case_id: row.get(3)?,
        stamp: Stamp {
            dev: row.get::<_, i64>(4)? as u64,
            ino: row.get::<_, i64>(5)? as u64,
            size: row.get::<_, i64>(6)? as u64,
            mtime_ns: row.get(7)?,
        },
        owner: row.get(8)?,
        sha256: row.get(9)?,
        job: row.get(10)?,
        state: row.get(11)?,
        code: row.get(12)?,
        message: row.get(13)?,
        seen_at: row.get(14)?,
        filed_path: row.get::<_, Option<Vec<u8>>>(15)?.map(path),
        filed_at: row.get(16)?,
        report: row.get(17)?,
    })
}

fn files(connection: &Connection, rest: &str, parameters: &[&dyn ToSql]) -> Result<Vec<FileRow>> {
    let mut statement = connection.prepare(&format!("SELECT {FILE_COLUMNS} {rest}"))?;
    Ok(statement.query_map(parameters, file_row)?.collect::<rusqlite::Result<_>>()?)
}

/// One file by its id.
pub fn file(connection: &Connection, id: i64) -> Result<Option<FileRow>> {
    Ok(files(connection, "WHERE f.id = ?1", &[&id])?.pop())
}

/// Files that were judged but still lie in the inbox.
pub fn unfinished(connection: &Connection) -> Result<Vec<FileRow>> {
    files(connection, "WHERE f.filed_at IS NULL ORDER BY f.id", &[])
}

/// Files whose return to the inbox was interrupted.
pub fn half_retried(connection: &Connection) -> Result<Vec<FileRow>> {
    files(connection, "WHERE f.state = 'retrying' ORDER BY f.id", &[])
}

/// The file of this path and state that stays in the inbox.
pub fn resting(connection: &Connection, path: &Path, stamp: &Stamp) -> Result<Option<FileRow>> {
    let stays = "WHERE f.folder = ?1 AND f.path = ?2 AND f.dev = ?3 AND f.ino = ?4 AND f.size = ?5 AND f.mtime_ns = ?6
         AND f.filed_at IS NULL AND f.state = 'refused'";
    let (dev, ino, size) = (stamp.dev as i64, stamp.ino as i64, stamp.size as i64);
    let key: [&dyn rusqlite::ToSql; 6] = [&INBOX, &path.as_os_str().as_bytes(), &dev, &ino, &size, &stamp.mtime_ns];
    Ok(files(connection, stays, &key)?.pop())
}

/// The newest files, newest first.
pub fn latest(connection: &Connection, count: u32) -> Result<Vec<FileRow>> {
    files(connection, "ORDER BY f.id DESC LIMIT ?1", &[&count])
}

/// Files with these bytes that lie in `done`.
pub fn filed_with(connection: &Connection, sha256: &[u8; 32]) -> Result<Vec<FileRow>> {
    files(connection, "WHERE f.sha256 = ?1 AND f.state = 'filed' ORDER BY f.id", &[&sha256.as_slice()])
}

/// Under how many cases files with these bytes lie in `done` (at most `limit` are counted).
pub fn filed_cases(connection: &Connection, sha256: &[u8; 32], limit: u32) -> Result<usize> {
    Ok(distinct_cases(connection, sha256, "AND state = 'filed'", limit)?.len())
}

/// The first cases, in their order, in which these bytes were dropped.
pub fn cases(connection: &Connection, sha256: &[u8; 32], limit: u32) -> Result<Vec<String>> {
    // Only what was put away: a file that is still in the inbox may yet be renamed, perhaps with its case's folder, and is no second case
    // then. When it is put away the pages of the others are written anew.
    distinct_cases(connection, sha256, "AND state = 'filed'", limit)
}

/// From case to case by the index: the cost grows with the cases that are asked for, not with the files.
fn distinct_cases(connection: &Connection, sha256: &[u8; 32], also: &str, limit: u32) -> Result<Vec<String>> {
    let mut statement = connection.prepare_cached(&format!(
        "WITH RECURSIVE found(case_id) AS (
           SELECT (SELECT case_id FROM file WHERE sha256 = ?1 {also} ORDER BY case_id LIMIT 1)
           UNION ALL
           SELECT (SELECT case_id FROM file WHERE sha256 = ?1 AND case_id > found.case_id {also} ORDER BY case_id LIMIT 1)
             FROM found WHERE found.case_id IS NOT NULL)
         SELECT case_id FROM found WHERE case_id IS NOT NULL LIMIT ?2"
    ))?;
    Ok(statement.query_map(params![sha256.as_slice(), limit], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Files that a person may mean by `name`: a path below the inbox, a path on disk, a bare file name, or a hash (8 hex digits or more).
pub fn files_named(connection: &Connection, name: &str) -> Result<Vec<FileRow>> {
    let absolute = std::path::absolute(name).unwrap_or_else(|_| PathBuf::from(name));
    let filed: &[u8] = absolute.as_os_str().as_bytes();
    let exact = files(connection, "WHERE f.path_text = ?1 OR f.filed_path = ?2 ORDER BY f.id DESC", &[&name, &filed])?;
    if !exact.is_empty() {
        return Ok(exact);
    }
    if name.len() >= 8 && name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return files(connection, "WHERE lower(hex(f.sha256)) GLOB lower(?1) || '*' ORDER BY f.id DESC", &[&name]);
    }
    let tail = Path::new(name).file_name().map(|name| crate::files::names::text(name.as_bytes())).unwrap_or_default();
    files(connection, "WHERE f.path_text = ?1 OR f.path_text GLOB '*/' || ?2 ORDER BY f.id DESC", &[&tail, &glob(&tail)])
}

/// Text as a GLOB pattern that matches just itself.
fn glob(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '*' | '?' | '[' => out.extend(['[', c, ']']),
            other => out.push(other),
        }
    }
    out
}

/// The file whose image lies at this path now.
pub fn filed_at(connection: &Connection, path: &Path) -> Result<Option<FileRow>> {
    let bytes: &[u8] = path.as_os_str().as_bytes();
    Ok(files(connection, "WHERE f.filed_path = ?1 AND f.state IN ('filed', 'failed') ORDER BY f.id DESC LIMIT 1", &[&bytes])?
        .pop())
}

/// Files that ended without a report and still lie in `failed` (or, refused, in the inbox).
pub fn failed(connection: &Connection, code: Option<&str>) -> Result<Vec<FileRow>> {
    files(connection, "WHERE f.state IN ('failed', 'refused') AND (?1 IS NULL OR f.code = ?1) ORDER BY f.id", &[&code])
}

/// Files in `failed` that hold these bytes.
pub fn failed_with(connection: &Connection, sha256: &[u8; 32]) -> Result<Vec<FileRow>> {
    files(connection, "WHERE f.sha256 = ?1 AND f.state = 'failed' ORDER BY f.id", &[&sha256.as_slice()])
}

/// Shows `each` file that was put away and whose bytes were read. They are read in pieces: what is done with each may take long, and an
/// open view of the ledger would keep its write-ahead log growing.
///
/// # Errors
/// The ledger's, or what `each` returns.
pub fn each_put_away<E: From<LedgerError>>(
    connection: &Connection,
    mut each: impl FnMut(FileRow) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut last = 0;
    loop {
        let rest = "WHERE f.id > ?1 AND f.state IN ('filed', 'failed') AND f.sha256 IS NOT NULL ORDER BY f.id LIMIT 500";
        let piece = files(connection, rest, &[&last])?;
        let Some(end) = piece.last() else { return Ok(()) };
        last = end.id;
        piece.into_iter().try_for_each(&mut each)?;
    }
}

/// Whether the program died while it worked on these bytes.
pub fn is_suspect(connection: &Connection, sha256: &[u8; 32]) -> Result<bool> {
    Ok(connection.query_row(
        "SELECT EXISTS(SELECT 1 FROM job WHERE sha256 = ?1 AND (crashes > 0 OR kills > 0) AND state NOT IN ('committed', 'rejected'))",
        [sha256.as_slice()],
        |row| row.get(0),
    )?)
}

/// Whether a job is claimed for these bytes now. A claim that was undone leaves no job, and another one may have got its number.
pub fn in_flight(connection: &Connection, job: i64, sha256: &[u8; 32]) -> Result<bool> {
    let sql = "SELECT EXISTS(SELECT 1 FROM job WHERE id = ?1 AND sha256 = ?2 AND state = 'claimed')";
    Ok(connection.query_row(sql, params![job, sha256.as_slice()], |row| row.get(0))?)
}

/// The marker that the ledger knows for a folder.
pub fn marker(connection: &Connection, root: &Path) -> Result<Option<String>> {
    let root: &[u8] = root.as_os_str().as_bytes();
    Ok(connection.query_row("SELECT marker FROM folder WHERE root = ?1", [root], |row| row.get(0)).optional()?)
}

/// The folder that the ledger knows by a marker.
pub fn marked(connection: &Connection, marker: &str) -> Result<Option<PathBuf>> {
    let root = connection.query_row("SELECT root FROM folder WHERE marker = ?1", [marker], |row| row.get::<_, Vec<u8>>(0));
    Ok(root.optional()?.map(|root| PathBuf::from(OsString::from_vec(root))))
}

/// Files that were put away within the last minutes before the ledger's end, as bytes that lie under several cases: the pages of the
/// earlier ones may not know of the later ones if the program died then.
pub fn lately_in_several_cases(connection: &Connection) -> Result<Vec<[u8; 32]>> {
    let mut statement = connection.prepare(
        "SELECT DISTINCT sha256 FROM file late WHERE state = 'filed'
           AND filed_at >= (SELECT strftime('%Y-%m-%dT%H:%M:%S', max(filed_at), '-10 minutes') FROM file)
           AND EXISTS(SELECT 1 FROM file other WHERE other.sha256 = late.sha256 AND other.state = 'filed' AND other.case_id <> late.case_id)",
    )?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Counts since the beginning of a quarter of an hour: (filed with a report, failed, waiting or unfinished now). Reads the tally, which
/// grows with time and not with files.
pub fn counts(connection: &Connection, since: &str) -> Result<(i64, i64, i64)> {
    let quarter = format!(
        "{}{}",
        since.get(..14).unwrap_or(""),
        since.get(14..16).and_then(|text| text.parse::<u32>().ok()).unwrap_or(0) / 15
    );
    Ok(connection.query_row(
        "SELECT (SELECT coalesce(sum(files), 0) FROM tally WHERE state = 'filed' AND quarter >= ?1),
                (SELECT coalesce(sum(files), 0) FROM tally WHERE state IN ('failed', 'refused') AND quarter >= ?1),
                (SELECT coalesce(sum(files), 0) FROM tally WHERE state IN ('waiting', 'reported', 'rejected'))",
        [quarter],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?)
}

/// Files that wait because nobody may read them.
pub fn unreadable(connection: &Connection) -> Result<Vec<FileRow>> {
    files(connection, "WHERE f.filed_at IS NULL AND f.state = 'waiting' AND f.job_id IS NULL ORDER BY f.id LIMIT 20", &[])
}

/// Classes with their values as a JSON object in the bundle's order.
pub fn named(classes: &[String], values: &[f64]) -> Value {
    Value::Object(classes.iter().cloned().zip(values.iter().map(|value| serde_json::json!(value))).collect())
}

/// Reports, the first ones, of other contents with the same pixels under the same bundle as `job`.
pub fn same_pixels(connection: &Connection, job: i64) -> Result<Vec<i64>> {
    let mut statement = connection.prepare(
        "SELECT r.id FROM job mine JOIN content c ON c.sha256 = mine.sha256 JOIN content o ON o.pixels_sha256 = c.pixels_sha256 AND o.sha256 <> c.sha256
           JOIN job j ON j.sha256 = o.sha256 AND j.bundle_id = mine.bundle_id JOIN report r ON r.job_id = j.id
         WHERE mine.id = ?1 AND c.pixels_sha256 IS NOT NULL ORDER BY r.id LIMIT ?2",
    )?;
    Ok(statement.query_map([job, i64::from(LISTED)], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// How many reports of other pixels under the same bundle have this description already (at most 3 are counted).
pub fn repeats(connection: &Connection, job: i64, description_key: i64) -> Result<i64> {
    Ok(connection.query_row(
        "SELECT count(*) FROM (SELECT 1 FROM report r JOIN job j ON j.id = r.job_id JOIN content c ON c.sha256 = j.sha256,
           job mine JOIN content m ON m.sha256 = mine.sha256
         WHERE mine.id = ?1 AND r.description_key = ?2 AND j.bundle_id = mine.bundle_id AND c.pixels_sha256 <> m.pixels_sha256 LIMIT 3)",
        params![job, description_key],
        |row| row.get(0),
    )?)
}

/// What `reports` filters by; every given one must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Reported at or after this UTC time.
    pub since: Option<String>,
    /// Reported before this UTC time.
    pub until: Option<String>,
    /// Some file of these bytes was dropped in this case.
    pub case: Option<String>,
    /// The class, or, when there is none, the leading class.
    pub class: Option<String>,
    /// The verdict.
    pub verdict: Option<String>,
    /// Part of the path below the inbox.
    pub file: Option<String>,
    /// At most this many, the newest.
    pub limit: Option<u32>,
}

/// The columns of [`report_row`], between them what it shows for column 9.
const BEFORE_THUMBNAIL: &str = "r.id, j.id, j.sha256, c.size, c.format, c.width, c.height, c.pixels_sha256, c.microns_per_pixel";
const AFTER_THUMBNAIL: &str = "v.source, v.case_id, v.received_at, j.claimed_at, r.created_at, b.sha256, r.version,
  r.verdict, r.verdict_reasons, r.class, r.leading_class, r.confidence, r.probabilities, r.image_only, r.alpha_text, r.logits, r.image_logits,
  r.logits_without_text, r.flags, r.description, r.description_tokens, r.description_tokens_read, r.description_read_until,
  r.mean_token_logprob, r.stop_reason, r.provider, r.provider_note, r.elapsed, v.folder, r.qualification_sha256, r.temperature, r.trust
  FROM report r JOIN reports v ON v.id = r.id JOIN job j ON j.id = r.job_id JOIN content c ON c.sha256 = j.sha256
  JOIN bundle b ON b.id = j.bundle_id";

/// One report with everything that its page shows.
pub fn report(connection: &Connection, id: i64) -> Result<Option<ReportRow>> {
    let thumbnail = "(SELECT jpeg FROM thumbnail WHERE sha256 = c.sha256)";
    let sql = format!("SELECT {BEFORE_THUMBNAIL}, {thumbnail}, {AFTER_THUMBNAIL} WHERE r.id = ?1");
    let found = connection.query_row(&sql, [id], report_row).optional()?;
    found.map(|(job, row)| complete(connection, job, row)).transpose()
}

/// Shows `each` report that passes the filter, oldest first and one at a time, without its thumbnail.
///
/// # Errors
/// The ledger's, or what `each` returns.
pub fn each_report<E: From<LedgerError>>(
    connection: &Connection,
    filter: &Filter,
    mut each: impl FnMut(ReportRow) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    // The newest are found by their numbers alone, which then give the order; without a limit nothing is kept at all.
    let limited = match filter.limit {
        Some(_) => format!(
            "r.id IN (SELECT r.id FROM report r JOIN job j ON j.id = r.job_id WHERE {PASSES} ORDER BY r.id DESC LIMIT ?7)"
        ),
        None => format!("{PASSES} AND ?7 IS NULL"),
    };
    let sql = format!("SELECT {BEFORE_THUMBNAIL}, NULL, {AFTER_THUMBNAIL} WHERE {limited} ORDER BY r.id");
    let mut statement = connection.prepare(&sql).map_err(LedgerError::from)?;
    let parameters = params![filter.since, filter.until, filter.case, filter.class, filter.verdict, filter.file, filter.limit];
    let mut rows = statement.query(parameters).map_err(LedgerError::from)?;
    while let Some(row) = rows.next().map_err(LedgerError::from)? {
        let (job, row) = report_row(row).map_err(LedgerError::from)?;
        each(complete(connection, job, row)?)?;
    }
    Ok(())
}

const PASSES: &str = "(?1 IS NULL OR r.created_at >= ?1) AND (?2 IS NULL OR r.created_at < ?2)
  AND (?3 IS NULL OR EXISTS(SELECT 1 FROM file f WHERE f.job_id = j.id AND f.case_id = ?3))
  AND (?4 IS NULL OR coalesce(r.class, r.leading_class) = ?4) AND (?5 IS NULL OR r.verdict = ?5)
  AND (?6 IS NULL OR EXISTS(SELECT 1 FROM file f WHERE f.job_id = j.id AND instr(f.path_text, ?6) > 0))";

fn complete(connection: &Connection, job: i64, mut row: ReportRow) -> Result<ReportRow> {
    row.cases = cases(connection, &row.sha256, LISTED + 1)?;
    row.more_cases = row.cases.len() > LISTED as usize;
    row.cases.truncate(LISTED as usize);
    row.same_pixels = same_pixels(connection, job)?;
    Ok(row)
}

fn report_row(row: &Row<'_>) -> rusqlite::Result<(i64, ReportRow)> {
    let probabilities: Map<String, Value> = json(row, 22)?;
    let classes: Vec<String> = probabilities.keys().cloned().collect();
    let in_order = |values: Map<String, Value>| -> Vec<f64> { values.values().filter_map(Value::as_f64).collect() };
    let image = match row.get::<_, Option<String>>(4)? {
        Some(format) => Some(Image {
            format,
            width: row.get(5)?,
            height: row.get(6)?,
            pixels_sha256: row.get(7)?,
            microns_per_pixel: row.get(8)?,
            thumbnail: row.get::<_, Option<Vec<u8>>>(9)?.unwrap_or_default(),
        }),
        None => None,
    };
    let described = match row.get::<_, Option<String>>(29)? {
        Some(text) => Some(Described {
            text,
            tokens: row.get(30)?,
            tokens_read: row.get(31)?,
            read_until: row.get(32)?,
            mean_token_logprob: row.get(33)?,
            stop_reason: row.get(34)?,
        }),
        None => None,
    };
    let elapsed: Map<String, Value> = json(row, 37)?;
    let report = NewReport {
        verdict: row.get(17)?,
        verdict_reasons: json(row, 18)?,
        class: row.get(19)?,
        leading_class: row.get(20)?,
        confidence: row.get(21)?,
        classified: Classified {
            probabilities: in_order(probabilities),
            image_only: optional_json(row, 23)?.map(in_order),
            alpha_text: row.get(24)?,
            logits: json(row, 25)?,
            image_logits: optional_json(row, 26)?,
            logits_without_text: optional_json(row, 27)?,
            classes,
        },
        described,
        flags: json(row, 28)?,
        temperature: row.get(40)?,
        provider: row.get(35)?,
        provider_note: row.get(36)?,
        elapsed_ms: elapsed.into_iter().map(|(stage, ms)| (stage, ms.as_f64().unwrap_or(0.0))).collect(),
    };
    let found = ReportRow {
        id: row.get(0)?,
        report,
        sha256: row.get(2)?,
        size: row.get(3)?,
        image,
        source: row.get::<_, Option<String>>(10)?.unwrap_or_default(),
        case_id: row.get::<_, Option<String>>(11)?.unwrap_or_default(),
        received_at: row.get::<_, Option<String>>(12)?.unwrap_or_default(),
        started_at: row.get(13)?,
        reported_at: row.get(14)?,
        bundle_sha256: row.get(15)?,
        version: row.get(16)?,
        qualification_sha256: row.get(39)?,
        trust: optional_json(row, 41)?,
        folder: row.get::<_, Option<String>>(38)?.unwrap_or_default(),
        cases: Vec::new(),
        more_cases: false,
        same_pixels: Vec::new(),
    };
    Ok((row.get(1)?, found))
}

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| conversion(column, error))
}

fn optional_json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| conversion(column, error))).transpose()
}

fn conversion(column: usize, error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}
