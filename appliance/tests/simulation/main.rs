//! A seeded simulation of the intake. One process tells history after history: people drop, rename, replace and withdraw files, disks fill,
//! folders vanish, the ledger, the decoder and the engine fail, the program dies at any step and starts anew. After each history the faults
//! cease, and then every file must have ended as it should.
//!
//! `MMLNB_SIMULATION_HISTORIES=N` tells so many, `MMLNB_SIMULATION_SEED=N` one again, step by step.
#![cfg(feature = "failpoints")]
#![allow(clippy::disallowed_methods, reason = "tests prepare files by paths")]

mod chance;
mod content;
mod decoder;
mod engine;
mod history;
mod machine;
mod outcome;
mod program;
mod watcher;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mmlnb_appliance::config::{Config, Need};

/// Without a wish: as many histories as fit into this time.
const TIME: Duration = Duration::from_secs(15);

/// Histories in which faults showed that have been mended: a file withdrawn while the inbox was away, an inbox that failed at the start,
/// twins filed twice, no brake, want of memory, waiting in line, another's claim given back, a file that recovery could not look at, a failed
/// file that stood for two drops and was sent back for one.
const FOUND: [u64; 9] = [1, 3, 7, 21, 23, 96, 105, 361, 51319];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: `{text}` is no number")))
}

/// A folder in memory where there is one: nothing here depends on a disk.
fn workplace() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("mmlnb-simulation").tempdir_in(root).unwrap()
}

fn configuration(root: &Path) -> Config {
    let init = Command::new(env!("CARGO_BIN_EXE_mmlnb-appliance")).arg("init").arg(root).output().unwrap();
    assert!(init.status.success(), "{init:?}");
    Config::load(&root.join("appliance.toml"), Need::Ledger).unwrap()
}

/// Tells one history; what was wrong with it.
fn tell(seed: u64, template: &Config, told: bool) -> Result<(), String> {
    let dir = workplace();
    let history = history::History::new(seed, template, dir.path(), told);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| history.tell()));
    let result = result.unwrap_or_else(|_| Err("the history itself panicked".into()));
    result.map_err(|wrong| format!("seed {seed}: {wrong}"))
}

fn template() -> (tempfile::TempDir, Config) {
    let dir = workplace();
    let config = configuration(&dir.path().join("template"));
    (dir, config)
}

#[test]
fn every_file_ends_once_and_nothing_is_blamed_for_what_is_not_its_own() {
    let (_dir, template) = template();
    if let Some(seed) = number("MMLNB_SIMULATION_SEED") {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).without_time().init();
        tell(seed, &template, true).unwrap_or_else(|wrong| panic!("{wrong}"));
        return;
    }
    for seed in FOUND {
        tell(seed, &template, false).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    let first = number("MMLNB_SIMULATION_FIRST").unwrap_or(0);
    let last = number("MMLNB_SIMULATION_HISTORIES").map(|count| first + count);
    let (begun, next, wrong) = (Instant::now(), AtomicU64::new(first), Mutex::new(Vec::new()));
    let work = || {
        while wrong.lock().unwrap().is_empty() && (last.is_some() || begun.elapsed() < TIME) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if last.is_some_and(|last| seed >= last) {
                return;
            }
            if let Err(found) = tell(seed, &template, false) {
                return wrong.lock().unwrap().push(format!("{found}\ntell it again with MMLNB_SIMULATION_SEED={seed}"));
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    println!("{} histories in {:.1} s", next.into_inner() - first, begun.elapsed().as_secs_f64());
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Where a history's folders lie.
fn below(root: &Path, name: &str) -> PathBuf {
    let path = root.join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}
