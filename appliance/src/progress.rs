//! What each thread is doing and until when that is plausible; the watchdog is fed only while all are inside their budget.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock;

#[derive(Clone, Debug)]
struct Doing {
    stage: &'static str,
    file: String,
    begun: Duration,
    beaten: Duration,
    budget: Option<Duration>,
    cancel: Arc<AtomicBool>,
}

/// A thread's entry on the board.
#[derive(Debug)]
pub struct Slot(Mutex<Doing>);

/// All threads that have to make progress.
#[derive(Default, Debug)]
pub struct Board(Mutex<Vec<Arc<Slot>>>);

/// What a busy thread is doing, for the status.
#[derive(Clone, Debug)]
pub struct Activity {
    /// Stage, e.g. `assess`.
    pub stage: &'static str,
    /// File's path as text.
    pub file: String,
    /// Time in this stage.
    pub for_: Duration,
    /// Time since the last sign of life.
    pub silent: Duration,
    /// The limit for `silent`.
    pub budget: Duration,
}

thread_local! {
    static MINE: RefCell<Option<Arc<Slot>>> = const { RefCell::new(None) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// Puts the calling thread on the board, idle.
    pub fn join(&self) -> Arc<Slot> {
        let now = clock::boot();
        let idle = Doing { stage: "idle", file: String::new(), begun: now, beaten: now, budget: None, cancel: Arc::default() };
        let slot = Arc::new(Slot(Mutex::new(idle)));
        lock(&self.0).push(slot.clone());
        MINE.with_borrow_mut(|mine| *mine = Some(slot.clone()));
        slot
    }

    /// Everything that is being done now.
    pub fn busy(&self) -> Vec<Activity> {
        let now = clock::boot();
        let slots = lock(&self.0);
        let busy = slots.iter().filter_map(|slot| {
            let doing = lock(&slot.0).clone();
            Some(Activity {
                stage: doing.stage,
                file: doing.file,
                for_: now.saturating_sub(doing.begun),
                silent: now.saturating_sub(doing.beaten),
                budget: doing.budget?,
            })
        });
        busy.collect()
    }
}

impl Board {
    /// Asks every overdue thread to give its image up; how many were asked for the first time.
    pub fn cancel_overdue(&self) -> usize {
        let now = clock::boot();
        self.cancel_where(|doing| doing.budget.is_some_and(|budget| now.saturating_sub(doing.beaten) > budget))
    }

    /// Asks every thread to give its image up.
    pub fn cancel_all(&self) {
        self.cancel_where(|_| true);
    }

    fn cancel_where(&self, which: impl Fn(&Doing) -> bool) -> usize {
        let slots = lock(&self.0);
        let doing = slots.iter().map(|slot| lock(&slot.0).clone());
        doing.filter(which).filter(|doing| !doing.cancel.swap(true, Ordering::Relaxed)).count()
    }
}

impl Activity {
    /// By how much the budget is exceeded.
    pub fn overdue(&self) -> Option<Duration> {
        self.silent.checked_sub(self.budget).filter(|over| !over.is_zero())
    }
}

impl Slot {
    /// A sign of life, callable from other threads on behalf of this one.
    pub fn beat(&self) {
        lock(&self.0).beaten = clock::boot();
    }
}

/// The calling thread begins a stage that must show life within `budget`.
pub fn enter(stage: &'static str, file: &str, budget: Duration) {
    let now = clock::boot();
    set(Doing { stage, file: file.to_owned(), begun: now, beaten: now, budget: Some(budget), cancel: Arc::default() });
}

/// The flag that asks the calling thread to give up what it entered last.
pub fn cancel_flag() -> Arc<AtomicBool> {
    MINE.with_borrow(|mine| mine.as_ref().map(|slot| lock(&slot.0).cancel.clone()).unwrap_or_default())
}

/// Signs of life of the calling thread, to be given from other threads.
pub fn beater() -> Arc<dyn Fn() + Send + Sync> {
    match MINE.with_borrow(|mine| mine.clone()) {
        Some(slot) => Arc::new(move || slot.beat()),
        None => Arc::new(|| ()),
    }
}

/// The calling thread waits for work; that may last for ever.
pub fn idle() {
    let now = clock::boot();
    set(Doing { stage: "idle", file: String::new(), begun: now, beaten: now, budget: None, cancel: Arc::default() });
}

/// The calling thread shows life.
pub fn beat() {
    MINE.with_borrow(|mine| {
        if let Some(slot) = mine {
            slot.beat();
        }
    });
}

fn set(doing: Doing) {
    MINE.with_borrow(|mine| {
        if let Some(slot) = mine {
            *lock(&slot.0) = doing;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_never_overdue_and_beats_renew_the_budget() {
        let board = Board::default();
        let _slot = board.join();
        assert!(board.busy().is_empty());
        enter("assess", "x.png", Duration::from_millis(20));
        assert!(board.busy()[0].overdue().is_none());
        std::thread::sleep(Duration::from_millis(40));
        assert!(board.busy()[0].overdue().is_some());
        beat();
        assert!(board.busy()[0].overdue().is_none());
        idle();
        assert!(board.busy().is_empty());
    }
}
