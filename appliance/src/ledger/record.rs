//! The writing operations, each meant for one transaction and each harmless when repeated.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::read::{self, FILE_COLUMNS, file_row};
use super::{Claim, FileRow, Hold, Image, LedgerError, NewFile, NewReport, RecoveredJob, Rejection, RunStart};
use super::{FileEvent, FileState, JobEvent, JobState};
use crate::clock::utc_now;
use crate::files::names;

type Result<T> = std::result::Result<T, LedgerError>;

/// After so many times `max_attempts` ends that nothing explains, all while it ran alone, an image is set aside too.
const UNEXPLAINED_PER_ATTEMPT: u32 = 4;

/// The code of an image of which the program died again and again.
const CRASHED: &str = "crashed_repeatedly";

/// The device of a run that has loaded none yet.
const NO_DEVICE: &str = "none";

/// Begins a run, which has no device yet: (run id, bundle id).
pub fn begin_run(tx: &Transaction<'_>, start: &RunStart) -> Result<(i64, i64)> {
    let classes = serde_json::json!(start.classes).to_string();
    tx.execute(
        "INSERT INTO bundle(sha256, classes, first_seen, qualification_sha256) VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![start.bundle_sha256, classes, utc_now(), start.qualification_sha256],
    )?;
    let served = "SELECT id FROM bundle WHERE sha256 = ?1 AND qualification_sha256 IS ?2";
    let bundle = tx.query_row(served, params![start.bundle_sha256, start.qualification_sha256], |row| row.get(0))?;
    let begun =
        "SELECT id FROM run WHERE id = (SELECT max(id) FROM run) AND started_at = ?1 AND boot_id = ?2 AND ended_at IS NULL";
    let begun = tx.query_row(begun, params![start.started_at, start.boot_id], |row| row.get(0)).optional()?;
    if let Some(run) = begun {
        return Ok((run, bundle));
    }
    tx.execute(
        "INSERT INTO run(started_at, boot_id, host, version, provider, bundle_id, qualification_sha256, oom_kills, trust)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            start.started_at,
            start.boot_id,
            start.host,
            env!("CARGO_PKG_VERSION"),
            NO_DEVICE,
            bundle,
            start.qualification_sha256,
            start.oom_kills,
            json!(start.trust).to_string()
        ],
    )?;
    Ok((tx.last_insert_rowid(), bundle))
}

/// The device that a run computes on.
pub fn set_device(tx: &Transaction<'_>, run: i64, device: &str) -> Result<()> {
    tx.execute("UPDATE run SET provider = ?2 WHERE id = ?1", params![run, device])?;
    Ok(())
}

/// A run that could not begin, for a reason that only a person can mend.
pub fn forget_run(tx: &Transaction<'_>, run: i64) -> Result<()> {
    tx.execute("DELETE FROM run WHERE id = ?1", [run])?;
    Ok(())
}

/// Ends a run; claims that it still holds are given back with their attempt.
pub fn end_run(tx: &Transaction<'_>, run: i64, reason: &str) -> Result<()> {
    let released = job_step("all of a run", JobState::Claimed, JobEvent::Release)?;
    tx.execute(
        "UPDATE job SET state = ?3, attempts = max(attempts - 1, 0), updated_at = ?2 WHERE run_id = ?1 AND state = ?4",
        params![run, utc_now(), released, JobState::Claimed],
    )?;
    tx.execute("UPDATE run SET ended_at = ?2, end_reason = ?3 WHERE id = ?1", params![run, utc_now(), reason])?;
    Ok(())
}

/// Whether a run ended without saying so; `own` is the caller's own, which goes on.
pub fn unclean(tx: &rusqlite::Connection, own: Option<i64>) -> Result<bool> {
    Ok(tx.query_row("SELECT EXISTS(SELECT 1 FROM run WHERE ended_at IS NULL AND id IS NOT ?1)", [own], |row| row.get(0))?)
}

