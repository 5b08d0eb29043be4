//! The writing operations, each meant for one transaction and each harmless when repeated.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{OptionalExtension, Transaction, params};
use sha2::{Digest, Sha256};

use super::read::{self, FILE_COLUMNS, file_row};
use super::{Claim, FileRow, Image, LedgerError, NewFile, NewReport, RecoveredJob, Rejection, RunStart};
use crate::clock::utc_now;
use crate::files::names;

type Result<T> = std::result::Result<T, LedgerError>;

/// After so many ends from outside (kill, power) with the same image in flight it is set aside although nothing speaks against it.
const KILLS_PER_ATTEMPT: u32 = 10;

/// Begins a run: (run id, bundle id).
pub fn begin_run(tx: &Transaction<'_>, start: &RunStart) -> Result<(i64, i64)> {
    let classes = serde_json::json!(start.classes).to_string();
    tx.execute(
        "INSERT INTO bundle(sha256, classes, first_seen) VALUES(?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![start.bundle_sha256, classes, utc_now()],
    )?;
    let bundle = tx.query_row("SELECT id FROM bundle WHERE sha256 = ?1", [&start.bundle_sha256], |row| row.get(0))?;
    tx.execute(
        "INSERT INTO run(started_at, boot_id, host, version, provider, bundle_id) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        params![utc_now(), start.boot_id, start.host, env!("CARGO_PKG_VERSION"), start.provider, bundle],
    )?;
    Ok((tx.last_insert_rowid(), bundle))
}

/// Ends a run; claims that it still holds are given back with their attempt.
pub fn end_run(tx: &Transaction<'_>, run: i64, reason: &str) -> Result<()> {
    tx.execute(
        "UPDATE job SET state = 'released', attempts = max(attempts - 1, 0), updated_at = ?2 WHERE run_id = ?1 AND state = 'claimed'",
        params![run, utc_now()],
    )?;
    tx.execute("UPDATE run SET ended_at = ?2, end_reason = ?3 WHERE id = ?1", params![run, utc_now(), reason])?;
    Ok(())
}

/// Whether the last run ended without saying so.
pub fn unclean(tx: &rusqlite::Connection) -> Result<bool> {
    Ok(tx.query_row("SELECT EXISTS(SELECT 1 FROM run WHERE ended_at IS NULL)", [], |row| row.get(0))?)
}

