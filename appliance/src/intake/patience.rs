//! Between the scanner, which knows how long a file lies unchanged, and the workers, who look whether it is whole.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::desk::Key;

/// The files whose time for waiting is over, and whether one that must wait was given back.
#[derive(Default)]
pub struct Patience {
    over: Mutex<HashSet<Key>>,
    returned: AtomicBool,
}

impl Patience {
    /// The file is looked at for the last time.
    pub fn end(&self, key: Key) {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// Whether this look is the last.
    pub fn is_over(&self, key: &Key) -> bool {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// The file has left the inbox, or changed.
    pub fn forget(&self, gone: impl Fn(&Key) -> bool) {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).retain(|key| !gone(key));
    }

    /// A file is not whole: the scanner waits for it again.
    pub fn give_back(&self) {
        self.returned.store(true, Ordering::Relaxed);
    }

    /// Whether a file was given back since the last call.
    pub fn take_returned(&self) -> bool {
        self.returned.swap(false, Ordering::Relaxed)
    }
}