/// Takes up what runs without an end left in flight, and says which images it is held against.
///
/// `died`: the program left a mark that it ended by its own fault. The kernel's count of processes killed for want of memory tells the
/// other end that an image can cause. Both count as a crash of every image in flight: it runs alone from then on, and is set aside after
/// `max_attempts` of them, but never for one in which it was not alone. An end that neither explains (a kill by hand, a power cut, an
/// upgrade) may hit any image at any time: it too makes the images in flight run alone, but only those ends count on that come while one
/// runs alone, and four times as many of them set it aside.
pub fn recover(tx: &Transaction<'_>, run: i64, died: bool, max_attempts: u32) -> Result<Vec<RecoveredJob>> {
    let blamed = died || out_of_memory(tx, run)?;
    let mut statement = tx.prepare("SELECT id, crashes, kills FROM job WHERE state = ?2 AND run_id <> ?1 ORDER BY id")?;
    let claimed: Vec<(i64, u32, u32)> = statement
        .query_map(params![run, JobState::Claimed], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let alone = claimed.len() == 1;
    let mut jobs = Vec::new();
    for (job, crashes, kills) in claimed {
        let (crashes, kills) = match (blamed, alone) {
            (true, true) => (crashes + 1, kills),
            (true, false) => ((crashes + 1).min(max_attempts.saturating_sub(1)).max(1), kills),
            (false, true) => (crashes, kills + 1),
            (false, false) => (crashes, kills.max(1)),
        };
        move_job(tx, job, JobEvent::Release)?;
        // The attempt is given back: what ended it is counted as a crash or a kill, and not as a failure of the engine too.
        tx.execute(
            "UPDATE job SET crashes = ?2, kills = ?3, attempts = max(attempts - 1, 0) WHERE id = ?1",
            params![job, crashes, kills],
        )?;
        let rejected = alone && (crashes >= max_attempts || kills > max_attempts * UNEXPLAINED_PER_ATTEMPT);
        if rejected {
            reject(tx, job, &crashed_repeatedly(crashes + kills))?;
            note_event(
                tx,
                Some(run),
                "appliance",
                "set_aside",
                &format!("job {job}"),
                &json!({ "crashes": crashes, "kills": kills }),
            )?;
        }
        jobs.push(RecoveredJob { job, rejected });
    }
    let reason = if blamed { "crash" } else { "killed" };
    tx.execute(
        "UPDATE run SET ended_at = ?2, end_reason = ?3 WHERE ended_at IS NULL AND id <> ?1",
        params![run, utc_now(), reason],
    )?;
    Ok(jobs)
}

/// Whether the kernel has killed for want of memory since a run began that has no end. Another boot counts anew and tells nothing.
fn out_of_memory(tx: &Transaction<'_>, run: i64) -> Result<bool> {
    Ok(tx.query_row(
        "SELECT EXISTS(SELECT 1 FROM run now JOIN run old ON old.boot_id = now.boot_id AND old.oom_kills < now.oom_kills
           WHERE now.id = ?1 AND old.id <> ?1 AND old.ended_at IS NULL)",
        [run],
        |row| row.get(0),
    )?)
}

fn crashed_repeatedly(times: u32) -> Rejection {
    Rejection { code: CRASHED.into(), message: format!("The program ended {times} times while it worked on this image") }
}

/// Notes what was done by whom; never changed afterwards.
pub fn note_event(
    tx: &Transaction<'_>,
    run: Option<i64>,
    actor: &str,
    action: &str,
    subject: &str,
    detail: &serde_json::Value,
) -> Result<()> {
    tx.execute(
        "INSERT INTO event(at, run_id, actor, action, subject, detail) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        params![utc_now(), run, actor, action, subject, detail.to_string()],
    )?;
    Ok(())
}

/// The state that `event` leads to, or the fault of asking for it.
fn file_step(what: impl std::fmt::Display, state: FileState, event: FileEvent) -> Result<FileState> {
    state.next(event).ok_or_else(|| LedgerError::Transition {
        what: format!("file {what}"),
        state: state.name(),
        event: format!("{event:?}"),
    })
}

