//! The daemon: start, threads, signals, watchdog, end.

pub mod control;
mod death;
mod notify;
pub mod safe_mode;
mod status;
pub mod supervisor;
mod tidy;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mmlnb_models::bundle::{Bundle, Unchecked};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::assess::pipeline;
use crate::assess::reader::{Reader, Settings};
use crate::bundle;
use crate::config::{Config, Need};
use crate::engine::{Engine, EngineError, EngineOptions, Mode, Provider};
use crate::error::{Exit, Failure};
use crate::intake::{self, Adoption, Assess, Folder, Intake, Scanner};
use crate::ledger::{Ledger, RunStart, check, record};
use crate::qualify::answers;
use crate::report::status::{Level, Status};
use crate::{clock, verdict, world};
use death::DeathMark;
use supervisor::{Course, Supervisor};
use tidy::Tidy;

const TICK: Duration = Duration::from_millis(100);
/// How long a start waits for memory that others have, and how often it looks; after that the service manager starts it anew.
const FOR_MEMORY: Duration = Duration::from_secs(600);
const MEMORY_AGAIN: Duration = Duration::from_secs(10);
/// How long the end waits for a status that is being written.
const FOR_STATUS: Duration = Duration::from_secs(5);
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// A change is shown after at most this.
const STATUS_SOON: Duration = Duration::from_secs(2);

