//! Events of the file system: hints that something changed. They never decide anything; losing them costs time, not files.

use std::collections::{HashMap, HashSet};
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
        let (dirty, sender, scanner) = (self.dirty.clone(), self.sender.clone(), self.scanner.clone());
        let handler = move |event: notify::Result<Event>| on_event(event, &dirty, &sender, &scanner);
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

    /// Watches exactly these folders below the inbox; true when some are new and one more scan closes the gap.
    pub fn follow(&mut self, folders: &[PathBuf]) -> bool {
        if let Some(since) = self.limited
            && clock::boot().saturating_sub(since) > TRY_AGAIN
        {
            (self.limited, self.polling) = (None, None);
            self.begin();
        }
        let Some(watcher) = &mut self.watcher else { return false };
        let wanted: HashSet<&PathBuf> = folders.iter().collect();
        self.watched.retain(|folder| {
            let keep = wanted.contains(folder);
            if !keep {
                // A folder that is gone took its watch along.
                let _ = watcher.unwatch(&self.root.join(folder));
            }
            keep
        });
        let mut new = false;
        for folder in folders {
            if self.watched.contains(folder) {
                continue;
            }
            match watcher.watch(&self.root.join(folder), RecursiveMode::NonRecursive) {
                Ok(()) => new |= self.watched.insert(folder.clone()),
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {}
                Err(error) => {
                    self.refused(&error);
                    return false;
                }
            }
        }
        new
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

    /// Hints since the last call, by path below the inbox; the last one counts.
    pub fn take_hints(&self) -> HashMap<PathBuf, Hint> {
        let hints = self.hints.try_iter().filter_map(|(path, hint)| Some((path.strip_prefix(&self.root).ok()?.to_owned(), hint)));
        hints.collect()
    }
}

/// Runs in the watcher's thread: no I/O, no lock, nothing that can grow.
fn on_event(event: notify::Result<Event>, dirty: &AtomicBool, sender: &SyncSender<(PathBuf, Hint)>, scanner: &Thread) {
    let Ok(event) = event else {
        dirty.store(true, Ordering::Relaxed);
        return scanner.unpark();
    };
    let hint = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Hint::Closed,
        EventKind::Access(_) => return,
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => Hint::RenamedIn,
        _ => Hint::None,
    };
    let ours = |path: &PathBuf| path.file_name().is_some_and(names::ignored_file);
    if !event.need_rescan() && event.paths.iter().all(ours) && !event.paths.is_empty() {
        return;
    }
    if hint != Hint::None
        && let Some(path) = event.paths.last()
    {
        // A full channel costs the hint, not the file.
        let _ = sender.try_send((path.clone(), hint));
    }
    dirty.store(true, Ordering::Relaxed);
    scanner.unpark();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(watch: &Watch, path: &str) -> Option<Hint> {
        for _ in 0..100 {
            if let Some(hint) = watch.take_hints().get(Path::new(path)) {
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
        assert!(watch.follow(&[PathBuf::new()]));
        assert!(!watch.follow(&[PathBuf::new()]));
        std::fs::write(dir.path().join(".x.png.part"), b"x").unwrap();
        std::fs::write(dir.path().join("STATUS.html"), b"x").unwrap();
        std::fs::write(dir.path().join("a.png"), b"x").unwrap();
        assert_eq!(wait_for(&watch, "a.png"), Some(Hint::Closed));
        assert!(watch.take_dirty());
        std::fs::rename(dir.path().join(".x.png.part"), dir.path().join("x.png")).unwrap();
        assert_eq!(wait_for(&watch, "x.png"), Some(Hint::RenamedIn));
    }

    #[test]
    fn the_overflow_event_makes_the_folder_dirty() {
        let (dirty, (sender, _receiver)) = (AtomicBool::new(false), sync_channel(1));
        let overflow = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        on_event(Ok(overflow), &dirty, &sender, &std::thread::current());
        assert!(dirty.load(Ordering::Relaxed));
    }
}
