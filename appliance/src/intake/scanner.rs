//! The thread that looks at the inbox again and again and puts on the desk what is complete.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use mmlnb_models::prepare::completeness::{Completeness, probe};
use mmlnb_models::prepare::whole_slide;

use super::desk::{Key, Task};
use super::patch::{self, ReadError};
use super::scan::{Found, Kind, Scan, scan};
use super::settle::{Hint, Next, Rules, Watched, look};
use super::watch::Watch;
use super::{Adoption, Intake, trouble};
use crate::config;
use crate::files::Dir;
use crate::ledger::open::network_file_system;
use crate::ledger::{NewFile, Rejection};
use crate::progress;

/// Least and most time between the looks of a burst.
const SOONEST: Duration = Duration::from_millis(5);
const LATEST: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_secs(5);
const SETTLE_POLLING: Duration = Duration::from_secs(10);
const BUDGET: Duration = Duration::from_secs(120);

/// What the scanner sees, for the status.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Files that are still being written.
    pub settling: usize,
    /// Why nothing can be seen.
    pub blind: Option<String>,
    /// Anything that is not as it should be.
    pub notices: Vec<String>,
    /// Whether the first scan is done.
    pub ready: bool,
}

/// The scanner.
pub struct Scanner {
    intake: Arc<Intake>,
    watch: Watch,
    rules: Rules,
    watched: HashMap<PathBuf, (Watched, Hint)>,
    troubles: u32,
}

impl Scanner {
    /// A scanner for the calling thread.
    pub fn new(intake: Arc<Intake>) -> Scanner {
        let config = &intake.config;
        let polling = match config.watch {
            config::Watch::Poll => Some("the inbox is polled, as configured".to_owned()),
            config::Watch::Inotify => None,
            config::Watch::Auto => match network_file_system(&config.inbox) {
                Ok(Some(kind)) => Some(format!("the inbox is polled: it is on {kind}")),
                _ => None,
            },
        };
        let settle = if polling.is_some() { config.settle.max(SETTLE_POLLING) } else { config.settle };
        let rules = Rules { settle, incomplete: config.incomplete };
        let watch = Watch::new(&config.inbox, polling);
        Scanner { intake, watch, rules, watched: HashMap::new(), troubles: 0 }
    }

    /// Scans until the program ends.
    pub fn run(mut self) {
        let _together = super::EndTogether;
        let intake = self.intake.clone();
        intake.board.join();
        while !intake.stopping() {
            progress::enter("scan", "", BUDGET);
            let begun = Instant::now();
            let wait = self.pass();
            progress::idle();
            self.wait(wait, begun.elapsed());
        }
    }

    /// Until something happens or the time is over. The first event is answered at once; a burst is taken in looks that leave the
    /// machine at least four fifths of the time.
    fn wait(&self, time: Duration, looked: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time && !self.intake.stopping() && !self.watch.take_dirty() {
            // A worker may have put a file off since `time` was reckoned.
            self.intake.desk.wake(crate::clock::boot());
            std::thread::park_timeout((time - begun.elapsed().min(time)).min(Duration::from_secs(1)));
        }
        let pace = (looked * 4).clamp(SOONEST, LATEST);
        if !self.intake.stopping() {
            std::thread::sleep(pace.saturating_sub(begun.elapsed()));
        }
    }

    /// One look at the inbox; how long nothing will be due.
    fn pass(&mut self) -> Duration {
        let now = crate::clock::boot();
        let due = self.intake.desk.wake(now).map(|due| due.saturating_sub(now));
        // Before the scan: a file that is renamed in after it must keep its hint for the next look.
        let hints = self.watch.take_hints();
        let (root, scan) = match self.open().and_then(|root| Ok((scan(&root).map_err(|error| error.to_string())?, root))) {
            Ok((scan, root)) => (root, scan),
            Err(reason) => return self.blind(&reason),
        };
        if std::mem::take(&mut self.troubles) > 0 {
            self.watch.renew();
        }
        let gap = self.watch.follow(&scan.folders);
        let next = self.judge(&scan, &root, hints, now);
        self.report(&scan);
        let longest = if self.watch.polling().is_some() { POLL } else { QUIET };
        let waits = [next, due, gap.then_some(Duration::ZERO), Some(longest)];
        waits.into_iter().flatten().min().unwrap_or(longest)
    }

    /// The inbox; one that was absent at the start is adopted when it comes.
    fn open(&self) -> Result<Dir, String> {
        match self.intake.folder.adopt(&self.intake.ledger) {
            Ok(Adoption::Held) => self.intake.folder.inbox().map_err(|error| error.to_string()),
            Ok(Adoption::Absent(reason)) => Err(reason),
            Err(failure) => Err(failure.problems.into_iter().map(|problem| problem.what).collect::<Vec<_>>().join("; ")),
        }
    }

    fn blind(&mut self, reason: &str) -> Duration {
        self.troubles += 1;
        let wait = trouble::backoff(self.troubles, 0.5).min(QUIET);
        tracing::warn!(event = "inbox_missing", reason, next_s = wait.as_secs());
        let mut sight = self.intake.sight.lock().unwrap_or_else(PoisonError::into_inner);
        sight.blind = Some(format!("the inbox cannot be read: {reason}"));
        wait
    }