/// What the signals asked for.
#[derive(Clone, Default)]
struct Asked {
    count: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

/// What assesses images, what decodes them, and where it runs.
pub struct Assessor {
    /// The function.
    pub assess: Assess,
    /// The program whose hidden subcommand decodes.
    pub decoder: PathBuf,
    /// Device.
    pub provider: Provider,
    /// Images that it takes together.
    pub slots: usize,
    /// What people should know of the bundle on this machine.
    pub notices: Vec<String>,
}

/// Runs the daemon until a signal, in the foreground.
///
/// # Errors
/// Everything that the exit statuses name.
pub fn run(file: &Path) -> Result<Exit, Failure> {
    run_with(file, load_engine)
}

fn load_engine(config: &Config, bundle: &Bundle) -> Result<Assessor, Failure> {
    let max_tokens = (config.max_tokens > 0).then_some(config.max_tokens);
    let drafts = config.drafts;
    let options = EngineOptions {
        max_tokens,
        drafts,
        ..bundle::options(&config.provider, config.threads, config.slots, Mode::Both, bundle)
    };
    let engine = open_engine(bundle, &options).map_err(|error| bundle::failure(&error, &config.bundle))?;
    let (provider, slots) = (engine.provider().clone(), engine.slots());
    if let Some(note) = &provider.note {
        tracing::warn!(event = "fallback", device = provider.name, note);
    }
    let mut notices = differences(bundle, &engine)?;
    if provider.name == "cpu" && bundle::is_half(bundle) {
        if !config.allow_f16_on_cpu {
            let mend = "export it with --precision f32 for this machine, or set `allow_f16_on_cpu = true`";
            return Err(Failure::new(Exit::Configuration, bundle::HALF_ON_CPU, config.bundle.display().to_string(), mend));
        }
        notices.push(bundle::HALF_ON_CPU.to_owned());
    }
    if config.provider != "cpu" {
        notices.extend(bundle::hidden_gpu());
    }
    let assess = move |image, request: &crate::engine::Request| -> Result<_, EngineError> { engine.assess(image, request) };
    Ok(Assessor { assess: Arc::new(assess), decoder: "/proc/self/exe".into(), provider, slots, notices })
}

/// Waits a while for memory that another program has at this moment.
fn open_engine(bundle: &Bundle, options: &EngineOptions) -> Result<Engine, EngineError> {
    let begun = Instant::now();
    loop {
        match Engine::open(bundle, options) {
            Err(EngineError::Memory(reason)) if begun.elapsed() < FOR_MEMORY => {
                tracing::warn!(event = "no_memory", reason, next_s = MEMORY_AGAIN.as_secs());
                std::thread::sleep(MEMORY_AGAIN);
            }
            other => return other,
        }
    }
}

/// The known answers that this machine does not give, as notices; of the describer only one is asked, so that the start stays short.
fn differences(bundle: &Bundle, engine: &Engine) -> Result<Vec<String>, Failure> {
    let found = answers::check(bundle, engine, &mut Reader::new(pipeline::settings()), 1)?;
    found.iter().for_each(|difference| tracing::error!(event = "known_answer", difference));
    let notice = |difference| format!("the bundle does not give a known answer on this machine; qualify it here: {difference}");
    Ok(found.into_iter().map(notice).collect())
}

/// [`run`] with something else than the engine, for tests of everything around it.
///
/// # Errors
/// As [`run`].
pub fn run_with(file: &Path, load: impl FnOnce(&Config, &Bundle) -> Result<Assessor, Failure> + Send) -> Result<Exit, Failure> {
    let _together = intake::EndTogether;
    let config = Config::load(file, Need::Everything)?;
    rustix::process::umask(rustix::fs::Mode::RWXO);
    let asked = listen_to_signals()?;
    let _lock = intake::lock(&config.state.join("lock"), "another appliance uses this state folder")?;
    let (mark, died) = DeathMark::open(&config.state).map_err(|error| Failure::io("the state folder", &config.state, &error))?;
    let ledger = notify::while_loading(&asked.count, "checking the ledger", || open_ledger(&config, &asked), || ())?;
    let folder = Folder::new(&config);
    if let Adoption::Absent(reason) = folder.adopt(&ledger)? {
        tracing::warn!(event = "inbox_missing", inbox = %config.inbox.display(), reason);
    }
    let (bundle, unchecked) = notify::while_loading(&asked.count, "opening the bundle", || begin_bundle(&config), || ())?;
    let start = run_start(&bundle);
    tracing::info!(event = "bundle", bundle = bundle::line(&bundle));
    let (run, bundle_row) = ledger.write("ledger.begin_run", |tx| record::begin_run(tx, &start))?;
    let safe_mode = ledger.read(|connection| safe_mode::due(connection, run, config.safe_mode_after, &start.started_at))?;
    if let Some(reason) = &safe_mode {
        tracing::error!(event = "safe_mode", reason);
    }
    let load = || if safe_mode.is_some() { Ok(nothing_is_assessed()) } else { load(&config, &bundle) };
    let assessor = begin_loading(&ledger, run, &asked, || bundle::checked(&bundle, unchecked, load))?;
    let slots = assessor.slots;
    let known = Known { config, folder, ledger, bundle: &bundle, run, bundle_row, safe_mode };
    let intake = Arc::new(put_together(known, assessor, &asked));
    intake::recover(&intake, died)?;
    mark.clear().and_then(|()| mark.watch()).map_err(|error| Failure::internal("the signal handlers cannot be set", error))?;
    let started = clock::utc_now();
    let threads = start_threads(&intake, slots, &started)?;
    notify::ready();
    let device = intake.rules.provider.name;
    tracing::info!(event = "ready", device, slots, bundle = &bundle.sha256[..12], version = env!("CARGO_PKG_VERSION"));
    let shown = Arc::<Mutex<bool>>::default();
    keep_shown(&intake, &started, &shown)?;
    supervise(&intake, &asked, &threads);
    finish(&intake, &started, &shown)
}

fn listen_to_signals() -> Result<Asked, Failure> {
    let asked = Asked::default();
    for signal in [SIGTERM, SIGINT] {
        let (count, stop) = (asked.count.clone(), asked.stop.clone());
        let note = move || {
            count.fetch_add(1, Ordering::Relaxed);
            stop.store(true, Ordering::Relaxed);
        };
        // SAFETY: the handler only touches two atomics, which is async-signal-safe.
        let registered = unsafe { signal_hook::low_level::register(signal, note) };
        registered.map_err(|error| Failure::internal("the signal handlers cannot be set", error))?;
    }
    Ok(asked)
}

fn open_ledger(config: &Config, asked: &Asked) -> Result<Ledger, Failure> {
    let ledger = Ledger::open(&config.ledger(), asked.stop.clone())?;
    let path = ledger.path().to_owned();
    let unclean = ledger.read(|connection| {
        let unclean = record::unclean(connection, None)?;
        if unclean {
            check::check(connection, &path, false)?;
        }
        Ok(unclean)
    })?;
    if unclean {
        tracing::warn!(event = "unclean_end", ledger = "checked, ok");
    }
    Ok(ledger)
}

fn begin_bundle(config: &Config) -> Result<(Bundle, Unchecked), Failure> {
    let (bundle, unchecked) = bundle::begin(&config.bundle, &config.trust)?;
    bundle::require_classifier(&bundle)?;
    Ok((bundle, unchecked))
}

#[expect(clippy::disallowed_methods, reason = "the kernel's files")]
fn run_start(bundle: &Bundle) -> RunStart {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    RunStart {
        started_at: clock::utc_now(),
        boot_id,
        host,
        bundle_sha256: bundle.sha256.clone(),
        classes: bundle.manifest.classifier.as_ref().map(|part| part.classes.clone()).unwrap_or_default(),
        qualification_sha256: bundle.qualification_sha256().map(str::to_owned),
        trust: bundle.standings(),
        oom_kills: death::oom_kills(),
    }
}

/// Loads what assesses images. The run is in the ledger already, so that a death while loading is known to the next start; an end for
/// which the service manager starts no other is none of a loop.
fn begin_loading(
    ledger: &Ledger,
    run: i64,
    asked: &Asked,
    load: impl FnOnce() -> Result<Assessor, Failure> + Send,
) -> Result<Assessor, Failure> {
    let end = |reason| {
        if let Err(error) = ledger.write("ledger.end_run", |tx| record::end_run(tx, run, reason)) {
            tracing::warn!(event = "end_run", %error);
        }
    };
    match notify::while_loading(&asked.count, "loading the bundle", load, || end("stop")) {
        Ok(assessor) => {
            ledger.write("ledger.begin_run", |tx| record::set_device(tx, run, assessor.provider.name))?;
            Ok(assessor)
        }
        Err(failure) if failure.exit == Exit::Internal => {
            end("fatal");
            Err(failure)
        }
        Err(failure) => {
            ledger.write("ledger.begin_run", |tx| record::forget_run(tx, run))?;
            Err(failure)
        }
    }
}

fn nothing_is_assessed() -> Assessor {
    Assessor {
        assess: Arc::new(|_, _| Err(EngineError::Internal("safe mode: nothing is assessed".into()))),
        decoder: "/proc/self/exe".into(),
        provider: Provider { name: "none", note: None },
        slots: 0,
        notices: Vec::new(),
    }
}

/// What a start knows before its engine is loaded.
struct Known<'a> {
    config: Config,
    folder: Folder,
    ledger: Ledger,
    bundle: &'a Bundle,
    run: i64,
    bundle_row: i64,
    safe_mode: Option<String>,
}