/// Takes up what runs without an end left in flight. `died`: the program ended by its own fault, which counts against the
/// images in flight; an end from outside hardly does.
pub fn recover(tx: &Transaction<'_>, run: i64, died: bool, max_attempts: u32) -> Result<Vec<RecoveredJob>> {
    let mut statement = tx.prepare("SELECT id, crashes, kills FROM job WHERE state = 'claimed' AND run_id <> ?1")?;
    let claimed: Vec<(i64, u32, u32)> =
        statement.query_map([run], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
    let mut jobs = Vec::new();
    for (job, crashes, kills) in claimed {
        let (crashes, kills) = if died { (crashes + 1, kills) } else { (crashes, kills + 1) };
        tx.execute(
            "UPDATE job SET state = 'released', crashes = ?2, kills = ?3, updated_at = ?4 WHERE id = ?1",
            params![job, crashes, kills, utc_now()],
        )?;
        let rejected = crashes >= max_attempts || kills >= max_attempts * KILLS_PER_ATTEMPT;
        if rejected {
            reject(tx, job, &crashed_repeatedly(crashes.max(kills)))?;
        }
        jobs.push(RecoveredJob { job, rejected });
    }
    let reason = if died { "crash" } else { "killed" };
    tx.execute(
        "UPDATE run SET ended_at = ?2, end_reason = ?3 WHERE ended_at IS NULL AND id <> ?1",
        params![run, utc_now(), reason],
    )?;
    Ok(jobs)
}

fn crashed_repeatedly(times: u32) -> Rejection {
    Rejection {
        code: "crashed_repeatedly".into(),
        message: format!("The program ended {times} times while it worked on this image"),
    }
}

/// Remembers the marker of an inbox.
pub fn adopt_folder(tx: &Transaction<'_>, root: &Path, marker: &str) -> Result<()> {
    tx.execute(
        "INSERT INTO folder(root, marker, adopted_at) VALUES(?1, ?2, ?3) ON CONFLICT(root) DO UPDATE SET marker = ?2",
        params![root.as_os_str().as_bytes(), marker, utc_now()],
    )?;
    Ok(())
}

/// A job as a claim finds it.
struct Found {
    id: i64,
    state: String,
    run: i64,
    token: i64,
    why: Rejection,
}

fn find_job(tx: &Transaction<'_>, sha256: &[u8; 32], bundle: i64) -> Result<Option<Found>> {
    let sql = "SELECT id, state, run_id, token, coalesce(code, ''), coalesce(message, '') FROM job WHERE sha256 = ?1 AND bundle_id = ?2";
    let found = tx.query_row(sql, params![sha256.as_slice(), bundle], |row| {
        let why = Rejection { code: row.get(4)?, message: row.get(5)? };
        Ok(Found { id: row.get(0)?, state: row.get(1)?, run: row.get(2)?, token: row.get(3)?, why })
    });
    Ok(found.optional()?)
}

/// Claims the bytes of a file before the first of them is parsed. `token` is the caller's own, so that a repeated call finds its claim.
pub fn claim(tx: &Transaction<'_>, file: &NewFile, sha256: &[u8; 32], bundle: i64, run: i64, token: i64) -> Result<Claim> {
    let now = utc_now();
    tx.execute(
        "INSERT INTO content(sha256, size, first_seen) VALUES(?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![sha256.as_slice(), file.stamp.size as i64, now],
    )?;
    let Some(job) = find_job(tx, sha256, bundle)? else {
        tx.execute(
            "INSERT INTO job(sha256, bundle_id, state, attempts, run_id, token, claimed_at, updated_at) VALUES(?1, ?2, 'claimed', 1, ?3, ?4, ?5, ?5)",
            params![sha256.as_slice(), bundle, run, token, now],
        )?;
        let job = tx.last_insert_rowid();
        return work(tx, file, sha256, job);
    };
    match job.state.as_str() {
        "claimed" if job.run == run && job.token == token => work(tx, file, sha256, job.id),
        "claimed" if job.run == run => {
            sight(tx, file, Some(sha256), Some(job.id), "waiting", None)?;
            Ok(Claim::Attached { job: job.id })
        }
        "committed" => Ok(Claim::Known(Box::new(sight(tx, file, Some(sha256), Some(job.id), "reported", None)?))),
        "rejected" => Ok(Claim::Known(Box::new(sight(tx, file, Some(sha256), Some(job.id), "rejected", Some(&job.why))?))),
        _ => {
            tx.execute(
                "UPDATE job SET state = 'claimed', attempts = attempts + 1, run_id = ?2, token = ?3, claimed_at = ?4, updated_at = ?4 WHERE id = ?1",
                params![job.id, run, token, now],
            )?;
            work(tx, file, sha256, job.id)
        }
    }
}

fn work(tx: &Transaction<'_>, file: &NewFile, sha256: &[u8; 32], job: i64) -> Result<Claim> {
    sight(tx, file, Some(sha256), Some(job), "waiting", None)?;
    let attempts = tx.query_row("SELECT attempts FROM job WHERE id = ?1", [job], |row| row.get(0))?;
    Ok(Claim::Work { job, attempts })
}

/// Writes or renews the row of a file that is not put away yet.
fn sight(
    tx: &Transaction<'_>,
    file: &NewFile,
    sha256: Option<&[u8; 32]>,
    job: Option<i64>,
    state: &str,
    why: Option<&Rejection>,
) -> Result<FileRow> {
    let path = file.path.as_os_str().as_bytes();
    let stamp = file.stamp;
    let key = params![path, stamp.dev as i64, stamp.ino as i64, stamp.size as i64, stamp.mtime_ns];
    let open: Option<i64> = tx
        .query_row(
            "SELECT id FROM file WHERE path = ?1 AND dev = ?2 AND ino = ?3 AND size = ?4 AND mtime_ns = ?5 AND filed_at IS NULL",
            key,
            |row| row.get(0),
        )
        .optional()?;
    let (code, message) = (why.map(|why| &why.code), why.map(|why| &why.message));
    let sha256 = sha256.map(|sha256| sha256.as_slice());
    let id = match open {
        Some(id) => {
            tx.execute(
                "UPDATE file SET sha256 = coalesce(?2, sha256), job_id = ?3, state = ?4, code = ?5, message = ?6 WHERE id = ?1",
                params![id, sha256, job, state, code, message],
            )?;
            id
        }
        None => {
            tx.execute(
                "INSERT INTO file(path, path_text, case_id, dev, ino, size, mtime_ns, owner_uid, sha256, job_id, state, code, message, seen_at)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
                params![
                    path, names::text(path), names::case_of(&file.path), stamp.dev as i64, stamp.ino as i64, stamp.size as i64,
                    stamp.mtime_ns, file.owner, sha256, job, state, code, message, utc_now()
                ],
            )?;
            tx.last_insert_rowid()
        }
    };
    Ok(tx.query_row(&format!("SELECT {FILE_COLUMNS} WHERE f.id = ?1"), [id], file_row)?)
}

/// A file that waits for something outside, e.g. for the permission to read it.
pub fn wait(tx: &Transaction<'_>, file: &NewFile, why: &Rejection) -> Result<FileRow> {
    sight(tx, file, None, None, "waiting", Some(why))
}

/// A file that ends without being read; `refused` ones stay where they are.
pub fn reject_file(tx: &Transaction<'_>, file: &NewFile, why: &Rejection, refused: bool) -> Result<FileRow> {
    sight(tx, file, None, None, if refused { "refused" } else { "rejected" }, Some(why))
}

/// Report and receipt in one: the report's id and every file that now has to be put away.
pub fn commit(tx: &Transaction<'_>, job: i64, image: &Image, report: &NewReport) -> Result<(i64, Vec<FileRow>)> {
    let existing = tx.query_row("SELECT id FROM report WHERE job_id = ?1", [job], |row| row.get(0)).optional()?;
    let id = match existing {
        Some(id) => id,
        None => {
            tx.execute(
                "UPDATE content SET format = ?2, width = ?3, height = ?4, pixels_sha256 = ?5, microns_per_pixel = ?6, thumbnail = ?7
                 WHERE sha256 = (SELECT sha256 FROM job WHERE id = ?1)",
                params![
                    job, image.format, image.width, image.height, image.pixels_sha256.as_slice(), image.microns_per_pixel, image.thumbnail
                ],
            )?;
            insert_report(tx, job, report)?
        }
    };
    tx.execute(
        "UPDATE job SET state = 'committed', code = NULL, message = NULL, updated_at = ?2 WHERE id = ?1",
        params![job, utc_now()],
    )?;
    tx.execute(
        "UPDATE file SET state = 'reported', code = NULL, message = NULL WHERE job_id = ?1 AND filed_at IS NULL AND state = 'waiting'",
        [job],
    )?;
    Ok((id, unfiled_of(tx, job, "reported")?))
}

fn insert_report(tx: &Transaction<'_>, job: i64, report: &NewReport) -> Result<i64> {
    let mut flags = report.flags.clone();
    if !read::same_pixels(tx, job)?.is_empty() {
        flags.push("recompressed_same_pixels".into());
    }
    let described = report.described.as_ref();
    let key = described.map(|described| description_key(&described.text));
    if let Some(key) = key
        && read::repeats(tx, job, key)? >= 3
        && !flags.iter().any(|flag| flag == "description_generic")
    {
        flags.push("description_generic".into());
    }
    let classified = &report.classified;
    let json = |values: &[f64]| serde_json::json!(values).to_string();
    let named = |values: &[f64]| read::named(&classified.classes, values).to_string();
    let leading = |values: &Vec<f64>| mmlnb_models::verdict::leading(values).map(|at| classified.classes[at].clone());
    tx.execute(
        "INSERT INTO report(job_id, created_at, verdict, verdict_reasons, class, leading_class, confidence, probabilities, image_only,
           image_only_class, alpha_text, logits, image_logits, logits_without_text, flags, description, description_key, description_tokens,
           description_tokens_read, description_read_until, mean_token_logprob, stop_reason, provider, provider_note, elapsed, version)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26)",
        params![
            job,
            utc_now(),
            report.verdict,
            serde_json::json!(report.verdict_reasons).to_string(),
            report.class,
            report.leading_class,
            report.confidence,
            named(&classified.probabilities),
            classified.image_only.as_deref().map(named),
            classified.image_only.as_ref().and_then(leading),
            classified.alpha_text,
            json(&classified.logits),
            classified.image_logits.as_deref().map(json),
            classified.logits_without_text.as_deref().map(json),
            serde_json::json!(flags).to_string(),
            described.map(|described| &described.text),
            key,
            described.map(|described| described.tokens),
            described.and_then(|described| described.tokens_read),
            described.and_then(|described| described.read_until),
            described.map(|described| described.mean_token_logprob),
            described.map(|described| &described.stop_reason),
            report.provider,
            report.provider_note,
            serde_json::Value::Object(report.elapsed_ms.iter().map(|(stage, ms)| (stage.clone(), serde_json::json!(ms))).collect()).to_string(),
            env!("CARGO_PKG_VERSION"),
        ],
    )?;
    Ok(tx.last_insert_rowid())
}

