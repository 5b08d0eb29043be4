//! The child that parses foreign bytes: what it answers, what becomes of one that dies, hangs or lies, and what it can no longer do.
#![allow(clippy::disallowed_methods, reason = "tests prepare files by paths")]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use mmlnb_appliance::assess::bytes::Bytes;
use mmlnb_appliance::assess::reader::{Decoder, Found, Reader, Settings, Unread};
use mmlnb_appliance::assess::wire::{Ask, Want};

const CHILD: &str = env!("CARGO_BIN_EXE_mmlnb-appliance");

fn reader(program: &str, timeout: Duration) -> Reader {
    Reader::new(Settings::new(program.into(), timeout, (8192, 8)))
}

fn bytes(mut source: &[u8]) -> Bytes {
    Bytes::read(&mut source, u64::MAX).unwrap()
}

fn ask(want: Want) -> Ask {
    Ask { want, name: "x.png".into(), hollow: false, patient: true, lenient: false }
}

fn image(reader: &mut Reader, file: &[u8]) -> Result<Found, Unread> {
    reader.ask(&ask(Want::Image { thumbnail: true }), bytes(file).as_fd())
}

fn png() -> Vec<u8> {
    let mut png = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([1 + x as u8, 1 + y as u8, 7]));
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

/// A program in the child's place that greets as a child does and then says `more`.
fn impostor(more: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let greeting = br#"{"sandbox":{"seccomp":"Active","landlock":"Active"}}"#;
    let mut said = std::fs::File::create(dir.path().join("greeting")).unwrap();
    said.write_all(&(greeting.len() as u32).to_le_bytes()).unwrap();
    said.write_all(greeting).unwrap();
    let path = dir.path().join("child");
    let script = format!("#!/bin/sh\ncat {}/greeting >&0\n{more}\n", dir.path().display());
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let name = path.display().to_string();
    (dir, name)
}

