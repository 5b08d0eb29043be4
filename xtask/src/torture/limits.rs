//! F11, F13: a full disk, and a system that refuses to watch folders.

use super::{
    arena::{Arena, image, wait_for_ends},
    figure::{Figure, Measures, Step},
};
use mmlnb_tests::{Dropped, End, Tmpfs, drop_by_copy, wait_for};
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(60);

/// Full disk.
pub static F11: Figure = Figure {
    name: "F11",
    what: "a disk of 64 MB is filled while files come, and freed",
    wanted: "paused and told, resumes within 35 s, no file failed for it, invariant I",
    unit: "cycles",
    full: || 100,
    short: None,
    step: 10,
    alone: false,
    hindrance: || Tmpfs::mount(1).is_none().then(|| "mounting a tmpfs is not allowed here".to_owned()),
    play: fill_and_free,
};

/// No watches.
pub static F13: Figure = Figure {
    name: "F13",
    what: "a user namespace that allows no inotify watch, or no inotify instance",
    wanted: "polled and amber within 10 s, every file found, invariant I",
    unit: "rounds",
    full: || 20,
    short: None,
    step: 1,
    alone: false,
    hindrance: || {
        let tried = without("max_inotify_watches", &["true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        (!tried.is_ok_and(|status| status.success()))
            .then(|| "user namespaces with limits of their own are not allowed here".to_owned())
    },
    play: unwatched,
};

fn fill_and_free(step: &Step) -> Measures {
    let disk = Tmpfs::mount(64).expect("mounting was possible a moment ago");
    let arena = Arena::at(disk.path().join("box"));
    arena.set("min_free_mb", "8");
    let mut daemon = arena.daemon().start();
    let (mut measures, mut dropped) = (Measures::default(), Vec::new());
    for round in step.rounds() {
        disk.fill(6 << 20);
        let mut draw = step.draw(round);
        for at in 0..5 {
            let (bytes, ending) = image(&mut draw);
            drop_by_copy(&bytes, &arena.inbox(&format!("{round}-{at}.{ending}")));
            dropped.push(Dropped::new(&bytes, End::Report));
        }
        wait_for(LIMIT, "PAUSED in STATUS.txt", || arena.status_text().contains("PAUSED"));
        let reports = arena.reports().len();
        assert_eq!(reports, dropped.len() - 5, "cycle {round}: nothing is begun on a full disk");
        disk.free();
        let begun = Instant::now();
        wait_for(Duration::from_secs(35), "work to go on", || arena.reports().len() > reports);
        measures.most("longest until work goes on", begun.elapsed().as_secs_f64(), "s");
        wait_for_ends(&arena, &mut daemon, dropped.len(), LIMIT, &format!("cycle {round}"));
    }
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    arena.assert_each_ended_once(&dropped, &format!("cycles {:?}", step.rounds()));
    measures.count("files", dropped.len() as u64);
    measures
}

/// Words that run a program where the system allows none of these.
fn wrapper(limit: &str) -> Vec<String> {
    let script = format!("echo 0 > /proc/sys/user/{limit} && exec \"$@\"");
    ["unshare", "--user", "--map-root-user", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

fn without(limit: &str, words: &[&str]) -> Command {
    let wrapper = wrapper(limit);
    let mut command = Command::new(&wrapper[0]);
    command.args(&wrapper[1..]).args(words).stdin(Stdio::null());
    command
}

fn unwatched(step: &Step) -> Measures {
    let mut measures = Measures::default();
    for round in step.rounds() {
        let arena = Arena::new(step, round);
        let words = wrapper(["max_inotify_watches", "max_inotify_instances"][(round % 2) as usize]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut daemon = arena.daemon().through(&words).start();
        let begun = Instant::now();
        let told = || arena.status_text().contains("the system refuses to watch it");
        wait_for(Duration::from_secs(10), "STATUS.txt to say that the inbox is polled", told);
        measures.most("longest until told", begun.elapsed().as_secs_f64(), "s");
        arena.operator(&["status", "--check"]).expect(1);
        let mut draw = step.draw(round);
        let mut dropped = Vec::new();
        for at in 0..10 {
            let (bytes, ending) = image(&mut draw);
            drop_by_copy(&bytes, &arena.inbox(&format!("case {}/{at}.{ending}", at % 3)));
            dropped.push(Dropped::new(&bytes, End::Report));
        }
        wait_for_ends(&arena, &mut daemon, dropped.len(), LIMIT, &format!("round {round}"));
        assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
        arena.assert_each_ended_once(&dropped, &format!("round {round}"));
        measures.count("files", dropped.len() as u64);
    }
    measures
}
