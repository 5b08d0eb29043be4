//! What the service manager hears: ready, status, stopping, and a watchdog that is fed by progress only.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::progress::Board;

const LOADING_EVERY: Duration = Duration::from_secs(10);
const LOADING_MORE_US: u32 = 120_000_000;
/// An overdue thread gets this long after it was asked to give up.
const GRACE: Duration = Duration::from_secs(10);
/// Without a watchdog an overdue thread ends the program after this.
const OWN_PATIENCE: Duration = Duration::from_secs(60);

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(event = "notify", %error);
    }
}

/// The daemon takes files.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// The daemon finishes what is begun.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("finishing the current images")]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    send(&[NotifyState::Status(line)]);
}

/// Runs a long load while the service manager is kept patient; a signal meanwhile ends the program at once, after `end`, for no image is
/// begun yet.
pub fn while_loading<T: Send>(signals: &AtomicUsize, what: &str, load: impl FnOnce() -> T + Send, end: impl Fn() + Send) -> T {
    std::thread::scope(|scope| {
        let (done, loaded) = mpsc::channel::<()>();
        scope.spawn(move || {
            let mut told = None::<Instant>;
            while loaded.recv_timeout(Duration::from_millis(100)) == Err(mpsc::RecvTimeoutError::Timeout) {
                if signals.load(Ordering::Relaxed) > 0 {
                    end();
                    std::process::exit(0);
                }
                if told.is_none_or(|at| at.elapsed() > LOADING_EVERY) {
                    send(&[NotifyState::ExtendTimeoutUsec(LOADING_MORE_US), NotifyState::Status(what)]);
                    told = Some(Instant::now());
                }
            }
        });
        let result = load();
        drop(done);
        result
    })
}

/// Feeds the service manager's watchdog while every thread makes progress.
pub struct Watchdog {
    interval: Option<Duration>,
    fed: Option<Instant>,
}

impl Watchdog {
    /// As the service manager asks for it.
    pub fn new() -> Watchdog {
        Watchdog { interval: sd_notify::watchdog_enabled().map(|limit| limit / 3), fed: None }
    }

    /// Asks overdue threads to give up; feeds the dog, or lets it bite. True when there is none and it should have.
    pub fn look(&mut self, board: &Board) -> bool {
        let worst =
            board.busy().into_iter().filter_map(|activity| Some((activity.overdue()?, activity))).max_by_key(|(over, _)| *over);
        let Some((over, activity)) = worst else {
            self.feed();
            return false;
        };
        if board.cancel_overdue() > 0 {
            tracing::warn!(event = "overdue", stage = activity.stage, silent_s = activity.silent.as_secs());
        }
        if self.interval.is_none() && over > OWN_PATIENCE {
            tracing::error!(event = "stuck", stage = activity.stage, silent_s = activity.silent.as_secs());
            return true;
        }
        if over < GRACE {
            self.feed();
        }
        false
    }

    fn feed(&mut self) {
        let Some(interval) = self.interval else { return };
        if self.fed.is_none_or(|at| at.elapsed() >= interval) {
            send(&[NotifyState::Watchdog]);
            self.fed = Some(Instant::now());
        }
    }
}