fn told(found: Result<Found, Unread>) -> String {
    match found {
        Err(Unread::Died(why)) => format!("{}: {}", why.code, why.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_child_answers_for_many_images() {
    let mut reader = reader(CHILD, Duration::from_secs(20));
    for at in 0..3 {
        let Ok(Found::Image(found)) = image(&mut reader, &png()) else { panic!() };
        assert_eq!(
            (found.format.as_str(), found.appearance.size, found.rgb.pixels[..3].to_vec()),
            ("PNG", [64, 48], vec![1, 1, 7])
        );
        // One that is not fetched must not be taken for the next answer.
        if at != 1 {
            let thumbnail = image::load_from_memory(&reader.thumbnail().unwrap()).unwrap();
            assert_eq!((thumbnail.width(), thumbnail.height()), (64, 48));
        }
        let Err(Unread::Rejected(why)) = image(&mut reader, b"words and no image at all") else { panic!() };
        assert_eq!(why.code, "not_an_image");
        assert!(matches!(image(&mut reader, &png()[..80]), Ok(Found::Unfinished(_))));
        assert!(matches!(reader.ask(&ask(Want::Header), bytes(&png()).as_fd()), Ok(Found::Fine)));
    }
    let slide = Ask { name: "x.mrxs".into(), ..ask(Want::Slide) };
    assert!(matches!(reader.ask(&slide, bytes(b"?").as_fd()), Ok(Found::Slide(vendor, None)) if vendor == "MIRAX"));
}

#[test]
fn the_sandbox_holds_on_this_machine() {
    let settings = Settings::new(CHILD.into(), Duration::from_secs(20), (8192, 8));
    let mut reader = Reader::new(settings.clone());
    reader.start().unwrap();
    assert_eq!(settings.missing(), None);
}

#[test]
fn a_child_that_dies_hangs_or_lies_is_told_and_replaced() {
    let short = Duration::from_millis(400);
    let (_kept, died) = impostor("exit 3");
    assert!(told(image(&mut reader(&died, short), &png())).starts_with("decoder_died: The decoder ended"));
    let (_kept, hangs) = impostor("exec sleep 60");
    let begun = Instant::now();
    assert!(told(image(&mut reader(&hangs, short), &png())).contains("did not finish"));
    assert!(begun.elapsed() < Duration::from_secs(10));
    let (_kept, garbage) = impostor(r"printf '\003\000\000\000abc' >&0; exec sleep 60");
    assert!(told(image(&mut reader(&garbage, short), &png())).contains("no proper answer"));
    let (_kept, huge) = impostor(r"printf '\377\377\377\177' >&0; exec sleep 60");
    assert!(told(image(&mut reader(&huge, short), &png())).contains("an answer of 2147483647 bytes"));
    let (_kept, never) = impostor("exec sleep 60");
    let mut reader = reader(&never, short);
    for _ in 0..2 {
        assert!(told(image(&mut reader, &png())).contains("did not finish"), "each time a new one");
    }
}

#[test]
fn a_child_that_is_killed_from_outside_costs_an_attempt() {
    // An image whose decoder takes all memory would otherwise be tried for ever.
    let (_kept, killed) = impostor("kill -9 $$");
    assert!(told(image(&mut reader(&killed, Duration::from_secs(20)), &png())).contains("signal: 9"));
}

#[test]
fn a_child_that_cannot_be_started_is_not_the_files_fault() {
    for program in ["/nonexistent", "/bin/true"] {
        assert!(matches!(image(&mut reader(program, Duration::from_secs(1)), &png()), Err(Unread::Later(_))), "{program}");
    }
}

/// A TIFF of `directories`, each with `texts` entries that share one text of 64 KiB.
fn tiff_of_texts(directories: u32, texts: u16) -> Vec<u8> {
    let size = 2 + u32::from(texts) * 12 + 4;
    let text_at = 8 + directories * size;
    let mut tiff = b"II*\0\x08\0\0\0".to_vec();
    for at in 0..directories {
        tiff.extend(texts.to_le_bytes());
        for _ in 0..texts {
            tiff.extend(270u16.to_le_bytes());
            tiff.extend(2u16.to_le_bytes());
            tiff.extend((64u32 << 10).to_le_bytes());
            tiff.extend(text_at.to_le_bytes());
        }
        let next = if at + 1 < directories { 8 + (at + 1) * size } else { 0 };
        tiff.extend(next.to_le_bytes());
    }
    tiff.extend(vec![b'x'; 64 << 10]);
    tiff
}

fn resident_mb() -> u64 {
    let mut status = String::new();
    std::fs::File::open("/proc/self/status").unwrap().read_to_string(&mut status).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

#[test]
fn files_made_to_exhaust_a_parser_cost_this_process_nothing_and_end_in_time() {
    let mut jpeg = vec![0xff; 64 << 20];
    jpeg[1] = 0xd8;
    let mut reader = reader(CHILD, Duration::from_secs(20));
    for (name, file) in [("texts", tiff_of_texts(1, 4095)), ("directories", tiff_of_texts(100, 4095)), ("fill", jpeg)] {
        let before = resident_mb();
        let begun = Instant::now();
        let found = image(&mut reader, &file);
        assert!(matches!(found, Err(Unread::Rejected(_)) | Ok(Found::Unfinished(_))), "{name}: {found:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{name}: {:?}", begun.elapsed());
        assert!(resident_mb() < before + 80, "{name}: {} MB before, {} after", before, resident_mb());
    }
}

#[cfg(feature = "failpoints")]
#[test]
fn what_a_parser_never_needs_is_refused_or_ends_the_child() {
    let mut reader = reader(CHILD, Duration::from_secs(2));
    let mut attempt = |what: &str| match reader.ask(&ask(Want::Attempt(what.into())), bytes(b"?").as_fd()) {
        Err(Unread::Rejected(why)) => why.message,
        other => told(other),
    };
    for deadly in ["open", "socket", "exec", "thread", "kill"] {
        assert!(attempt(deadly).contains("SIGSYS"), "{deadly}: {}", attempt(deadly));
    }
    for refused in ["limits", "rename"] {
        assert!(attempt(refused).contains("Operation not permitted"), "{refused}: {}", attempt(refused));
    }
    for ending in ["memory", "panic"] {
        assert!(attempt(ending).contains("SIGABRT"), "{ending}: {}", attempt(ending));
    }
    assert!(attempt("spin").contains("did not finish within 2 s"));
}
