//! The threads that take a file from the desk to its end: read, claim, decode, assess, commit, put away.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use super::decode::DecodeFailure;
use super::desk::{Key, Task};
use super::patch::{self, Patch, ReadError};
use super::{Intake, trouble};
use crate::engine::{EngineError, PatchImage, Request};
use crate::error::{Exit, Failure};
use crate::files::names;
use crate::ledger::{Claim, Image, LedgerError, NewFile, NewReport, Rejection, read, record};
use crate::{failpoint, progress, verdict};

const READ: Duration = Duration::from_secs(120);
const SPACE_AGAIN: Duration = Duration::from_secs(30);

/// How the work on a claimed image ended.
enum Outcome {
    Report(Box<Image>, Box<NewReport>),
    Reject(Rejection),
    /// Not the image's fault: the attempt is given back.
    GiveBack(String),
    /// Perhaps the image's fault: the attempt counts.
    TryAgain(Rejection),
    /// Nothing can be assessed any more.
    End(Failure),
}

/// The images that must run alone have a writer's permit.
enum Permit<'a> {
    Shared(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'a, ()>),
    Alone(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'a, ()>),
}

/// Works until the desk is closed.
pub fn work(intake: &Arc<Intake>) {
    let _together = super::EndTogether;
    intake.board.join();
    loop {
        progress::idle();
        let Some(task) = intake.desk.take() else { return };
        let key = match &task {
            Task::Judge(file) | Task::Reject(file, _) | Task::Refuse(file, _) => Key::from(file),
            Task::PutAway(row) => Key::from(row.as_ref()),
        };
        match intake.perform(task) {
            Ok(()) => {}
            Err(LedgerError::Stopped(_)) => intake.desk.forget(&key),
            Err(error) => {
                intake.desk.forget(&key);
                intake.end_with(error.into());
            }
        }
    }
}

impl Intake {
    fn perform(&self, task: Task) -> Result<(), LedgerError> {
        match task {
            Task::Judge(file) => self.judge(file),
            Task::Reject(file, why) => {
                let row = self.ledger.write("ledger.reject", |tx| record::reject_file(tx, &file, &why, false))?;
                self.put_away(row)
            }
            Task::Refuse(file, why) => {
                let row = self.ledger.write("ledger.reject", |tx| record::reject_file(tx, &file, &why, true))?;
                self.put_away(row)
            }
            Task::PutAway(row) => self.put_away(*row),
        }
    }

    fn judge(&self, file: NewFile) -> Result<(), LedgerError> {
        let name = names::text(std::os::unix::ffi::OsStrExt::as_bytes(file.path.as_os_str()));
        progress::enter("read", &name, READ);
        if self.wait_for_space(file.stamp.size) {
            self.desk.forget(&Key::from(&file));
            return Ok(());
        }
        let begun = Instant::now();
        let read = self.folder.inbox().map_err(ReadError::Io);
        let patch = match read.and_then(|root| patch::read(&root, &file.path, &file.stamp)) {
            Ok(patch) => patch,
            Err(error) => return self.unread(file, error),
        };
        let read_ms = milliseconds(begun);
        progress::idle();
        let _permit = self.permit(&patch)?;
        progress::enter("claim", &name, READ);
        static TOKEN: AtomicI64 = AtomicI64::new(1);
        let token = TOKEN.fetch_add(1, Ordering::Relaxed);
        let (run, bundle) = (self.run, self.bundle);
        match self.ledger.write("ledger.claim", |tx| record::claim(tx, &file, &patch.sha256, bundle, run, token))? {
            Claim::Known(row) => self.put_away(*row),
            Claim::Attached { job } => {
                self.desk.attach(file, job);
                self.settle_attached(job)
            }
            Claim::Work { job, attempts } => {
                let outcome = self.assess_claimed(&name, patch, read_ms);
                self.conclude(job, attempts, file, outcome)
            }
        }
    }

    /// The image was not read; who looks again when.
    fn unread(&self, file: NewFile, error: ReadError) -> Result<(), LedgerError> {
        match error {
            ReadError::Gone | ReadError::Changed => {
                self.ledger.write("ledger.left", |tx| record::gone(tx, &file))?;
                self.desk.forget(&Key::from(&file));
            }
            ReadError::Special => {
                let why = Rejection { code: "not_a_file".into(), message: "This is no regular file".into() };
                let row = self.ledger.write("ledger.reject", |tx| record::reject_file(tx, &file, &why, false))?;
                self.put_away(row)?;
            }
            ReadError::Denied => {
                let why = Rejection { code: "unreadable".into(), message: self.denied(&file) };
                self.ledger.write("ledger.wait", |tx| record::wait(tx, &file, &why))?;
                tracing::warn!(event = "unreadable", code = "unreadable", message = why.message);
                self.desk.later(Task::Judge(file), &why.message);
            }
            ReadError::Io(error) => {
                let wait = self.desk.later(Task::Judge(file), &error.to_string());
                tracing::warn!(event = "retry", %error, next_s = wait.as_secs());
            }
        }
        Ok(())
    }

    fn denied(&self, file: &NewFile) -> String {
        let parent = file.path.parent().unwrap_or(Path::new(""));
        let found = self.folder.inbox().and_then(|inbox| inbox.below(parent)?.stat(file.path.file_name().unwrap_or_default()));
        let mode = found.ok().flatten().map_or_else(|| "unknown".to_owned(), |found| format!("{:04o}", found.st_mode & 0o7777));
        format!("The appliance may not read it: owner {}, mode {mode}", file.owner)
    }

    /// Waits while a disk is nearly full; true when the program is ending.
    fn wait_for_space(&self, size: u64) -> bool {
        let needed = trouble::needed_space(self.config.min_free, size);
        let mut wanted = needed;
        while let Some((free, folder)) = self.free_space().filter(|(free, _)| *free < wanted) {
            if wanted == needed {
                tracing::warn!(event = "paused", reason = "disk", free_mb = free >> 20, needed_mb = needed >> 20);
            }
            wanted = trouble::resume_space(needed);
            let (free, needed) = (free >> 20, wanted >> 20);
            self.desk.pause(Some(format!("disk nearly full: {free} MB free at {}, {needed} MB needed", folder.display())));
            if self.nap(SPACE_AGAIN) {
                return true;
            }
        }
        self.desk.pause(None);
        self.stopping()
    }

    /// An image during which the program died must have the engine for itself, or it takes others along.
    fn permit(&self, patch: &Patch) -> Result<Permit<'_>, LedgerError> {
        let suspect = self.ledger.read(|connection| read::is_suspect(connection, &patch.sha256))?;
        Ok(match suspect {
            true => Permit::Alone(self.alone.write().unwrap_or_else(PoisonError::into_inner)),
            false => Permit::Shared(self.alone.read().unwrap_or_else(PoisonError::into_inner)),
        })
    }

    fn assess_claimed(&self, name: &str, patch: Patch, read_ms: f64) -> Outcome {
        match self.try_assess(name, patch, read_ms) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::GiveBack(error.to_string()),
        }
    }

    fn try_assess(&self, name: &str, patch: Patch, read_ms: f64) -> std::io::Result<Outcome> {
        failpoint::pass("claim.after")?;
        progress::enter("decode", name, self.config.decode + Duration::from_secs(10));
        let begun = Instant::now();
        let decoded = match self.decoder.decode(&patch.bytes) {
            Ok(decoded) => decoded,
            Err(DecodeFailure::Rejected(why)) => return Ok(Outcome::Reject(why)),
            Err(DecodeFailure::Later(reason)) => return Ok(Outcome::GiveBack(reason)),
        };
        let decode_ms = milliseconds(begun);
        failpoint::pass("decode.after")?;
        progress::enter("assess", name, self.config.assess);
        failpoint::pass("assess.before")?;
        let request = Request { cancel: progress::cancel_flag(), beat: progress::beater(), ..Request::new(self.mode) };
        let pixels = PatchImage { sha256: patch.sha256, rgb: decoded.rgb.clone() };
        let (result, image) = std::thread::scope(|scope| {
            let image = scope.spawn(|| decoded.image());
            ((self.assess)(pixels, &request), image.join())
        });
        let image = image.map_err(|_| std::io::Error::other("the thumbnail's encoder failed"))??;
        failpoint::pass("assess.after")?;
        Ok(match result {
            Ok(assessment) => {
                let times = [("read", read_ms), ("decode_image", decode_ms)];
                match verdict::report(&assessment, &decoded.appearance, &times, &self.rules) {
                    Some(report) => Outcome::Report(Box::new(image), Box::new(report)),
                    None => Outcome::Reject(rejection("no_numbers", "The classifier's probabilities are no numbers")),
                }
            }
            Err(error) => self.assess_error(error),
        })
    }

    fn assess_error(&self, error: EngineError) -> Outcome {
        match error {
            EngineError::Image(message) => Outcome::Reject(rejection("unsuitable_image", message)),
            EngineError::Numbers(message) => Outcome::Reject(rejection("no_numbers", message)),
            EngineError::Cancelled if self.halt.load(Ordering::Relaxed) => Outcome::GiveBack("the program is ending".into()),
            EngineError::Cancelled => {
                let seconds = self.config.assess.as_secs();
                Outcome::TryAgain(rejection("timed_out", format!("The model made no progress for {seconds} s")))
            }
            EngineError::Memory(message) => Outcome::GiveBack(message),
            EngineError::Gpu(message) => Outcome::End(Failure::new(
                Exit::Internal,
                format!("the GPU was lost: {message}"),
                "",
                "the service manager restarts the appliance; see the kernel's log if it comes back",
            )),
            EngineError::Bundle(message) => Outcome::End(Failure::new(
                Exit::Configuration,
                message,
                self.config.bundle.display().to_string(),
                "export the bundle again",
            )),
            EngineError::Internal(message) => Outcome::TryAgain(rejection("engine_failed", message)),
        }
    }

    fn conclude(&self, job: i64, attempts: u32, file: NewFile, outcome: Outcome) -> Result<(), LedgerError> {
        progress::enter("commit", &names::text(std::os::unix::ffi::OsStrExt::as_bytes(file.path.as_os_str())), READ);
        let rows = match outcome {
            Outcome::Report(image, report) => {
                let (id, rows) = self.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image, &report))?;
                tracing::info!(
                    event = "reported",
                    report = id,
                    class = report.leading_class,
                    p = report.confidence,
                    alpha = report.classified.alpha_text,
                    device = report.provider
                );
                self.pass_point("commit.after");
                rows
            }
            Outcome::Reject(why) => self.reject(job, &why)?,
            Outcome::TryAgain(why) if attempts >= self.config.max_attempts => self.reject(job, &why)?,
            Outcome::TryAgain(why) => {
                self.ledger.write("ledger.release", |tx| record::retry_later(tx, job, &why))?;
                return self.again(job, file, &why.message);
            }
            Outcome::GiveBack(reason) => {
                self.ledger.write("ledger.release", |tx| record::release(tx, job, self.run))?;
                return self.again(job, file, &reason);
            }
            Outcome::End(failure) => {
                self.ledger.write("ledger.release", |tx| record::release(tx, job, self.run))?;
                self.end_with(failure);
                return self.again(job, file, "the program is ending");
            }
        };
        // Twins are in `rows` too: the transaction saw every file that was attached.
        rows.into_iter().try_for_each(|row| self.put_away(row))
    }

    fn reject(&self, job: i64, why: &Rejection) -> Result<Vec<crate::ledger::FileRow>, LedgerError> {
        let rows = self.ledger.write("ledger.reject", |tx| record::reject(tx, job, why))?;
        tracing::error!(event = "rejected", job, code = why.code, message = why.message);
        self.pass_point("reject.after");
        Ok(rows)
    }

    fn again(&self, job: i64, file: NewFile, reason: &str) -> Result<(), LedgerError> {
        self.desk.detach(job);
        let wait = self.desk.later(Task::Judge(file), reason);
        tracing::warn!(event = "retry", job, reason, next_s = wait.as_secs());
        Ok(())
    }

    /// The job may have ended between the claim and the attachment; then its worker has not seen this file on the desk.
    fn settle_attached(&self, job: i64) -> Result<(), LedgerError> {
        if !self.ledger.read(|connection| read::in_flight(connection, job))? {
            self.desk.detach(job);
        }
        Ok(())
    }

    /// A point at which nothing is at stake but the order of events; an injected error there is only logged.
    pub(super) fn pass_point(&self, point: &str) {
        if let Err(error) = failpoint::pass(point) {
            tracing::warn!(event = "failpoint", point, %error);
        }
    }
}

fn rejection(code: &str, message: impl Into<String>) -> Rejection {
    Rejection { code: code.into(), message: message.into() }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
