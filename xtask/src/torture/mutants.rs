//! F5: files with faults made by chance, through the confined decoder alone and through the whole appliance.

use super::{
    arena::Arena,
    figure::{Figure, Measures, Step},
};
use crate::checkout;
use mmlnb_tests::{Dropped, End, drop_by_copy, mutant, originals};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

/// Longest that one file may take in the child, in seconds.
const SECONDS: f64 = 1.0;
/// Growth of the daemon that a file may cause.
const GROWTH: u64 = 200 << 20;

/// The confined child alone.
pub static F5: Figure = Figure {
    name: "F5",
    what: "mutated PNG, JPEG, TIFF, BMP and headers of 65,535 x 65,535 through the confined child",
    wanted: "no death of the child, at most 1 s each, the program's memory grows by less than 200 MB",
    unit: "files",
    full: || 20_000,
    short: Some(1000),
    step: 1000,
    alone: true,
    hindrance: || None,
    play: in_child,
};

/// The whole appliance.
pub static F5_INBOX: Figure = Figure {
    name: "F5-inbox",
    what: "mutated files dropped into the inbox",
    wanted: "the program lives, its memory grows by less than 200 MB, invariant I",
    unit: "files",
    full: || 2000,
    short: Some(100),
    step: 100,
    alone: false,
    hindrance: || None,
    play: through_inbox,
};

/// The child is the appliance's own: its room has the test that asks it.
fn in_child(step: &Step) -> Measures {
    let mut test = Command::new(env!("CARGO"));
    test.args(["test", "--workspace", "--features", "mmlnb-appliance/failpoints", "--test", "mutants", "--", "--nocapture"]);
    test.env("MMLNB_MUTANTS", format!("{}:{}", step.first, step.count)).current_dir(checkout());
    let ran = test.output().expect("cargo can be started");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    let line = out
        .lines()
        .find_map(|line| line.split_once("measured "))
        .unwrap_or_else(|| panic!("nothing was measured\n{out}\n{err}"))
        .1;
    let found: Value = serde_json::from_str(line).expect("the test prints JSON");
    let number = |name: &str| found[name].as_f64().unwrap_or_else(|| panic!("no {name} in {found}"));
    assert!(number("longest_s") <= SECONDS, "a file took {} s", number("longest_s"));
    let mut measures = Measures::default();
    for name in ["decoded", "unfinished", "refused"] {
        measures.count(name, number(name) as u64);
    }
    measures.most("longest", number("longest_s"), "s");
    measures.most("growth of the program", number("grown_mb"), "MB");
    measures.most("largest child", number("child_mb"), "MB");
    measures
}

fn through_inbox(step: &Step) -> Measures {
    let arena = Arena::new(step, 0);
    arena.set("settle_ms", "30");
    arena.set("incomplete_s", "1");
    let mut daemon = arena.daemon().start();
    let base = daemon.peak_memory();
    let (images, mut seen, mut dropped) = (originals(), BTreeSet::new(), Vec::new());
    for round in step.rounds() {
        let mut draw = step.draw(round);
        let bytes = mutant(&images, |below| draw.below(below));
        // An empty file has no bytes that could tell it from another.
        if bytes.is_empty() || !seen.insert(bytes.clone()) {
            continue;
        }
        let ending = ["png", "jpg", "tif", "bmp"][draw.below(4)];
        drop_by_copy(&bytes, &arena.inbox(&format!("case/{round}.{ending}")));
        dropped.push(Dropped::new(&bytes, End::Either));
    }
    let begun = Instant::now();
    while arena.files().iter().filter(|row| row.filed_at.is_some()).count() < dropped.len() {
        daemon.assert_alive();
        assert!(
            begun.elapsed() < Duration::from_secs(300),
            "not all of {} files end: {:?}",
            dropped.len(),
            arena.listing("inbox")
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let grown = daemon.peak_memory().saturating_sub(base);
    assert!(grown < GROWTH, "the program grew by {} MB", grown >> 20);
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    arena.assert_each_ended_once(&dropped, &format!("mutants {:?}", step.rounds()));
    let mut measures = Measures::default();
    measures.count("with a report", arena.reports().len() as u64);
    measures.count("failed with a reason", arena.files().iter().filter(|row| row.state == "failed").count() as u64);
    measures.most("growth of the program", (grown >> 20) as f64, "MB");
    measures
}
