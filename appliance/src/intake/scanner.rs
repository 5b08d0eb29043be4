//! The thread that looks at the inbox again and again and puts on the desk what lies unchanged. It opens no file: whether one is whole,
//! a worker finds out.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::desk::{Key, Task};
use super::scan::{Folders, Found, Kind, Scan};
use super::settle::{Hint, Next, Rules, Watched, look};
use super::watch::{self, Events, MakeWatcher, Watch};
use super::{Adoption, Intake, Sight, trouble};
use crate::files::{self, Dir, Moved, Source, Stamp, names};
use crate::ledger::open::network_file_system;
use crate::ledger::{NewFile, Rejection, read};
use crate::{clock, config, progress, world};

/// Least and most time between the looks of a burst.
const SOONEST: Duration = Duration::from_millis(5);
const LATEST: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_secs(5);
/// A name that may be a copying tool's is taken only when the file lies unchanged for this long.
const TEMPORARY: Duration = Duration::from_secs(20);
const SETTLE_POLLING: Duration = Duration::from_secs(10);
const BUDGET: Duration = Duration::from_secs(120);

/// The scanner.
pub struct Scanner {
    intake: Arc<Intake>,
    watch: Watch,
    folders: Folders,
    /// When every folder was read.
    whole: Option<Duration>,
    rules: Rules,
    watched: HashMap<PathBuf, (Watched, Hint)>,
    settling: usize,
    troubles: u32,
    /// The share of the last look that the next one will repeat.
    again: f64,
}

impl Scanner {
    /// A scanner for the calling thread.
    pub fn new(intake: Arc<Intake>) -> Scanner {
        Scanner::with(intake, watch::recommended())
    }

    /// A scanner for the calling thread that is told by watchers which `make` makes.
    pub fn with(intake: Arc<Intake>, make: MakeWatcher) -> Scanner {
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
        let watch = Watch::new(&config.inbox, polling, make);
        Scanner {
            intake,
            watch,
            folders: Folders::default(),
            whole: None,
            rules,
            watched: HashMap::new(),
            settling: 0,
            troubles: 0,
            again: 1.0,
        }
    }

    /// Scans until the program ends.
    pub fn run(self) {
        let _together = super::EndTogether;
        self.look_on();
    }

    /// As [`Scanner::run`], for a thread whose death somebody else notices.
    pub fn look_on(mut self) {
        let intake = self.intake.clone();
        intake.board.join();
        while !intake.stopping() {
            progress::enter("scan", "", BUDGET);
            let begun = clock::boot();
            let wait = self.pass();
            progress::idle();
            self.wait(wait, clock::boot().saturating_sub(begun).mul_f64(self.again));
        }
    }

    /// Until something happens or the time is over. The first event is answered at once; a burst is taken in looks that leave the
    /// machine at least four fifths of the time. `look`: how long the next one will take.
    fn wait(&self, time: Duration, look: Duration) {
        let begun = clock::boot();
        let waited = || clock::boot().saturating_sub(begun);
        while waited() < time && !self.intake.stopping() && !self.watch.take_dirty() && !self.intake.patience.take_returned() {
            // A worker may have put a file off since `time` was reckoned.
            self.intake.desk.wake(clock::boot());
            world::park(time.saturating_sub(waited()).min(Duration::from_secs(1)));
        }
        let pace = (look * 4).clamp(SOONEST, LATEST);
        if !self.intake.stopping() {
            world::sleep(pace.saturating_sub(waited()));
        }
    }

    /// One look at the inbox; how long nothing will be due.
    fn pass(&mut self) -> Duration {
        let now = clock::boot();
        let due = self.intake.desk.wake(now).map(|due| due.saturating_sub(now));
        // Before the scan: a file that is renamed in after it must keep its hint for the next look.
        let events = self.watch.take_events();
        if events.missed || self.whole.is_none_or(|at| now.saturating_sub(at) >= QUIET) {
            self.folders.doubt_all();
            self.whole = Some(now);
        }
        let scan = match self.open().and_then(|root| self.scan(&root, &events)) {
            Ok(scan) => scan,
            Err(reason) => return self.blind(&reason),
        };
        self.troubles = 0;
        self.again = if self.watch.polling().is_some() { 1.0 } else { scan.again };
        let next = self.judge(&scan, events.hints, now);
        self.report(&scan);
        let longest = if self.watch.polling().is_some() { POLL } else { QUIET };
        let waits = [next, due, Some(longest)];
        waits.into_iter().flatten().min().unwrap_or(longest)
    }

