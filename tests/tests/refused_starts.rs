//! A daemon that cannot work rightly does not start: the exit status tells the service manager, the message tells the person.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mmlnb_tests::{Appliance, bundle, copy_folder, drop_by_copy, patches, sha256_hex};
use rusqlite::Connection;

#[track_caller]
fn assert_says(err: &str, words: &[&str]) {
    for word in words {
        assert!(err.contains(word), "`{word}` is missing in:\n{err}");
    }
}

/// Every file of the bundle that its manifest protects.
fn protected(folder: &Path) -> Vec<PathBuf> {
    let manifest = fs::read(folder.join("manifest.json")).expect("the bundle has a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("a manifest is JSON");
    let files = manifest["files"].as_object().expect("the manifest lists files");
    assert!(files.len() > 10, "{files:?}");
    files.keys().map(|name| folder.join(name)).collect()
}

#[test]
fn a_bundle_with_one_byte_changed_is_refused_whichever_file_it_is_in() {
    let appliance = Appliance::new();
    let folder = appliance.root().join("bundle");
    copy_folder(bundle(), &folder);
    appliance.set("bundle", &format!("{:?}", folder.display().to_string()));
    for file in protected(&folder) {
        let whole = fs::read(&file).expect("the copy can be read");
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        fs::write(&file, &changed).expect("the copy is writable");
        let refused = appliance.daemon().refused().expect(78);
        let name = file.file_name().expect("a file has a name").to_string_lossy();
        assert_says(&refused.err, &[&name, "export the bundle again"]);
        fs::write(&file, &whole).expect("the copy is writable");
    }
    assert_eq!(appliance.daemon().start().stop(Duration::from_secs(10)), 0, "the whole bundle is served");
}

#[test]
fn a_bundle_without_the_half_that_is_needed_is_refused() {
    let appliance = Appliance::new();
    let folder = appliance.root().join("classifier-only");
    let mut export = mmlnb_tests::command(&mmlnb_tests::binary("mmlnb-export"));
    export.args(["bundle", "--classifier"]).arg(mmlnb_tests::golden("curriculum/checkpoint")).arg("--output").arg(&folder);
    mmlnb_tests::run(&mut export).expect(0);
    appliance.set("bundle", &format!("{:?}", folder.display().to_string()));
    let refused = appliance.daemon().refused().expect(78);
    assert_says(&refused.err, &["describer"]);
}

#[test]
fn a_bundle_in_bf16_is_refused_on_a_processor() {
    let appliance = Appliance::new();
    let folder = appliance.root().join("bf16");
    let mut export = mmlnb_tests::command(&mmlnb_tests::binary("mmlnb-export"));
    export.args(["bundle", "--precision", "bf16", "--vlm"]).arg(mmlnb_tests::golden("qwen2_5_vl"));
    export.arg("--classifier").arg(mmlnb_tests::golden("curriculum/checkpoint")).arg("--output").arg(&folder);
    mmlnb_tests::run(&mut export).expect(0);
    appliance.set("bundle", &format!("{:?}", folder.display().to_string()));
    appliance.set("provider", "\"cpu\"");
    let refused = appliance.daemon().refused().expect(78);
    assert_says(&refused.err, &["bf16", "only GPUs", "--precision f32"]);
}

#[test]
fn three_mistakes_in_the_configuration_are_listed_together_with_their_lines() {
    let appliance = Appliance::new();
    appliance.set("settle_ms", "\"soon\"");
    appliance.set("done", "\"/nowhere/done\"");
    let text = fs::read_to_string(appliance.configuration()).expect("init wrote it");
    fs::write(appliance.configuration(), text + "\nsetle_ms = 5\n").expect("the root is writable");
    let refused = appliance.daemon().refused().expect(78);
    let text = fs::read_to_string(appliance.configuration()).expect("it was just written");
    for (line, key) in text.lines().enumerate().filter_map(|(line, text)| {
        let key = text.split_once('=')?.0.trim().to_owned();
        ["settle_ms", "done", "setle_ms"].contains(&key.as_str()).then_some((line + 1, key))
    }) {
        assert_says(&refused.err, &[&format!("appliance.toml:{line}"), &key]);
    }
    assert_says(&refused.err, &["did you mean `settle_ms`"]);
    assert!(!appliance.ledger().exists(), "nothing was started");
}

fn ledger_with_a_report(appliance: &Appliance) {
    let patch = patches(1).remove(0);
    drop_by_copy(&patch.bytes, &appliance.inbox(&patch.name));
    let daemon = appliance.daemon().start();
    appliance.wait_for_files(1, Duration::from_secs(60));
    daemon.kill();
    let connection = Connection::open(appliance.ledger()).expect("the ledger is there");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("nobody else has it open");
}

#[test]
fn a_ledger_of_a_newer_version_is_refused_and_not_touched() {
    let appliance = Appliance::new();
    ledger_with_a_report(&appliance);
    let connection = Connection::open(appliance.ledger()).expect("the ledger is there");
    connection.execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)").expect("nobody else has it open");
    drop(connection);
    let before = sha256_hex(&fs::read(appliance.ledger()).expect("the ledger is there"));
    let refused = appliance.daemon().refused().expect(78);
    assert_says(&refused.err, &["99", "ledger.sqlite"]);
    assert_eq!(sha256_hex(&fs::read(appliance.ledger()).expect("the ledger is there")), before);
}

#[test]
fn a_damaged_ledger_is_refused_and_kept() {
    let appliance = Appliance::new();
    ledger_with_a_report(&appliance);
    let mut bytes = fs::read(appliance.ledger()).expect("the ledger is there");
    let page = 4096;
    assert!(bytes.len() > 8 * page);
    bytes[3 * page..8 * page].fill(0xA5);
    fs::write(appliance.ledger(), &bytes).expect("the ledger is writable");
    let refused = appliance.daemon().refused().expect(65);
    assert_says(&refused.err, &["ledger.sqlite"]);
    let after = fs::read(appliance.ledger()).expect("the ledger is still there");
    assert_eq!(after[3 * page..8 * page], bytes[3 * page..8 * page], "what is left can still be rescued");
}

#[test]
fn a_file_that_is_no_ledger_is_refused_and_kept() {
    let appliance = Appliance::new();
    let foreign = b"not a database at all, but somebody's notes\n".repeat(300);
    fs::write(appliance.ledger(), &foreign).expect("the state folder is writable");
    let refused = appliance.daemon().refused();
    assert!([65, 78].contains(&refused.code), "{refused:?}");
    assert_says(&refused.err, &["ledger.sqlite"]);
    assert_eq!(fs::read(appliance.ledger()).expect("the file stays"), foreign);
}

#[test]
fn a_second_daemon_on_the_same_folders_leaves_at_once_and_the_first_goes_on() {
    let (first, second) = (Appliance::new(), Appliance::new());
    let mut daemon = first.daemon().start();
    let started = Instant::now();
    let refused = first.daemon().refused().expect(75);
    assert!(started.elapsed() < Duration::from_secs(5), "{} ms", started.elapsed().as_millis());
    assert!(!refused.err.is_empty());
    second.set("inbox", &format!("{:?}", first.inbox("").display().to_string()));
    second.daemon().refused().expect(75);
    daemon.assert_alive();
    let patch = patches(1).remove(0);
    drop_by_copy(&patch.bytes, &first.inbox(&patch.name));
    first.wait_for_files(1, Duration::from_secs(60));
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}
