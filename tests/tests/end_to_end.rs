//! Patches dropped in a folder become reports, once each, whatever happens meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mmlnb_tests::{
    Appliance, Patch, bundle, drop_by_copy, drop_by_rename, drop_in_pieces, drop_size_first, has_failpoints, patches, sha256_hex,
    wait_for,
};

/// Sixty patches on two busy cores.
const SIXTY: Duration = Duration::from_secs(180);

/// Where the patch of this index is dropped: at the top, in a case, or deeper.
fn place(index: usize, patch: &Patch) -> String {
    match index % 3 {
        0 => patch.name.clone(),
        1 => format!("case {}/{}", index % 7, patch.name),
        _ => format!("S26-{index:04}/block/deep/{}", patch.name),
    }
}

/// Drops every patch in one of five ways, all at the same time.
fn drop_in_every_way(appliance: &Appliance, dropped: &[(String, Patch)]) {
    std::thread::scope(|scope| {
        for (index, (place, patch)) in dropped.iter().enumerate() {
            let target = appliance.inbox(place);
            match index % 5 {
                0 | 1 => drop_by_copy(&patch.bytes, &target),
                2 => drop_by_rename(&patch.bytes, &target, &appliance.outside()),
                3 => drop(scope.spawn(move || drop_in_pieces(&patch.bytes, &target, 6, pause(index)))),
                _ => drop(scope.spawn(move || drop_size_first(&patch.bytes, &target, pause(index)))),
            }
        }
    });
}

/// Shorter and longer than the time after which an unchanged file counts as settled (300 ms).
fn pause(index: usize) -> Duration {
    Duration::from_millis(100 * (index as u64 % 7))
}

fn sixty() -> Vec<(String, Patch)> {
    patches(60).into_iter().enumerate().map(|(index, patch)| (place(index, &patch), patch)).collect()
}

#[track_caller]
fn assert_each_reported_once(appliance: &Appliance, dropped: &[(String, Patch)]) {
    let reports = appliance.reports();
    let reported: BTreeSet<&str> = reports.iter().map(|report| report.image_sha256.as_str()).collect();
    let expected: BTreeSet<&str> = dropped.iter().map(|(_, patch)| patch.sha256.as_str()).collect();
    assert_eq!(reported, expected, "images with a report");
    assert_eq!(reports.len(), dropped.len(), "no image has two reports");
}

#[track_caller]
fn assert_filed(appliance: &Appliance, place: &str, patch: &Patch) {
    let bytes = std::fs::read(appliance.done(place)).unwrap_or_else(|error| panic!("done/{place}: {error}"));
    assert_eq!(sha256_hex(&bytes), patch.sha256, "done/{place} holds the dropped bytes");
    let page = std::fs::read_to_string(appliance.done(&format!("{place}.report.html"))).expect("the page lies beside");
    for wanted in ["RESEARCH USE ONLY", "Content-Security-Policy", "data:image/"] {
        assert!(page.contains(wanted), "the page of {place} has `{wanted}`");
    }
    assert!(!page.contains("<script"), "the page runs nothing");
    let json = std::fs::read(appliance.done(&format!("{place}.report.json"))).expect("the JSON lies beside");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("a report is JSON");
    let row = appliance.reports().into_iter().find(|row| row.image_sha256 == patch.sha256).expect("the image has a report");
    assert_eq!(json["sha256"], patch.sha256);
    assert_eq!(json["description"].as_str(), row.description.as_deref());
    assert_eq!(json["probabilities"], row.probabilities);
    assert_eq!(json["verdict"], "not_assessed", "the bundle is not calibrated");
}