fn job_step(what: impl std::fmt::Display, state: JobState, event: JobEvent) -> Result<JobState> {
    state.next(event).ok_or_else(|| LedgerError::Transition {
        what: format!("job {what}"),
        state: state.name(),
        event: format!("{event:?}"),
    })
}

/// Takes a job through `event`; the state before.
fn move_job(tx: &Transaction<'_>, job: i64, event: JobEvent) -> Result<JobState> {
    let before = tx.query_row("SELECT state FROM job WHERE id = ?1", [job], |row| row.get(0))?;
    let after = job_step(job, before, event)?;
    tx.execute("UPDATE job SET state = ?2, updated_at = ?3 WHERE id = ?1", params![job, after, utc_now()])?;
    Ok(before)
}

/// Takes a file through `event`; the state after.
fn move_file(tx: &Transaction<'_>, file: i64, event: FileEvent) -> Result<FileState> {
    let before = tx.query_row("SELECT state FROM file WHERE id = ?1", [file], |row| row.get(0))?;
    let after = file_step(file, before, event)?;
    if before != after {
        tx.execute("UPDATE file SET state = ?2 WHERE id = ?1", params![file, after])?;
    }
    Ok(after)
}

/// A folder that was moved, known by its marker, keeps it; what was put away in it lies below its new path. `configured`: that path as the
/// configuration gives it.
pub fn move_folder(tx: &Transaction<'_>, marker: &str, root: &Path, configured: &Path) -> Result<()> {
    let before: Vec<u8> = tx.query_row("SELECT root FROM folder WHERE marker = ?1", [marker], |row| row.get(0))?;
    tx.execute("UPDATE folder SET root = ?2 WHERE marker = ?1", params![marker, root.as_os_str().as_bytes()])?;
    tx.execute(
        "UPDATE file SET filed_path = CAST(?2 || substr(filed_path, length(?1) + 1) AS BLOB)
         WHERE length(filed_path) > length(?1) AND substr(filed_path, 1, length(?1) + 1) = CAST(?1 || '/' AS BLOB)",
        params![before, configured.as_os_str().as_bytes()],
    )?;
    Ok(())
}

/// Remembers the marker of a watched folder and the name that the configuration gives it.
pub fn adopt_folder(tx: &Transaction<'_>, name: &str, root: &Path, marker: &str) -> Result<()> {
    tx.execute(
        "INSERT INTO folder(root, marker, adopted_at, name) VALUES(?1, ?2, ?3, ?4) ON CONFLICT(root) DO UPDATE SET marker = ?2, name = ?4",
        params![root.as_os_str().as_bytes(), marker, utc_now(), name],
    )?;
    Ok(())
}

/// A job as a claim finds it.
struct Found {
    id: i64,
    state: JobState,
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
        return work(tx, file, sha256, job, &now);
    };
    // A file that ended with its twin, and is looked at by a worker that does not know it yet, has its end.
    let ended = job.state == JobState::Rejected && (is_final(&job, run) || is_rejected(tx, file, job.id)?);
    match job.state {
        JobState::Claimed if job.run == run && job.token == token => work(tx, file, sha256, job.id, &now),
        JobState::Claimed if job.run == run => {
            sight(tx, file, Some(sha256), Some(job.id), FileEvent::Wait, None, &now)?;
            Ok(Claim::Attached { job: job.id })
        }
        JobState::Committed => known(tx, file, sha256, job.id, FileEvent::Report, None, &now),
        JobState::Rejected if ended => known(tx, file, sha256, job.id, FileEvent::Reject, Some(&job.why), &now),
        JobState::Claimed | JobState::RetryWait | JobState::Released | JobState::Rejected => {
            if job.state == JobState::Rejected {
                forget_failures(tx, job.id)?;
            }
            move_job(tx, job.id, JobEvent::Claim)?;
            tx.execute(
                "UPDATE job SET attempts = attempts + 1, run_id = ?2, token = ?3, claimed_at = ?4, updated_at = ?4 WHERE id = ?1",
                params![job.id, run, token, now],
            )?;
            work(tx, file, sha256, job.id, &now)
        }
    }
}

