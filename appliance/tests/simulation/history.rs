//! One history: what people and fate do to the appliance, until they leave it in peace.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mmlnb_appliance::config::Config;
use mmlnb_appliance::error::Exit;
use mmlnb_appliance::ledger::read;
use mmlnb_appliance::world::World;
use rustix::fs::{Timespec, Timestamps};

use crate::below;
use crate::content::{self, Catalogue, Kind};
use crate::machine::{Death, Faults, Machine};
use crate::outcome::{self, Counts, Dropped, Stamp};
use crate::program::{Place, Program};
use crate::watcher::Happened;

/// The service manager starts a program that failed anew after this.
const RESTART: Duration = Duration::from_secs(10);
/// Within this every folder is read, whatever is told of it.
const EVERY_FOLDER: Duration = Duration::from_secs(70);
/// When nothing hinders any more, everything is done within this.
const PEACE: Duration = Duration::from_secs(3600);

/// A file that is being written.
struct Writer {
    file: File,
    path: PathBuf,
    bytes: Vec<u8>,
    written: usize,
    next: Duration,
    codes: &'static [&'static str],
}

pub struct History {
    place: Arc<Place>,
    program: Option<Program>,
    /// When the service manager, or a person, starts it.
    start_at: Option<Duration>,
    asked_to_stop: bool,
    dropped: Vec<Dropped>,
    writers: Vec<Writer>,
    numbers: u32,
    away: bool,
    /// Starts in a row that ended uncleanly and finished nothing.
    fruitless: Vec<Duration>,
    /// The clock was set while the program runs: when it began is not known any more.
    jumped: bool,
    counts: Counts,
    problem: Option<String>,
}

impl History {
    pub fn new(seed: u64, template: &Config, root: &Path, told: bool) -> History {
        let machine = Machine::new(seed, told);
        let [inbox, done, failed, state] = ["inbox", "done", "failed", "state"].map(|name| below(root, name));
        let config = Config {
            inbox,
            done,
            failed,
            status_file: state.join("status.json"),
            state,
            slots: machine.chance(|chance| chance.between(1, 3)),
            settle: Duration::from_secs(2),
            incomplete: Duration::from_secs(60),
            decode: Duration::from_secs(5),
            assess: Duration::from_secs(machine.chance(|chance| chance.pick(&[10, 20, 40]))),
            max_file: 4096,
            ..template.clone()
        };
        let pace = machine.chance(|chance| (chance.time(50, 2000), chance.between(2, 30)));
        let place = Place {
            machine,
            config,
            catalogue: Arc::new(Catalogue::default()),
            pace,
            died: AtomicBool::new(false),
            oom_kills: AtomicUsize::new(0),
        };
        History {
            place: Arc::new(place),
            program: None,
            start_at: Some(Duration::ZERO),
            asked_to_stop: false,
            dropped: Vec::new(),
            writers: Vec::new(),
            numbers: 0,
            away: false,
            fruitless: Vec::new(),
            jumped: false,
            counts: Counts::default(),
            problem: None,
        }
    }

    fn machine(&self) -> &Arc<Machine> {
        &self.place.machine
    }

    fn below_ten(&self) -> usize {
        self.machine().chance(|chance| chance.below(10))
    }

    fn wrong(&mut self, what: String) {
        self.problem.get_or_insert(what);
    }

    /// Tells it; what was wrong.
    pub fn tell(mut self) -> Result<(), String> {
        let acts = self.machine().chance(|chance| chance.between(4, 30));
        for _ in 0..acts {
            self.act();
            let wait =
                self.machine().chance(|chance| if chance.once_in(3) { chance.time(1, 300) } else { chance.time(200, 40_000) });
            self.pass(wait);
            if self.problem.is_some() {
                break;
            }
        }
        if self.problem.is_none() {
            self.leave_in_peace();
        }
        self.end()
    }