    fn scan(&mut self, root: &Dir, events: &Events) -> Result<Scan, String> {
        let Scanner { intake, watch, folders, .. } = self;
        // What was there before the inbox went away tells of nothing any more.
        if self.troubles > 0 {
            watch.renew();
        }
        watch.try_again();
        let left_alone = [intake.config.ignore.as_slice(), intake.config.sidecars.as_slice()];
        let rests = |file: &NewFile| intake.desk.rests(&file.path, &file.stamp);
        let cover = |folder: Option<&Path>, gone: &[PathBuf]| {
            watch.let_go(gone);
            folder.is_some_and(|folder| watch.cover(folder))
        };
        let scan = folders.look(root, &left_alone, &events.touched, cover, rests).map_err(|error| error.to_string())?;
        if watch.polling().is_some() {
            folders.doubt_all();
        }
        Ok(scan)
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
        // Whatever it is that comes back, nothing is known of it.
        (self.folders, self.whole) = (Folders::default(), None);
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
        *sight = Sight { settling: self.settling, blind: None, notices, ready: true };
    }

    /// What rested in the inbox and left it goes to whoever puts away: its row is to say so. What is only passed over now, e.g. for a new
    /// `ignore`, or cannot be looked at, rests on.
    fn let_go(&self, scan: &Scan, present: &HashSet<(&Path, Stamp)>) {
        // Folders in which all rests are not read at every look.
        let looked_at: HashSet<&Path> = scan.read.iter().chain(&scan.gone).map(PathBuf::as_path).collect();
        let gone = |key: &Key| !present.contains(&(key.path.as_path(), key.stamp));
        let departed = self.intake.desk.take_departed(looked_at.into_iter(), gone);
        if departed.is_empty() {
            return;
        }
        let root = self.intake.folder.inbox();
        for key in departed {
            let source = root.as_ref().map(|root| Source { root, path: &key.path, stamp: key.stamp, sha256: None });
            if !source.is_ok_and(|source| matches!(files::state(&source), Ok(Moved::Gone | Moved::Changed))) {
                self.intake.desk.rest(key);
                continue;
            }
            match self.intake.ledger.read(|connection| read::resting(connection, &key.path, &key.stamp)) {
                Ok(Some(row)) => drop(self.intake.desk.offer(Task::PutAway(Box::new(row)))),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(event = "departed", file = names::shown(&key.path), %error);
                    self.intake.desk.rest(key);
                }
            }
        }
    }

    /// Looks at every file that nobody has yet; when the next one may be due.
    fn judge(&mut self, scan: &Scan, mut hints: HashMap<PathBuf, Hint>, now: Duration) -> Option<Duration> {
        let present: HashSet<(&Path, Stamp)> =
            scan.files.iter().map(|found| (found.file.path.as_path(), found.file.stamp)).collect();
        self.let_go(scan, &present);
        self.intake.patience.forget(|key| !present.contains(&(key.path.as_path(), key.stamp)));
        self.settling = 0;
        let mut before = std::mem::take(&mut self.watched);
        let mut next: Option<Duration> = None;
        for found in &scan.files {
            progress::beat();
            if self.intake.desk.rests(&found.file.path, &found.file.stamp) {
                continue;
            }
            if self.intake.desk.holds(&Key::from(&found.file)) {
                // It may be given back as unfinished: its time goes on.
                if let Some(earlier) = before.remove(&found.file.path) {
                    self.watched.insert(found.file.path.clone(), earlier);
                }
                continue;
            }
            let hint = hints.remove(&found.file.path);
            let earlier = before.remove(&found.file.path);
            if let Some(wait) = self.look_at(found, earlier, hint, now) {
                next = Some(next.map_or(wait, |next| next.min(wait)));
            }
        }
        next
    }

    fn look_at(
        &mut self,
        found: &Found,
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
        // What a copying tool may rename in a moment settles long, whatever an event says.
        let temporary = file.path.file_name().is_some_and(names::may_be_temporary);
        let hint = if temporary { Hint::None } else { hint };
        let rules = Rules { settle: self.rules.settle.max(if temporary { TEMPORARY } else { Duration::ZERO }), ..self.rules };
        let (watched, next) = look(before, file.stamp, hint, now, &rules);
        let wait = match next {
            Next::Wait(wait) => wait,
            Next::Empty => {
                let why = Rejection { code: "zero_bytes".into(), message: "The file has no bytes and stayed so".into() };
                self.intake.desk.offer(Task::Reject(file.clone(), why));
                return None;
            }
            Next::Probe { last } => {
                if last {
                    self.intake.patience.end(Key::from(file));
                }
                // A rename promises completeness once; if the end mark is not there the promise is void.
                let hint = if hint == Hint::RenamedIn { Hint::None } else { hint };
                self.watched.insert(file.path.clone(), (watched, hint));
                self.intake.desk.offer(Task::Judge(file.clone()));
                return None;
            }
        };
        self.settling += 1;
        self.watched.insert(file.path.clone(), (watched, hint));
        Some(wait)
    }
}