fn put_together(known: Known<'_>, assessor: Assessor, asked: &Asked) -> Intake {
    let Known { config, folder, ledger, bundle, run, bundle_row, safe_mode } = known;
    let calibration = bundle.calibration().cloned();
    Intake {
        folder,
        ledger,
        desk: Default::default(),
        board: Default::default(),
        assess: assessor.assess,
        notices: assessor.notices,
        safe_mode,
        mode: if bundle.manifest.describer.is_some() { Mode::Both } else { Mode::Classify },
        reading: Settings::new(assessor.decoder, config.decode, (config.max_side, config.min_side)),
        patience: Default::default(),
        rules: verdict::Rules { calibration, indeterminate_below: config.indeterminate_below, provider: assessor.provider },
        run,
        bundle: bundle_row,
        served: bundle::line(bundle),
        stop: asked.stop.clone(),
        halt: Arc::default(),
        fatal: Mutex::new(None),
        alone: Default::default(),
        filing: Default::default(),
        sight: Mutex::default(),
        config,
    }
}

fn start_threads(intake: &Arc<Intake>, slots: usize, started: &str) -> Result<Vec<JoinHandle<()>>, Failure> {
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
        thread.map_err(|error| Failure::internal("a thread cannot be started", error))
    };
    let mut threads = Vec::new();
    // Two more than the slots: while those are full, one image is decoded and one is committed. None in safe mode.
    let workers = if intake.safe_mode.is_some() { 0 } else { slots + 2 };
    for _ in 0..workers {
        let intake = intake.clone();
        threads.push(spawn("worker", Box::new(move || intake::work(&intake)))?);
    }
    let shared = intake.clone();
    threads.push(spawn("scanner", Box::new(move || Scanner::new(shared).run()))?);
    let listener = control::listen(&intake.config.state);
    let listener = listener.map_err(|error| Failure::io("the control socket cannot be made", &intake.config.state, &error))?;
    let (shared, started) = (intake.clone(), started.to_owned());
    let serve = move || control::serve(&shared, &listener, || status::now(&shared, &started));
    threads.push(spawn("control", Box::new(serve))?);
    Ok(threads)
}

