//! Everything that is no patch: each ends with a clear reason, and nothing is lost.

use std::os::unix::fs::PermissionsExt;

use crate::appliance::{Appliance, encode, png, text};

fn note(appliance: &Appliance, path: &str) -> serde_json::Value {
    let text =
        std::fs::read_to_string(appliance.path(path)).unwrap_or_else(|error| panic!("{path}: {error}\n{}", appliance.log()));
    serde_json::from_str(&text).unwrap()
}

fn huge_png() -> Vec<u8> {
    let mut bytes = png(64, 64, 1);
    bytes[16..20].copy_from_slice(&30_000u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&30_000u32.to_be_bytes());
    bytes
}

#[test]
fn each_wrong_file_fails_with_its_reason() {
    let mut appliance = Appliance::new();
    let jpeg = encode(64, 64, 1, image::ImageFormat::Jpeg);
    let wrong: [(&str, Vec<u8>, &str); 5] = [
        ("truncated.jpg", jpeg[..jpeg.len() / 2].to_vec(), "truncated"),
        ("text.png", b"this is a text and no image".to_vec(), "not_an_image"),
        ("empty.png", vec![], "zero_bytes"),
        ("huge.png", huge_png(), "too_large"),
        ("tiny.png", png(8, 8, 1), "too_small"),
    ];
    for (name, bytes, _) in &wrong {
        appliance.drop(&format!("case/{name}"), bytes);
    }
    appliance.drop("x.png/inside.png", &png(64, 64, 7));
    std::os::unix::fs::symlink("/etc/hostname", appliance.path("inbox/link.png")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, appliance.path("inbox/fifo.png"), rustix::fs::Mode::RWXU).unwrap();
    appliance.start();
    appliance.until("all have ended", |appliance| appliance.in_state("failed") == 7 && appliance.in_state("filed") == 1);
    for (name, bytes, code) in &wrong {
        let note = note(&appliance, &format!("failed/case/{name}.note.json"));
        assert_eq!(note["code"], *code, "{name}");
        for key in ["message", "what_to_do"] {
            assert!(note[key].as_str().unwrap().len() > 10, "{name} {key}");
        }
        assert!(note["job"].is_i64());
        assert_eq!(&std::fs::read(appliance.path(&format!("failed/case/{name}"))).unwrap(), bytes);
        assert!(appliance.path(&format!("failed/case/{name}.note.html")).exists());
    }
    for name in ["link.png", "fifo.png"] {
        assert_eq!(note(&appliance, &format!("failed/{name}.note.json"))["code"], "not_a_file");
    }
    assert!(appliance.path("failed/link.png").symlink_metadata().unwrap().is_symlink());
    assert!(appliance.path("done/x.png/inside.png.report.html").exists());
    assert!(appliance.inbox_is_empty());
    appliance.check();
}

#[test]
fn a_whole_slide_stays_and_gets_a_note() {
    let mut appliance = Appliance::new();
    appliance.drop("case/slide.mrxs", b"a MIRAX index");
    std::fs::create_dir_all(appliance.path("inbox/case/slide")).unwrap();
    std::fs::write(appliance.path("inbox/case/slide/Data0001.dat"), b"tiles").unwrap();
    appliance.start();
    appliance.until("it is refused", |appliance| {
        appliance.in_state("refused") == 1 && appliance.path("inbox/case/slide.mrxs.note.html").exists()
    });
    assert_eq!(note(&appliance, "inbox/case/slide.mrxs.note.json")["code"], "whole_slide");
    assert!(appliance.path("inbox/case/slide.mrxs").exists() && appliance.path("inbox/case/slide/Data0001.dat").exists());
    assert_eq!(appliance.stop(), Some(0));
    appliance.start();
    appliance.drop_png("case/patch.png", 1);
    appliance.until("the patch is filed", |appliance| appliance.in_state("filed") == 1);
    assert_eq!(appliance.count("SELECT count(*) FROM files"), 2);
    std::fs::remove_file(appliance.path("inbox/case/slide.mrxs")).unwrap();
    appliance.until("its row says that it left", |appliance| appliance.in_state("vanished") == 1);
    appliance.until("its note left too", |appliance| !appliance.path("inbox/case/slide.mrxs.note.json").exists());
}

