//! F14, F17: a second daemon, and the end of the only one.

use super::{
    arena::{Arena, LONG, image, wait_for_ends},
    figure::{Figure, Measures, Step},
};
use mmlnb_tests::{Dropped, End, drop_by_copy, wait_for};
use std::time::{Duration, Instant};

/// Two daemons.
pub static F14: Figure = Figure {
    name: "F14",
    what: "a second daemon on the same state, or on the same inbox with a state of its own, while the first one works",
    wanted: "exit 75 within 1 s, no double work, invariant I",
    unit: "tries",
    full: || 100,
    short: None,
    step: 20,
    alone: true,
    hindrance: || None,
    play: second,
};

/// SIGTERM.
pub static F17: Figure = Figure {
    name: "F17",
    what: "one SIGTERM while idle; one while an image is being assessed for a minute",
    wanted: "ended within 2 s; within 30 s with the attempt given back; invariant I",
    unit: "rounds",
    full: || 40,
    // Its limits are seconds, which a busy gate does not keep.
    short: None,
    step: 1,
    alone: true,
    hindrance: || None,
    play: stops,
};

fn second(step: &Step) -> Measures {
    let (first, other) = (Arena::new(step, 0), Arena::new(step, 1));
    other.set("inbox", &format!("{:?}", first.inbox("").display().to_string()));
    let mut daemon = first.daemon().start();
    let (mut measures, mut dropped) = (Measures::default(), Vec::new());
    for round in step.rounds() {
        let (bytes, ending) = image(&mut step.draw(round));
        drop_by_copy(&bytes, &first.inbox(&format!("{round}.{ending}")));
        dropped.push(Dropped::new(&bytes, End::Report));
        let begun = Instant::now();
        let starting = if round % 2 == 0 { first.daemon() } else { other.daemon() };
        starting.refused().expect(75);
        let seconds = begun.elapsed().as_secs_f64();
        assert!(seconds <= 1.0, "try {round}: refused only after {seconds} s");
        measures.most("longest refusal", seconds, "s");
        measures.count("refused with 75", 1);
    }
    wait_for_ends(&first, &mut daemon, dropped.len(), LONG, "beside refused daemons");
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    first.assert_each_ended_once(&dropped, "beside refused daemons");
    assert_eq!(first.number("SELECT max(attempts) FROM job"), 1, "attempts");
    measures
}

fn stops(step: &Step) -> Measures {
    let mut measures = Measures::default();
    for round in step.rounds() {
        let arena = Arena::new(step, round);
        arena.set("settle_ms", "30");
        // Idle stops take no time: three of four rounds.
        if round % 4 == 3 {
            in_work(&arena, &image(&mut step.draw(round)).0, &mut measures);
        } else {
            let daemon = arena.daemon().start();
            let begun = Instant::now();
            assert_eq!(daemon.stop(Duration::from_secs(2)), 0, "an idle daemon");
            measures.most("longest idle stop", begun.elapsed().as_secs_f64(), "s");
        }
    }
    measures
}

fn in_work(arena: &Arena, bytes: &[u8], measures: &mut Measures) {
    drop_by_copy(bytes, &arena.inbox("slow.png"));
    let daemon = arena.daemon().failpoints("assess.before=1*delay:60000").start();
    wait_for(LONG, "the image in work", || daemon.log().contains("failpoint assess.before"));
    let begun = Instant::now();
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a daemon with an image in work");
    measures.most("longest stop in work", begun.elapsed().as_secs_f64(), "s");
    let mut daemon = arena.daemon().start();
    wait_for_ends(arena, &mut daemon, 1, LONG, "after the stop");
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    arena.assert_each_ended_once(&[Dropped::new(bytes, End::Report)], "after the stop");
    assert_eq!(arena.number("SELECT attempts FROM job"), 1, "the attempt that was stopped does not count");
    measures.count("attempts given back", 1);
}