    fn report(&self, scan: &Scan) {
        let mut notices = scan.problems.clone();
        if self.watch.is_limited() {
            notices.extend(self.watch.polling().map(str::to_owned));
        }
        let mut sight = self.intake.sight.lock().unwrap_or_else(PoisonError::into_inner);
        *sight = Sight { settling: self.watched.len(), blind: None, notices, ready: true };
    }

    /// Looks at every file that nobody has yet; when the next one may be due.
    fn judge(&mut self, scan: &Scan, root: &Dir, mut hints: HashMap<PathBuf, Hint>, now: Duration) -> Option<Duration> {
        let present: HashSet<Key> = scan.files.iter().map(|found| Key::from(&found.file)).collect();
        self.intake.desk.retain_resting(&present);
        let mut before = std::mem::take(&mut self.watched);
        let mut next: Option<Duration> = None;
        for found in &scan.files {
            progress::beat();
            if self.intake.desk.holds(&Key::from(&found.file)) {
                continue;
            }
            let hint = hints.remove(&found.file.path);
            let earlier = before.remove(&found.file.path);
            if let Some(wait) = self.look_at(found, root, earlier, hint, now) {
                next = Some(next.map_or(wait, |next| next.min(wait)));
            }
        }
        next
    }

    fn look_at(
        &mut self,
        found: &Found,
        root: &Dir,
        earlier: Option<(Watched, Hint)>,
        hint: Option<Hint>,
        now: Duration,
    ) -> Option<Duration> {
        let file = &found.file;
        if let Kind::Special(what) = found.kind {
            let why = Rejection { code: "not_a_file".into(), message: format!("This is {what}, not a file") };
            self.intake.desk.offer(Task::Reject(file.clone(), why));
            return None;
        }
        let (before, kept) = earlier.unzip();
        let hint = hint.or(kept).unwrap_or_default();
        let (watched, next) = look(before, file.stamp, hint, now, &self.rules);
        let wait = match next {
            Next::Wait(wait) => wait,
            Next::Empty => {
                let why = Rejection { code: "zero_bytes".into(), message: "The file has no bytes and stayed so".into() };
                self.intake.desk.offer(Task::Reject(file.clone(), why));
                return None;
            }
            Next::Probe { last } => match self.probe(file, root, last) {
                Some(task) => {
                    self.intake.desk.offer(task);
                    return None;
                }
                None => Duration::from_secs(1),
            },
        };
        // A rename promises completeness once; if the end mark is not there the promise is void.
        let hint = if hint == Hint::RenamedIn { Hint::None } else { hint };
        self.watched.insert(file.path.clone(), (watched, hint));
        Some(wait)
    }

    /// What to do with a settled file; nothing when it is not complete.
    fn probe(&self, file: &NewFile, root: &Dir, last: bool) -> Option<Task> {
        let mut opened = match patch::open(root, &file.path, &file.stamp) {
            Ok(opened) => opened,
            Err(ReadError::Gone | ReadError::Changed) => return None,
            Err(ReadError::Denied | ReadError::Special | ReadError::Io(_)) => return Some(Task::Judge(file.clone())),
        };
        let name = file.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        match whole_slide::recognise(&mut opened, &name, self.intake.config.max_side) {
            Ok(Some(slide)) => return Some(Task::Refuse(file.clone(), self.whole_slide(&slide))),
            Ok(None) => {}
            Err(_) => return Some(Task::Judge(file.clone())),
        }
        let limit = self.intake.config.max_file;
        if file.stamp.size > limit {
            let message = format!("The file has {} MB, the limit is {} MB", file.stamp.size >> 20, limit >> 20);
            return Some(Task::Reject(file.clone(), Rejection { code: "file_too_large".into(), message }));
        }
        let what = match probe(&mut opened) {
            Ok(Completeness::Incomplete(what)) => what,
            Ok(Completeness::Unknown) if begins_blank(&mut opened) => "its beginning is not written",
            Ok(Completeness::Complete { .. } | Completeness::Unknown) | Err(_) => return Some(Task::Judge(file.clone())),
        };
        last.then(|| {
            let seconds = self.rules.incomplete.as_secs();
            let message = format!("The file ends in the middle ({what}) and did not change for {seconds} s");
            Task::Reject(file.clone(), Rejection { code: "truncated".into(), message })
        })
    }

    fn whole_slide(&self, slide: &whole_slide::WholeSlide) -> Rejection {
        let size = slide.size.map(|(width, height)| format!(", {width} x {height} px")).unwrap_or_default();
        let limit = self.intake.config.max_side;
        let message =
            format!("This is a whole slide ({}{size}); this appliance reads patches up to {limit} px a side", slide.vendor);
        Rejection { code: "whole_slide".into(), message }
    }
}

/// Whether the first bytes are only zeros, or the beginning of a known mark: a writer that has made room and not begun yet.
fn begins_blank(file: &mut std::fs::File) -> bool {
    let mut head = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.by_ref().take(16).read_to_end(&mut head));
    read.is_ok() && is_blank(&head)
}

fn is_blank(head: &[u8]) -> bool {
    const MARKS: [&[u8]; 5] = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM"];
    head.iter().all(|byte| *byte == 0) || MARKS.iter().any(|mark| mark.len() > head.len() && mark.starts_with(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_that_was_only_made_is_blank() {
        assert!(is_blank(&[0; 16]));
        assert!(is_blank(b"\x89PN"));
        assert!(is_blank(b"\xff"));
        assert!(!is_blank(b"hello"));
        assert!(!is_blank(b"\x89PNX"));
    }
}