#[test]
fn a_slide_that_left_while_nobody_looked_takes_its_note_along() {
    let mut appliance = Appliance::new();
    appliance.drop("slide.mrxs", b"a MIRAX index");
    appliance.start();
    appliance.until("it is refused", |appliance| appliance.path("inbox/slide.mrxs.note.json").exists());
    assert_eq!(appliance.stop(), Some(0));
    std::fs::remove_file(appliance.path("inbox/slide.mrxs")).unwrap();
    appliance.start();
    appliance.until("its row says that it left", |appliance| appliance.in_state("vanished") == 1);
    assert!(!appliance.path("inbox/slide.mrxs.note.html").exists() && !appliance.path("inbox/slide.mrxs.note.json").exists());
}

#[test]
fn a_slide_that_is_passed_over_now_rests_on() {
    let mut appliance = Appliance::new();
    appliance.drop("slide.mrxs", b"a MIRAX index");
    appliance.start();
    appliance.until("it is refused", |appliance| appliance.path("inbox/slide.mrxs.note.json").exists());
    assert_eq!(appliance.stop(), Some(0));
    let written = |appliance: &Appliance| appliance.path("inbox/slide.mrxs.note.json").metadata().unwrap().modified().unwrap();
    let before = written(&appliance);
    appliance.set("MMLNB_IGNORE", "[\"*.mrxs\"]");
    appliance.start();
    for round in 0..3 {
        appliance.drop_png(&format!("patch-{round}.png"), round);
        appliance.until("a patch is filed", |appliance| appliance.in_state("filed") == i64::from(round) + 1);
    }
    assert_eq!((written(&appliance), appliance.in_state("refused")), (before, 1));
}

#[test]
fn numbers_that_are_none_are_told() {
    let mut appliance = Appliance::new();
    appliance.drop("nan.png", &png(88, 64, 1));
    appliance.start();
    appliance.until("it has failed", |appliance| appliance.in_state("failed") == 1);
    let note = note(&appliance, "failed/nan.png.note.json");
    assert_eq!(note["code"], "no_numbers");
    assert!(note["message"].as_str().unwrap().contains("layer 2"));
}