/// The first eight bytes of the description's hash: finds equal descriptions without an index over long texts.
fn description_key(text: &str) -> i64 {
    let hash = Sha256::digest(text.as_bytes());
    i64::from_le_bytes(std::array::from_fn(|at| hash[at]))
}

/// The job ends without a report: every file of it that now has to be put away.
pub fn reject(tx: &Transaction<'_>, job: i64, why: &Rejection) -> Result<Vec<FileRow>> {
    tx.execute(
        "UPDATE job SET state = 'rejected', code = ?2, message = ?3, updated_at = ?4 WHERE id = ?1 AND state <> 'committed'",
        params![job, why.code, why.message, utc_now()],
    )?;
    tx.execute(
        "UPDATE file SET state = 'rejected', code = ?2, message = ?3 WHERE job_id = ?1 AND filed_at IS NULL AND state = 'waiting'",
        params![job, why.code, why.message],
    )?;
    unfiled_of(tx, job, "rejected")
}

fn unfiled_of(tx: &Transaction<'_>, job: i64, state: &str) -> Result<Vec<FileRow>> {
    let sql = format!("SELECT {FILE_COLUMNS} WHERE f.job_id = ?1 AND f.state = ?2 AND f.filed_at IS NULL ORDER BY f.id");
    let mut statement = tx.prepare(&sql)?;
    Ok(statement.query_map(params![job, state], file_row)?.collect::<rusqlite::Result<_>>()?)
}

