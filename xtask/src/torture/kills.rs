//! F1: the program is killed at a random moment of a stream of files and started again.

use super::arena::{Arena, LONG, Parcel, stream, wait_for_ends};
use super::figure::{Figure, Measures, Step};
use mmlnb_models::random::Draw;
use mmlnb_tests::{Dropped, End, drop_by_copy, drop_by_rename, drop_in_pieces};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Files of a round.
const FILES: usize = 20;

/// kill -9.
pub static F1: Figure = Figure {
    name: "F1",
    what: "kill -9 within 400 ms (every second round: 2 s) of a stream of 20 files, every fourth round again while it recovers; restart",
    wanted: "invariant I, no double report",
    unit: "rounds",
    full: || 2000,
    short: Some(10),
    step: 5,
    alone: false,
    hindrance: || None,
    play,
};

fn play(step: &Step) -> Measures {
    let arena = Arena::new(step, 0);
    arena.set("settle_ms", "30");
    // Hundreds of kills an hour are the test here, not a crash loop.
    arena.set("safe_mode_after", "0");
    let mut measures = Measures::default();
    let mut dropped: Vec<Dropped> = Vec::new();
    let mut daemon = arena.daemon().start();
    for round in step.rounds() {
        let mut draw = step.draw(round);
        let files = stream(&mut draw, FILES, &format!("{round}"));
        let window = if round % 2 == 0 { 400 } else { 2000 };
        let moment = Duration::from_millis(draw.below(window) as u64);
        let pauses: Vec<Duration> = files.iter().map(|_| Duration::from_millis(draw.below(40) as u64)).collect();
        let ways: Vec<usize> = files.iter().map(|_| draw.below(3)).collect();
        dropped.extend(files.iter().map(Parcel::dropped));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for ((file, pause), way) in files.iter().zip(&pauses).zip(&ways) {
                    drop_one(&arena, file, *way);
                    sleep(*pause);
                }
            });
            sleep(moment);
            daemon.kill();
        });
        measures.count("kills", 1);
        if round % 4 == 3 {
            kill_again(&arena, &mut draw);
            measures.count("kills", 1);
        }
        let begun = Instant::now();
        daemon = arena.daemon().start();
        measures.most("longest start", begun.elapsed().as_secs_f64(), "s");
        wait_for_ends(&arena, &mut daemon, dropped.len(), LONG, &format!("round {round}"));
    }
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    arena.assert_each_ended_once(&dropped, &format!("rounds {:?}", step.rounds()));
    measures.count("files", dropped.len() as u64);
    measures
}

fn drop_one(arena: &Arena, file: &Parcel, way: usize) {
    let target = arena.inbox(&file.path);
    match way {
        0 => drop_by_copy(&file.bytes, &target),
        // Words have no end mark that could tell a piece of them from all.
        2 if file.end != End::Failure => drop_in_pieces(&file.bytes, &target, 3, Duration::from_millis(2)),
        _ => drop_by_rename(&file.bytes, &target, &arena.outside()),
    }
}

/// The start itself dies: while the ledger is opened, the networks are loaded or what was left is put away.
fn kill_again(arena: &Arena, draw: &mut Draw) {
    let daemon = arena.daemon().launch();
    sleep(Duration::from_millis(draw.below(1500) as u64));
    daemon.kill();
}
