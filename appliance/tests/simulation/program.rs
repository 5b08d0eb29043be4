//! The program on the machine: the product's own ledger, recovery, scanner, workers and supervisor, started in the daemon's order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mmlnb_appliance::assess::reader::Settings;
use mmlnb_appliance::config::Config;
use mmlnb_appliance::daemon::safe_mode;
use mmlnb_appliance::daemon::supervisor::{Course, Supervisor};
use mmlnb_appliance::engine::{Mode, Provider};
use mmlnb_appliance::error::{Exit, Failure};
use mmlnb_appliance::intake::{self, Folder, Intake, Scanner};
use mmlnb_appliance::ledger::{Ledger, RunStart, record};
use mmlnb_appliance::{clock, verdict, world};

use crate::content::Catalogue;
use crate::decoder::StandIn;
use crate::engine::Engine;
use crate::machine::{Death, Machine};
use crate::watcher::Watches;

/// How often the supervisor looks.
const LOOK: Duration = Duration::from_millis(500);

/// What outlives the program.
pub struct Place {
    pub machine: Arc<Machine>,
    pub config: Config,
    pub catalogue: Arc<Catalogue>,
    /// Time of an engine's step and most tokens of a description.
    pub pace: (Duration, usize),
    /// The mark that a program leaves that dies of its own fault.
    pub died: AtomicBool,
    pub oom_kills: AtomicUsize,
}

/// A program that runs, or has ended.
#[derive(Clone)]
pub struct Program {
    pub watches: Watches,
    signals: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    intake: Arc<Mutex<Option<Arc<Intake>>>>,
    ended: Arc<Mutex<Option<Result<Exit, Failure>>>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Program {
    pub fn start(place: &Arc<Place>) -> Program {
        let program = Program {
            watches: Watches::default(),
            signals: Arc::default(),
            stop: Arc::default(),
            intake: Arc::default(),
            ended: Arc::default(),
            threads: Arc::default(),
        };
        place.machine.say(|| "the program starts".into());
        let (this, at) = (program.clone(), place.clone());
        program.spawn(place, move || {
            let result = this.live(&at);
            at.machine.say(|| format!("the program ends: {result:?}"));
            *lock(&this.ended) = Some(result);
            // Whatever still runs ends with the program.
            at.machine.kill(Death::Left);
        });
        program
    }

    fn spawn(&self, place: &Place, work: impl FnOnce() + Send + 'static) {
        let thread = place.machine.spawn(work);
        lock(&self.threads).push(thread);
    }

    /// A person at the control socket does something.
    pub fn ask(&self, place: &Place, question: impl FnOnce(&Intake) + Send + 'static) {
        if let Some(intake) = self.intake() {
            self.spawn(place, move || question(&intake));
        }
    }

    pub fn signal(&self) {
        self.signals.fetch_add(1, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The intake, once the program is ready.
    pub fn intake(&self) -> Option<Arc<Intake>> {
        lock(&self.intake).clone()
    }

    /// With what it ended, if it has.
    pub fn ended(&self) -> Option<Result<Exit, Failure>> {
        lock(&self.ended).clone()
    }

    /// Takes what is left of it away.
    pub fn bury(self, place: &Place) -> Option<Death> {
        let threads = std::mem::take(&mut *lock(&self.threads));
        let death = place.machine.bury(threads);
        lock(&self.intake).take();
        death
    }

    /// As `daemon::run_with`.
    fn live(&self, place: &Arc<Place>) -> Result<Exit, Failure> {
        let (machine, config) = (&place.machine, place.config.clone());
        let ledger = Ledger::open(&config.ledger(), self.stop.clone())?;
        let folder = Folder::new(&config);
        folder.adopt(&ledger)?;
        let start = RunStart {
            started_at: clock::utc_now(),
            boot_id: "boot".into(),
            host: "host".into(),
            bundle_sha256: "ab".repeat(32),
            classes: ["A", "B", "C"].map(String::from).to_vec(),
            qualification_sha256: None,
            trust: Default::default(),
            oom_kills: Some(place.oom_kills.load(Ordering::Relaxed) as i64),
        };
        let (run, bundle) = ledger.write("ledger.begin_run", |tx| record::begin_run(tx, &start))?;
        let safe_mode = ledger.read(|tx| safe_mode::due(tx, run, config.safe_mode_after, &start.started_at))?;
        world::sleep(machine.chance(|chance| chance.time(100, 5000)));
        let engine = Engine::new(machine.clone(), place.catalogue.clone(), config.slots, place.pace);
        let engine = Arc::new(engine);
        let assess = engine.clone();
        let intake = Arc::new(Intake {
            folder,
            ledger,
            desk: Default::default(),
            board: Default::default(),
            assess: Arc::new(move |image, request| assess.assess(image, request)),
            notices: Vec::new(),
            safe_mode,
            mode: Mode::Both,
            reading: Settings::new("/nowhere".into(), config.decode, (config.max_side, config.min_side)),
            patience: Default::default(),
            rules: verdict::Rules { calibration: None, indeterminate_below: 0.5, provider: Provider { name: "cpu", note: None } },
            run,
            bundle,
            served: String::new(),
            stop: self.stop.clone(),
            halt: Arc::default(),
            fatal: Mutex::new(None),
            alone: Default::default(),
            filing: Default::default(),
            sight: Mutex::default(),
            config,
        });
        intake::recover(&intake, place.died.load(Ordering::Relaxed))?;
        place.died.store(false, Ordering::Relaxed);
        let first = machine.next_place();
        self.begin(place, &intake);
        let awaited = first..machine.next_place();
        let serving = engine.clone();
        self.spawn(place, move || serving.serve());
        *lock(&self.intake) = Some(intake.clone());
        self.supervise(place, &intake, &awaited);
        let fatal = lock(&intake.fatal).take();
        let reason = if fatal.is_some() { "fatal" } else { "stop" };
        let written = intake.ledger.write("ledger.end_run", |tx| record::end_run(tx, run, reason));
        match fatal {
            Some(failure) => Err(failure),
            None => Ok(written.map(|()| Exit::Done)?),
        }
    }

    fn begin(&self, place: &Arc<Place>, intake: &Arc<Intake>) {
        let workers = if intake.safe_mode.is_some() { 0 } else { intake.config.slots + 2 };
        for _ in 0..workers {
            let (intake, place) = (intake.clone(), place.clone());
            let limit = intake.config.decode;
            self.spawn(&place.clone(), move || {
                intake.board.join();
                let (machine, catalogue) = (place.machine.clone(), place.catalogue.clone());
                intake::work_with(&intake, &mut StandIn { machine, catalogue, limit });
            });
        }
        let (intake, make) = (intake.clone(), self.watches.maker(&place.machine));
        self.spawn(place, move || Scanner::with(intake, make).look_on());
    }

    /// Until the awaited threads are gone, or had time enough.
    fn supervise(&self, place: &Place, intake: &Intake, awaited: &std::ops::Range<usize>) {
        let mut supervisor = Supervisor::default();
        while !place.machine.are_gone(awaited.clone()) {
            match supervisor.look(intake, self.signals.load(Ordering::Relaxed)) {
                Course::On => world::sleep(LOOK),
                Course::Leave => return,
                Course::Stuck => place.machine.kill(Death::Own),
            }
        }
    }
}
