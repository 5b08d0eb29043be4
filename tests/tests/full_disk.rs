//! A full disk is nobody's fault: the queue pauses and says so, nothing is lost, and work goes on by itself afterwards.

use std::time::Duration;

use mmlnb_tests::{Appliance, Patch, Tmpfs, drop_by_copy, has_failpoints, patches, skipped, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// Every point at which something is written while a file goes its way.
const WRITES: [&str; 15] = [
    "ledger.claim",
    "decode.spawn",
    "ledger.commit_report",
    "ledger.reject",
    "render.html_write",
    "render.html_rename",
    "render.json_write",
    "render.json_rename",
    "render.note_write",
    "render.note_rename",
    "move.mkdir",
    "move.rename",
    "move.fsync",
    "ledger.filed",
    "status.write",
];

/// One good and one broken file through a daemon whose point fails twice.
fn passes_twice_without(point: &str, patch: &Patch) {
    let appliance = Appliance::new();
    let broken = b"no image".to_vec();
    let daemon = appliance.daemon().failpoints(&format!("{point}=2*enospc")).start();
    drop_by_copy(&patch.bytes, &appliance.inbox(&format!("case/{}", patch.name)));
    drop_by_copy(&broken, &appliance.inbox("case/broken.png"));
    appliance.wait_for_files(2, LIMIT);
    appliance.assert_both_ended(patch, &broken, point);
    assert_eq!(daemon.stop(Duration::from_secs(15)), 0, "{point}");
    appliance.operator(&["verify"]).expect(0);
}

#[test]
fn a_disk_that_is_full_twice_at_any_write_loses_nothing() {
    if !has_failpoints("a disk that is full at any write") {
        return;
    }
    let patch = patches(1).remove(0);
    // The daemons mostly wait for their next attempt: several share the cores.
    for several in WRITES.chunks(5) {
        std::thread::scope(|scope| {
            for point in several {
                scope.spawn(|| passes_twice_without(point, &patch));
            }
        });
    }
}

#[test]
fn a_disk_that_stays_full_pauses_the_queue_and_says_so() {
    if !has_failpoints("a disk that stays full") {
        return;
    }
    let appliance = Appliance::new();
    let patches = patches(3);
    let daemon = appliance.daemon().failpoints("ledger.commit_report=enospc").start();
    for patch in &patches {
        drop_by_copy(&patch.bytes, &appliance.inbox(&patch.name));
    }
    wait_for(LIMIT, "the full disk in STATUS.txt", || appliance.status_text().starts_with("PAUSED: disk full"));
    assert!(appliance.status_text().contains("No space left"), "{}", appliance.status_text());
    appliance.operator(&["status", "--check"]).expect(1);
    assert_eq!(appliance.listing("inbox").len(), 3, "every file waits where it is");
    assert_eq!(appliance.listing("failed"), [] as [String; 0]);
    daemon.kill();
    let daemon = appliance.daemon().start();
    appliance.wait_for_files(3, LIMIT);
    assert_eq!(appliance.reports().len(), 3);
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn a_small_disk_that_fills_up_pauses_the_queue_until_there_is_room() {
    let Some(disk) = Tmpfs::mount(64) else {
        skipped("a 64 MB disk that fills up", "mounting a tmpfs is not allowed here");
        return;
    };
    let appliance = Appliance::at(&disk.path().join("box"));
    appliance.set("min_free_mb", "8");
    let patches = patches(6);
    let daemon = appliance.daemon().start();
    drop_by_copy(&patches[0].bytes, &appliance.inbox(&patches[0].name));
    appliance.wait_for_files(1, LIMIT);
    disk.fill(6 << 20);
    for patch in &patches[1..] {
        drop_by_copy(&patch.bytes, &appliance.inbox(&patch.name));
    }
    wait_for(LIMIT, "PAUSED in STATUS.txt", || appliance.status_text().contains("PAUSED"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(appliance.reports().len(), 1, "nothing is begun on a full disk");
    disk.free();
    appliance.wait_for_files(6, LIMIT);
    assert_eq!(appliance.reports().len(), 6);
    assert_eq!(appliance.listing("failed"), [] as [String; 0]);
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
    appliance.operator(&["verify"]).expect(0);
    drop(appliance);
}
