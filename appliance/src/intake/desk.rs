//! What is to be done, what is being done and what has to wait: the queue between the scanner and the workers. Memory only: the ledger and
//! the next scan restore it after any end.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::trouble;
use crate::clock;
use crate::files::Stamp;
use crate::ledger::{FileRow, NewFile, Rejection};
use crate::world::{self, Lacks};

/// One state of one file in the inbox.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Path below the inbox.
    pub path: PathBuf,
    /// Its state on disk.
    pub stamp: Stamp,
}

impl From<&NewFile> for Key {
    fn from(file: &NewFile) -> Self {
        Key { path: file.path.clone(), stamp: file.stamp }
    }
}

impl From<&FileRow> for Key {
    fn from(row: &FileRow) -> Self {
        Key { path: row.path.clone(), stamp: row.stamp }
    }
}

/// Work on one file.
#[derive(Clone, Debug)]
pub enum Task {
    /// Settled: read it, have it assessed.
    Judge(NewFile),
    /// It gets no report.
    Reject(NewFile, Rejection),
    /// A whole slide: it stays and gets a note.
    Refuse(NewFile, Rejection),
    /// Judged: render and move.
    PutAway(Box<FileRow>),
}

impl Task {
    /// The state of the file that it is about.
    pub fn key(&self) -> Key {
        match self {
            Task::Judge(file) | Task::Reject(file, _) | Task::Refuse(file, _) => Key::from(file),
            Task::PutAway(row) => Key::from(row.as_ref()),
        }
    }
}

enum Held {
    Queued,
    Working,
    /// Ends together with this job.
    Attached(i64, NewFile),
    Later(Duration, Task, String),
}

/// The files that stay in the inbox for good: by folder, name and state. There may be a hundred thousand of them, and no look at the others may
/// take longer for it.
#[derive(Default)]
struct Resting(HashMap<PathBuf, HashMap<OsString, Vec<Stamp>>>);

impl Resting {
    fn insert(&mut self, key: &Key) {
        let (folder, name) = parts(&key.path);
        let stamps = self.0.entry(folder.to_owned()).or_default().entry(name.to_owned()).or_default();
        if !stamps.contains(&key.stamp) {
            stamps.push(key.stamp);
        }
    }

    fn contains(&self, path: &Path, stamp: &Stamp) -> bool {
        let (folder, name) = parts(path);
        self.0.get(folder).and_then(|names| names.get(name)).is_some_and(|stamps| stamps.contains(stamp))
    }

    fn remove(&mut self, key: &Key) {
        let (folder, name) = parts(&key.path);
        let Some(names) = self.0.get_mut(folder) else { return };
        if let Some(stamps) = names.get_mut(name) {
            stamps.retain(|stamp| *stamp != key.stamp);
            if stamps.is_empty() {
                names.remove(name);
            }
        }
        if names.is_empty() {
            self.0.remove(folder);
        }
    }

    /// Those of a folder.
    fn of<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = Key> + 'a {
        let names = self.0.get(folder).into_iter().flatten();
        names.flat_map(move |(name, stamps)| stamps.iter().map(move |stamp| Key { path: folder.join(name), stamp: *stamp }))
    }
}

fn parts(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default())
}

#[derive(Default)]
struct Inner {
    ready: VecDeque<Task>,
    held: HashMap<Key, Held>,
    resting: Resting,
    tries: HashMap<Key, u32>,
    /// Why nothing is judged, for each of those who say so.
    pauses: BTreeMap<u64, String>,
    paused: u64,
    closed: bool,
    left: u64,
}

impl Inner {
    /// The next task if there is one. Files that are judged already leave also while nothing else is begun.
    fn take(&mut self) -> Option<Task> {
        loop {
            let task = if self.pauses.is_empty() {
                self.ready.pop_front()?
            } else {
                let place = self.ready.iter().position(|task| matches!(task, Task::PutAway(_)))?;
                self.ready.remove(place)?
            };
            // Meanwhile another worker may have taken the file over, or it was forgotten.
            if let Some(held @ Held::Queued) = self.held.get_mut(&task.key()) {
                *held = Held::Working;
                return Some(task);
            }
        }
    }
}