#[test]
fn an_unreadable_file_waits_visibly_and_is_taken_when_it_may_be() {
    if rustix::process::geteuid().is_root() {
        eprintln!("root may read everything; nothing to check");
        return;
    }
    let mut appliance = Appliance::new();
    appliance.drop_png("x.png", 1);
    let path = appliance.path("inbox/x.png");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    appliance.start();
    appliance.until("it waits", |appliance| appliance.rows("SELECT code FROM files") == ["unreadable"]);
    assert!(text(&appliance.cli(&["status"]).stdout).contains("mode 0000"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    appliance.until("it is filed", |appliance| appliance.in_state("filed") == 1);
    assert_eq!(appliance.count("SELECT count(*) FROM files"), 1);
}

#[test]
fn names_of_any_kind_end_safely() {
    use std::os::unix::ffi::OsStrExt;
    let mut appliance = Appliance::new();
    let long = format!("{}.png", "n".repeat(251));
    let names: [&[u8]; 6] = [
        b"<script>alert(1)</script>".split_at(8).0,
        b"new\nline.png",
        b"\xff\xfe.png",
        b"=cmd().png",
        "größe.png".as_bytes(),
        long.as_bytes(),
    ];
    for (seed, name) in names.iter().enumerate() {
        std::fs::write(appliance.path("inbox").join(std::ffi::OsStr::from_bytes(name)), png(64, 64, seed as u8)).unwrap();
    }
    appliance.start();
    appliance.until("all are filed", |appliance| appliance.in_state("filed") == 6);
    let csv = text(&appliance.cli(&["reports", "--csv"]).stdout);
    assert!(csv.contains("'=cmd().png") && csv.contains("new%0Aline.png") && csv.contains("%FF%FE.png"), "{csv}");
    let page = std::fs::read_to_string(appliance.path("done").join("<script>.report.html")).unwrap();
    assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"));
    assert!(appliance.inbox_is_empty());
    appliance.check();
}

#[test]
fn a_bmp_whose_writer_stalls_waits_and_is_flagged_when_it_stays_so() {
    let whole = encode(64, 64, 3, image::ImageFormat::Bmp);
    let mut stalled = whole.clone();
    stalled[whole.len() * 6 / 10..].fill(0);
    let mut appliance = Appliance::new();
    appliance.set("MMLNB_INCOMPLETE_S", "600");
    appliance.drop("goes_on.bmp", &stalled);
    appliance.drop_png("good.png", 1);
    appliance.start();
    appliance.until("the good one is filed", |appliance| appliance.in_state("filed") == 1);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(appliance.assessed().len(), 1, "half an image is not assessed");
    assert_eq!(appliance.count("SELECT count(*) FROM files"), 1, "a file that is not whole leaves no row");
    assert_eq!(appliance.count("SELECT count(*) FROM content"), 1);
    assert_eq!(text(&appliance.cli(&["status", "--check"]).stderr), "");
    appliance.drop("goes_on.bmp", &whole);
    appliance.until("it is filed when it is whole", |appliance| appliance.in_state("filed") == 2);
    assert_eq!(appliance.rows("SELECT flags FROM reports WHERE flags LIKE '%blank_tail%'"), [""; 0]);
    assert_eq!(appliance.stop(), Some(0));

    appliance.set("MMLNB_INCOMPLETE_S", "1");
    stalled[60] ^= 1;
    appliance.drop("stays.bmp", &stalled);
    appliance.start();
    appliance.until("it is filed as it is", |appliance| appliance.in_state("filed") == 3);
    assert_eq!(appliance.count("SELECT count(*) FROM reports WHERE flags LIKE '%blank_tail%'"), 1);
    appliance.check();
}

#[test]
fn a_file_above_the_limit_fails_unread_and_a_slide_stays() {
    let mut appliance = Appliance::new();
    appliance.set("MMLNB_MAX_FILE_MB", "1");
    let mut czi = vec![0; 2 << 20];
    czi[..10].copy_from_slice(b"ZISRAWFILE");
    appliance.drop("slide.czi", &czi);
    appliance.drop("large.png", &vec![7; 2 << 20]);
    appliance.start();
    // A slide is refused before its note is written.
    appliance.until("both ended", |appliance| {
        appliance.path("inbox/slide.czi.note.json").exists() && appliance.in_state("failed") == 1
    });
    assert_eq!(note(&appliance, "failed/large.png.note.json")["code"], "file_too_large");
    assert_eq!(note(&appliance, "inbox/slide.czi.note.json")["code"], "whole_slide");
    assert_eq!(appliance.count("SELECT count(*) FROM files WHERE image_sha256 IS NOT NULL"), 0);
}

#[test]
fn a_file_above_the_limit_that_is_still_being_written_waits() {
    let mut appliance = Appliance::new();
    appliance.set("MMLNB_MAX_FILE_MB", "1");
    appliance.set("MMLNB_INCOMPLETE_S", "600");
    // A TIFF whose directory lies behind its picture data, as most writers leave it: the first 2 MB are no slide and no picture yet.
    let mut begun = b"II*\0\0\0\x30\0".to_vec();
    begun.resize(2 << 20, 7);
    appliance.drop("S1/export.tif", &begun);
    appliance.drop("S1/room.png", &[0; 2 << 20]);
    appliance.start();
    appliance.drop_png("S1/patch.png", 1);
    appliance.until("a patch is filed", |appliance| appliance.in_state("filed") == 1);
    std::thread::sleep(std::time::Duration::from_millis(600));
    for name in ["export.tif", "room.png"] {
        assert!(appliance.path("inbox/S1").join(name).exists(), "{name}: its writer is not done");
    }
    assert_eq!(appliance.in_state("failed"), 0);
    appliance.stop();
    appliance.set("MMLNB_INCOMPLETE_S", "1");
    appliance.start();
    appliance.until("they are given up", |appliance| appliance.in_state("failed") == 2);
    assert_eq!(note(&appliance, "failed/S1/export.tif.note.json")["code"], "file_too_large");
}

#[test]
fn bytes_that_failed_by_a_setting_are_looked_at_anew_under_another_one() {
    let mut appliance = Appliance::new();
    appliance.set("MMLNB_MAX_SIDE_PX", "64");
    appliance.drop("S1/a.png", &png(96, 96, 1));
    appliance.start();
    appliance.until("it is too large", |appliance| appliance.in_state("failed") == 1);
    appliance.drop("S2/b.png", &png(96, 96, 1));
    appliance.until("within one run it is known", |appliance| appliance.in_state("failed") == 2);
    appliance.stop();
    appliance.set("MMLNB_MAX_SIDE_PX", "128");
    appliance.start();
    appliance.drop("S1/a.png", &png(96, 96, 1));
    appliance.until("it is filed", |appliance| appliance.in_state("filed") == 1);
    assert_eq!((appliance.in_state("failed"), appliance.reports()), (2, 1), "what failed before stays told as that");
    appliance.check();
}
