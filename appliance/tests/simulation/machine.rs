//! A machine that is made up: its threads are real ones of which only one runs at a time, its clock goes on when all of them sleep, and
//! its faults come as the history wills. Everything is decided by one stream of random numbers, so a history can be told again.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use mmlnb_appliance::world::{self, Lacks, Reach, World};
use rustix::io::Errno;

use crate::chance::Chance;

/// The history's own thread: it is no part of the program and never dies.
pub const HISTORY: usize = 0;
/// More turns than any history needs: somebody spins.
const ENDLESS: u64 = 5_000_000;

thread_local! {
    static ME: Cell<usize> = const { Cell::new(HISTORY) };
}

/// With what a thread ends whose program is killed.
struct Killed;

/// How a program came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// By its own fault: it leaves its mark.
    Own,
    /// Killed for want of memory: the kernel counts it.
    Memory,
    /// Killed by somebody else, or the power failed.
    Outside,
    /// It left, its threads behind.
    Left,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Ready,
    Asleep(Duration),
    Parked(Duration),
    /// Wants a lock; whether it has tried since another thread did something.
    Locked(bool),
    Idle,
    Gone,
}

struct Place {
    state: State,
    thread: Thread,
}

/// What does not work at present.
#[derive(Clone, Default, Debug)]
pub struct Faults {
    /// No space, wherever something is written.
    pub full: bool,
    /// Calls on files fail now and then.
    pub flaky: bool,
    /// The ledger's commits fail.
    pub ledger: bool,
    /// The ledger's commits happen, but nobody hears of it.
    pub unheard: bool,
    /// The engine gets no memory.
    pub memory: bool,
    /// The GPU is lost.
    pub gpu: bool,
    /// No process can be started.
    pub spawn: bool,
    /// The system watches no folder.
    pub watches: bool,
    /// Folders that cannot be entered.
    pub closed: Vec<PathBuf>,
    /// Files that cannot be opened.
    pub unreadable: Vec<PathBuf>,
}

struct Inner {
    places: Vec<Place>,
    running: usize,
    turns: u64,
    now: Duration,
    skew_s: i64,
    chance: Chance,
    faults: Faults,
    death: Option<Death>,
    /// The program dies when it has passed so many points.
    doom: Option<(u64, Death)>,
    panics: Vec<String>,
}

pub struct Machine {
    inner: Mutex<Inner>,
    told: bool,
}

impl Machine {
    /// The calling thread becomes the history's. `told`: say what happens.
    pub fn new(seed: u64, told: bool) -> Arc<Machine> {
        ME.set(HISTORY);
        let history = Place { state: State::Ready, thread: std::thread::current() };
        let inner = Inner {
            places: vec![history],
            running: HISTORY,
            turns: 0,
            now: Duration::from_secs(1000),
            skew_s: 0,
            chance: Chance::new(seed),
            faults: Faults::default(),
            death: None,
            doom: None,
            panics: Vec::new(),
        };
        Arc::new(Machine { inner: Mutex::new(inner), told })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.told {
            let now = self.lock().now;
            eprintln!("{:>12.3} [{}] {}", now.as_secs_f64(), ME.get(), what());
        }
    }

    pub fn chance<T>(&self, ask: impl FnOnce(&mut Chance) -> T) -> T {
        ask(&mut self.lock().chance)
    }

    pub fn faults<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> T {
        change(&mut self.lock().faults)
    }

    /// The wall clock jumps.
    pub fn jump(&self, seconds: i64) {
        self.lock().skew_s = seconds;
    }

    /// A time that no other file has: the machine's own clock in nanoseconds.
    pub fn stamp(&self) -> i64 {
        let mut inner = self.lock();
        inner.now += Duration::from_nanos(1000);
        1_700_000_000_000_000_000 + inner.now.as_nanos() as i64
    }

    /// Whether and how the program is dying.
    pub fn death(&self) -> Option<Death> {
        self.lock().death
    }

    /// What threads panicked with that were not killed.
    pub fn panics(&self) -> Vec<String> {
        self.lock().panics.clone()
    }

    /// The program dies now, with all its threads; the calling thread too if it is one of them.
    pub fn kill(&self, death: Death) {
        self.lock().kill(death);
        self.say(|| format!("death: {death:?}"));
        if ME.get() != HISTORY {
            std::panic::resume_unwind(Box::new(Killed));
        }
    }