    /// Time passes: writers go on, the service manager does its work.
    fn pass(&mut self, time: Duration) {
        let end = self.machine().boot() + time;
        loop {
            self.write_on();
            self.manage();
            let now = self.machine().boot();
            if now >= end || self.problem.is_some() {
                return;
            }
            let next = self.writers.iter().map(|writer| writer.next).chain(self.start_at).chain([end]);
            let next = next.min().map_or(end, |next| next.max(now + Duration::from_millis(1)).min(end));
            // Not asleep for long: the end of the program is to be noticed.
            self.machine().sleep((next - now).min(Duration::from_secs(2)));
        }
    }

    fn act(&mut self) {
        match self.machine().chance(|chance| chance.below(40)) {
            0..14 => self.drop_file(),
            14..17 => self.drop_copy(),
            17 => self.begin_to_write(true),
            18 | 19 => self.begin_to_write(false),
            20 => self.withdraw(),
            21 => self.rename_file(),
            22 => self.rename_case(),
            23 => self.rewrite(),
            24 => self.move_inbox(),
            25 => self.deny(),
            26..29 => self.fail(),
            29 | 30 => self.mend(),
            31 => {
                let seconds = self.machine().chance(|chance| chance.pick(&[-315_000_000, -3600, 90, 86_400, 0]));
                self.machine().say(|| format!("the clock jumps to {seconds} s"));
                self.machine().jump(seconds);
                self.fruitless.clear();
                self.jumped = self.program.is_some();
            }
            32 => self.stop(),
            33 | 34 => {
                let (points, death) = self.machine().chance(|chance| {
                    let death = if chance.once_in(6) { Death::Memory } else { Death::Outside };
                    (chance.between(1, 60) as u64, death)
                });
                self.machine().doom(points, death);
            }
            35 if self.program.is_some() => self.machine().kill(Death::Outside),
            36 => self.retry(),
            37 => self.drop_link(),
            38 => self.move_done(),
            _ => {}
        }
    }

    // People.

