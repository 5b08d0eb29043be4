//! What the service manager sees: ready after warm-up, stopping at once, a watchdog fed by progress alone; and the unit's sandbox.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mmlnb_tests::{Appliance, Ran, appliance_binary, drop_by_copy, has_failpoints, installed, patches, run, wait_for};
use tempfile::TempDir;

const UNIT: &str = "mmlnb-appliance.service";

#[test]
fn ready_comes_only_after_the_networks_have_run_once() {
    if !has_failpoints("ready comes only after warm-up") {
        return;
    }
    let appliance = Appliance::new();
    let mut daemon = appliance.daemon().failpoints("engine.warm_up=delay:3000").launch();
    wait_for(Duration::from_secs(30), "a status while loading", || {
        daemon.assert_alive();
        daemon.said().iter().any(|(_, line)| line.starts_with("STATUS="))
    });
    wait_for(Duration::from_secs(60), "READY=1", || daemon.says("READY=1"));
    let said = daemon.said();
    let ready = said.iter().find(|(_, line)| line == "READY=1").expect("it was just heard").0;
    assert!(ready - daemon.started() >= Duration::from_secs(3), "ready before the warm-up had ended");
    assert!(said.iter().any(|(_, line)| line.starts_with("EXTEND_TIMEOUT_USEC=")), "a slow disk gets more time: {said:?}");
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn a_bundle_that_cannot_warm_up_is_never_ready() {
    if !has_failpoints("a bundle that cannot warm up") {
        return;
    }
    let appliance = Appliance::new();
    let mut daemon = appliance.daemon().failpoints("engine.warm_up=eio").launch();
    let code = daemon.wait(Duration::from_secs(60));
    assert_ne!(code, 0, "{}", daemon.log());
    assert!(!daemon.says("READY=1"));
}

#[test]
fn a_stop_is_announced_and_clean() {
    let appliance = Appliance::new();
    let mut daemon = appliance.daemon().start();
    assert!(!daemon.says("STOPPING=1"));
    daemon.terminate();
    assert_eq!(daemon.wait(Duration::from_secs(5)), 0);
    wait_for(Duration::from_secs(2), "STOPPING=1", || daemon.says("STOPPING=1"));
    assert!(daemon.said().iter().any(|(_, line)| line.starts_with("STATUS=READY")), "{:?}", daemon.said());
}

#[test]
fn the_watchdog_is_fed_while_idle_and_starves_when_a_worker_hangs() {
    if !has_failpoints("the watchdog starves when a worker hangs") {
        return;
    }
    let appliance = Appliance::new();
    appliance.set("assess_s", "2");
    let daemon = appliance.daemon().failpoints("assess.before=hang").variable("WATCHDOG_USEC", "3000000").start();
    let fed = || daemon.said().iter().filter(|(_, line)| line == "WATCHDOG=1").map(|(at, _)| *at).collect::<Vec<Instant>>();
    wait_for(Duration::from_secs(10), "three meals while idle", || fed().len() >= 3);
    let patch = patches(1).remove(0);
    drop_by_copy(&patch.bytes, &appliance.inbox(&patch.name));
    let silent = || fed().last().is_some_and(|last| last.elapsed() > Duration::from_secs(4));
    wait_for(Duration::from_secs(40), "an end of the meals", silent);
    let said = daemon.said();
    assert!(said.windows(2).filter(|pair| pair[1].1 == "WATCHDOG=1").count() >= 3, "{said:?}");
    daemon.kill();
    let daemon = appliance.daemon().start();
    appliance.wait_for_files(1, Duration::from_secs(60));
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

fn systemd() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("systemd")
}

/// The unit in a folder of its own, its program replaced by the built one, with or without the GPU's drop-in.
fn unit(gpu: bool) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let text = fs::read_to_string(systemd().join(UNIT)).expect("the unit is there");
    assert!(text.contains("ExecStart=/usr/bin/mmlnb-appliance run"), "{text}");
    let text = text.replace("/usr/bin/mmlnb-appliance", &appliance_binary().display().to_string());
    fs::write(folder.path().join(UNIT), text).expect("a temporary folder is writable");
    if gpu {
        let drop_in = folder.path().join(format!("{UNIT}.d"));
        fs::create_dir(&drop_in).expect("a temporary folder is writable");
        fs::copy(systemd().join(format!("{UNIT}.d/gpu.conf")), drop_in.join("gpu.conf")).expect("the drop-in is there");
    }
    folder
}

fn analyze(words: &[&str], folder: &TempDir) -> Ran {
    run(Command::new("systemd-analyze").args(words).arg(folder.path().join(UNIT)))
}

#[test]
fn the_unit_is_understood_without_a_word_of_complaint() {
    if !installed("systemd-analyze", "the check of the unit") {
        return;
    }
    for gpu in [false, true] {
        let ran = analyze(&["verify", "--man=no"], &unit(gpu)).expect(0);
        assert_eq!(ran.err, "", "with the GPU's drop-in: {gpu}");
    }
}

#[test]
fn the_sandbox_leaves_little_exposed() {
    if !installed("systemd-analyze", "the sandbox's score") {
        return;
    }
    for (gpu, threshold) in [(false, 15), (true, 30)] {
        analyze(&["security", "--offline=true", &format!("--threshold={threshold}"), "--no-pager"], &unit(gpu)).expect(0);
    }
}

#[test]
fn the_unit_restarts_what_a_restart_can_mend_and_nothing_else() {
    let text = fs::read_to_string(systemd().join(UNIT)).expect("the unit is there");
    for line in
        ["Type=notify", "Restart=on-failure", "RestartPreventExitStatus=2 65 77 78", "StartLimitIntervalSec=0", "User=mmlnb"]
    {
        assert!(text.lines().any(|found| found.trim() == line), "`{line}` stands in the unit");
    }
}
