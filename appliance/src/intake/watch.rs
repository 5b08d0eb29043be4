//! Events of the file system: hints that something changed. They never decide anything; losing them costs time, not files.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Thread;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, EventKind, RecursiveMode, Watcher};

use super::settle::Hint;
use crate::clock;
use crate::files::names;

/// Hints beyond this many between two scans are dropped.
const HINTS: usize = 4096;
/// After a refusal by the system watching is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(600);

/// What happened since the last call.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// Hints by path below the inbox; the last one counts.
    pub hints: HashMap<PathBuf, Hint>,
    /// Paths below the inbox that were made, changed, moved or removed.
    pub touched: BTreeSet<PathBuf>,
    /// Anything else may have been touched too.
    pub missed: bool,
}

/// What a watcher of the file system calls with each event.
pub type OnEvent = Box<dyn FnMut(notify::Result<Event>) + Send>;
/// Makes a watcher of the file system.
pub type MakeWatcher = Box<dyn Fn(OnEvent) -> notify::Result<Box<dyn Watcher + Send>> + Send>;

/// The system's own watcher.
pub fn recommended() -> MakeWatcher {
    Box::new(|on_event| Ok(Box::new(notify::recommended_watcher(on_event)?)))
}

/// The watch over the inbox.
pub struct Watch {
    root: PathBuf,
    make: MakeWatcher,
    watcher: Option<Box<dyn Watcher + Send>>,
    watched: HashSet<PathBuf>,
    dirty: Arc<AtomicBool>,
    /// Something may have happened of which no event tells.
    missed: Arc<AtomicBool>,
    hints: Receiver<(PathBuf, Hint)>,
    sender: SyncSender<(PathBuf, Hint)>,
    scanner: Thread,
    polling: Option<String>,
    limited: Option<Duration>,
}

impl Watch {
    /// A watch that wakes the calling thread; with a reason for polling it stays blind.
    pub fn new(root: &Path, polling: Option<String>, make: MakeWatcher) -> Watch {
        let (sender, hints) = sync_channel(HINTS);
        let mut watch = Watch {
            root: root.to_owned(),
            make,
            watcher: None,
            watched: HashSet::new(),
            dirty: Arc::default(),
            missed: Arc::default(),
            hints,
            sender,
            scanner: std::thread::current(),
            polling,
            limited: None,
        };
        if watch.polling.is_none() {
            watch.begin();
        }
        watch
    }

    fn begin(&mut self) {
        // Whatever happened before this watcher saw it.
        self.missed.store(true, Ordering::Relaxed);
        let (dirty, missed) = (self.dirty.clone(), self.missed.clone());
        let (sender, scanner) = (self.sender.clone(), self.scanner.clone());
        let handler = move |event: notify::Result<Event>| {
            match pass_on(event, &sender) {
                Passed::Nothing => return,
                Passed::On => {}
                Passed::Missed => missed.store(true, Ordering::Relaxed),
            }
            dirty.store(true, Ordering::Relaxed);
            scanner.unpark();
        };
        match (self.make)(Box::new(handler)) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => self.refused(&error),
        }
    }

    fn refused(&mut self, error: &notify::Error) {
        let cure = match error.kind {
            ErrorKind::MaxFilesWatch => "raise it: sysctl fs.inotify.max_user_watches=524288".to_owned(),
            _ => format!("{error}; perhaps: sysctl fs.inotify.max_user_instances=512"),
        };
        tracing::warn!(event = "polling", reason = %error);
        self.polling = Some(format!("the inbox is polled because the system refuses to watch it; {cure}"));
        self.limited = Some(clock::boot());
        self.watcher = None;
        self.watched.clear();
    }

    /// Why the inbox is polled, if it is.
    pub fn polling(&self) -> Option<&str> {
        self.polling.as_deref()
    }

    /// Whether polling is a makeshift that someone should mend.
    pub fn is_limited(&self) -> bool {
        self.limited.is_some()
    }

    /// Tries once more what the system refused a while ago.
    pub fn try_again(&mut self) {
        if let Some(since) = self.limited
            && clock::boot().saturating_sub(since) > TRY_AGAIN
        {
            (self.limited, self.polling) = (None, None);
            self.begin();
        }
    }

    /// Watches a folder below the inbox from now on; whether events in it are told.
    pub fn cover(&mut self, folder: &Path) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        if self.watched.contains(folder) {
            return true;
        }
        match watcher.watch(&self.root.join(folder), RecursiveMode::NonRecursive) {
            Ok(()) => self.watched.insert(folder.to_owned()),
            Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => false,
            Err(error) => {
                self.refused(&error);
                false
            }
        }
    }

    /// Watches these folders no more.
    pub fn let_go(&mut self, gone: &[PathBuf]) {
        for folder in gone {
            if self.watched.remove(folder)
                && let Some(watcher) = &mut self.watcher
            {
                // A folder that is gone took its watch along.
                let _ = watcher.unwatch(&self.root.join(folder));
            }
        }
    }

    /// The folder was gone: all watches are void.
    pub fn renew(&mut self) {
        if self.watcher.take().is_some() {
            self.watched.clear();
            self.begin();
        }
    }

    /// Whether something happened since the last call.
    pub fn take_dirty(&self) -> bool {
        self.dirty.swap(false, Ordering::Relaxed)
    }

    /// Everything since the last call.
    pub fn take_events(&self) -> Events {
        // Before the channel is emptied: what does not fit meanwhile is missed by the next call.
        let mut events = Events { missed: self.missed.swap(false, Ordering::Relaxed), ..Events::default() };
        for (path, hint) in self.hints.try_iter() {
            let Ok(path) = path.strip_prefix(&self.root) else { continue };
            if hint != Hint::None {
                events.hints.insert(path.to_owned(), hint);
            }
            events.touched.insert(path.to_owned());
        }
        events
    }
}