/// Writes the status whenever it has changed, in a thread that nobody waits for: on a share that stalls it hangs, and neither the watchdog nor
/// the end may hang with it. `ended`: no further status is written.
fn keep_shown(intake: &Arc<Intake>, started: &str, ended: &Arc<Mutex<bool>>) -> Result<(), Failure> {
    let (intake, started, ended) = (intake.clone(), started.to_owned(), ended.clone());
    let (mut written, mut shown) = (None::<Instant>, String::new());
    let mut tidy = Tidy::default();
    let keep = move || loop {
        let sight = world::lock(&intake.sight).clone();
        let load = intake.desk.load();
        tidy.look(&load);
        let now_shown = format!("{load:?} {sight:?}");
        let age = written.map_or(Duration::MAX, |at| at.elapsed());
        if age > STATUS_EVERY || age > STATUS_SOON && now_shown != shown {
            let ended = world::lock(&ended);
            if *ended {
                return;
            }
            show(&intake, &started);
            (written, shown) = (Some(Instant::now()), now_shown);
        }
        std::thread::sleep(TICK);
    };
    let thread = std::thread::Builder::new().name("status".to_owned()).spawn(keep);
    thread.map(drop).map_err(|error| Failure::internal("a thread cannot be started", error))
}

/// The last status, if no share stalls.
fn show_the_end(intake: &Intake, started: &str, ended: &Mutex<bool>) {
    let begun = Instant::now();
    loop {
        if let Ok(mut ended) = ended.try_lock() {
            *ended = true;
            let now = status::now(intake, started);
            return status::write(intake, &Status { headline: "STOPPED".to_owned(), level: Level::Amber, ..now });
        }
        if begun.elapsed() > FOR_STATUS {
            return tracing::warn!(event = "status", "the last status cannot be written: the one before hangs");
        }
        std::thread::sleep(TICK);
    }
}

/// Feeds the watchdog and waits for the end of all threads.
fn supervise(intake: &Arc<Intake>, asked: &Asked, threads: &[JoinHandle<()>]) {
    let mut supervisor = Supervisor::default();
    while !threads.iter().all(JoinHandle::is_finished) {
        match supervisor.look(intake, asked.count.load(Ordering::Relaxed)) {
            Course::On => {}
            Course::Leave => return,
            Course::Stuck => std::process::abort(),
        }
        std::thread::sleep(TICK);
    }
}

fn show(intake: &Intake, started: &str) {
    let found = status::now(intake, started);
    status::write(intake, &found);
    notify::status(&format!("{}; {} today, {}", found.headline, found.reported_today, found.device));
}

fn finish(intake: &Intake, started: &str, shown: &Mutex<bool>) -> Result<Exit, Failure> {
    let fatal = intake.fatal.lock().unwrap_or_else(PoisonError::into_inner).take();
    let reason = if fatal.is_some() { "fatal" } else { "stop" };
    match intake.ledger.write("ledger.end_run", |tx| record::end_run(tx, intake.run, reason)) {
        Ok(()) => {}
        Err(error) if fatal.is_some() => tracing::warn!(event = "end_run", %error),
        Err(error) => return Err(error.into()),
    }
    control::remove(&intake.config.state);
    show_the_end(intake, started, shown);
    if let Err(error) = intake.ledger.checkpoint() {
        tracing::warn!(event = "checkpoint", %error);
    }
    tracing::info!(event = "stopped", reason);
    match fatal {
        Some(failure) => Err(failure),
        None => Ok(Exit::Done),
    }
}