/// Whether bytes that were rejected are rejected at once when they come again. What settings or a version of the program made of them holds
/// for its own run; what time or the machine made of them holds for nobody; an image of which the program died is not tried again unasked.
fn is_final(job: &Found, run: i64) -> bool {
    const OF_THE_MOMENT: [&str; 4] = ["truncated", "timed_out", "engine_failed", "decoder_died"];
    let code = job.why.code.as_str();
    code == CRASHED || job.run == run && !OF_THE_MOMENT.contains(&code)
}

/// Whether the row of a file that is not put away yet says that it is rejected.
fn is_rejected(tx: &Transaction<'_>, file: &NewFile, job: i64) -> Result<bool> {
    let Some((id, FileState::Rejected)) = open_row(tx, file)? else { return Ok(false) };
    Ok(tx.query_row("SELECT job_id IS ?2 FROM file WHERE id = ?1", [id, job], |row| row.get(0))?)
}

/// The row of a file in this state that is not put away yet, and where it is in its life.
fn open_row(tx: &Transaction<'_>, file: &NewFile) -> Result<Option<(i64, FileState)>> {
    let (path, stamp) = (file.path.as_os_str().as_bytes(), file.stamp);
    let key = params![path, stamp.dev as i64, stamp.ino as i64, stamp.size as i64, stamp.mtime_ns, file.folder];
    let sql =
        "SELECT id, state FROM file WHERE folder = ?6 AND path = ?1 AND dev = ?2 AND ino = ?3 AND size = ?4 AND mtime_ns = ?5
                 AND filed_at IS NULL";
    Ok(tx.query_row(sql, key, |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// A rejected job begins anew.
fn forget_failures(tx: &Transaction<'_>, job: i64) -> Result<()> {
    move_job(tx, job, JobEvent::Retry)?;
    tx.execute("UPDATE job SET attempts = 0, crashes = 0, kills = 0, code = NULL, message = NULL WHERE id = ?1", [job])?;
    Ok(())
}

fn known(
    tx: &Transaction<'_>,
    file: &NewFile,
    sha256: &[u8; 32],
    job: i64,
    event: FileEvent,
    why: Option<&Rejection>,
    now: &str,
) -> Result<Claim> {
    Ok(Claim::Known(Box::new(sight(tx, file, Some(sha256), Some(job), event, why, now)?)))
}

fn work(tx: &Transaction<'_>, file: &NewFile, sha256: &[u8; 32], job: i64, now: &str) -> Result<Claim> {
    sight(tx, file, Some(sha256), Some(job), FileEvent::Wait, None, now)?;
    let attempts = tx.query_row("SELECT attempts FROM job WHERE id = ?1", [job], |row| row.get(0))?;
    Ok(Claim::Work { job, attempts })
}

/// Writes or renews the row of a file that is not put away yet. `now`: the same time as the claim's, so that a file is never received
/// after it was begun.
fn sight(
    tx: &Transaction<'_>,
    file: &NewFile,
    sha256: Option<&[u8; 32]>,
    job: Option<i64>,
    event: FileEvent,
    why: Option<&Rejection>,
    now: &str,
) -> Result<FileRow> {
    let (path, stamp) = (file.path.as_os_str().as_bytes(), file.stamp);
    let (code, message) = (why.map(|why| &why.code), why.map(|why| &why.message));
    let sha256 = sha256.map(|sha256| sha256.as_slice());
    let id = match open_row(tx, file)? {
        Some((id, before)) => {
            let state = file_step(id, before, event)?;
            tx.execute(
                "UPDATE file SET sha256 = coalesce(?2, sha256), job_id = ?3, state = ?4, code = ?5, message = ?6 WHERE id = ?1",
                params![id, sha256, job, state, code, message],
            )?;
            id
        }
        None => {
            let state = file_step("new", FileState::Waiting, event)?;
            tx.execute(
                "INSERT INTO file(path, path_text, case_id, dev, ino, size, mtime_ns, owner_uid, sha256, job_id, state, code, message, seen_at,
                   folder) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
                params![
                    path, names::text(path), names::case_of(&file.path), stamp.dev as i64, stamp.ino as i64, stamp.size as i64,
                    stamp.mtime_ns, file.owner, sha256, job, state, code, message, now, file.folder
                ],
            )?;
            tx.last_insert_rowid()
        }
    };
    row_of(tx, id)
}

fn row_of(tx: &Transaction<'_>, id: i64) -> Result<FileRow> {
    Ok(tx.query_row(&format!("SELECT {FILE_COLUMNS} WHERE f.id = ?1"), [id], file_row)?)
}

/// A file that waits for something outside, e.g. for the permission to read it.
pub fn wait(tx: &Transaction<'_>, file: &NewFile, why: &Rejection) -> Result<FileRow> {
    sight(tx, file, None, None, FileEvent::Wait, Some(why), &utc_now())
}

/// A file that ends without being read; `refused` ones stay where they are.
pub fn reject_file(tx: &Transaction<'_>, file: &NewFile, why: &Rejection, refused: bool) -> Result<FileRow> {
    let event = if refused { FileEvent::Refuse } else { FileEvent::Reject };
    sight(tx, file, None, None, event, Some(why), &utc_now())
}

/// Report and receipt in one: the report's id and every file that now has to be put away.
pub fn commit(tx: &Transaction<'_>, job: i64, image: &Image, report: &NewReport) -> Result<(i64, Vec<FileRow>)> {
    let existing = tx.query_row("SELECT id FROM report WHERE job_id = ?1", [job], |row| row.get(0)).optional()?;
    let id = match existing {
        Some(id) => id,
        None => {
            tx.execute(
                "UPDATE content SET format = ?2, width = ?3, height = ?4, pixels_sha256 = ?5, microns_per_pixel = ?6
                 WHERE sha256 = (SELECT sha256 FROM job WHERE id = ?1)",
                params![job, image.format, image.width, image.height, image.pixels_sha256.as_slice(), image.microns_per_pixel],
            )?;
            tx.execute(
                "INSERT INTO thumbnail(sha256, jpeg) SELECT sha256, ?2 FROM job WHERE id = ?1 ON CONFLICT DO NOTHING",
                params![job, image.thumbnail],
            )?;
            insert_report(tx, job, report)?
        }
    };
    move_job(tx, job, JobEvent::Commit)?;
    tx.execute("UPDATE job SET code = NULL, message = NULL WHERE id = ?1", [job])?;
    let reported = file_step("of a job", FileState::Waiting, FileEvent::Report)?;
    tx.execute(
        "UPDATE file SET state = ?2, code = NULL, message = NULL WHERE job_id = ?1 AND filed_at IS NULL AND state = ?3",
        params![job, reported, FileState::Waiting],
    )?;
    Ok((id, unfiled_of(tx, job, reported)?))
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
           description_tokens_read, description_read_until, mean_token_logprob, stop_reason, provider, provider_note, elapsed, version,
           temperature, qualification_sha256, trust)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27,
           (SELECT run.qualification_sha256 FROM job JOIN run ON run.id = job.run_id WHERE job.id = ?1),
           (SELECT run.trust FROM job JOIN run ON run.id = job.run_id WHERE job.id = ?1))",
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
            report.temperature,
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
    move_job(tx, job, JobEvent::Reject)?;
    tx.execute("UPDATE job SET code = ?2, message = ?3 WHERE id = ?1", params![job, why.code, why.message])?;
    let rejected = file_step("of a job", FileState::Waiting, FileEvent::Reject)?;
    tx.execute(
        "UPDATE file SET state = ?4, code = ?2, message = ?3 WHERE job_id = ?1 AND filed_at IS NULL AND state = ?5",
        params![job, why.code, why.message, rejected, FileState::Waiting],
    )?;
    unfiled_of(tx, job, rejected)
}

