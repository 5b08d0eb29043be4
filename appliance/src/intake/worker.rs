//! The threads that take a file from the desk to its end: read, claim, look (in the child), assess, commit, put away.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::desk::{Key, Task};
use super::patch::{self, ReadError};
use super::{Intake, trouble};
use crate::assess::bytes::Bytes;
use crate::assess::pipeline::{self, NoPatch, Patch};
use crate::assess::reader::{Decoder, Found, Reader, Unread};
use crate::assess::wire::{Ask, Want};
use crate::clock::milliseconds;
use crate::config::Damaged;
use crate::engine::{EngineError, Request};
use crate::error::{Exit, Failure};
use crate::files::names;
use crate::ledger::{Claim, Hold, Image, LedgerError, NewFile, NewReport, Rejection, read, record};
use crate::{failpoint, progress, world};

const READ: Duration = Duration::from_secs(120);
const SPACE_AGAIN: Duration = Duration::from_secs(30);

/// How the work on a claimed image ended.
enum Outcome {
    Report(Box<Image>, Box<NewReport>),
    Reject(Rejection),
    /// A whole slide: it stays where it is.
    Refuse(Rejection),
    /// It has not arrived as a whole; what is missing.
    Unfinished(String),
    /// Not the image's fault: the attempt is given back.
    GiveBack(String),
    /// Nor any image's: the attempt is given back and nothing is taken for a while.
    Pause(String),
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
    let mut reader = Reader::new(intake.reading.clone());
    if let Err(error) = reader.start() {
        tracing::warn!(event = "decoder", %error);
    }
    work_with(intake, &mut reader);
}

