//! F24: a start and a look with a very large ledger and a very full inbox.

use super::{
    arena::{Arena, LONG, image_as},
    figure::{Figure, Measures, Step},
};
use image::ImageFormat;
use mmlnb_models::random::Draw;
use mmlnb_tests::{drop_by_rename, wait_for};
use std::{
    fmt::Write,
    fs,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

const ROWS: u64 = 1_000_000;
const LYING: u64 = 100_000;
/// More than with an empty ledger and inbox.
const START: Duration = Duration::from_secs(3);
/// The look.
const LOOK: Duration = Duration::from_secs(1);
const DROPS: u64 = 5;

/// Large.
pub static F24: Figure = Figure {
    name: "F24",
    what: "a ledger with 1,000,000 filed files, 100,000 refused slides that lie in the inbox for good; beside an empty one, in turn",
    wanted: "ready at most 3 s later; a drop filed at most 1 s later: the look",
    unit: "starts",
    full: || 3,
    short: None,
    step: 3,
    alone: true,
    hindrance: || None,
    play,
};

fn play(step: &Step) -> Measures {
    let (empty, large) = (Arena::new(step, 0), Arena::new(step, 1));
    let mut draw = step.draw(step.first);
    for arena in [&empty, &large] {
        assert_eq!(arena.daemon().start().stop(LONG), 0, "the first start makes the ledger");
    }
    fill(&large);
    // The slides have lain there for long: each has its note.
    let daemon = large.daemon().start();
    let last = large.inbox(&format!("{}.note.json", slide(LYING - 1)));
    wait_for(LONG, "the last slide's note", || last.is_file());
    assert_eq!(daemon.stop(LONG), 0, "a clean stop");
    let mut measures = Measures::default();
    for round in step.rounds() {
        let [without, with] = [&empty, &large].map(|arena| start_and_drop(arena, round, &mut draw));
        let (later, filed) = (with.0.saturating_sub(without.0), with.1.saturating_sub(without.1));
        measures.most("ready with the empty one after", without.0.as_secs_f64(), "s");
        measures.most("ready later", later.as_secs_f64(), "s");
        measures.most("a drop filed later", filed.as_secs_f64(), "s");
        assert!(later <= START, "ready {:.1} s later", later.as_secs_f64());
        assert!(filed <= LOOK, "a drop filed {:.2} s later", filed.as_secs_f64());
    }
    measures
}

/// A slide's path below the inbox.
fn slide(number: u64) -> String {
    format!("slides {}/{number}.mrxs", number / 1000)
}

/// Rows of as many contents, jobs and files, and files that the ledger knows and that stay.
fn fill(arena: &Arena) {
    arena.execute(&format!(
        "PRAGMA synchronous = OFF; BEGIN;
         CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) SELECT i FROM n;
         CREATE TEMP TABLE t AS SELECT i, strftime('%Y-%m-%dT%H:%M:%fZ', 1735689600 + i * 20, 'unixepoch') AS at, CAST(printf('%032d', i) AS BLOB) AS sha FROM n;
         INSERT INTO content(sha256, size, first_seen, format, width, height) SELECT sha, 500, at, 'PNG', 56, 56 FROM t;
         INSERT INTO job(sha256, bundle_id, state, attempts, run_id, claimed_at, updated_at)
           SELECT sha, (SELECT max(id) FROM bundle), 'committed', 1, (SELECT max(id) FROM run), at, at FROM t;
         INSERT INTO file(path, path_text, case_id, dev, ino, size, mtime_ns, owner_uid, sha256, job_id, state, seen_at, filed_path, filed_at)
           SELECT CAST('case ' || (t.i / 100) || '/' || t.i || '.png' AS BLOB), 'case ' || (t.i / 100) || '/' || t.i || '.png', 'case ' || (t.i / 100), 1, t.i, 500, t.i, 0, t.sha, job.id, 'filed', t.at,
             CAST('/gone/' || t.i || '.png' AS BLOB), t.at FROM t JOIN job ON job.sha256 = t.sha;
         COMMIT;"
    ));
    let mut rows = Vec::new();
    for number in 0..LYING {
        let path = slide(number);
        let file = arena.inbox(&path);
        if number % 1000 == 0 {
            fs::create_dir_all(file.parent().expect("a slide lies in a case")).expect("the inbox is writable");
        }
        fs::write(&file, b"a slide").expect("the inbox is writable");
        let found = fs::metadata(&file).expect("it was just written");
        let mtime = found.mtime() * 1_000_000_000 + found.mtime_nsec();
        rows.push(format!(
            "(CAST('{path}' AS BLOB), '{path}', 'slides {}', {}, {}, {}, {mtime}, 0, 'refused', 'whole_slide', 'a slide', '2026-01-01T00:00:00.000Z')",
            number / 1000,
            found.dev(),
            found.ino(),
            found.size()
        ));
    }
    let mut text = "PRAGMA synchronous = OFF; BEGIN;".to_owned();
    for some in rows.chunks(500) {
        let head = "INSERT INTO file(path, path_text, case_id, dev, ino, size, mtime_ns, owner_uid, state, code, message, seen_at) VALUES";
        write!(text, "{head}{};", some.join(",")).expect("text takes any length");
    }
    arena.execute(&(text + "COMMIT;"));
}

/// Time to READY, and the longest of a few drops to its report.
fn start_and_drop(arena: &Arena, round: u64, draw: &mut Draw) -> (Duration, Duration) {
    let begun = Instant::now();
    let daemon = arena.daemon().start();
    let ready = begun.elapsed();
    // The first look is over when a first drop is filed.
    let mut longest = Duration::ZERO;
    for drop in 0..=DROPS {
        let name = format!("{round}-{drop}.png");
        let bytes = image_as(draw, ImageFormat::Png, 56);
        let begun = Instant::now();
        drop_by_rename(&bytes, &arena.inbox(&name), &arena.outside());
        wait_for(LONG, "a drop's report", || arena.done(&format!("{name}.report.json")).is_file());
        if drop > 0 {
            longest = longest.max(begun.elapsed());
        }
    }
    assert_eq!(daemon.stop(Duration::from_secs(60)), 0, "a clean stop");
    (ready, longest)
}