/// [`reject`] by whoever holds the claim. Where it is repeated because nobody heard that it was done, the bytes may have come again and been
/// begun anew: then it only says which files have to be put away.
pub fn reject_held(tx: &Transaction<'_>, hold: &Hold, why: &Rejection) -> Result<Vec<FileRow>> {
    // Not only `Claimed`: a worker may still finish what the end of its run has given back.
    for state in [JobState::Claimed, JobState::Released] {
        if holds(tx, hold, state)? {
            return reject(tx, hold.job, why);
        }
    }
    unfiled_of(tx, hold.job, FileState::Rejected)
}

fn unfiled_of(tx: &Transaction<'_>, job: i64, state: FileState) -> Result<Vec<FileRow>> {
    let sql = format!("SELECT {FILE_COLUMNS} WHERE f.job_id = ?1 AND f.state = ?2 AND f.filed_at IS NULL ORDER BY f.id");
    let mut statement = tx.prepare(&sql)?;
    Ok(statement.query_map(params![job, state], file_row)?.collect::<rusqlite::Result<_>>()?)
}

/// Whether the claim is still the caller's, in this state.
fn holds(tx: &Transaction<'_>, hold: &Hold, state: JobState) -> Result<bool> {
    let sql = "SELECT EXISTS(SELECT 1 FROM job WHERE id = ?1 AND run_id = ?2 AND token = ?3 AND state = ?4)";
    Ok(tx.query_row(sql, params![hold.job, hold.run, hold.token, state], |row| row.get(0))?)
}