/// As [`work`] with any decoder, for a thread that is on the board and whose death somebody else notices.
pub fn work_with(intake: &Intake, reader: &mut dyn Decoder) {
    loop {
        progress::idle();
        let Some(task) = intake.desk.take() else { return };
        let key = task.key();
        match intake.perform(task, reader) {
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
    fn perform(&self, task: Task, reader: &mut dyn Decoder) -> Result<(), LedgerError> {
        match task {
            Task::Judge(file) => self.judge(file, reader),
            Task::Reject(file, why) => self.end_unread(&file, &why, false),
            Task::Refuse(file, why) => self.end_unread(&file, &why, true),
            Task::PutAway(row) => self.put_away(vec![*row]),
        }
    }

    /// A file ends without a job.
    fn end_unread(&self, file: &NewFile, why: &Rejection, stays: bool) -> Result<(), LedgerError> {
        let row = self.ledger.write("ledger.reject", |tx| record::reject_file(tx, file, why, stays))?;
        self.put_away(vec![row])
    }

    /// The one way of every settled file: open, size, read, claim, and only then the first look at its content.
    fn judge(&self, file: NewFile, reader: &mut dyn Decoder) -> Result<(), LedgerError> {
        let name = names::shown(&file.path);
        progress::enter("read", &name, READ);
        if self.wait_for_space(file.stamp.size.min(self.config.max_file))? {
            self.desk.forget(&Key::from(&file));
            return Ok(());
        }
        progress::enter("read", &name, READ);
        let begun = Instant::now();
        let root = self.folder.inbox().map_err(ReadError::Io);
        let opened = root.and_then(|root| patch::open(&root, &file.path, &file.stamp));
        let mut opened = match opened {
            Ok(opened) => opened,
            Err(error) => return self.unread(file, error),
        };
        if file.stamp.size > self.config.max_file {
            return self.judge_large(file, &opened, reader);
        }
        let read = patch::has_holes(&opened, file.stamp.size).and_then(|hollow| {
            let patient = !self.patience.is_over(&Key::from(&file));
            // Whatever is in it: it waits, so nobody need read it.
            let bytes = if hollow && patient { None } else { Some(patch::read(&mut opened, &file.stamp)?) };
            let lenient = self.config.damaged == Damaged::Abstain;
            Ok((bytes, Ask { want: Want::Image { thumbnail: true }, name: last_name(&file), hollow, patient, lenient }))
        });
        match read {
            Ok((Some(bytes), ask)) => self.judge_read(file, &name, &bytes, &ask, milliseconds(begun), reader),
            Ok((None, _)) => {
                self.wait_on(&file, "a part of it is only reserved");
                Ok(())
            }
            Err(error) => self.unread(file, error),
        }
    }

    fn judge_read(
        &self,
        file: NewFile,
        name: &str,
        bytes: &Bytes,
        ask: &Ask,
        read_ms: f64,
        reader: &mut dyn Decoder,
    ) -> Result<(), LedgerError> {
        progress::idle();
        let _permit = self.permit(&bytes.sha256)?;
        progress::enter("claim", name, READ);
        static TOKEN: AtomicI64 = AtomicI64::new(1);
        let token = TOKEN.fetch_add(1, Ordering::Relaxed);
        let (run, bundle) = (self.run, self.bundle);
        match self.ledger.write("ledger.claim", |tx| record::claim(tx, &file, &bytes.sha256, bundle, run, token))? {
            Claim::Known(row) => self.put_away(vec![*row]),
            Claim::Attached { job } => {
                self.desk.attach(file, job);
                self.settle_attached(job, &bytes.sha256)
            }
            Claim::Work { job, attempts } => {
                let outcome = self.assess_claimed(name, bytes, ask, read_ms, reader);
                self.conclude(Hold { job, run, token }, attempts, file, outcome)
            }
        }
    }

    /// A file above the limit is never read: it fails when it is there as a whole, or is a slide and stays. A child that dies of it ends the question.
    fn judge_large(&self, file: NewFile, opened: &std::fs::File, reader: &mut dyn Decoder) -> Result<(), LedgerError> {
        let (size, limit) = (file.stamp.size >> 20, self.config.max_file >> 20);
        let too_large = rejection("file_too_large", format!("The file has {size} MB, the limit is {limit} MB"));
        progress::enter("decode", &names::shown(&file.path), self.config.decode + Duration::from_secs(10));
        let patient = !self.patience.is_over(&Key::from(&file));
        match patch::has_holes(opened, file.stamp.size) {
            Ok(true) if patient => {
                self.wait_on(&file, "a part of it is only reserved");
                return Ok(());
            }
            Ok(_) => {}
            Err(error) => return self.unread(file, error),
        }
        let ask = Ask { want: Want::Slide, name: last_name(&file), hollow: false, patient, lenient: false };
        match reader.ask(&ask, std::os::fd::AsFd::as_fd(opened)) {
            Ok(Found::Slide(vendor, size)) => {
                self.end_unread(&file, &pipeline::whole_slide(&vendor, size, self.config.max_side), true)
            }
            Ok(Found::Unfinished(what)) if patient => {
                self.wait_on(&file, &what);
                Ok(())
            }
            Ok(_) | Err(Unread::Rejected(_)) => self.end_unread(&file, &too_large, false),
            Err(Unread::Died(why)) => {
                tracing::warn!(event = "decoder", code = why.code, message = why.message);
                self.end_unread(&file, &too_large, false)
            }
            Err(Unread::Later(reason)) => {
                let wait = self.desk.later(Task::Judge(file), &reason);
                tracing::warn!(event = "retry", reason, next_s = wait.as_secs());
                Ok(())
            }
        }
    }

    /// The file is not whole: back to the scanner, or, when it waited long enough, to an end.
    fn wait_on(&self, file: &NewFile, what: &str) {
        tracing::debug!(event = "unfinished", file = names::shown(&file.path), what);
        self.desk.forget(&Key::from(file));
        self.patience.give_back();
    }

    /// The image was not read; who looks again when.
    fn unread(&self, file: NewFile, error: ReadError) -> Result<(), LedgerError> {
        match error {
            ReadError::Gone | ReadError::Changed => match self.ledger.write("ledger.left", |tx| record::gone(tx, &file))? {
                Some(row) => self.put_away(vec![row])?,
                None => self.desk.forget(&Key::from(&file)),
            },
            ReadError::Special => {
                self.end_unread(&file, &rejection("not_a_file", "This is no regular file"), false)?;
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

    /// Waits while a disk is nearly full, and puts judged files away meanwhile, which may make room; true when the program is ending.
    fn wait_for_space(&self, size: u64) -> Result<bool, LedgerError> {
        let needed = trouble::needed_space(self.config.min_free, size);
        let Some((free, folder)) = self.free_space().filter(|(free, _)| *free < needed) else { return Ok(self.stopping()) };
        tracing::warn!(event = "paused", reason = "disk", free_mb = free >> 20, needed_mb = needed >> 20);
        let wanted = trouble::resume_space(needed);
        let words = |free: u64, folder: &Path| {
            format!("disk nearly full: {} MB free at {}, {} MB needed", free >> 20, folder.display(), wanted >> 20)
        };
        let pause = self.desk.pause(words(free, &folder));
        while !self.nap(SPACE_AGAIN) {
            match self.free_space().filter(|(free, _)| *free < wanted) {
                Some((free, folder)) => pause.say(words(free, &folder)),
                None => return Ok(false),
            }
            while let Some(row) = pause.take_judged() {
                self.put_away(vec![row])?;
            }
            progress::idle();
        }
        Ok(true)
    }

    /// An image during which the program died must have the engine for itself, or it takes others along.
    fn permit(&self, sha256: &[u8; 32]) -> Result<Permit<'_>, LedgerError> {
        let suspect = self.ledger.read(|connection| read::is_suspect(connection, sha256))?;
        Ok(match suspect {
            true => Permit::Alone(world::write(&self.alone)),
            false => Permit::Shared(world::read(&self.alone)),
        })
    }

    fn assess_claimed(&self, name: &str, bytes: &Bytes, ask: &Ask, read_ms: f64, reader: &mut dyn Decoder) -> Outcome {
        match self.try_assess(name, bytes, ask, read_ms, reader) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::GiveBack(error.to_string()),
        }
    }

    fn try_assess(
        &self,
        name: &str,
        bytes: &Bytes,
        ask: &Ask,
        read_ms: f64,
        reader: &mut dyn Decoder,
    ) -> std::io::Result<Outcome> {
        failpoint::pass("claim.after")?;
        progress::enter("decode", name, self.config.decode + Duration::from_secs(10));
        let patch = match pipeline::decode(reader, bytes, ask, read_ms) {
            Ok(patch) => patch,
            Err(NoPatch::Slide(why)) => return Ok(Outcome::Refuse(why)),
            Err(NoPatch::Unfinished(what)) => return Ok(Outcome::Unfinished(what)),
            Err(NoPatch::Unread(unread)) => return Ok(outcome_of(unread)),
        };
        failpoint::pass("decode.after")?;
        progress::enter("assess", name, self.config.assess);
        failpoint::pass("assess.before")?;
        let request = Request { cancel: progress::cancel_flag(), beat: progress::beater(), ..Request::new(self.mode) };
        let pixels = patch.image();
        let (result, image) = std::thread::scope(|scope| {
            let image = scope.spawn(|| ledger_image(&patch, reader.thumbnail()));
            ((self.assess)(pixels, &request), image.join())
        });
        let image = match image.map_err(|_| std::io::Error::other("the image's row could not be made"))? {
            Ok(image) => image,
            Err(unread) => return Ok(outcome_of(unread)),
        };
        failpoint::pass("assess.after")?;
        Ok(match result {
            Ok(assessment) => match patch.report(&assessment, &self.rules) {
                Some(report) => Outcome::Report(Box::new(image), Box::new(report)),
                None => Outcome::Reject(rejection("no_numbers", "The classifier's probabilities are no numbers")),
            },
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
            EngineError::Memory(message) => Outcome::Pause(format!("not enough memory: {message}")),
            EngineError::Gpu(message) => Outcome::End(Failure::new(
                Exit::Internal,
                format!("the GPU was lost: {message}"),
                "",
                "the service manager restarts the appliance; see the kernel's log if it comes back",
            )),
            EngineError::Bundle(message) | EngineError::TooLarge(message) => Outcome::End(Failure::new(
                Exit::Configuration,
                message,
                self.config.bundle.display().to_string(),
                "export the bundle again",
            )),
            EngineError::Library(message) => {
                Outcome::End(Failure::new(Exit::Configuration, message, "", "run the set-up or install the package again"))
            }
            EngineError::Internal(message) => Outcome::TryAgain(rejection("engine_failed", message)),
        }
    }

    fn conclude(&self, hold: Hold, attempts: u32, file: NewFile, outcome: Outcome) -> Result<(), LedgerError> {
        let job = hold.job;
        progress::enter("commit", &names::shown(&file.path), READ);
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
            Outcome::Reject(why) => self.reject(&hold, &why)?,
            Outcome::Refuse(why) => {
                self.ledger.write("ledger.release", |tx| record::unclaim(tx, &hold))?;
                self.desk.detach(job);
                return self.end_unread(&file, &why, true);
            }
            Outcome::Unfinished(what) if self.patience.is_over(&Key::from(&file)) => {
                let seconds = self.config.incomplete.as_secs();
                let message = format!("The file ends in the middle ({what}) and did not change for {seconds} s");
                self.reject(&hold, &rejection("truncated", message))?
            }
            Outcome::Unfinished(what) => {
                self.ledger.write("ledger.release", |tx| record::unclaim(tx, &hold))?;
                self.desk.detach(job);
                self.wait_on(&file, &what);
                return Ok(());
            }
            Outcome::TryAgain(why) if attempts >= self.config.max_attempts => self.reject(&hold, &why)?,
            Outcome::TryAgain(why) => {
                self.ledger.write("ledger.release", |tx| record::retry_later(tx, &hold, &why))?;
                return self.again(job, file, &why.message);
            }
            Outcome::GiveBack(reason) => {
                self.ledger.write("ledger.release", |tx| record::release(tx, &hold))?;
                return self.again(job, file, &reason);
            }
            Outcome::Pause(reason) => {
                self.ledger.write("ledger.release", |tx| record::release(tx, &hold))?;
                self.again(job, file, &reason)?;
                let _pause = self.desk.pause(reason);
                self.nap(SPACE_AGAIN);
                return Ok(());
            }
            Outcome::End(failure) => {
                self.ledger.write("ledger.release", |tx| record::release(tx, &hold))?;
                self.end_with(failure);
                return self.again(job, file, "the program is ending");
            }
        };
        // Twins are in `rows` too: the transaction saw every file that was attached, or waited from before.
        let own = Key::from(&file);
        let mine = |row: &crate::ledger::FileRow| {
            let key = Key::from(row);
            key == own || self.desk.take_over(key)
        };
        self.put_away(rows.into_iter().filter(mine).collect())
    }

    fn reject(&self, hold: &Hold, why: &Rejection) -> Result<Vec<crate::ledger::FileRow>, LedgerError> {
        let rows = self.ledger.write("ledger.reject", |tx| record::reject_held(tx, hold, why))?;
        tracing::error!(event = "rejected", job = hold.job, code = why.code, message = why.message);
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
    fn settle_attached(&self, job: i64, sha256: &[u8; 32]) -> Result<(), LedgerError> {
        if !self.ledger.read(|connection| read::in_flight(connection, job, sha256))? {
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

/// What a child without an answer means for its file.
fn outcome_of(unread: Unread) -> Outcome {
    match unread {
        Unread::Rejected(why) => Outcome::Reject(why),
        Unread::Died(why) => Outcome::TryAgain(why),
        Unread::Later(reason) => Outcome::GiveBack(reason),
    }
}

/// What goes into the ledger about an image, made while it is being assessed.
fn ledger_image(patch: &Patch, thumbnail: Result<Vec<u8>, Unread>) -> Result<Image, Unread> {
    let rgb = &patch.decoded.rgb;
    let (width, height) = (rgb.width as u32, rgb.height as u32);
    let mut hash = Sha256::new();
    hash.update(width.to_le_bytes());
    hash.update(height.to_le_bytes());
    hash.update(&rgb.pixels);
    Ok(Image {
        format: patch.decoded.format.clone(),
        width,
        height,
        pixels_sha256: hash.finalize().into(),
        microns_per_pixel: patch.decoded.appearance.microns_per_pixel,
        thumbnail: thumbnail?,
    })
}

fn last_name(file: &NewFile) -> String {
    file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn rejection(code: &str, message: impl Into<String>) -> Rejection {
    Rejection { code: code.into(), message: message.into() }
}
