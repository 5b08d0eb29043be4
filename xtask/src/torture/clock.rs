//! F18: the wall clock jumps under the running daemon.

use super::{
    absent,
    arena::{Arena, LONG, image, wait_for_ends},
    figure::{Figure, Measures, Step},
};
use mmlnb_tests::{Dropped, End, drop_by_copy};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    process::Command,
    time::{Duration, SystemTime},
};

/// Files between two jumps.
const FILES: u64 = 100;
const DAY: i64 = 86_400;
/// Seconds by which the clock is off, one after the other: ten years back, right again, a day ahead, a second back as at a leap.
const MOVED: [i64; 5] = [-3653 * DAY, 0, DAY, DAY - 1, -1];

/// Clock.
pub static F18: Figure = Figure {
    name: "F18",
    what: "the daemon's wall clock jumps by -10 years, +1 day and a leap second in the middle of every 100 files, of which a third have times of 1970 or of next year; a restart after each 500",
    wanted: "none stuck, rows in the order of the drops, counts right, invariant I",
    unit: "files",
    full: || 5000,
    short: None,
    step: 500,
    alone: false,
    hindrance: || absent(&["cc"]),
    play,
};

fn play(step: &Step) -> Measures {
    let arena = Arena::new(step, 0);
    arena.set("settle_ms", "100");
    let (library, moved) = (arena.root().join("clock.so"), arena.root().join("moved"));
    compile(&arena, &library);
    fs::write(&moved, 0i64.to_ne_bytes()).expect("the root is writable");
    let (library, moved_text) = (library.display().to_string(), moved.display().to_string());
    let start = || arena.daemon().variable("LD_PRELOAD", &library).variable("TORTURE_CLOCK", &moved_text).start();
    let clock = File::options().write(true).open(&moved).expect("it was just written");
    let (mut daemon, mut dropped, mut measures, mut last) = (start(), Vec::new(), Measures::default(), 0);
    for round in step.rounds() {
        let mut draw = step.draw(round);
        let (bytes, ending) = image(&mut draw);
        let outside = arena.outside().join(format!("{round}.{ending}"));
        drop_by_copy(&bytes, &outside);
        age(&outside, round);
        fs::rename(&outside, arena.inbox(&format!("{round}.{ending}"))).expect("the inbox is writable");
        dropped.push(Dropped::new(&bytes, End::Report));
        if round % FILES == FILES / 2 {
            let by = MOVED[(round / FILES) as usize % MOVED.len()];
            clock.write_all_at(&by.to_ne_bytes(), 0).expect("the file is ours");
            measures.count("jumps", 1);
        }
        if round % FILES == FILES - 1 {
            wait_for_ends(&arena, &mut daemon, dropped.len(), LONG, &format!("round {round}"));
            // What was dropped after the last hundred had ended has higher numbers.
            let least = arena.number(&format!("SELECT min(id) FROM files WHERE id > {last}"));
            let most = arena.number("SELECT max(id) FROM files");
            assert_eq!((least, most), (last + 1, last + FILES as i64), "rows of the hundred of round {round}");
            last = most;
        }
    }
    years_are_those_of_the_clock(&arena);
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    let counted = arena.number("SELECT coalesce(sum(files), 0) FROM tally WHERE state = 'filed'");
    assert_eq!(counted, dropped.len() as i64, "files in the kept counts");
    let daemon = start();
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a start and a stop with a clock that is off");
    arena.assert_each_ended_once(&dropped, &format!("rounds {:?}", step.rounds()));
    measures
}

/// The clock did move: a test that moves none would pass as well.
#[track_caller]
fn years_are_those_of_the_clock(arena: &Arena) {
    let years = arena.number("SELECT count(DISTINCT substr(filed_at, 1, 4)) FROM files");
    assert!(years >= 2, "all rows are of one year");
}

fn compile(arena: &Arena, library: &std::path::Path) {
    let source = arena.root().join("clock.c");
    let mut file = File::create(&source).expect("the root is writable");
    file.write_all(include_bytes!("clock.c")).expect("the root is writable");
    let ran = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(library).arg(&source).arg("-ldl").output();
    let ran = ran.expect("cc is installed");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// Every third file is of 1970 or of next year.
fn age(file: &std::path::Path, round: u64) {
    let time = match round % 6 {
        0 => SystemTime::UNIX_EPOCH,
        3 => SystemTime::now() + Duration::from_secs(365 * DAY as u64),
        _ => return,
    };
    File::options().write(true).open(file).and_then(|file| file.set_modified(time)).expect("the file is ours");
}
