//! The seam at which a simulation takes the machine's place for the threads that it runs: time, turns, faults. Without the feature
//! `failpoints` there is no other world than the real one, and nothing of this is left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::Duration;

/// What a thread cannot go on without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lacks {
    /// A lock that another thread holds.
    Lock,
    /// Work on the desk.
    Work,
}

/// How a path is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Its state is asked for.
    Look,
    /// It is opened.
    Open,
}

/// A machine that is made up. Only one of its threads runs at a time; in each of these calls another may get its turn.
pub trait World: Send + Sync {
    /// Time since boot.
    fn boot(&self) -> Duration;
    /// The wall clock.
    fn utc(&self) -> jiff::Timestamp;
    /// Free bytes on the tightest file system.
    fn free_space(&self) -> u64;
    /// The calling thread passes a failpoint: an error, or its death.
    ///
    /// # Errors
    /// What is injected there.
    fn pass(&self, point: &str) -> io::Result<()>;
    /// The calling thread is about to use a path.
    ///
    /// # Errors
    /// What the file system answers.
    fn reach(&self, path: &Path, how: Reach) -> io::Result<()>;
    /// The calling thread sleeps.
    fn sleep(&self, time: Duration);
    /// The calling thread sleeps until it is unparked, at the longest for this time.
    fn park(&self, time: Duration);
    /// The calling thread waits until others have worked.
    fn wait(&self, lacks: Lacks);
    /// There may be work for those that lack it.
    fn tell(&self);
}

#[cfg(feature = "failpoints")]
mod inhabited {
    use std::cell::RefCell;
    use std::sync::Arc;

    use super::World;

    thread_local! {
        static HERE: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
    }

    /// From now on the calling thread lives in this world.
    pub fn enter(world: Arc<dyn World>) {
        HERE.set(Some(world));
    }

    /// From now on the calling thread lives in the real one.
    pub fn leave() {
        HERE.set(None);
    }

    /// What the world of the calling thread says; none in the real one.
    pub fn ask<T>(question: impl FnOnce(&dyn World) -> T) -> Option<T> {
        // Not under the borrow: the answer may be long in coming, and the thread may die of it.
        let world = HERE.with_borrow(Clone::clone)?;
        Some(question(&*world))
    }
}

#[cfg(feature = "failpoints")]
pub use inhabited::{ask, enter, leave};

/// What the world of the calling thread says: there is only the real one.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn ask<T>(_question: impl FnOnce(&dyn World) -> T) -> Option<T> {
    None
}

/// Whether the calling thread lives in a world that is made up.
pub fn is_made_up() -> bool {
    ask(|_| ()).is_some()
}

/// Tells the world that a path is about to be used.
///
/// # Errors
/// What a made-up file system answers.
#[inline(always)]
pub fn reach(path: impl FnOnce() -> PathBuf, how: Reach) -> io::Result<()> {
    ask(|world| world.reach(&path(), how)).unwrap_or(Ok(()))
}

/// Sleeps.
pub fn sleep(time: Duration) {
    if ask(|world| world.sleep(time)).is_none() {
        std::thread::sleep(time);
    }
}

/// Sleeps until the thread is unparked, at the longest for this time.
pub fn park(time: Duration) {
    if ask(|world| world.park(time)).is_none() {
        std::thread::park_timeout(time);
    }
}

/// Locks; what a thread left that died with the lock is taken as it is.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    made_up(|| mutex.try_lock()).unwrap_or_else(|| mutex.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Locks for reading.
pub fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    made_up(|| lock.try_read()).unwrap_or_else(|| lock.read().unwrap_or_else(PoisonError::into_inner))
}

/// Locks for writing.
pub fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    made_up(|| lock.try_write()).unwrap_or_else(|| lock.write().unwrap_or_else(PoisonError::into_inner))
}

/// Tries until it is granted, while others get their turns; nothing in the real world, where the system knows how to wait.
fn made_up<G>(mut attempt: impl FnMut() -> Result<G, TryLockError<G>>) -> Option<G> {
    if !is_made_up() {
        return None;
    }
    loop {
        match attempt() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => ask(|world| world.wait(Lacks::Lock))?,
        }
    }
}