/// What became of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Passed {
    /// It says nothing about a file of others.
    Nothing,
    /// Its paths are in the channel.
    On,
    /// It says that others were lost, or the channel is full.
    Missed,
}

/// Runs in the watcher's thread: no I/O, no lock, nothing that can grow.
fn pass_on(event: notify::Result<Event>, sender: &SyncSender<(PathBuf, Hint)>) -> Passed {
    let Ok(event) = event else { return Passed::Missed };
    if event.need_rescan() || event.paths.is_empty() {
        return Passed::Missed;
    }
    let hint = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Hint::Closed,
        EventKind::Access(_) => return Passed::Nothing,
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => Hint::RenamedIn,
        _ => Hint::None,
    };
    if event.paths.iter().all(|path| path.file_name().is_some_and(names::ignored_file)) {
        return Passed::Nothing;
    }
    let last = event.paths.len() - 1;
    let mut passed = Passed::On;
    for (at, path) in event.paths.into_iter().enumerate() {
        // A full channel costs the hint, not the file.
        if sender.try_send((path, if at == last { hint } else { Hint::None })).is_err() {
            passed = Passed::Missed;
        }
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(watch: &Watch, path: &str) -> Option<Hint> {
        for _ in 0..100 {
            let events = watch.take_events();
            if let Some(hint) = events.hints.get(Path::new(path)) {
                assert!(events.touched.contains(Path::new(path)));
                return Some(*hint);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    #[test]
    fn closing_and_renaming_leave_hints_and_our_own_files_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path(), None, recommended());
        if watch.polling().is_some() {
            eprintln!("this system refuses to watch; nothing to check");
            return;
        }
        assert!(watch.take_events().missed, "what happened before it watched");
        assert!(watch.cover(Path::new("")) && watch.cover(Path::new("")));
        assert!(!watch.cover(Path::new("case")), "it is not there");
        std::fs::write(dir.path().join(".x.png.part"), b"x").unwrap();
        std::fs::write(dir.path().join("STATUS.html"), b"x").unwrap();
        std::fs::write(dir.path().join("a.png"), b"x").unwrap();
        assert_eq!(wait_for(&watch, "a.png"), Some(Hint::Closed));
        assert!(watch.take_dirty());
        std::fs::rename(dir.path().join(".x.png.part"), dir.path().join("x.png")).unwrap();
        assert_eq!(wait_for(&watch, "x.png"), Some(Hint::RenamedIn));
    }

    #[test]
    fn events_that_were_lost_and_a_full_channel_are_told() {
        let (sender, _receiver) = sync_channel(1);
        let overflow = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert_eq!(pass_on(Ok(overflow), &sender), Passed::Missed);
        assert_eq!(pass_on(Err(notify::Error::generic("lost")), &sender), Passed::Missed);
        let made = |name: &str| Event::new(EventKind::Create(notify::event::CreateKind::File)).add_path(name.into());
        assert_eq!(pass_on(Ok(made("/in/STATUS.html")), &sender), Passed::Nothing);
        assert_eq!(pass_on(Ok(made("/in/a.png")), &sender), Passed::On);
        assert_eq!(pass_on(Ok(made("/in/b.png")), &sender), Passed::Missed);
    }
}
