//! Names of files: taken ones, and those that a page, a table or a shell would take for something else.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use mmlnb_tests::{Appliance, drop_by_copy, patches, sha256_hex, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_name_that_other_bytes_have_taken_gets_the_hash_and_equal_bytes_go() {
    let appliance = Appliance::new();
    let patches = patches(3);
    let daemon = appliance.daemon().start();
    for (count, patch) in patches.iter().enumerate() {
        drop_by_copy(&patch.bytes, &appliance.inbox("case/patch.png"));
        appliance.wait_for_files(count + 1, LIMIT);
    }
    drop_by_copy(&patches[0].bytes, &appliance.inbox("case/patch.png"));
    appliance.wait_for_files(4, LIMIT);
    for (index, patch) in patches.iter().enumerate() {
        let name = match index {
            0 => "case/patch.png".to_owned(),
            _ => format!("case/patch~{}.png", &patch.sha256[..8]),
        };
        let filed = fs::read(appliance.done(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(sha256_hex(&filed), patch.sha256, "{name}");
        for beside in ["report.html", "report.json"] {
            assert!(appliance.done(&format!("{name}.{beside}")).is_file(), "{name}.{beside}");
        }
    }
    assert_eq!(appliance.listing("done").len(), 9);
    assert_eq!((appliance.reports().len(), appliance.files().len()), (3, 4));
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
    appliance.operator(&["verify"]).expect(0);
}

#[test]
fn awkward_names_are_filed_as_they_are_and_shown_harmlessly() {
    let appliance = Appliance::new();
    let names: [OsString; 7] = [
        "<img src=x onerror=alert(1)>&\"'.png".into(),
        "two\nlines.png".into(),
        "-rf --config.png".into(),
        "ÄÖ 病理 é.PNG".into(),
        OsString::from_vec(b"latin-\xe9-\xff.png".to_vec()),
        format!("{}.png", "n".repeat(251)).into(),
        "no extension".into(),
    ];
    let daemon = appliance.daemon().start();
    let patches = patches(names.len());
    for (name, patch) in names.iter().zip(&patches) {
        drop_by_copy(&patch.bytes, &appliance.inbox("S26 <1>").join(name));
    }
    appliance.wait_for_files(names.len(), LIMIT);
    assert_eq!(appliance.listing("failed"), [] as [String; 0]);
    let folder = appliance.done("S26 <1>");
    for (name, patch) in names.iter().zip(&patches).filter(|(name, _)| name.len() < 240) {
        let filed = fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(sha256_hex(&filed), patch.sha256, "{name:?}");
        let page = OsString::from_vec([name.as_bytes(), b".report.html"].concat());
        let page = fs::read_to_string(folder.join(&page)).unwrap_or_else(|error| panic!("{page:?}: {error}"));
        assert!(!page.contains("<img src=x") && !page.contains("S26 <1>"), "{name:?} is escaped");
    }
    let long = fs::read_dir(&folder)
        .expect("the case is there")
        .flatten()
        .filter(|entry| entry.file_name().as_bytes().starts_with(b"nnn"));
    assert_eq!(long.count(), 3, "an image whose name leaves no room for its page's is filed with both");
    assert_eq!(appliance.operator(&["reports", "--json"]).expect(0).json_lines().len(), names.len(), "one line a report");
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
    appliance.operator(&["verify"]).expect(0);
}

#[test]
fn half_transferred_files_are_left_alone_until_they_get_their_name() {
    let appliance = Appliance::new();
    let patches = patches(4);
    let unfinished = ["a.png.part", ".b.png", "c.png.crdownload", "~$d.png"];
    let daemon = appliance.daemon().start();
    for (name, patch) in unfinished.iter().zip(&patches) {
        drop_by_copy(&patch.bytes, &appliance.inbox(name));
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(appliance.files().len(), 0, "{:?}", appliance.files());
    fs::rename(appliance.inbox("a.png.part"), appliance.inbox("a.png")).expect("the inbox is writable");
    appliance.wait_for_files(1, LIMIT);
    assert_eq!(appliance.files()[0].source, "a.png");
    for name in &unfinished[1..] {
        assert!(appliance.inbox(name).is_file(), "{name} stays");
    }
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn a_file_that_is_taken_away_while_it_waits_is_forgotten_quietly() {
    let appliance = Appliance::new();
    appliance.set("settle_ms", "20000");
    let patches = patches(2);
    let daemon = appliance.daemon().start();
    // A file that its writer still holds waits for the whole of `settle_ms`.
    let mut gone = fs::File::create(appliance.inbox("gone.png")).expect("the inbox is writable");
    gone.write_all(&patches[0].bytes).expect("the inbox is writable");
    wait_for(LIMIT, "it to be seen", || appliance.status_text().contains("WORKING 0 of 1"));
    fs::remove_file(appliance.inbox("gone.png")).expect("the inbox is writable");
    drop(gone);
    drop_by_copy(&patches[1].bytes, &appliance.inbox("stays.png"));
    wait_for(LIMIT, "the other's report", || appliance.done("stays.png.report.json").is_file());
    assert!(appliance.files().iter().all(|row| row.source == "stays.png"), "{:?}", appliance.files());
    assert_eq!(appliance.listing("failed"), [] as [String; 0]);
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}