/// The attempt did not count: the program stops, or the cause is not the file's own.
pub fn release(tx: &Transaction<'_>, job: i64, run: i64) -> Result<()> {
    tx.execute(
        "UPDATE job SET state = 'released', attempts = max(attempts - 1, 0), updated_at = ?3 WHERE id = ?1 AND run_id = ?2 AND state = 'claimed'",
        params![job, run, utc_now()],
    )?;
    Ok(())
}

/// The bytes are no whole file yet, or none that is judged: the claim is undone, and a job that never was more than this claim is gone
/// with what the claim wrote.
pub fn unclaim(tx: &Transaction<'_>, job: i64, run: i64) -> Result<()> {
    release(tx, job, run)?;
    let fresh = "SELECT sha256 FROM job WHERE id = ?1 AND state = 'released' AND attempts = 0 AND crashes = 0 AND kills = 0";
    let Some(sha256) = tx.query_row(fresh, [job], |row| row.get::<_, [u8; 32]>(0)).optional()? else { return Ok(()) };
    tx.execute("DELETE FROM file WHERE job_id = ?1 AND filed_at IS NULL AND state = 'waiting'", [job])?;
    tx.execute("DELETE FROM job WHERE id = ?1 AND NOT EXISTS(SELECT 1 FROM file WHERE job_id = ?1)", [job])?;
    tx.execute(
        "DELETE FROM content WHERE sha256 = ?1 AND NOT EXISTS(SELECT 1 FROM job WHERE sha256 = ?1) AND NOT EXISTS(SELECT 1 FROM file WHERE sha256 = ?1)",
        [sha256.as_slice()],
    )?;
    Ok(())
}

