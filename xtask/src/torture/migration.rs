//! F22: a ledger of the first version is migrated by a daemon that is killed meanwhile.

use super::{
    arena::{Arena, image},
    figure::{Figure, Measures, Step},
};
use mmlnb_tests::{drop_by_copy, wait_for};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// What the fixture holds.
const ROWS: [(&str, i64); 2] = [("reports", 3000), ("files", 4008)];

/// Migration.
pub static F22: Figure = Figure {
    name: "F22",
    what: "kill -9 of the daemon at a random moment of its start with a ledger of version 1",
    wanted: "the old ledger or the new one, whole, with every row; with the new one a copy of the old; the next start is ready and files an image",
    unit: "kills",
    full: || 50,
    short: Some(10),
    step: 10,
    alone: false,
    hindrance: || None,
    play,
};

fn play(step: &Step) -> Measures {
    let mut measures = Measures::default();
    let whole = undisturbed(step);
    for round in step.rounds() {
        let arena = Arena::new(step, round);
        arena.write_old_ledger(true);
        let mut draw = step.draw(round);
        let daemon = arena.daemon().launch();
        std::thread::sleep(whole.mul_f64(draw.uniform()));
        daemon.kill();
        let after = version(&arena, &format!("kill {round}"));
        measures.count(if after == 1 { "left the old ledger" } else { "left the new ledger" }, 1);
        let begun = Instant::now();
        let daemon = arena.daemon().start();
        measures.most("longest next start", begun.elapsed().as_secs_f64(), "s");
        drop_by_copy(&image(&mut draw).0, &arena.inbox("new.png"));
        wait_for(Duration::from_secs(60), "a new image's end after the migration", || arena.done("new.png").is_file());
        assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
        assert_eq!(arena.number("PRAGMA user_version"), 3, "the next start migrates");
    }
    measures
}

/// How long a start with a migration takes that nobody kills: the moments spread over it.
fn undisturbed(step: &Step) -> Duration {
    let arena = Arena::new(step, step.first + step.count);
    arena.write_old_ledger(true);
    let begun = Instant::now();
    let daemon = arena.daemon().start();
    let whole = begun.elapsed();
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    whole
}

/// The version of a whole ledger with all its rows; a new one has a whole copy of the old one beside it.
#[track_caller]
fn version(arena: &Arena, story: &str) -> i64 {
    whole(arena, story);
    let version = arena.number("PRAGMA user_version");
    assert!(version == 1 || version == 3, "{story}: version {version}");
    let new = arena.number("SELECT count(*) FROM sqlite_schema WHERE name IN ('tile', 'event', 'tally', 'thumbnail', 'tiles')");
    assert_eq!(new, if version == 3 { 5 } else { 0 }, "{story}: tables since version 2 in one of version {version}");
    if version == 3 {
        let copies = copies(arena);
        assert!(!copies.is_empty(), "{story}: no copy of the old ledger");
        for copy in copies {
            assert_eq!(mmlnb_tests::number_in(&copy, "PRAGMA user_version"), 1, "{story}: {}", copy.display());
            assert_eq!(mmlnb_tests::number_in(&copy, "SELECT count(*) FROM reports"), 3000, "{story}: {}", copy.display());
        }
    }
    version
}

#[track_caller]
fn whole(arena: &Arena, story: &str) {
    let problems = arena.number("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'");
    assert_eq!(problems, 0, "{story}: integrity");
    assert_eq!(arena.number("SELECT count(*) FROM pragma_foreign_key_check"), 0, "{story}: foreign keys");
    for (view, rows) in ROWS {
        assert_eq!(arena.number(&format!("SELECT count(*) FROM {view}")), rows, "{story}: {view}");
    }
}

fn copies(arena: &Arena) -> Vec<PathBuf> {
    let folder = arena.ledger().with_file_name("backup");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "sqlite")).collect()
}
