//! Decides at each look how the program goes on: whether what is begun may be finished, is given up, or hangs for good.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::notify::{self, Watchdog};
use crate::clock;
use crate::intake::Intake;

/// After the first signal images that are begun get this long to end; then they are given back.
const PATIENCE: Duration = Duration::from_secs(20);
/// After a second signal the threads get this long.
const AT_ONCE: Duration = Duration::from_secs(1);
/// After the patience is over they get this long.
const AFTER_PATIENCE: Duration = Duration::from_secs(8);

/// How the program goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Course {
    /// As before.
    On,
    /// The threads had time enough: the program ends without them.
    Leave,
    /// A thread hangs, and no service manager watches: the program ends by its own fault.
    Stuck,
}

/// What was decided so far, and the watchdog.
pub struct Supervisor {
    watchdog: Watchdog,
    stopped: Option<Duration>,
    halted: Option<Duration>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Supervisor { watchdog: Watchdog::new(), stopped: None, halted: None }
    }
}

impl Supervisor {
    /// Looks at signals and threads; `signals`: how many asked for the end.
    pub fn look(&mut self, intake: &Intake, signals: usize) -> Course {
        let now = clock::boot();
        if intake.stopping() && self.stopped.is_none() {
            self.stopped = Some(now);
            notify::stopping();
            tracing::info!(event = "stopping", finishing = intake.desk.load().working);
            intake.desk.close();
        }
        let long = self.stopped.is_some_and(|since| now.saturating_sub(since) > PATIENCE);
        if long || signals > 1 {
            let since = *self.halted.get_or_insert(now);
            intake.halt.store(true, Ordering::Relaxed);
            intake.board.cancel_all();
            if now.saturating_sub(since) > if signals > 1 { AT_ONCE } else { AFTER_PATIENCE } {
                return Course::Leave;
            }
        }
        if self.watchdog.look(&intake.board) { Course::Stuck } else { Course::On }
    }
}