    /// The program dies when it has passed so many points.
    pub fn doom(&self, points: u64, death: Death) {
        self.lock().doom = Some((points, death));
    }

    /// Waits until all threads are gone; what they held is free then. How the program died, if it did.
    pub fn bury(&self, threads: Vec<JoinHandle<()>>) -> Option<Death> {
        while self.lock().places[1..].iter().any(|place| place.state != State::Gone) {
            self.switch(State::Ready);
        }
        for thread in threads {
            thread.join().expect("threads catch their panics");
        }
        let mut inner = self.lock();
        inner.places.truncate(1);
        inner.doom = None;
        inner.death.take()
    }

    /// Starts a thread of the program.
    pub fn spawn(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        let me = self.lock().places.len();
        let machine = self.clone();
        let thread = std::thread::spawn(move || {
            ME.set(me);
            machine.await_turn(me);
            let result = match machine.death() {
                Some(_) => Ok(()),
                None => {
                    world::enter(machine.clone());
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                }
            };
            world::leave();
            if let Err(panic) = result
                && !panic.is::<Killed>()
            {
                let said = panic.downcast_ref::<String>().cloned();
                let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                machine.lock().panics.push(said.unwrap_or_else(|| "a panic without words".into()));
            }
            machine.leave();
        });
        self.lock().places.push(Place { state: State::Ready, thread: thread.thread().clone() });
        thread
    }

    /// Whether these threads (by their order of birth, 1 is the first) are gone.
    pub fn are_gone(&self, places: std::ops::Range<usize>) -> bool {
        self.lock().places[places].iter().all(|place| place.state == State::Gone)
    }

    /// The number that the next thread gets.
    pub fn next_place(&self) -> usize {
        self.lock().places.len()
    }

    /// Whoever is parked wakes up.
    pub fn unpark(&self) {
        self.lock().each(|state| {
            if let State::Parked(_) = state {
                *state = State::Ready
            }
        });
    }

    fn await_turn(&self, me: usize) {
        while self.lock().running != me {
            std::thread::park();
        }
    }

    /// The calling thread gives its turn away and is in `state` until it gets it back.
    fn switch(&self, state: State) {
        if std::thread::panicking() {
            return;
        }
        let me = ME.get();
        let next = self.lock().hand_over(me, state);
        if let Some(next) = next {
            next.unpark();
            self.await_turn(me);
        }
        assert!(me != HISTORY || self.lock().turns < ENDLESS, "threads have turn after turn and never sleep");
        if me != HISTORY && self.lock().death.is_some() {
            std::panic::resume_unwind(Box::new(Killed));
        }
    }

    fn leave(&self) {
        let next = self.lock().hand_over(ME.get(), State::Gone);
        next.expect("one that is gone has no more turns").unpark();
    }

    fn injected(&self, point: &str) -> io::Result<bool> {
        let mut inner = self.lock();
        if let Some((points, death)) = &mut inner.doom {
            *points = points.saturating_sub(1);
            if *points == 0 {
                let death = *death;
                inner.doom = None;
                inner.kill(death);
                drop(inner);
                self.say(|| format!("dies at {point}"));
                std::panic::resume_unwind(Box::new(Killed));
            }
        }
        let Inner { faults, chance, .. } = &mut *inner;
        let writes = ["ledger.", "render.", "move.mkdir", "move.copy"].iter().any(|prefix| point.starts_with(prefix));
        let files = ["read.", "scan.", "render.", "move.", "claim.", "decode.after", "assess.", "retry."];
        let error = match point {
            "ledger.committed" => (faults.unheard && chance.once_in(2)).then_some(Errno::IO),
            _ if writes && faults.full => chance.once_in(2).then_some(Errno::NOSPC),
            _ if point.starts_with("ledger.") => (faults.ledger && !chance.once_in(3)).then_some(Errno::IO),
            "decode.spawn" => faults.spawn.then_some(Errno::AGAIN),
            _ if faults.flaky && files.iter().any(|prefix| point.starts_with(prefix)) => chance.once_in(4).then_some(Errno::IO),
            _ => None,
        };
        match error {
            Some(error) => {
                drop(inner);
                self.say(|| format!("{point}: {error}"));
                Err(error.into())
            }
            None => Ok(chance.once_in(3)),
        }
    }
}