#[track_caller]
fn assert_rows_make_sense(appliance: &Appliance) {
    let manifest = std::fs::read(bundle().join("manifest.json")).expect("the bundle has a manifest");
    for row in appliance.reports() {
        let probabilities = row.probabilities.as_object().expect("probabilities are an object");
        let names: Vec<&str> = probabilities.keys().map(String::as_str).collect();
        assert_eq!(names, ["UD", "PD", "D"], "classes in the bundle's order");
        let values: Vec<f64> = probabilities.values().map(|value| value.as_f64().expect("a probability is a number")).collect();
        assert!((values.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{row:?}");
        let top = values.iter().copied().fold(0.0, f64::max);
        assert!((row.confidence - top).abs() < 1e-9, "{row:?}");
        assert_eq!(probabilities[&row.leading_class].as_f64(), Some(top), "{row:?}");
        assert_eq!(row.class.as_deref(), Some(row.leading_class.as_str()), "{row:?}");
        assert!(row.alpha_text.is_some_and(|alpha| (0.0..=1.0).contains(&alpha)), "{row:?}");
        assert!(names.contains(&row.image_only_class.as_deref().unwrap_or_default()), "{row:?}");
        assert_eq!(row.bundle_sha256, sha256_hex(&manifest));
        assert_eq!(row.provider, "cpu");
        let first = row.source.split_once('/').map_or("", |(first, _)| first);
        assert_eq!(row.case_id, first, "{row:?}");
        for time in [&row.received_at, &row.reported_at] {
            assert!(time.len() >= 20 && time.as_bytes()[10] == b'T' && time.ends_with('Z'), "{time} is UTC in ISO 8601");
        }
        assert!(row.received_at <= row.reported_at, "{row:?}");
    }
}

#[test]
fn sixty_patches_dropped_in_five_ways_become_sixty_reports_and_dropping_them_again_infers_nothing() {
    let (appliance, dropped) = (Appliance::new(), sixty());
    let daemon = appliance.daemon().start();
    drop_in_every_way(&appliance, &dropped);
    appliance.wait_for_files(60, SIXTY);
    assert_each_reported_once(&appliance, &dropped);
    assert_rows_make_sense(&appliance);
    for (place, patch) in &dropped {
        assert_filed(&appliance, place, patch);
        let row = appliance.file(place);
        assert_eq!((row.image_sha256.as_deref(), row.code), (Some(patch.sha256.as_str()), None));
    }
    assert_eq!(appliance.listing("inbox"), [] as [String; 0]);
    assert_eq!(appliance.listing("failed"), [] as [String; 0]);
    assert_eq!(appliance.listing("done").len(), 180, "an image, a page and a JSON each");

    let before = appliance.reports();
    for (index, (place, patch)) in dropped.iter().enumerate() {
        let again = if index % 2 == 0 { place.clone() } else { format!("again/{place}") };
        drop_by_copy(&patch.bytes, &appliance.inbox(&again));
    }
    appliance.wait_for_files(120, SIXTY);
    assert_eq!(appliance.reports(), before, "nothing was inferred again");
    assert_eq!(appliance.listing("inbox"), [] as [String; 0]);
    assert_eq!(
        appliance.listing("done").len(),
        180 + 90,
        "same name and bytes: removed; another place: filed there with its report"
    );
    let reports: BTreeSet<i64> = appliance.files().iter().filter_map(|row| row.report_id).collect();
    assert_eq!(reports.len(), 60, "each row names its report");

    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
    appliance.operator(&["verify"]).expect(0);
}

#[test]
fn sixty_patches_become_sixty_reports_although_the_daemon_is_killed_five_times() {
    let (appliance, dropped) = (Appliance::new(), sixty());
    let mut daemon = appliance.daemon().start();
    for (place, patch) in &dropped {
        drop_by_copy(&patch.bytes, &appliance.inbox(place));
    }
    for (round, reports) in [4, 11, 19, 27, 35].into_iter().enumerate() {
        wait_for(SIXTY, &format!("{reports} reports"), || appliance.reports().len() >= reports);
        std::thread::sleep(Duration::from_millis(13 * round as u64));
        daemon.kill();
        assert!(appliance.reports().len() < 60, "the kill of round {round} hits the middle");
        daemon = appliance.daemon().start();
    }
    appliance.wait_for_files(60, SIXTY);
    assert_each_reported_once(&appliance, &dropped);
    for (place, patch) in &dropped {
        assert_filed(&appliance, place, patch);
    }
    assert_eq!(appliance.listing("inbox"), [] as [String; 0]);
    assert_eq!(appliance.listing("failed"), [] as [String; 0]);
    assert_eq!(appliance.listing("done").len(), 180, "no half-written file is left");
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
    appliance.operator(&["verify"]).expect(0);
}

#[test]
fn twenty_copies_dropped_at_once_are_inferred_once() {
    let appliance = Appliance::new();
    let patch = patches(1).remove(0);
    for copy in 0..20 {
        drop_by_copy(&patch.bytes, &appliance.inbox(&format!("case-{}/{copy}-{}", copy % 2, patch.name)));
    }
    let daemon = appliance.daemon().start();
    appliance.wait_for_files(20, SIXTY);
    let reports = appliance.reports();
    assert_eq!(reports.len(), 1);
    assert!(appliance.files().iter().all(|row| row.report_id == Some(reports[0].id)));
    assert_eq!(appliance.listing("done").len(), 60);
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn a_stop_signal_finishes_the_current_image() {
    if !has_failpoints("a stop signal finishes the current image") {
        return;
    }
    let appliance = Appliance::new();
    let patch = patches(1).remove(0);
    let daemon = appliance.daemon().failpoints("assess.after=delay:2000").start();
    drop_by_copy(&patch.bytes, &appliance.inbox(&patch.name));
    wait_for(Duration::from_secs(20), "the claim", || !appliance.files().is_empty());
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(appliance.reports().len(), 0, "the image is still in work");
    assert_eq!(daemon.stop(Duration::from_secs(20)), 0);
    assert_eq!(appliance.reports().len(), 1);
    assert_filed(&appliance, &patch.name, &patch);
}

#[test]
fn a_second_stop_signal_stops_at_once_and_loses_nothing() {
    if !has_failpoints("a second stop signal stops at once") {
        return;
    }
    let appliance = Appliance::new();
    let patch = patches(1).remove(0);
    let mut daemon = appliance.daemon().failpoints("assess.before=hang").start();
    drop_by_copy(&patch.bytes, &appliance.inbox(&patch.name));
    wait_for(Duration::from_secs(20), "the claim", || !appliance.files().is_empty());
    daemon.terminate();
    std::thread::sleep(Duration::from_millis(700));
    daemon.assert_alive();
    let second = Instant::now();
    daemon.terminate();
    daemon.wait(Duration::from_secs(5));
    assert!(second.elapsed() < Duration::from_secs(2), "stopped {} ms after the second signal", second.elapsed().as_millis());
    assert_eq!(appliance.listing("inbox"), [patch.name.as_str()]);

    let daemon = appliance.daemon().start();
    appliance.wait_for_files(1, SIXTY);
    assert_filed(&appliance, &patch.name, &patch);
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}
