//! F15: one content in many files.

use super::{
    arena::{Arena, LONG, image, wait_for_ends},
    figure::{Figure, Measures, Step},
};
use mmlnb_tests::{Dropped, End, drop_by_copy};
use std::{
    fs,
    time::{Duration, Instant},
};

const COPIES: usize = 50;

/// Copies.
pub static F15: Figure = Figure {
    name: "F15",
    what: "50 copies of one image at once in one case; the same bytes in two cases",
    wanted: "one inference for each content, both pages name the other case, invariant I",
    unit: "rounds",
    full: || 50,
    short: Some(2),
    step: 1,
    alone: false,
    hindrance: || None,
    play,
};

fn play(step: &Step) -> Measures {
    let mut measures = Measures::default();
    for round in step.rounds() {
        let arena = Arena::new(step, round);
        arena.set("settle_ms", "30");
        let mut draw = step.draw(round);
        let ((many, _), (shared, _)) = (image(&mut draw), image(&mut draw));
        let mut daemon = arena.daemon().start();
        let mut dropped = Vec::new();
        for copy in 0..COPIES {
            drop_by_copy(&many, &arena.inbox(&format!("case/copy {copy}.png")));
            dropped.push(Dropped::new(&many, End::Report));
        }
        for case in ["left", "right"] {
            drop_by_copy(&shared, &arena.inbox(&format!("{case}/shared.png")));
            dropped.push(Dropped::new(&shared, End::Report));
        }
        wait_for_ends(&arena, &mut daemon, dropped.len(), LONG, &format!("round {round}"));
        both_pages_name_the_other(&arena);
        let reported = daemon.log().matches("event=\"reported\"").count();
        assert_eq!(reported, 2, "inferences for two contents\n{}", daemon.log());
        assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
        arena.assert_each_ended_once(&dropped, &format!("round {round}"));
        assert_eq!(arena.number("SELECT max(attempts) FROM job"), 1, "attempts");
        measures.count("files", dropped.len() as u64);
        measures.count("inferences", reported as u64);
    }
    measures
}

/// The first page is written anew after the second file has ended.
#[track_caller]
fn both_pages_name_the_other(arena: &Arena) {
    let names = |case: &str, other: &str| {
        let page = fs::read_to_string(arena.done(&format!("{case}/shared.png.report.html"))).unwrap_or_default();
        let data = fs::read_to_string(arena.done(&format!("{case}/shared.png.report.json"))).unwrap_or_default();
        page.contains(other) && data.contains("same_image_other_case")
    };
    let begun = Instant::now();
    while !(names("left", "right") && names("right", "left")) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the pages of one image in two cases do not name the other case");
        std::thread::sleep(Duration::from_millis(50));
    }
}