    fn fresh(&mut self) -> (Vec<u8>, &'static [&'static str]) {
        self.numbers += 1;
        let number = self.numbers;
        let (kind, filling, cut) = self.machine().chance(|chance| {
            let kind = if chance.once_in(4) { chance.pick(&Kind::BAD) } else { Kind::Good };
            (kind, chance.between(1, 300), chance.below(30))
        });
        let mut bytes = content::image(kind, number, if cut == 1 { 5000 } else { filling });
        self.place.catalogue.add(&bytes, kind, number);
        match cut {
            0 => {
                let keep = self.machine().chance(|chance| chance.between(7, bytes.len() - 1));
                bytes.truncate(keep);
                (bytes, &["truncated"])
            }
            1 => (bytes, &["file_too_large"]),
            2 => (b"no image at all, only words".to_vec(), &["not_an_image"]),
            3 => (Vec::new(), &["zero_bytes"]),
            _ => (bytes, kind.codes()),
        }
    }

    fn fresh_path(&mut self) -> PathBuf {
        self.numbers += 1;
        let folder = self.machine().chance(|chance| chance.pick(&["", "", "S1", "S1", "S2/left", "S3"]));
        Path::new(folder).join(format!("{}.png", self.numbers))
    }

    /// A file comes at once: written and closed, or renamed from a temporary name.
    fn drop_file(&mut self) {
        let (bytes, codes) = self.fresh();
        let path = self.fresh_path();
        self.put(path, bytes, codes);
    }

    /// The bytes of an earlier file come again.
    fn drop_copy(&mut self) {
        if self.dropped.is_empty() {
            return;
        }
        let at = self.machine().chance(|chance| chance.below(self.dropped.len()));
        let (bytes, codes) = (self.dropped[at].bytes.clone(), self.dropped[at].codes);
        let mut path = self.fresh_path();
        if self.below_ten() < 3 {
            path = self.dropped[at].path.clone();
        }
        if codes != ["not_a_file"] {
            self.put(path, bytes, codes);
        }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.place.config.inbox.join(path)
    }

    fn put(&mut self, path: PathBuf, bytes: Vec<u8>, codes: &'static [&'static str]) {
        let full = self.at(&path);
        if self.away || std::fs::symlink_metadata(&full).is_ok() {
            return;
        }
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        let renamed = self.below_ten() < 4;
        let first = if renamed { full.with_extension("png.part") } else { full.clone() };
        std::fs::write(&first, &bytes).unwrap();
        self.set_time(&first);
        if renamed {
            std::fs::rename(&first, &full).unwrap();
        }
        self.machine().say(|| format!("dropped {} ({codes:?}, {} bytes)", path.display(), bytes.len()));
        self.note(path, bytes, codes);
        self.tell_of(if renamed { Happened::RenamedIn } else { Happened::Closed }, &full);
    }

    fn note(&mut self, path: PathBuf, bytes: Vec<u8>, codes: &'static [&'static str]) {
        let found = std::fs::symlink_metadata(self.at(&path)).unwrap();
        self.dropped.push(Dropped { path, bytes, codes, stamp: Stamp::of(&found) });
    }

    fn tell_of(&self, what: Happened, path: &Path) {
        if let Some(program) = &self.program {
            program.watches.tell(self.machine(), what, path);
        }
    }

    fn set_time(&self, path: &Path) {
        set_time(&File::options().append(true).open(path).unwrap(), self.machine().stamp());
    }

    /// A file that grows slowly, and is finished or not; some have their whole size at once.
    fn begin_to_write(&mut self, abandoned: bool) {
        self.numbers += 1;
        let number = self.numbers;
        let path = self.fresh_path();
        let full = self.at(&path);
        if self.away {
            return;
        }
        let filling = self.machine().chance(|chance| chance.between(50, 3000));
        let mut bytes = content::image(Kind::Good, number, filling);
        self.place.catalogue.add(&bytes, Kind::Good, number);
        let mut codes: &[&str] = &[];
        if abandoned {
            let keep = self.machine().chance(|chance| chance.between(7, bytes.len() - 1));
            bytes.truncate(keep);
            codes = &["truncated"];
        }
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        let file = File::options().create_new(true).write(true).open(&full).unwrap();
        set_time(&file, self.machine().stamp());
        self.machine().say(|| format!("begins to write {} ({codes:?}, {} bytes)", path.display(), bytes.len()));
        self.tell_of(Happened::Created, &full);
        self.writers.push(Writer { file, path, bytes, written: 0, next: self.machine().boot(), codes });
    }

    fn write_on(&mut self) {
        let now = self.machine().boot();
        for at in (0..self.writers.len()).rev() {
            if self.writers[at].next > now {
                continue;
            }
            let (piece, wait) = self.machine().chance(|chance| (chance.between(1, 700), chance.time(20, 30_000)));
            let stamp = self.machine().stamp();
            let writer = &mut self.writers[at];
            let end = (writer.written + piece).min(writer.bytes.len());
            writer.file.write_all(&writer.bytes[writer.written..end]).unwrap();
            set_time(&writer.file, stamp);
            (writer.written, writer.next) = (end, now + wait);
            if end == writer.bytes.len() {
                let Writer { file, path, bytes, codes, .. } = self.writers.swap_remove(at);
                let found = file.metadata().unwrap();
                drop(file);
                self.machine().say(|| format!("has written {}", path.display()));
                let full = self.at(&path);
                self.dropped.push(Dropped { path, bytes, codes, stamp: Stamp::of(&found) });
                self.tell_of(Happened::Closed, &full);
            }
        }
    }

    fn lies(&self, dropped: &Dropped) -> bool {
        std::fs::symlink_metadata(self.at(&dropped.path)).is_ok_and(|found| Stamp::of(&found) == dropped.stamp)
    }

    /// One of the files that still lie in the inbox as they were dropped.
    fn lying(&self) -> Option<usize> {
        let lying: Vec<usize> = (0..self.dropped.len()).filter(|at| self.lies(&self.dropped[*at])).collect();
        (!lying.is_empty() && !self.away).then(|| self.machine().chance(|chance| chance.pick(&lying)))
    }

    /// Takes one out of the book, and with it those for which its file lay there too since it was sent back.
    fn take_out(&mut self, at: usize) -> Dropped {
        let taken = self.dropped.swap_remove(at);
        let gone = outcome::went_back(&self.place, &taken.bytes);
        let all = std::mem::take(&mut self.dropped);
        let went = |dropped: &Dropped| dropped.bytes == taken.bytes && gone.contains(&dropped.stamp) && !self.lies(dropped);
        self.dropped = all.into_iter().filter(|dropped| !went(dropped)).collect();
        taken
    }

    fn withdraw(&mut self) {
        let Some(at) = self.lying() else { return };
        let Dropped { path, .. } = self.take_out(at);
        self.machine().say(|| format!("withdrawn: {}", path.display()));
        std::fs::remove_file(self.at(&path)).unwrap();
    }

    fn rename_file(&mut self) {
        let Some(at) = self.lying() else { return };
        let path = self.fresh_path();
        let (from, to) = (self.at(&self.dropped[at].path), self.at(&path));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(from, &to).unwrap();
        self.machine().say(|| format!("renamed: {} to {}", self.dropped[at].path.display(), path.display()));
        self.dropped[at].path = path;
        self.tell_of(Happened::RenamedIn, &to);
    }

    fn rename_case(&mut self) {
        self.numbers += 1;
        let (from, to) = (PathBuf::from("S1"), PathBuf::from(format!("S1-{}", self.numbers)));
        if self.away || std::fs::rename(self.at(&from), self.at(&to)).is_err() {
            return;
        }
        self.machine().say(|| format!("S1 is {} now", to.display()));
        let place = self.place.clone();
        let new = |path: &Path| Some(to.join(path.strip_prefix(&from).ok()?));
        for dropped in &mut self.dropped {
            // Those that have been put away keep the name that they had.
            let lies = |path: &PathBuf| {
                std::fs::symlink_metadata(place.config.inbox.join(path)).is_ok_and(|found| Stamp::of(&found) == dropped.stamp)
            };
            if let Some(path) = new(&dropped.path).filter(lies) {
                dropped.path = path;
            }
        }
        for writer in &mut self.writers {
            writer.path = new(&writer.path).unwrap_or_else(|| writer.path.clone());
        }
    }

    /// Other bytes come under the same name: into the same file, or in a new one that replaces it.
    fn rewrite(&mut self) {
        let Some(at) = self.lying() else { return };
        let Dropped { path, codes, .. } = self.take_out(at);
        let full = self.at(&path);
        if codes == ["not_a_file"] {
            std::fs::remove_file(full).unwrap();
            return;
        }
        let (bytes, codes) = self.fresh();
        let in_place = self.below_ten() < 5;
        self.machine().say(|| format!("rewritten{}: {}", if in_place { " in place" } else { "" }, path.display()));
        match in_place {
            true => std::fs::write(&full, &bytes).unwrap(),
            false => {
                let other = full.with_extension("png.part");
                std::fs::write(&other, &bytes).unwrap();
                std::fs::rename(&other, &full).unwrap();
            }
        }
        self.set_time(&full);
        self.note(path, bytes, codes);
        self.tell_of(if in_place { Happened::Closed } else { Happened::RenamedIn }, &full);
    }

    fn drop_link(&mut self) {
        let path = self.fresh_path();
        let full = self.at(&path);
        if self.away {
            return;
        }
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &full).unwrap();
        self.note(path, Vec::new(), &["not_a_file"]);
    }

    fn retry(&mut self) {
        let Some(program) = &self.program else { return };
        let wanted = self.below_ten();
        let machine = self.machine().clone();
        program.ask(&self.place, move |intake| {
            let Ok(rows) = intake.ledger.read(|connection| read::failed(connection, None)) else { return };
            if let Some(row) = rows.get(wanted % rows.len().max(1)) {
                machine.say(|| format!("retry of {} ({})", row.path_text, row.id));
                // A refusal is for the person to read.
                let result = intake.bring_back(row, "person");
                machine.say(|| format!("retry: {result:?}"));
            }
        });
    }

    /// The inbox goes away, or comes back.
    fn move_inbox(&mut self) {
        let inbox = &self.place.config.inbox;
        let beside = inbox.with_file_name("inbox-away");
        let empty = self.machine().chance(|chance| chance.once_in(2));
        if !self.away && !outcome::is_adopted(&self.place) {
            // What was never adopted is not known again.
            return;
        }
        match self.away {
            false => {
                self.machine().say(|| "the inbox goes away".into());
                std::fs::rename(inbox, &beside).unwrap();
                if empty {
                    std::fs::create_dir(inbox).unwrap();
                }
                if let Some(program) = &self.program {
                    program.watches.lose();
                }
            }
            true => {
                self.machine().say(|| "the inbox comes back".into());
                if inbox.is_dir() && std::fs::remove_dir(inbox).is_err() {
                    let found: Vec<_> = std::fs::read_dir(inbox).unwrap().map(|entry| entry.unwrap().path()).collect();
                    return self.wrong(format!("something was written into an inbox that is not mounted: {found:?}"));
                }
                std::fs::rename(&beside, inbox).unwrap();
            }
        }
        self.away = !self.away;
    }

    /// The folder for reports goes away, or comes back.
    fn move_done(&mut self) {
        let done = &self.place.config.done;
        let beside = done.with_file_name("done-away");
        let (from, to) = if beside.is_dir() { (&beside, done) } else { (done, &beside) };
        self.machine().say(|| format!("{} is {} now", from.display(), to.display()));
        std::fs::rename(from, to).unwrap();
    }

    // Fate.

    fn deny(&mut self) {
        let lying = self.lying();
        let choice = self.below_ten();
        let config = &self.place.config;
        let path = match (choice, lying) {
            (0..5, Some(at)) => Some(self.at(&self.dropped[at].path)),
            _ => None,
        };
        let folder = match choice % 5 {
            0 => config.inbox.join("S1"),
            1 => config.inbox.join("S2"),
            2 => config.done.join("S1"),
            3 => config.failed.join("S1"),
            _ => config.done.clone(),
        };
        self.machine().say(|| format!("denied: {path:?}, or {}", folder.display()));
        self.machine().faults(|faults| match path {
            Some(path) => faults.unreadable.push(path),
            None => faults.closed.push(folder),
        });
    }

    fn fail(&mut self) {
        let choice = self.machine().chance(|chance| chance.below(8));
        self.machine().say(|| format!("fault {choice}"));
        self.machine().faults(|faults| match choice {
            0 => faults.full = true,
            1 => faults.flaky = true,
            2 => faults.ledger = true,
            3 => faults.unheard = true,
            4 => faults.memory = true,
            5 => faults.gpu = true,
            6 => faults.spawn = true,
            _ => faults.watches = true,
        });
        // Some faults last.
        if self.machine().chance(|chance| chance.once_in(5)) {
            self.pass(Duration::from_secs(240));
        }
    }

    fn mend(&mut self) {
        self.machine().say(|| "all faults are mended".into());
        self.machine().faults(|faults| *faults = Faults::default());
    }

    // The service manager.

    fn stop(&mut self) {
        if let Some(program) = &self.program {
            self.machine().say(|| "SIGTERM".into());
            program.signal();
            self.asked_to_stop = true;
            if self.machine().chance(|chance| chance.once_in(3)) {
                let wait = self.machine().chance(|chance| chance.time(10, 3000));
                self.pass(wait);
                self.machine().say(|| "SIGTERM again".into());
                self.program.iter().for_each(Program::signal);
            }
        }
    }

    fn manage(&mut self) {
        let now = self.machine().boot();
        if let Some(panic) = self.machine().panics().into_iter().next() {
            return self.wrong(format!("a thread panicked: {panic}"));
        }
        match &self.program {
            Some(program) if self.machine().death().is_some() || program.ended().is_some() => {
                let program = self.program.take().expect("it is there");
                self.bury(program, now);
            }
            None if self.start_at.is_some_and(|at| at <= now) => {
                self.start_at = None;
                self.asked_to_stop = false;
                self.program = Some(Program::start(&self.place));
            }
            _ => {}
        }
    }

    fn bury(&mut self, program: Program, now: Duration) {
        let ended = program.ended();
        // A start that died before it had decided says nothing about the brake.
        let brake = program.intake().is_none_or(|intake| intake.safe_mode.is_some());
        let death = program.bury(&self.place);
        self.machine().say(|| format!("buried: {death:?} {ended:?}"));
        self.start_at = Some(now + RESTART);
        let clean = match (death, ended) {
            (None | Some(Death::Left), Some(Ok(exit))) => {
                if !self.asked_to_stop || exit != Exit::Done {
                    self.wrong(format!("the program ended by itself: {exit:?}"));
                }
                true
            }
            (None | Some(Death::Left), Some(Err(failure))) => {
                let text = failure.to_string();
                // Who is asked to stop while the ledger cannot be written says so.
                let unwritten = self.asked_to_stop && text.contains("stopped while the ledger could not be written");
                if !unwritten && !text.contains("the GPU was lost") {
                    self.wrong(format!("the program ended with {:?}: {failure}", failure.exit));
                }
                false
            }
            (death, _) => {
                match death {
                    Some(Death::Own) => self.place.died.store(true, Ordering::Relaxed),
                    Some(Death::Memory) => drop(self.place.oom_kills.fetch_add(1, Ordering::Relaxed)),
                    Some(Death::Outside | Death::Left) | None => {}
                }
                false
            }
        };
        let result = outcome::between(&self.place, clean);
        match result {
            Err(wrong) => self.wrong(wrong),
            Ok(counts) => self.count(clean, counts, brake, now),
        }
    }

    /// Start after start without success: the brake has to be on after ten within an hour.
    fn count(&mut self, clean: bool, counts: Counts, brake: bool, now: Duration) {
        let (began, achieved) = (counts.runs > self.counts.runs, counts.ended != self.counts.ended);
        let jumped = std::mem::take(&mut self.jumped);
        self.counts = counts;
        if clean || achieved || jumped {
            self.fruitless.clear();
            return;
        }
        if !began {
            return;
        }
        self.fruitless.push(now);
        let ten = self.fruitless.len().checked_sub(11).map(|at| self.fruitless[at]);
        if !brake && ten.is_some_and(|first| now - first < Duration::from_secs(3000)) {
            self.wrong("the program was started more than ten times within an hour and achieved nothing: no brake".into());
        }
    }

    // The end.

    fn leave_in_peace(&mut self) {
        self.mend();
        if self.away {
            self.move_inbox();
        }
        if !self.place.config.done.is_dir() {
            self.move_done();
        }
        let begun = self.machine().boot();
        let (mut restarts, mut looked) = (0, false);
        loop {
            self.pass(Duration::from_secs(1));
            if self.problem.is_some() {
                return;
            }
            let intake = self.program.as_ref().and_then(Program::intake);
            let (braked, quiet) =
                intake.map_or((false, false), |intake| (intake.safe_mode.is_some(), outcome::is_quiet(&intake)));
            // A program that dies while it is stopped brakes again.
            if braked && restarts < 3 && !self.asked_to_stop {
                self.machine().say(|| "somebody restarts it".into());
                restarts += 1;
                self.stop();
            } else if quiet && self.writers.is_empty() {
                if looked {
                    return;
                }
                // What nobody told of is found when every folder is read again.
                looked = true;
                self.pass(EVERY_FOLDER);
            }
            if self.machine().boot() - begun > PEACE {
                let intake = self.program.as_ref().and_then(Program::intake);
                let why = intake.map(|intake| (intake.desk.load(), intake.sight.lock().map(|sight| sight.clone()).ok()));
                return self.wrong(format!("something is stuck: {why:?}\n{}", outcome::rows(&self.place)));
            }
        }
    }

    fn end(mut self) -> Result<(), String> {
        if let Some(program) = self.program.take() {
            program.signal();
            let begun = self.machine().boot();
            while program.ended().is_none() && self.machine().death().is_none() {
                self.machine().sleep(Duration::from_secs(1));
                if self.machine().boot() - begun > Duration::from_secs(60) {
                    self.wrong("SIGTERM does not end it within a minute".into());
                    self.machine().kill(Death::Outside);
                }
            }
            program.bury(&self.place);
        }
        if self.problem.is_none() {
            self.problem = outcome::check(&self.place, &self.dropped).err();
        }
        match self.problem {
            Some(wrong) => Err(format!("{wrong}\n{}", outcome::rows(&self.place))),
            None => Ok(()),
        }
    }
}

fn set_time(file: &File, nanoseconds: i64) {
    let time = Timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 };
    rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time }).unwrap();
    assert_eq!(file.metadata().unwrap().mtime(), time.tv_sec);
}