impl Inner {
    fn each(&mut self, change: impl Fn(&mut State)) {
        self.places[1..].iter_mut().for_each(|place| change(&mut place.state));
    }

    fn kill(&mut self, death: Death) {
        self.death.get_or_insert(death);
        self.doom = None;
        self.each(|state| {
            if *state != State::Gone {
                *state = State::Ready;
            }
        });
    }

    /// Whose turn it is now, if it is another thread's.
    fn hand_over(&mut self, me: usize, state: State) -> Option<Thread> {
        self.turns += 1;
        // A thread that dies with its program does so at its next turn, wherever it waits.
        let state = if self.death.is_some() && me != HISTORY && state != State::Gone { State::Ready } else { state };
        self.places[me].state = state;
        if !matches!(state, State::Locked(_)) {
            self.each(|state| {
                if let State::Locked(tried) = state {
                    *tried = false
                }
            });
        }
        let next = self.choose();
        self.places[next].state = match self.places[next].state {
            State::Locked(_) => State::Locked(true),
            _ => State::Ready,
        };
        self.running = next;
        (next != me).then(|| self.places[next].thread.clone())
    }

    fn choose(&mut self) -> usize {
        if self.turns >= ENDLESS {
            return HISTORY;
        }
        loop {
            let can = |place: &Place| matches!(place.state, State::Ready | State::Locked(false));
            let count = self.places.iter().filter(|place| can(place)).count();
            if count > 0 {
                let wanted = if count == 1 { 0 } else { self.chance.below(count) };
                let found = self.places.iter().enumerate().filter(|(_, place)| can(place)).nth(wanted);
                return found.map_or(HISTORY, |(index, _)| index);
            }
            let until = |place: &Place| match place.state {
                State::Asleep(until) | State::Parked(until) => Some(until),
                _ => None,
            };
            // The history always sleeps when it does not run, so there is always one.
            let Some(first) = self.places.iter().filter_map(until).min() else { return HISTORY };
            self.now = self.now.max(first);
            for place in &mut self.places {
                if until(place).is_some_and(|until| until <= self.now) {
                    place.state = State::Ready;
                }
            }
        }
    }
}

impl World for Machine {
    fn boot(&self) -> Duration {
        self.lock().now
    }

    fn utc(&self) -> jiff::Timestamp {
        let inner = self.lock();
        let seconds = 1_772_000_000 + inner.now.as_secs() as i64 + inner.skew_s;
        jiff::Timestamp::new(seconds, inner.now.subsec_nanos() as i32).expect("within ten years of today")
    }

    fn free_space(&self) -> u64 {
        if self.lock().faults.full { 0 } else { 1 << 40 }
    }

    fn pass(&self, point: &str) -> io::Result<()> {
        if std::thread::panicking() || ME.get() == HISTORY {
            return Ok(());
        }
        if self.injected(point)? {
            let takes = self.chance(|chance| if chance.once_in(4) { chance.time(1, 200) } else { Duration::ZERO });
            self.sleep(takes);
        }
        Ok(())
    }

    fn reach(&self, path: &Path, how: Reach) -> io::Result<()> {
        let inner = self.lock();
        let faults = &inner.faults;
        let shut = faults.closed.iter().any(|folder| path.starts_with(folder) && (how == Reach::Open || path != folder))
            || how == Reach::Open && faults.unreadable.iter().any(|file| file == path);
        if shut && ME.get() != HISTORY { Err(Errno::ACCESS.into()) } else { Ok(()) }
    }

    fn sleep(&self, time: Duration) {
        let until = self.lock().now + time;
        self.switch(if time.is_zero() { State::Ready } else { State::Asleep(until) });
    }

    fn park(&self, time: Duration) {
        let until = self.lock().now + time;
        self.switch(State::Parked(until));
    }

    fn wait(&self, lacks: Lacks) {
        self.switch(match lacks {
            Lacks::Lock => State::Locked(true),
            Lacks::Work => State::Idle,
        });
    }

    fn tell(&self) {
        self.lock().each(|state| {
            if *state == State::Idle {
                *state = State::Ready;
            }
        });
    }
}
