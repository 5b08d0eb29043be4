//! The program dies at a named point of a file's way and is started again: every file still ends exactly once.

use std::time::Duration;

use mmlnb_tests::{Appliance, Note, Patch, drop_by_copy, has_failpoints, patches, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// The points that a good and a broken file pass, in the order in which they pass them.
const POINTS: [&str; 28] = [
    "scan.read_dir",
    "read.open",
    "read.body",
    "read.after_hash",
    "ledger.claim",
    "claim.after",
    "decode.spawn",
    "decode.after",
    "assess.before",
    "assess.after",
    "ledger.commit_report",
    "commit.after",
    "ledger.reject",
    "reject.after",
    "render.html_write",
    "render.html_rename",
    "render.json_write",
    "render.json_rename",
    "render.note_write",
    "render.note_rename",
    "move.mkdir",
    "move.before",
    "move.rename",
    "move.after_rename",
    "move.fsync",
    "ledger.filed",
    "filed.after",
    "status.write",
];

/// One good and one broken file; the program aborts when either of them passes the point.
fn dies_at(point: &str, patch: &Patch) {
    let appliance = Appliance::new();
    let (place, broken) = (format!("case/{}", patch.name), b"no image".to_vec());
    drop_by_copy(&patch.bytes, &appliance.inbox(&place));
    drop_by_copy(&broken, &appliance.inbox("case/broken.png"));
    let mut daemon = appliance.daemon().failpoints(&format!("{point}=abort")).launch();
    assert_eq!(daemon.wait(LIMIT), 128 + 6, "{point}: aborted\n{}", daemon.log());

    let daemon = appliance.daemon().start();
    appliance.wait_for_files(2, LIMIT);
    appliance.assert_both_ended(patch, &broken, point);
    assert_eq!(daemon.stop(Duration::from_secs(15)), 0, "{point}");
    appliance.operator(&["verify"]).expect(0);
}

#[test]
fn a_death_at_any_point_loses_nothing_and_doubles_nothing() {
    if !has_failpoints("a death at any point") {
        return;
    }
    let patch = patches(1).remove(0);
    for several in POINTS.chunks(4) {
        std::thread::scope(|scope| {
            for point in several {
                scope.spawn(|| dies_at(point, &patch));
            }
        });
    }
}

#[test]
fn an_image_on_which_the_program_dies_three_times_is_set_aside_and_the_others_go_on() {
    if !has_failpoints("an image on which the program dies") {
        return;
    }
    let appliance = Appliance::new();
    let patches = patches(2);
    drop_by_copy(&patches[0].bytes, &appliance.inbox(&patches[0].name));
    for death in 1..=3 {
        let mut daemon = appliance.daemon().failpoints("assess.before=abort").launch();
        assert_eq!(daemon.wait(LIMIT), 128 + 6, "death {death}:\n{}", daemon.log());
    }
    let daemon = appliance.daemon().start();
    drop_by_copy(&patches[1].bytes, &appliance.inbox(&patches[1].name));
    appliance.wait_for_files(2, LIMIT);
    let note = Note::beside(&appliance.failed(&patches[0].name));
    assert_eq!(note.code, "crashed_repeatedly");
    assert!(appliance.done(&patches[1].name).is_file());
    appliance.operator(&["retry", &note.job.to_string()]).expect(0);
    wait_for(LIMIT, "the report after the operator's retry", || appliance.done(&patches[0].name).is_file());
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn a_decoder_that_dies_costs_only_its_image() {
    if !has_failpoints("a decoder that dies") {
        return;
    }
    let appliance = Appliance::new();
    let patch = patches(1).remove(0);
    let mut daemon = appliance.daemon().failpoints("decode.child=abort").start();
    drop_by_copy(&patch.bytes, &appliance.inbox(&patch.name));
    appliance.wait_for_files(1, LIMIT);
    daemon.assert_alive();
    assert_eq!(Note::beside(&appliance.failed(&patch.name)).code, "decoder_died");
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}
