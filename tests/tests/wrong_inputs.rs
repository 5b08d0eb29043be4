//! What people drop by mistake: each file ends with a note that a technician understands, nothing is lost, the others go on.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mmlnb_tests::{Appliance, Note, appliance_binary, bundle, drop_by_copy, installed, patches, skipped, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// A PNG of this size by its header, with no pixels behind it.
fn png_header(side: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend([side.to_be_bytes(), side.to_be_bytes()].concat());
    header.extend([8, 2, 0, 0, 0]);
    let chunk = |body: &[u8]| [&(body.len() as u32 - 4).to_be_bytes()[..], body, &crc32(body).to_be_bytes()].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(&header), chunk(b"IDAT"), chunk(b"IEND")].concat()
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// A little-endian TIFF whose only directory says: tiled, 46,000 x 32,914 pixels, described as Aperio does.
fn whole_slide() -> Vec<u8> {
    let text =
        b"Aperio Image Library v11.2.1\r\n46000x32914 [0,100 46000x32814] (240x240) J2K/YUV16 Q=70|AppMag = 20|MPP = 0.4990\0";
    let entries: [(u16, u16, u32, u32); 11] = [
        (256, 4, 1, 46_000),
        (257, 4, 1, 32_914),
        (258, 3, 1, 8),
        (259, 3, 1, 7),
        (262, 3, 1, 6),
        (270, 2, text.len() as u32, 200),
        (277, 3, 1, 3),
        (322, 3, 1, 240),
        (323, 3, 1, 240),
        (324, 4, 1, 400),
        (325, 4, 1, 64),
    ];
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bytes.extend([0; 4]);
    bytes.resize(200, 0);
    bytes.extend(text);
    bytes.resize(512, 0);
    bytes
}

fn jpeg() -> Vec<u8> {
    let image = image::load_from_memory(&patches(1)[0].bytes).expect("a patch can be decoded");
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.to_rgb8().write_to(&mut bytes, image::ImageFormat::Jpeg).expect("encoding in memory");
    bytes.into_inner()
}

