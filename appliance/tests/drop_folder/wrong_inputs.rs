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
