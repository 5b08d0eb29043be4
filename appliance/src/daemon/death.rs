//! Telling a death by the program's own fault (abort, fault, watchdog) or for want of memory from an end from outside (kill, power):
//! the former count against the images in flight. A signal handler leaves one byte in a file that was opened before; of kills for want
//! of memory the kernel keeps a count.
#![expect(clippy::disallowed_methods, reason = "the state folder is the appliance's own")]

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::io::pwrite;
use signal_hook::consts::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV};

/// How many processes the kernel has killed for want of memory since it started; none where it does not say.
pub fn oom_kills() -> Option<i64> {
    let counts = std::fs::read_to_string("/proc/vmstat").ok()?;
    counts.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The file that a dying program writes to.
pub struct DeathMark {
    file: File,
}

impl DeathMark {
    /// Opens the mark in the state folder; whether the last run left it.
    ///
    /// # Errors
    /// I/O.
    pub fn open(state: &Path) -> io::Result<(DeathMark, bool)> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(state.join("died"))?;
        let died = file.metadata()?.len() > 0;
        Ok((DeathMark { file }, died))
    }

    /// Forgets the last death, after the ledger has counted it.
    ///
    /// # Errors
    /// I/O.
    pub fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.sync_all()
    }

    /// Leaves the mark at each signal by which a program ends through its own fault, then dies of it.
    ///
    /// # Errors
    /// The handlers cannot be set.
    pub fn watch(&self) -> io::Result<()> {
        for signal in [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV] {
            let file = self.file.try_clone()?;
            let leave = move |_: &_| {
                // Nothing can be done about a failure here: the death then counts as one from outside.
                let _ = pwrite(&file, b"1", 0);
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            };
            // SAFETY: the handler only makes the calls pwrite, sigaction, sigprocmask and kill, all async-signal-safe; it neither
            // allocates nor locks, and it ends by dying of the signal, so the faulting code is not resumed.
            unsafe { signal_hook_registry::register_unchecked(signal, leave)? };
        }
        Ok(())
    }
}
