//! In the place of the system's watcher: it tells of the folders that it watches, but not always.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mmlnb_appliance::intake::{MakeWatcher, OnEvent};
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Config, Error, ErrorKind, Event, EventHandler, EventKind, RecursiveMode, Watcher, WatcherKind};

use crate::machine::Machine;

/// What happened to a file.
#[derive(Clone, Copy, Debug)]
pub enum Happened {
    Created,
    Closed,
    RenamedIn,
}

#[derive(Default)]
struct Told {
    folders: HashSet<PathBuf>,
    on_event: Option<OnEvent>,
}

/// The watches of one program.
#[derive(Clone, Default)]
pub struct Watches(Arc<Mutex<Told>>);

impl Watches {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the program gets its watcher.
    pub fn maker(&self, machine: &Arc<Machine>) -> MakeWatcher {
        let (watches, machine) = (self.clone(), machine.clone());
        Box::new(move |on_event| {
            *watches.lock() = Told { folders: HashSet::new(), on_event: Some(on_event) };
            Ok(Box::new(StandIn { watches: watches.clone(), machine: machine.clone() }))
        })
    }

    /// The folder that was watched is another one now.
    pub fn lose(&self) {
        self.lock().folders.clear();
    }

    /// Tells of what happened to `path`, if its folder is watched; some of it gets lost, and some is told as an overflow.
    pub fn tell(&self, machine: &Machine, what: Happened, path: &Path) {
        let (lost, overflow) = machine.chance(|chance| (chance.once_in(8), chance.once_in(16)));
        let mut told = self.lock();
        let watched = path.parent().is_some_and(|folder| told.folders.contains(folder));
        let kind = match what {
            Happened::Created => EventKind::Create(CreateKind::File),
            Happened::Closed => EventKind::Access(AccessKind::Close(AccessMode::Write)),
            Happened::RenamedIn => EventKind::Modify(ModifyKind::Name(RenameMode::To)),
        };
        let event = match overflow {
            true => Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan),
            false => Event::new(kind).add_path(path.to_owned()),
        };
        if let Some(on_event) = told.on_event.as_mut().filter(|_| watched && !lost) {
            on_event(Ok(event));
            drop(told);
            machine.unpark();
        }
    }
}

struct StandIn {
    watches: Watches,
    machine: Arc<Machine>,
}

impl Watcher for StandIn {
    fn new<F: EventHandler>(_handler: F, _config: Config) -> notify::Result<Self> {
        Err(Error::generic("this one is made by hand"))
    }

    fn watch(&mut self, path: &Path, _mode: RecursiveMode) -> notify::Result<()> {
        if self.machine.faults(|faults| faults.watches) {
            return Err(Error::new(ErrorKind::MaxFilesWatch));
        }
        self.watches.lock().folders.insert(path.to_owned());
        Ok(())
    }

    fn unwatch(&mut self, path: &Path) -> notify::Result<()> {
        self.watches.lock().folders.remove(path);
        Ok(())
    }

    fn kind() -> WatcherKind {
        WatcherKind::NullWatcher
    }
}
