//! F6, F10: very many files at once, and one after the other.

use super::{
    arena::{Arena, image_as, wait_for_ends},
    figure::{Figure, Measures, Step},
};
use image::ImageFormat;
use mmlnb_tests::{Dropped, End, drop_by_copy, drop_by_rename};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Longest time from the end of the pause to the last file's end, and to the first row of a file.
const DONE: Duration = Duration::from_secs(120);
const SEEN: Duration = Duration::from_secs(60);
/// Events that a new file makes: created, opened, modified, closed.
const EVENTS: u64 = 4;

/// Overflow.
pub static F6: Figure = Figure {
    name: "F6",
    what: "10,000 files in 10 cases while the daemon is stopped by SIGSTOP, so that the kernel's queue of events overflows",
    wanted: "seen within 60 s, all ended within 120 s, invariant I",
    unit: "files",
    full: || 10_000,
    short: None,
    step: 10_000,
    alone: true,
    hindrance: || None,
    play: burst,
};

/// The daemon rests when its work has been done for a while.
const REST: Duration = Duration::from_secs(1);
/// Files between two looks at memory, and looks until it counts.
const BETWEEN: usize = 100;
const WARM: usize = 1;
/// How far memory may go from what it was, as a share.
const FLAT: f64 = 0.02;

/// Memory.
pub static F10: Figure = Figure {
    name: "F10",
    what: "real ONNX graphs on the processor, patches of 336 x 336, a hundred at once; resident memory and open files of the daemon at rest after each hundred",
    wanted: "memory within 2 % of what it was after 100 patches, open files within 2",
    unit: "patches",
    full: || 5000,
    short: None,
    step: 5000,
    alone: true,
    hindrance: || None,
    play: flat,
};

fn burst(step: &Step) -> Measures {
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("Linux tells the length of its queue");
    let queue: u64 = queue.trim().parse().expect("the length is a number");
    assert!(step.count * EVENTS > queue, "{} files do not fill a queue of {queue} events", step.count);
    let arena = Arena::new(step, 0);
    let mut daemon = arena.daemon().start();
    for case in 0..10 {
        fs::create_dir(arena.inbox(&format!("case {case}"))).expect("the inbox is writable");
    }
    // The folders are watched by the time the burst comes.
    std::thread::sleep(Duration::from_secs(2));
    daemon.pause();
    let mut dropped = Vec::new();
    for round in step.rounds() {
        let bytes = image_as(&mut step.draw(round), ImageFormat::Png, 56);
        drop_by_copy(&bytes, &arena.inbox(&format!("case {}/{round}.png", round % 10)));
        dropped.push(Dropped::new(&bytes, End::Report));
    }
    daemon.resume();
    let begun = Instant::now();
    let mut measures = Measures::default();
    while arena.number("SELECT count(*) FROM files") == 0 {
        assert!(begun.elapsed() < SEEN, "after {} s nothing of the burst is seen", SEEN.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
    measures.most("first seen after", begun.elapsed().as_secs_f64(), "s");
    while arena.number("SELECT count(*) FROM files WHERE filed_at IS NOT NULL") < dropped.len() as i64 {
        daemon.assert_alive();
        assert!(begun.elapsed() < 10 * DONE, "not all have ended after {} s", begun.elapsed().as_secs());
        std::thread::sleep(Duration::from_millis(250));
    }
    let seconds = begun.elapsed().as_secs_f64();
    measures.most("all ended after", seconds, "s");
    measures.most("largest memory", (daemon.peak_memory() >> 20) as f64, "MB");
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    arena.assert_each_ended_once(&dropped, "the burst");
    assert!(seconds <= DONE.as_secs_f64(), "all ended only after {seconds:.0} s ({})", measures.text());
    measures
}

fn flat(step: &Step) -> Measures {
    let arena = Arena::new(step, 0);
    // As the unit starts it.
    let unit = fs::read_to_string(super::source("systemd/mmlnb-appliance.service")).expect("the unit is there");
    let words = unit.split_whitespace().filter(|word| word.starts_with("MALLOC_")).filter_map(|word| word.split_once('='));
    let mut daemon = words.fold(arena.daemon(), |daemon, (name, value)| daemon.variable(name, value)).start();
    let (mut looks, mut descriptors, mut dropped) = (Vec::new(), Vec::new(), 0);
    for some in step.rounds().collect::<Vec<_>>().chunks(BETWEEN) {
        // Drawn before: all of the daemon's workers have worked when the first hundred are done.
        let images: Vec<(u64, Vec<u8>)> =
            some.iter().map(|round| (*round, image_as(&mut step.draw(*round), ImageFormat::Png, 336))).collect();
        for (round, bytes) in &images {
            drop_by_rename(bytes, &arena.inbox(&format!("{round}.png")), &arena.outside());
        }
        dropped += some.len();
        while arena.number("SELECT count(*) FROM files WHERE filed_at IS NOT NULL") < dropped as i64 {
            daemon.assert_alive();
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(REST);
        looks.push(daemon.resident_memory() as f64);
        descriptors.push(daemon.descriptors());
    }
    wait_for_ends(&arena, &mut daemon, dropped, Duration::from_secs(60), "patches");
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    assert_eq!(arena.reports().len(), dropped, "one report for each patch");
    let (looks, descriptors) = (&looks[WARM - 1..], &descriptors[WARM - 1..]);
    let base = looks[0];
    let furthest = looks.iter().map(|look| look / base - 1.0).fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
    let mut measures = Measures::default();
    measures.most("memory after 100", base / 1e6, "MB");
    measures.most("memory at the end", looks[looks.len() - 1] / 1e6, "MB");
    measures.most("furthest from it", furthest.abs() * 100.0, "%");
    measures.most("open files", *descriptors.iter().max().expect("there was a look") as f64, "");
    let listed: Vec<u64> = looks.iter().map(|look| *look as u64 >> 20).collect();
    assert!(furthest.abs() <= FLAT, "memory went {:.1} % from what it was, MB: {listed:?}", furthest * 100.0);
    assert!(descriptors.iter().all(|count| count.abs_diff(descriptors[0]) <= 2), "open files: {descriptors:?}");
    measures
}