/// The attempt did not count: the program stops, or the cause is not the file's own.
pub fn release(tx: &Transaction<'_>, hold: &Hold) -> Result<()> {
    if holds(tx, hold, JobState::Claimed)? {
        move_job(tx, hold.job, JobEvent::Release)?;
        tx.execute("UPDATE job SET attempts = max(attempts - 1, 0) WHERE id = ?1", [hold.job])?;
    }
    Ok(())
}

/// The bytes are no whole file yet, or none that is judged: the claim is undone with the files that it wrote, which come again when they
/// are whole, and a job that never was more than this claim is gone.
pub fn unclaim(tx: &Transaction<'_>, hold: &Hold) -> Result<()> {
    release(tx, hold)?;
    if !holds(tx, hold, JobState::Released)? {
        return Ok(());
    }
    let job = hold.job;
    tx.execute("DELETE FROM file WHERE job_id = ?1 AND filed_at IS NULL AND state = 'waiting'", [job])?;
    let fresh = "SELECT sha256 FROM job WHERE id = ?1 AND attempts = 0 AND crashes = 0 AND kills = 0";
    let Some(sha256) = tx.query_row(fresh, [job], |row| row.get::<_, [u8; 32]>(0)).optional()? else { return Ok(()) };
    tx.execute("DELETE FROM job WHERE id = ?1 AND NOT EXISTS(SELECT 1 FROM file WHERE job_id = ?1)", [job])?;
    tx.execute(
        "DELETE FROM content WHERE sha256 = ?1 AND NOT EXISTS(SELECT 1 FROM job WHERE sha256 = ?1) AND NOT EXISTS(SELECT 1 FROM file WHERE sha256 = ?1)",
        [sha256.as_slice()],
    )?;
    Ok(())
}

/// The attempt counts, and there will be another.
pub fn retry_later(tx: &Transaction<'_>, hold: &Hold, why: &Rejection) -> Result<()> {
    // From `Released`: a worker may still finish what the end of its run has given back.
    if holds(tx, hold, JobState::Claimed)? || holds(tx, hold, JobState::Released)? {
        move_job(tx, hold.job, JobEvent::TryLater)?;
        tx.execute("UPDATE job SET code = ?2, message = ?3 WHERE id = ?1", params![hold.job, why.code, why.message])?;
    }
    Ok(())
}

