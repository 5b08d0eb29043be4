//! F3: the daemon's own system calls fail, each kind at each of its first hundred times.

use super::{
    arena::{Arena, Parcel, stream, wait_for_ends},
    figure::{Figure, Measures, Step},
    strace,
};
use mmlnb_tests::{Daemon, Dropped, drop_by_copy};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Calls that files, pages and ledger depend on. SQLite, as it is built in, syncs by fsync and never by fdatasync.
const CALLS: [&str; 7] = ["write", "fsync", "pwrite64", "renameat2", "openat2", "read", "ftruncate"];
const ERRORS: [&str; 2] = ["EIO", "ENOSPC"];
/// The call of each thread that fails.
const TIMES: u64 = 100;

const FILES: usize = 10;
/// How long the daemon is left to itself with the fault.
const FAULTY: Duration = Duration::from_secs(15);
const ENDS: Duration = Duration::from_secs(120);

/// Injected errors.
pub static F3: Figure = Figure {
    name: "F3",
    what: "strace lets the Nth write, fsync, pwrite64, renameat2, openat2, read or ftruncate of every thread fail with EIO or ENOSPC, N = 1..100; restart",
    wanted: "the program may exit; no row lies meanwhile, invariant I after the restart",
    unit: "rounds",
    full: || CALLS.len() as u64 * ERRORS.len() as u64 * TIMES,
    short: Some(28),
    step: 1,
    alone: false,
    hindrance: strace::hindrance,
    play,
};

fn play(step: &Step) -> Measures {
    let mut measures = Measures::default();
    for round in step.rounds() {
        // All kinds of calls, then the next time: 1, 8, 15, .. with all hundred in the end.
        let kinds = (CALLS.len() * ERRORS.len()) as u64;
        let (kind, time) = ((round % kinds) as usize, 1 + round / kinds * 7 % TIMES);
        let (call, error) = (CALLS[kind / ERRORS.len()], ERRORS[kind % ERRORS.len()]);
        inject(step, round, &format!("{call}:error={error}:when={time}"), call, &mut measures);
    }
    measures
}

fn inject(step: &Step, round: u64, fault: &str, call: &str, measures: &mut Measures) {
    let arena = Arena::new(step, round);
    arena.set("settle_ms", "30");
    arena.set("max_attempts", "5");
    let story = format!("round {round}, {fault}");
    let files = stream(&mut step.draw(round), FILES, "f");
    files.iter().for_each(|file| drop_by_copy(&file.bytes, &arena.inbox(&file.path)));
    let log = arena.root().join("calls");
    let (trace, inject) = (format!("trace={call}"), format!("inject={fault}"));
    let words = strace::words(&log, &["-e", &trace, "-e", &inject, "--seccomp-bpf"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut daemon = arena.daemon().through(&words).launch();
    let begun = Instant::now();
    while daemon.ended().is_none() && begun.elapsed() < FAULTY && !all_ended(&arena) {
        std::thread::sleep(Duration::from_millis(200));
    }
    if end(&mut daemon) {
        measures.count("ended by themselves", 1);
    }
    if arena.ledger().is_file() && arena.operator(&["reports", "--json"]).code == 0 {
        arena.assert_rows_are_true(&story);
    }
    let text = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let faults = text.lines().filter(|line| line.contains("(INJECTED)")).count();
    measures.count("rounds that met their fault", u64::from(faults > 0));
    measures.count("faults", faults as u64);

    let mut daemon = arena.daemon().start();
    wait_for_ends(&arena, &mut daemon, files.len(), ENDS, &story);
    // The faults hit the decoders too, each new one again: that is a reason to fail, and one after which trying again helps.
    let died = arena.files().iter().filter(|row| row.state == "failed" && row.code.as_deref() == Some("decoder_died")).count();
    if died > 0 {
        measures.count("files whose decoders all met it, sent back by retry", died as u64);
        arena.operator(&["retry", "--code", "decoder_died"]).expect(0);
        wait_for_ends(&arena, &mut daemon, files.len() + died, ENDS, &story);
    }
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "{story}");
    let dropped: Vec<Dropped> = files.iter().map(Parcel::dropped).collect();
    arena.assert_each_ended_once(&dropped, &story);
}

fn all_ended(arena: &Arena) -> bool {
    // Before its first start the ledger has no tables.
    arena.operator(&["reports", "--json"]).code == 0 && arena.files().iter().filter(|row| row.filed_at.is_some()).count() >= FILES
}

/// Stops it; true when it had ended by itself. One that cannot stop any more is killed: that too must not lose anything.
fn end(daemon: &mut Daemon) -> bool {
    if daemon.ended().is_some() {
        return true;
    }
    daemon.terminate();
    daemon.wait(Duration::from_secs(60));
    false
}
