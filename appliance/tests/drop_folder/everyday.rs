//! What happens every day: files come by copy, by rename, slowly, twice.

use std::io::{Seek, SeekFrom, Write};
use std::time::Duration;

use crate::appliance::{Appliance, encode, png};

#[test]
fn a_patch_becomes_a_report_beside_it() {
    let mut appliance = Appliance::new();
    appliance.start();
    appliance.drop_png("S26-01/left/patch.png", 1);
    appliance.until("the image is filed", |appliance| appliance.in_state("filed") == 1);
    assert!(appliance.inbox_is_empty());
    let image = appliance.path("done/S26-01/left/patch.png");
    assert_eq!(std::fs::read(&image).unwrap(), png(64, 64, 1));
    let json = std::fs::read_to_string(appliance.path("done/S26-01/left/patch.png.report.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    for key in [
        "id",
        "case_id",
        "file",
        "sha256",
        "class",
        "leading_class",
        "probabilities",
        "image_only",
        "alpha_text",
        "confidence",
        "verdict",
        "verdict_reasons",
        "flags",
        "description",
        "description_tokens",
        "description_tokens_read",
        "mean_token_logprob",
        "stop_reason",
        "bundle_sha256",
        "provider",
        "elapsed_ms",
    ] {
        assert!(json.get(key).is_some_and(|value| !value.is_null()), "{key}");
    }
    assert_eq!(json["case_id"], "S26-01");
    assert_eq!(json["file"], "S26-01/left/patch.png");
    assert_eq!(json["verdict"], "not_assessed");
    let page = std::fs::read_to_string(appliance.path("done/S26-01/left/patch.png.report.html")).unwrap();
    assert!(page.contains("RESEARCH USE ONLY") && page.contains("variant"));
    appliance.until("the status is written", |appliance| {
        std::fs::read_to_string(appliance.path("inbox/STATUS.html")).is_ok_and(|page| page.contains("S26-01/left/patch.png"))
    });
    assert_eq!(appliance.stop(), Some(0));
    assert!(std::fs::read_to_string(appliance.path("done/STATUS.txt")).unwrap().starts_with("STOPPED"));
    appliance.check();
}

#[test]
fn sixty_files_by_all_ways_and_then_again() {
    let mut appliance = Appliance::new();
    for seed in 0..10 {
        appliance.drop_png(&format!("before/{seed}.png"), seed);
    }
    appliance.start();
    for seed in 10..30 {
        appliance.drop_png(&format!("copied{}.png", seed), seed);
        let (part, name) = (appliance.path(&format!("inbox/.x{seed}")), appliance.path(&format!("inbox/renamed{seed}.png")));
        std::fs::write(&part, png(64, 64, seed + 100)).unwrap();
        std::fs::rename(part, name).unwrap();
    }
    for seed in 40..50 {
        appliance.drop(&format!("case/{seed}.jpg"), &encode(64, 64, seed, image::ImageFormat::Jpeg));
    }
    appliance.until("all are filed", |appliance| appliance.in_state("filed") == 60);
    assert_eq!((appliance.reports(), appliance.assessed().len()), (60, 60));
    assert!(appliance.inbox_is_empty());

    for seed in 0..10 {
        appliance.drop_png(&format!("before/{seed}.png"), seed);
    }
    appliance.drop_png("elsewhere/copy.png", 11);
    appliance.until("the second ones are filed", |appliance| appliance.in_state("filed") == 71);
    assert_eq!((appliance.reports(), appliance.assessed().len()), (60, 60));
    assert!(appliance.inbox_is_empty());
    assert_eq!(appliance.stop(), Some(0));
    appliance.check();
}

#[test]
fn a_case_whose_files_are_long_filed_takes_new_ones_at_once() {
    let mut appliance = Appliance::new();
    appliance.drop_png("old/left/a.png", 1);
    appliance.drop_png("gone/a.png", 2);
    appliance.start();
    appliance.until("the first ones are filed", |appliance| appliance.in_state("filed") == 2);
    // Both cases are empty now, and looks pass over them.
    std::thread::sleep(Duration::from_millis(1500));
    let begun = std::time::Instant::now();
    appliance.drop_png("old/left/b.png", 3);
    std::fs::remove_dir(appliance.path("inbox/gone")).unwrap();
    appliance.drop_png("gone/b.png", 4);
    appliance.until("the second ones are filed", |appliance| appliance.in_state("filed") == 4);
    std::thread::sleep(Duration::from_millis(1500));
    std::fs::rename(appliance.path("inbox/old"), appliance.path("inbox/renamed")).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    appliance.drop_png("renamed/left/c.png", 5);
    appliance.drop_png("gone/c.png", 6);
    appliance.until("the third ones are filed", |appliance| appliance.in_state("filed") == 6);
    assert!(begun.elapsed() < Duration::from_secs(40), "they were found by the look of every minute: {:?}", begun.elapsed());
    appliance.check();
}

#[test]
fn fifty_copies_at_once_are_assessed_once_and_cross_case_is_said() {
    let mut appliance = Appliance::new();
    appliance.set("DOUBLE_DELAY_MS", "300");
    for copy in 0..50 {
        appliance.drop_png(&format!("case{}/{copy}.png", copy % 2), 5);
    }
    appliance.start();
    appliance.until("all are filed", |appliance| appliance.in_state("filed") == 50);
    assert_eq!((appliance.reports(), appliance.assessed().len()), (1, 1));
    let page = |name: &str| std::fs::read_to_string(appliance.path(&format!("done/{name}.report.html"))).unwrap();
    assert!(page("case1/1.png").contains("SAME IMAGE AS CASE case0"));
    assert!(page("case0/0.png").contains("SAME IMAGE AS CASE case1"));
    appliance.check();
}

#[test]
fn a_case_that_is_renamed_in_work_or_spelled_in_another_form_is_no_mix_up() {
    let mut appliance = Appliance::new();
    appliance.set("DOUBLE_DELAY_MS", "400");
    for seed in 0..40 {
        appliance.drop_png(&format!("S26-7/{seed}.png"), seed);
    }
    appliance.start();
    appliance.until("some are in work", |appliance| appliance.reports() >= 4);
    std::fs::rename(appliance.path("inbox/S26-7"), appliance.path("inbox/S26-0007")).unwrap();
    appliance.until("all are reported and filed", |appliance| appliance.reports() == 40 && appliance.inbox_is_empty());
    // One name, composed and decomposed.
    for (case, seed) in [("Müller", 100), ("Mu\u{308}ller", 100)] {
        appliance.drop_png(&format!("{case}/x.png"), seed);
        appliance.until("it is filed", |appliance| appliance.inbox_is_empty());
    }
    let pages = appliance.pages();
    assert!(pages.len() >= 42, "{}", pages.len());
    let alarmed: Vec<_> =
        pages.iter().filter(|page| std::fs::read_to_string(page).unwrap().contains("SAME IMAGE AS CASE")).collect();
    assert!(alarmed.is_empty(), "{alarmed:?}");
    appliance.check();
}

#[test]
fn slow_and_size_first_writers_are_waited_for() {
    let mut appliance = Appliance::new();
    appliance.set("MMLNB_INCOMPLETE_S", "600");
    appliance.start();
    let bytes = png(64, 64, 9);
    let mut slow = std::fs::File::create(appliance.path("inbox/slow.png")).unwrap();
    let mut sized = std::fs::File::create(appliance.path("inbox/sized.png")).unwrap();
    let other = png(64, 64, 10);
    sized.set_len(other.len() as u64).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    sized.seek(SeekFrom::Start(0)).unwrap();
    for (piece, second) in bytes.chunks(bytes.len().div_ceil(5)).zip(other.chunks(other.len().div_ceil(5))) {
        slow.write_all(piece).unwrap();
        sized.write_all(second).unwrap();
        std::thread::sleep(Duration::from_millis(350));
    }
    drop((slow, sized));
    appliance.until("both are filed", |appliance| appliance.in_state("filed") == 2);
    assert_eq!(std::fs::read(appliance.path("done/slow.png")).unwrap(), bytes);
    assert_eq!(std::fs::read(appliance.path("done/sized.png")).unwrap(), other);
    assert_eq!(appliance.count("SELECT count(*) FROM files"), 2);
}

#[test]
fn a_taken_name_is_never_overwritten() {
    let mut appliance = Appliance::new();
    std::fs::write(appliance.path("done/x.png"), b"somebody's file").unwrap();
    appliance.start();
    appliance.drop_png("x.png", 3);
    appliance.until("it is filed", |appliance| appliance.in_state("filed") == 1);
    assert_eq!(std::fs::read(appliance.path("done/x.png")).unwrap(), b"somebody's file");
    let sha = &appliance.rows("SELECT substr(image_sha256, 1, 8) FROM reports")[0];
    assert_eq!(std::fs::read(appliance.path(&format!("done/x~{sha}.png"))).unwrap(), png(64, 64, 3));
    assert!(appliance.path(&format!("done/x~{sha}.png.report.html")).exists());
    appliance.check();
}

#[test]
fn several_images_are_in_flight_together() {
    let mut appliance = Appliance::new();
    appliance.set("DOUBLE_DELAY_MS", "1000");
    for seed in 0..4 {
        appliance.drop_png(&format!("{seed}.png"), seed);
    }
    let begun = std::time::Instant::now();
    appliance.start();
    appliance.until("all are filed", |appliance| appliance.in_state("filed") == 4);
    assert!(begun.elapsed() < Duration::from_millis(3500), "{:?}", begun.elapsed());
}

#[test]
fn a_share_that_is_not_mounted_is_left_alone() {
    let mut appliance = Appliance::new();
    appliance.start();
    std::fs::rename(appliance.path("inbox"), appliance.path("away")).unwrap();
    std::fs::create_dir(appliance.path("inbox")).unwrap();
    appliance.drop_png("x.png", 1);
    appliance.until("it says so", |appliance| {
        let status = appliance.cli(&["status"]);
        crate::appliance::text(&status.stdout).contains("WAITING: the inbox cannot be read")
    });
    assert_eq!(appliance.count("SELECT count(*) FROM files"), 0);
    std::fs::remove_dir_all(appliance.path("inbox")).unwrap();
    std::fs::rename(appliance.path("away"), appliance.path("inbox")).unwrap();
    appliance.drop_png("y.png", 2);
    appliance.until("it goes on", |appliance| appliance.in_state("filed") == 1);
}

#[test]
fn a_done_folder_that_is_not_mounted_gets_nothing_and_what_failed_is_not_taken_for_gone() {
    let mut appliance = Appliance::new();
    appliance.drop("S1/text.png", b"not an image but a text");
    appliance.drop_png("S1/a.png", 1);
    appliance.start();
    appliance.until("both ended", |appliance| appliance.in_state("filed") == 1 && appliance.in_state("failed") == 1);
    let shares = ["done", "failed"].map(|name| (appliance.path(name), appliance.path(&format!("{name}-share"))));
    for (end, share) in &shares {
        std::fs::rename(end, share).unwrap();
        std::fs::create_dir(end).unwrap();
    }
    appliance.drop_png("S1/b.png", 2);
    appliance.until("it is reported and told", |appliance| {
        appliance.reports() == 2
            && std::fs::read_to_string(appliance.path("inbox/STATUS.txt")).is_ok_and(|status| status.contains("not mounted"))
    });
    let id = appliance.rows("SELECT id FROM files WHERE state = 'failed'")[0].clone();
    assert_eq!(appliance.cli(&["retry", &id]).status.code(), Some(70), "nobody knows whether it is gone");
    for (end, share) in &shares {
        assert_eq!(std::fs::read_dir(end).unwrap().count(), 0, "nothing is hidden below the mount");
        std::fs::remove_dir(end).unwrap();
        std::fs::rename(share, end).unwrap();
    }
    appliance.until("it is filed", |appliance| appliance.in_state("filed") == 2);
    assert_eq!(appliance.in_state("failed"), 1);
    assert!(appliance.cli(&["retry", &id]).status.success());
    appliance.until("it failed again", |appliance| appliance.in_state("failed") == 1 && appliance.in_state("retried") == 1);
    appliance.check();
}