#[test]
fn every_wrong_file_gets_its_note_and_the_good_ones_their_report() {
    let appliance = Appliance::new();
    let good = patches(3);
    let whole = jpeg();
    let wrong: [(&str, Vec<u8>); 5] = [
        ("truncated.jpg", whole[..whole.len() * 2 / 3].to_vec()),
        ("text.png", b"These are the patient's notes, not an image.\n".to_vec()),
        ("empty.png", Vec::new()),
        ("huge.png", png_header(30_000)),
        ("case-7/noise.jpg", (0..5000u32).map(|value| (value.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
    ];
    let daemon = appliance.daemon().start();
    for (name, bytes) in &wrong {
        drop_by_copy(bytes, &appliance.inbox(name));
    }
    for patch in &good {
        drop_by_copy(&patch.bytes, &appliance.inbox(&patch.name));
    }
    appliance.wait_for_files(wrong.len() + good.len(), LIMIT);
    for (name, bytes) in &wrong {
        assert_eq!(&fs::read(appliance.failed(name)).expect("the file lies in failed"), bytes, "{name} is unchanged");
        let (note, row) = (Note::beside(&appliance.failed(name)), appliance.file(name));
        assert_eq!((note.job, Some(&note.code)), (row.id, row.code.as_ref()), "{name}");
        assert_eq!(row.report_id, None, "{name}");
    }
    assert_eq!(appliance.file("truncated.jpg").code.as_deref(), Some("truncated"));
    assert_eq!(appliance.reports().len(), good.len());
    assert_eq!(appliance.listing("inbox"), [] as [String; 0]);
    assert_eq!(appliance.listing("failed").len(), 3 * wrong.len());
    let peak = daemon.peak_memory() >> 20;
    assert!(peak < 1500, "2.7 GB of pixels were never allocated: peak {peak} MiB");
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
    appliance.operator(&["verify"]).expect(0);
}

#[test]
fn a_folder_named_as_an_image_is_a_case() {
    let appliance = Appliance::new();
    let patch = patches(1).remove(0);
    drop_by_copy(&patch.bytes, &appliance.inbox("x.png/patch.png"));
    fs::create_dir(appliance.inbox("empty.png")).expect("the inbox is writable");
    let daemon = appliance.daemon().start();
    appliance.wait_for_files(1, LIMIT);
    assert_eq!(appliance.reports()[0].case_id, "x.png");
    assert!(appliance.done("x.png/patch.png").is_file());
    assert!(appliance.inbox("empty.png").is_dir(), "an empty case is left alone");
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn symbolic_links_and_pipes_are_never_opened_and_stop_nobody() {
    let appliance = Appliance::new();
    let patch = patches(1).remove(0);
    let secret = appliance.outside().join("secret.png");
    fs::write(&secret, &patches(2)[1].bytes).expect("the root is writable");
    std::os::unix::fs::symlink(&secret, appliance.inbox("link.png")).expect("a link can be made");
    std::os::unix::fs::symlink(appliance.outside(), appliance.inbox("linked-case")).expect("a link can be made");
    rustix::fs::mkfifoat(rustix::fs::CWD, appliance.inbox("pipe.png"), 0o600.into()).expect("a pipe can be made");
    let daemon = appliance.daemon().start();
    drop_by_copy(&patch.bytes, &appliance.inbox(&patch.name));
    wait_for(LIMIT, "the good file's report", || appliance.done(&format!("{}.report.json", patch.name)).is_file());
    for name in ["link.png", "pipe.png"] {
        wait_for(LIMIT, &format!("a judgement of {name}"), || appliance.files().iter().any(|row| row.source == name));
        let row = appliance.file(name);
        assert!(row.code.is_some() && row.report_id.is_none() && row.image_sha256.is_none(), "{row:?}");
    }
    assert_eq!(appliance.reports().len(), 1, "nothing behind a link is read");
    assert!(secret.is_file(), "what a link points to stays");
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn a_whole_slide_stays_where_it_is_with_a_note_beside() {
    let appliance = Appliance::new();
    let slide = whole_slide();
    drop_by_copy(&slide, &appliance.inbox("S26-1/slide.svs"));
    let daemon = appliance.daemon().start();
    wait_for(LIMIT, "the note", || appliance.inbox("S26-1/slide.svs.note.json").is_file());
    let (note, row) = (Note::beside(&appliance.inbox("S26-1/slide.svs")), appliance.file("S26-1/slide.svs"));
    assert_eq!((note.job, row.state.as_str()), (row.id, "refused"));
    assert!(note.message.contains("46") && note.message.contains("32"), "the size is named: {}", note.message);
    assert!(note.what_to_do.to_lowercase().contains("qupath"), "the way out is named: {}", note.what_to_do);
    assert_eq!(fs::read(appliance.inbox("S26-1/slide.svs")).expect("the slide stays"), slide);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(appliance.files().len(), 1, "one note for one sighting");
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

/// A user without privileges, and a folder where it can reach binaries, libraries and bundle; `None` when that cannot be had.
fn unprivileged(appliance: &mut Appliance) -> Option<u32> {
    const NOBODY: u32 = 65_534;
    let what = "a file that the daemon may not read";
    if !rustix::process::geteuid().is_root() || !installed("setpriv", what) {
        skipped(what, "only root can start the daemon as another user");
        return None;
    }
    let program = appliance.root().join("mmlnb-appliance");
    fs::copy(appliance_binary(), &program).expect("the root is writable");
    appliance.use_program(&program);
    appliance.give_to(NOBODY);
    let library = std::env::var_os("MMLNB_ORT_LIB").or_else(|| std::env::var_os("ORT_DYLIB_PATH")).unwrap_or_default();
    let reaches = |path: &Path| {
        let mut test = Command::new("setpriv");
        test.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", "test", "-r"]).arg(path);
        test.status().is_ok_and(|status| status.success())
    };
    let reachable =
        reaches(Path::new(&library)) && reaches(&bundle().join("manifest.json")) && reaches(&appliance.configuration());
    if !reachable {
        skipped(what, "another user cannot reach this checkout");
    }
    reachable.then_some(NOBODY)
}

#[test]
fn an_unreadable_file_waits_for_its_permission_while_the_others_go_on() {
    let mut appliance = Appliance::new();
    let Some(user) = unprivileged(&mut appliance) else { return };
    let patches = patches(2);
    let locked = appliance.inbox(&patches[0].name);
    drop_by_copy(&patches[0].bytes, &locked);
    fs::set_permissions(&locked, Permissions::from_mode(0o600)).expect("root may");
    let daemon = appliance.daemon().user(user).start();
    drop_by_copy(&patches[1].bytes, &appliance.inbox(&patches[1].name));
    wait_for(LIMIT, "the readable file's report", || appliance.done(&patches[1].name).is_file());
    std::thread::sleep(Duration::from_secs(3));
    assert!(locked.is_file(), "the unreadable file waits");
    assert_eq!(appliance.listing("failed"), [] as [String; 0], "a missing permission is not the file's fault");
    fs::set_permissions(&locked, Permissions::from_mode(0o644)).expect("root may");
    wait_for(LIMIT, "the report after the permission came", || appliance.reports().len() == 2);
    wait_for(LIMIT, "the file in done", || appliance.done(&patches[0].name).is_file());
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}