/// The attempt counts, and there will be another.
pub fn retry_later(tx: &Transaction<'_>, job: i64, why: &Rejection) -> Result<()> {
    tx.execute(
        "UPDATE job SET state = 'retry_wait', code = ?2, message = ?3, updated_at = ?4 WHERE id = ?1 AND state = 'claimed'",
        params![job, why.code, why.message, utc_now()],
    )?;
    Ok(())
}

/// The file lies at its last place.
pub fn filed(tx: &Transaction<'_>, file: i64, state: &str, path: &Path) -> Result<()> {
    tx.execute(
        "UPDATE file SET state = ?2, filed_path = ?3, filed_at = ?4 WHERE id = ?1 AND filed_at IS NULL",
        params![file, state, path.as_os_str().as_bytes(), utc_now()],
    )?;
    Ok(())
}

/// The file is no longer in the inbox although it was not put away: `vanished`, or `replaced` by another of the same name.
pub fn left(tx: &Transaction<'_>, file: i64, state: &str) -> Result<()> {
    tx.execute("UPDATE file SET state = ?2, filed_at = ?3 WHERE id = ?1 AND filed_at IS NULL", params![file, state, utc_now()])?;
    Ok(())
}

/// A file that was sighted but left the inbox before it was judged.
pub fn gone(tx: &Transaction<'_>, file: &NewFile) -> Result<()> {
    let stamp = file.stamp;
    tx.execute(
        "UPDATE file SET state = 'vanished', filed_at = ?6 WHERE path = ?1 AND dev = ?2 AND ino = ?3 AND size = ?4 AND mtime_ns = ?5
           AND filed_at IS NULL AND state = 'waiting'",
        params![file.path.as_os_str().as_bytes(), stamp.dev as i64, stamp.ino as i64, stamp.size as i64, stamp.mtime_ns, utc_now()],
    )?;
    Ok(())
}

/// First half of a retry: the job forgets its failures, the file is about to return to the inbox.
pub fn begin_retry(tx: &Transaction<'_>, file: &FileRow) -> Result<()> {
    if let Some(job) = file.job {
        tx.execute(
            "UPDATE job SET state = 'released', attempts = 0, crashes = 0, kills = 0, code = NULL, message = NULL, updated_at = ?2
             WHERE id = ?1 AND state = 'rejected'",
            params![job, utc_now()],
        )?;
    }
    tx.execute("UPDATE file SET state = 'retrying' WHERE id = ?1 AND state IN ('failed', 'refused', 'retrying')", [file.id])?;
    Ok(())
}

/// Second half of a retry: the file lies in the inbox again and will get a row of its own.
pub fn end_retry(tx: &Transaction<'_>, file: i64) -> Result<()> {
    tx.execute(
        "UPDATE file SET state = 'retried', filed_at = coalesce(filed_at, ?2) WHERE id = ?1 AND state = 'retrying'",
        params![file, utc_now()],
    )?;
    Ok(())
}
