//! Ctrl-C and termination: the first lets the run save itself, the second ends the process at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicBool, Ordering},
};

/// As a shell reports a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the first signal passes the first action, for the flag is not yet set, and sets it.
        let second = signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&stop));
        let first = second.and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)));
        if let Err(error) = first {
            eprintln!("warning: signal {signal} cannot be caught ({error}); Ctrl-C will end the program without saving");
        }
    }
    stop
});

/// Catches signals from here on. The trainer's run folder does this; a command without a run's folder calls it before its first item.
pub fn listen() {
    LazyLock::force(&STOP);
}

/// Whether somebody asked this process to stop. The caller saves and returns the error that says so.
pub fn stop_requested() -> bool {
    static SAID: AtomicBool = AtomicBool::new(false);
    let stop = STOP.load(Ordering::Relaxed);
    if stop && !SAID.swap(true, Ordering::Relaxed) {
        eprintln!("\nstopping: the state is being saved; Ctrl-C again ends at once and keeps the state saved before");
    }
    stop
}
