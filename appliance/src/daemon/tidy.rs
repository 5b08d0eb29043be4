//! Memory that images took is given back to the system when the work is done: the allocator keeps what lies between blocks that are still in use.

use std::time::{Duration, Instant};

use crate::intake::desk::Load;

/// Work that pauses for less goes on soon.
const REST: Duration = Duration::from_millis(500);

/// Notices when work has ended.
#[derive(Default)]
pub struct Tidy {
    /// Files that had left the desk when it was last tidied.
    tidied: u64,
    rests: Option<Instant>,
}

impl Tidy {
    /// Looks at the desk; tidies once when nothing is in work any more.
    pub fn look(&mut self, load: &Load) {
        if load.ready + load.working > 0 {
            self.rests = None;
        } else if load.left != self.tidied && self.rests.get_or_insert_with(Instant::now).elapsed() > REST {
            self.tidied = load.left;
            give_back();
        }
    }
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: may be called at any time from any thread; it takes the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}
