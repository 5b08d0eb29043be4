//! From a file in the inbox to a report beside it: pure decisions in the small modules, I/O around them.

mod departing;
pub mod desk;
pub mod filing;
mod folder;
pub mod patch;
pub mod patience;
mod recovery;
pub mod scan;
mod scanner;
pub mod settle;
mod sidecars;
mod sight;
pub mod trouble;
mod watch;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::assess::reader::Settings;
use crate::config::Config;
use crate::engine::{Assessment, EngineError, Mode, PatchImage, Request};
use crate::error::Failure;
use crate::ledger::Ledger;
use crate::progress::Board;
use crate::{clock, verdict, world};
pub use folder::{Adoption, Folder, lock, write_marker};
pub use recovery::recover;
pub use scanner::Scanner;
pub use sidecars::Sidecars;
pub use sight::Sight;
pub use watch::{MakeWatcher, OnEvent};
pub use worker::{work, work_with};

/// What assesses an image: the engine, or in tests something with known answers.
pub type Assess = Arc<dyn Fn(PatchImage, &Request) -> Result<Assessment, EngineError> + Send + Sync>;

/// Everything that the intake's threads share.
pub struct Intake {
    /// The configuration.
    pub config: Config,
    /// What is watched.
    pub folder: Folder,
    /// The ledger.
    pub ledger: Ledger,
    /// The queue.
    pub desk: desk::Desk,
    /// What every thread is doing.
    pub board: Board,
    /// What assesses images.
    pub assess: Assess,
    /// What people should know of the bundle on this machine.
    pub notices: Vec<String>,
    /// Why no file is taken, after a loop of crashes.
    pub safe_mode: Option<String>,
    /// What the bundle can do.
    pub mode: Mode,
    /// How files are read, each worker with a child of its own.
    pub reading: Settings,
    /// The files whose time for waiting is over.
    pub patience: patience::Patience,
    /// What decides a verdict.
    pub rules: verdict::Rules,
    /// The run's row.
    pub run: i64,
    /// The bundle's row.
    pub bundle: i64,
    /// The bundle for people: which it is, and who signed it.
    pub served: String,
    /// Finish what is begun, begin nothing.
    pub stop: Arc<AtomicBool>,
    /// Give up what is begun.
    pub halt: Arc<AtomicBool>,
    /// Why the daemon has to end by itself.
    pub fatal: Mutex<Option<Failure>>,
    /// Writers wait until they are alone: for images that may have ended the program before.
    pub alone: RwLock<()>,
    /// What puts files away.
    pub filing: departing::Departing,
    /// Scanner's view, for the status.
    pub sight: Mutex<Sight>,
}

impl Intake {
    /// Whether the program is ending.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends the daemon with this failure after what is begun is finished.
    pub fn end_with(&self, failure: Failure) {
        tracing::error!(event = "fatal", %failure);
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.stop.store(true, Ordering::Relaxed);
        self.desk.close();
    }

    /// Sleeps in small pieces, showing life; true when the program is ending.
    fn nap(&self, time: std::time::Duration) -> bool {
        let end = clock::boot() + time;
        while clock::boot() < end && !self.stopping() {
            crate::progress::beat();
            world::sleep(std::time::Duration::from_millis(250));
        }
        self.stopping()
    }

    /// Free bytes on the tightest of the file systems that are written to, and where that is.
    pub fn free_space(&self) -> Option<(u64, PathBuf)> {
        if let Some(free) = world::ask(|world| world.free_space()) {
            return Some((free, self.config.state.clone()));
        }
        let folders = [&self.config.state, &self.config.done, &self.config.inbox];
        let free = folders.into_iter().filter_map(|folder| {
            let found = rustix::fs::statvfs(folder).ok()?;
            Some((found.f_bavail.saturating_mul(found.f_frsize), folder.clone()))
        });
        free.min_by_key(|(free, _)| *free)
    }
}

/// Ends the whole program when its thread panics: half a daemon is worse than a restart.
pub struct EndTogether;

impl Drop for EndTogether {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