/// The file lies at its last place: the state that it has now.
pub fn placed(tx: &Transaction<'_>, file: i64, path: &Path) -> Result<FileState> {
    let state = move_file(tx, file, FileEvent::Place)?;
    tx.execute(
        "UPDATE file SET filed_path = ?2, filed_at = ?3 WHERE id = ?1 AND filed_at IS NULL",
        params![file, path.as_os_str().as_bytes(), utc_now()],
    )?;
    Ok(state)
}

/// The file is no longer in the inbox although it was not put away: [`FileEvent::Vanish`], or [`FileEvent::Replace`] by another of the
/// same name.
pub fn left(tx: &Transaction<'_>, file: i64, event: FileEvent) -> Result<FileState> {
    let state = move_file(tx, file, event)?;
    tx.execute("UPDATE file SET filed_at = ?2 WHERE id = ?1 AND filed_at IS NULL", params![file, utc_now()])?;
    Ok(state)
}

/// A file that was sighted but left the inbox before it was judged. Its row if its twin was judged meanwhile: it has to be put away.
pub fn gone(tx: &Transaction<'_>, file: &NewFile) -> Result<Option<FileRow>> {
    match open_row(tx, file)? {
        Some((id, FileState::Waiting)) => left(tx, id, FileEvent::Vanish).map(|_| None),
        Some((id, FileState::Reported | FileState::Rejected)) => Ok(Some(row_of(tx, id)?)),
        _ => Ok(None),
    }
}

/// First half of a retry: its job forgets its failures, the file is about to return to the inbox, and with it every row whose file it is
/// too. `actor`: who asked for it.
pub fn begin_retry(tx: &Transaction<'_>, file: &FileRow, actor: &str) -> Result<()> {
    if file.state != FileState::Retrying {
        note_event(tx, None, actor, "retry", &format!("file {}", file.id), &json!({ "code": file.code }))?;
    }
    for sharer in sharing(tx, file)? {
        if let Some(job) = sharer.job {
            let state: JobState = tx.query_row("SELECT state FROM job WHERE id = ?1", [job], |row| row.get(0))?;
            if state == JobState::Rejected {
                forget_failures(tx, job)?;
            }
        }
        move_file(tx, sharer.id, FileEvent::BeginRetry)?;
    }
    Ok(())
}

/// Second half of a retry: the file lies in the inbox again and will get a row of its own.
pub fn end_retry(tx: &Transaction<'_>, file: &FileRow) -> Result<()> {
    for sharer in sharing(tx, file)? {
        move_file(tx, sharer.id, FileEvent::EndRetry)?;
        tx.execute("UPDATE file SET filed_at = coalesce(filed_at, ?2) WHERE id = ?1", params![sharer.id, utc_now()])?;
    }
    Ok(())
}

/// A retry that did not succeed: the file stays where it failed.
pub fn give_up_retry(tx: &Transaction<'_>, file: &FileRow) -> Result<()> {
    let event = if file.filed_path.is_some() { FileEvent::StayFailed } else { FileEvent::StayRefused };
    sharing(tx, file)?.iter().try_for_each(|sharer| move_file(tx, sharer.id, event).map(drop))
}

/// The rows that one file in `failed` stands for, `file` among them: drops of one name and one content share it.
fn sharing(tx: &Transaction<'_>, file: &FileRow) -> Result<Vec<FileRow>> {
    let (Some(path), Some(sha256)) = (&file.filed_path, file.sha256) else { return Ok(vec![file.clone()]) };
    let sql = format!(
        "SELECT {FILE_COLUMNS} WHERE f.sha256 = ?1 AND f.filed_path = ?2 AND (f.id = ?3 OR f.state IN (?4, ?5)) ORDER BY f.id"
    );
    let mut statement = tx.prepare(&sql)?;
    let key = params![sha256.as_slice(), path.as_os_str().as_bytes(), file.id, FileState::Failed, FileState::Retrying];
    Ok(statement.query_map(key, file_row)?.collect::<rusqlite::Result<_>>()?)
}
