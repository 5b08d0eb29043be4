//! F8: files that come while nobody looks.

use super::{
    arena::{Arena, Parcel, stream, wait_for_ends},
    figure::{Figure, Measures, Step},
};
use mmlnb_tests::{Daemon, Dropped, drop_by_copy, wait_for};
use std::{
    fs,
    time::{Duration, Instant},
};

const FILES: usize = 30;
/// A look every minute without events, and what the files take.
const LIMIT: Duration = Duration::from_secs(75);

/// Presence.
pub static F8: Figure = Figure {
    name: "F8",
    what: "files that lie there before the start; files that come while the daemon is down; files in an inbox that is taken away, with an empty folder in its place, and brought back",
    wanted: "all found by the first look, nothing written into the wrong folder, invariant I",
    unit: "rounds",
    full: || 60,
    short: None,
    step: 1,
    alone: false,
    hindrance: || None,
    play,
};

fn play(step: &Step) -> Measures {
    let mut measures = Measures::default();
    for round in step.rounds() {
        let arena = Arena::new(step, round);
        let files = stream(&mut step.draw(round), FILES, "f");
        let (first, second) = files.split_at(FILES / 2);
        let daemon = match round % 3 {
            0 => before_the_start(&arena, first, second),
            1 => while_down(&arena, first, second),
            _ => while_away(&arena, first, second, &mut measures),
        };
        let dropped: Vec<Dropped> = files.iter().map(Parcel::dropped).collect();
        assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
        arena.assert_each_ended_once(&dropped, &format!("round {round}"));
        measures.count("files", FILES as u64);
    }
    measures
}

fn drop_all(arena: &Arena, files: &[Parcel]) {
    files.iter().for_each(|file| drop_by_copy(&file.bytes, &arena.inbox(&file.path)));
}

fn before_the_start(arena: &Arena, first: &[Parcel], second: &[Parcel]) -> Daemon {
    drop_all(arena, first);
    drop_all(arena, second);
    let mut daemon = arena.daemon().start();
    wait_for_ends(arena, &mut daemon, FILES, LIMIT, "before the start");
    daemon
}

fn while_down(arena: &Arena, first: &[Parcel], second: &[Parcel]) -> Daemon {
    drop_all(arena, first);
    let mut daemon = arena.daemon().start();
    wait_for_ends(arena, &mut daemon, first.len(), LIMIT, "before the stop");
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    drop_all(arena, second);
    let mut daemon = arena.daemon().start();
    wait_for_ends(arena, &mut daemon, FILES, LIMIT, "while it was down");
    daemon
}

/// As a share that is not mounted: the folder is there and empty, without the marker.
fn while_away(arena: &Arena, first: &[Parcel], second: &[Parcel], measures: &mut Measures) -> Daemon {
    drop_all(arena, first);
    let mut daemon = arena.daemon().start();
    wait_for_ends(arena, &mut daemon, first.len(), LIMIT, "before the inbox went away");
    let (inbox, away) = (arena.inbox(""), arena.root().join("away"));
    fs::rename(&inbox, &away).expect("the root is ours");
    fs::create_dir(&inbox).expect("the root is ours");
    for file in second {
        drop_by_copy(&file.bytes, &away.join(&file.path));
    }
    let told = || fs::read_to_string(arena.done("STATUS.txt")).is_ok_and(|text| text.contains("the inbox cannot be read"));
    wait_for(LIMIT, "STATUS.txt to say that the inbox is away", told);
    let written = fs::read_dir(&inbox).expect("the folder is ours").count();
    assert_eq!(written, 0, "files in a folder that is not the inbox");
    fs::remove_dir(&inbox).expect("the folder is empty");
    fs::rename(&away, &inbox).expect("the root is ours");
    let begun = Instant::now();
    wait_for_ends(arena, &mut daemon, FILES, LIMIT, "after the inbox came back");
    measures.most("longest until all are filed after the inbox came back", begun.elapsed().as_secs_f64(), "s");
    daemon
}