/// The queue.
#[derive(Default)]
pub struct Desk {
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// While it lives, no file is given out to be judged.
pub struct Pause<'a> {
    desk: &'a Desk,
    number: u64,
}

impl Pause<'_> {
    /// The reason has changed.
    pub fn say(&self, reason: String) {
        self.desk.lock().pauses.insert(self.number, reason);
    }

    /// The next file that only has to be put away, if there is one.
    pub fn take_judged(&self) -> Option<FileRow> {
        match self.desk.lock().take()? {
            Task::PutAway(row) => Some(*row),
            other => unreachable!("in a pause no file is given out to be judged: {other:?}"),
        }
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        let mut inner = self.desk.lock();
        inner.pauses.remove(&self.number);
        let ready = inner.ready.len();
        drop(inner);
        self.desk.tell(ready);
    }
}

/// How much there is to do.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Ready to be taken.
    pub ready: usize,
    /// In work, the attached ones included.
    pub working: usize,
    /// Waiting to be tried again, with the reason of one of them.
    pub later: usize,
    /// Why one of them waits.
    pub reason: Option<String>,
    /// Why nothing is taken.
    pub pause: Option<String>,
    /// Files that have left the desk since the start, so that a burst between two looks shows too.
    pub left: u64,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a task on the desk unless that state of the file is there already.
    pub fn offer(&self, task: Task) -> bool {
        let mut inner = self.lock();
        let key = task.key();
        if inner.held.contains_key(&key) || inner.resting.contains(&key.path, &key.stamp) {
            return false;
        }
        inner.held.insert(key, Held::Queued);
        inner.ready.push_back(task);
        drop(inner);
        self.tell(1);
        true
    }

    /// Whether that state of the file is dealt with already.
    pub fn holds(&self, key: &Key) -> bool {
        let inner = self.lock();
        inner.held.contains_key(key) || inner.resting.contains(&key.path, &key.stamp)
    }

    /// The next task; waits for one. None once the desk is closed.
    pub fn take(&self) -> Option<Task> {
        let mut inner = self.lock();
        loop {
            if inner.closed {
                return None;
            }
            if let Some(task) = inner.take() {
                return Some(task);
            }
            inner = self.wait(inner);
        }
    }

    fn wait<'a>(&'a self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        if !world::is_made_up() {
            return self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        drop(inner);
        world::ask(|world| world.wait(Lacks::Work));
        self.lock()
    }

    fn tell(&self, tasks: usize) {
        (0..tasks).for_each(|_| self.changed.notify_one());
        world::ask(|world| world.tell());
    }

    /// The file ends together with its twin, whose worker asks: from now on it is that worker's. False while another one looks at it,
    /// who will find out by itself.
    pub fn take_over(&self, key: Key) -> bool {
        let mut inner = self.lock();
        if matches!(inner.held.get(&key), Some(Held::Working)) {
            return false;
        }
        inner.resting.remove(&key);
        inner.held.insert(key, Held::Working);
        true
    }

    /// No further task is given out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        world::ask(|world| world.tell());
    }

    /// The file left the inbox, or its state changed: the next scan judges what is there then.
    pub fn forget(&self, key: &Key) {
        let mut inner = self.lock();
        inner.held.remove(key);
        inner.resting.remove(key);
        inner.tries.remove(key);
        inner.left += 1;
    }

    /// The file stays in the inbox and is not to be looked at again.
    pub fn rest(&self, key: Key) {
        let mut inner = self.lock();
        inner.held.remove(&key);
        inner.resting.insert(&key);
    }

    /// The file ends together with a job that another worker has.
    pub fn attach(&self, file: NewFile, job: i64) {
        self.lock().held.insert(Key::from(&file), Held::Attached(job, file));
    }

    /// A job ended without an outcome: the files that waited for it are judged anew.
    pub fn detach(&self, job: i64) {
        let mut inner = self.lock();
        let attached = inner.held.values().filter_map(|held| match held {
            Held::Attached(of, file) if *of == job => Some(file.clone()),
            _ => None,
        });
        let due = clock::boot() + trouble::backoff(1, 0.5);
        for file in attached.collect::<Vec<_>>() {
            inner.held.insert(Key::from(&file), Held::Later(due, Task::Judge(file), "its twin was given back".into()));
        }
    }

    /// Tries a task again after a wait that grows with each try; the wait.
    pub fn later(&self, task: Task, reason: &str) -> Duration {
        let mut inner = self.lock();
        let key = task.key();
        let tries = inner.tries.entry(key.clone()).and_modify(|tries| *tries += 1).or_insert(1);
        let wait = trouble::backoff(*tries, trouble::noise(&key.path, *tries));
        inner.held.insert(key, Held::Later(clock::boot() + wait, task, reason.to_owned()));
        wait
    }

    /// Makes tasks ready whose wait is over; when the next one is due.
    pub fn wake(&self, now: Duration) -> Option<Duration> {
        let mut inner = self.lock();
        let due = inner.held.iter().filter_map(|(key, held)| match held {
            Held::Later(at, ..) if *at <= now => Some((*at, key.clone())),
            _ => None,
        });
        let mut due: Vec<(Duration, Key)> = due.collect();
        // Whoever has waited longest comes first.
        due.sort_by(|(a, left), (b, right)| (a, &left.path).cmp(&(b, &right.path)));
        for (_, key) in &due {
            if let Some(Held::Later(_, task, _)) = inner.held.insert(key.clone(), Held::Queued) {
                inner.ready.push_back(task);
            }
        }
        self.tell(due.len());
        let waiting = inner.held.values().filter_map(|held| match held {
            Held::Later(at, ..) => Some(*at),
            _ => None,
        });
        waiting.min()
    }

    /// Whether that state of the file stays in the inbox for good.
    pub fn rests(&self, path: &Path, stamp: &Stamp) -> bool {
        self.lock().resting.contains(path, stamp)
    }

    /// Forgets the resting files of these folders that have `departed`, and returns them.
    pub fn take_departed<'a>(&self, folders: impl Iterator<Item = &'a Path>, departed: impl Fn(&Key) -> bool) -> Vec<Key> {
        let mut inner = self.lock();
        let mut found = Vec::new();
        for folder in folders {
            found.extend(inner.resting.of(folder).filter(|key| departed(key)));
        }
        found.iter().for_each(|key| inner.resting.remove(key));
        found
    }

    /// Nothing is judged until what this returns is dropped.
    pub fn pause(&self, reason: String) -> Pause<'_> {
        let mut inner = self.lock();
        inner.paused += 1;
        let number = inner.paused;
        inner.pauses.insert(number, reason);
        Pause { desk: self, number }
    }

    /// How much there is to do.
    pub fn load(&self) -> Load {
        let inner = self.lock();
        let mut load =
            Load { ready: inner.ready.len(), pause: inner.pauses.values().next().cloned(), left: inner.left, ..Load::default() };
        for held in inner.held.values() {
            match held {
                Held::Working | Held::Attached(..) => load.working += 1,
                Held::Later(_, _, reason) => {
                    load.later += 1;
                    load.reason = Some(reason.clone());
                }
                Held::Queued => {}
            }
        }
        load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> NewFile {
        NewFile { folder: "inbox".into(), path: path.into(), stamp: Stamp { dev: 1, ino: 1, size: 1, mtime_ns: 1 }, owner: 0 }
    }

    fn judged(path: &str) -> FileRow {
        let NewFile { folder, path, stamp, owner } = file(path);
        FileRow {
            id: 1,
            folder,
            path_text: path.display().to_string(),
            path,
            case_id: String::new(),
            stamp,
            owner,
            sha256: None,
            job: None,
            report: None,
            state: crate::ledger::FileState::Rejected,
            code: Some("damaged".into()),
            message: None,
            seen_at: String::new(),
            filed_path: None,
            filed_at: None,
        }
    }

    #[test]
    fn a_state_is_on_the_desk_once() {
        let desk = Desk::default();
        assert!(desk.offer(Task::Judge(file("a"))));
        assert!(!desk.offer(Task::Judge(file("a"))));
        let mut changed = file("a");
        changed.stamp.size = 2;
        assert!(desk.offer(Task::Judge(changed)));
        assert!(matches!(desk.take(), Some(Task::Judge(found)) if found.stamp.size == 1));
        assert!(!desk.offer(Task::Judge(file("a"))));
        desk.forget(&Key::from(&file("a")));
        assert!(desk.offer(Task::Judge(file("a"))));
    }

    #[test]
    fn waiting_tasks_come_back_when_due_with_growing_waits() {
        let desk = Desk::default();
        desk.offer(Task::Judge(file("a")));
        let task = desk.take().unwrap();
        let first = desk.later(task.clone(), "disk");
        assert!(desk.wake(clock::boot()).is_some());
        assert_eq!(desk.load().ready, 0);
        assert_eq!(desk.wake(clock::boot() + Duration::from_secs(2)), None);
        assert_eq!(desk.load().ready, 1);
        assert!(desk.later(task, "disk") > first);
    }

    #[test]
    fn twins_are_judged_anew_when_their_job_is_given_back() {
        let desk = Desk::default();
        desk.attach(file("b"), 7);
        assert_eq!(desk.load().working, 1);
        desk.detach(8);
        assert_eq!(desk.load().later, 0);
        desk.detach(7);
        assert_eq!(desk.load().later, 1);
    }

    #[test]
    fn a_file_that_ends_with_its_twin_is_not_given_out_any_more() {
        let desk = Desk::default();
        desk.offer(Task::Judge(file("a")));
        desk.offer(Task::Judge(file("b")));
        desk.take().unwrap();
        assert!(!desk.take_over(Key::from(&file("a"))), "somebody looks at it");
        assert!(desk.take_over(Key::from(&file("b"))));
        desk.forget(&Key::from(&file("b")));
        desk.offer(Task::Judge(file("c")));
        assert!(matches!(desk.take(), Some(Task::Judge(found)) if found.path == *"c"));
    }

    #[test]
    fn while_any_pause_lasts_only_files_that_are_judged_leave() {
        let desk = Desk::default();
        desk.offer(Task::Judge(file("a")));
        let disk = desk.pause("disk".into());
        let memory = desk.pause("memory".into());
        desk.offer(Task::PutAway(Box::new(judged("b"))));
        assert!(matches!(desk.take(), Some(Task::PutAway(_))));
        drop(disk);
        assert_eq!(desk.load().pause.as_deref(), Some("memory"), "one that ends does not end the others");
        memory.say("less memory".into());
        assert_eq!(desk.load().pause.as_deref(), Some("less memory"));
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| desk.take());
            drop(memory);
            assert!(matches!(taken.join().unwrap(), Some(Task::Judge(_))));
        });
        assert_eq!(desk.load().pause, None);
    }

    #[test]
    fn a_closed_desk_gives_nothing() {
        let desk = Desk::default();
        desk.offer(Task::Judge(file("a")));
        desk.close();
        assert!(desk.take().is_none());
    }

    #[test]
    fn resting_files_are_forgotten_when_they_leave() {
        let desk = Desk::default();
        let key = Key::from(&file("slide.svs"));
        desk.rest(key.clone());
        let root = || [Path::new("")].into_iter();
        assert!(desk.take_departed(root(), |_| false).is_empty());
        assert!(desk.take_departed([Path::new("other")].into_iter(), |_| true).is_empty());
        assert!(desk.rests(&key.path, &key.stamp) && desk.holds(&key));
        assert!(!desk.offer(Task::Judge(file("slide.svs"))));
        let changed = Key { stamp: Stamp { size: 2, ..key.stamp }, ..key.clone() };
        assert!(!desk.holds(&changed));
        desk.rest(changed.clone());
        assert_eq!(desk.take_departed(root(), |key| *key != changed), std::slice::from_ref(&key));
        assert!(!desk.holds(&key) && desk.holds(&changed));
        desk.forget(&changed);
        assert!(!desk.holds(&changed));
    }
}
