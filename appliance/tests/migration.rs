//! A ledger of version 1 or 2 becomes one of version 3, with a copy kept before; whatever ends the program leaves the old one or the new one.
#![allow(clippy::disallowed_methods, reason = "tests prepare files by paths")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use mmlnb_appliance::ledger::{LedgerError, check, open, read};
use rusqlite::{Connection, OpenFlags};

const OLD: &str = include_str!("data/ledger-1.sql");
const OF_2: &str = include_str!("data/ledger-2.sql");
/// Names the ledger; set only for the copy of the test program that migrates it.
const LEDGER: &str = "MIGRATION_LEDGER";

/// Not a check of its own: the entrance for the copy that is killed.
#[test]
fn migration_process() {
    let Some(path) = std::env::var_os(LEDGER) else { return };
    let code = i32::from(open::writer(Path::new(&path)).is_err());
    std::process::exit(code);
}

/// The bytes of a ledger of version 1; made once, for it has thousands of rows.
fn old_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(OLD).unwrap();
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        drop(connection);
        std::fs::read(path).unwrap()
    })
}

fn old_ledger(dir: &Path) -> PathBuf {
    let path = dir.join("ledger.sqlite");
    std::fs::write(&path, old_bytes()).unwrap();
    path
}

fn plain(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn copies(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir.join("backup")) else { return vec![] };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "sqlite")).collect()
}

fn columns(connection: &Connection) -> Vec<String> {
    let sql = "SELECT m.type || ' ' || m.name || ' ' || coalesce(p.cid || ' ' || p.name || ' ' || p.type || ' ' || p.\"notnull\" || ' ' || coalesce(p.dflt_value, '') || ' ' || p.pk, '')
       FROM sqlite_schema m LEFT JOIN pragma_table_xinfo(m.name) p ORDER BY 1";
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Old and whole, or new and whole; true when new. A new one always has a whole copy of the old one beside it.
fn old_or_new(path: &Path, what: &str) -> bool {
    let connection = plain(path);
    check::check(&connection, path, true).unwrap();
    let version = number(&connection, "PRAGMA user_version");
    assert_eq!(number(&connection, "SELECT count(*) FROM reports"), 3000, "{what}");
    assert_eq!(number(&connection, "SELECT count(*) FROM files"), 4008, "{what}");
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('tile', 'event', 'tally', 'thumbnail', 'tiles')";
    match version {
        1 => {
            assert_eq!(number(&connection, tables), 0, "{what}");
            assert_eq!(number(&connection, "SELECT sum(length(thumbnail)) FROM content"), 3000 * 900, "{what}");
            false
        }
        3 => {
            assert_eq!(number(&connection, tables), 5, "{what}");
            assert_eq!(number(&connection, "SELECT sum(length(jpeg)) FROM thumbnail"), 3000 * 900, "{what}");
            let copies = copies(path.parent().unwrap());
            assert!(!copies.is_empty(), "{what}");
            for copy in copies {
                let copy_of = plain(&copy);
                check::check(&copy_of, &copy, true).unwrap();
                assert_eq!(number(&copy_of, "PRAGMA user_version"), 1, "{what}");
                assert_eq!(number(&copy_of, "SELECT count(*) FROM reports"), 3000, "{what}");
            }
            true
        }
        other => panic!("{what}: version {other}"),
    }
}

#[test]
fn a_migrated_ledger_is_like_a_fresh_one_and_keeps_every_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = old_ledger(dir.path());
    let migrated = open::writer(&path).unwrap();
    let fresh = open::writer(&dir.path().join("fresh.sqlite")).unwrap();
    assert_eq!(columns(&migrated), columns(&fresh));
    assert!(old_or_new(&path, "migrated"));
    assert_eq!(copies(dir.path()).len(), 1);
    for (sql, expected) in [
        ("SELECT count(*) FROM files WHERE folder = 'inbox'", 4008),
        ("SELECT count(*) FROM reports WHERE folder = 'inbox' AND qualification_sha256 IS NULL AND temperature IS NULL", 3000),
        ("SELECT count(*) FROM reports WHERE received_at > reported_at", 0),
        ("SELECT count(*) FROM tiles", 0),
        ("SELECT count(*) FROM folder WHERE name = 'inbox' AND marker = 'a-marker'", 1),
        ("SELECT count(*) FROM event WHERE action = 'migrate' AND actor = 'appliance'", 1),
        ("SELECT sum(files) FROM tally", 4008),
    ] {
        assert_eq!(number(&migrated, sql), expected, "{sql}");
    }
    let since = "2026-01-02T00:00:00.000Z";
    let scanned = (
        number(&migrated, &format!("SELECT count(*) FROM file WHERE state = 'filed' AND filed_at >= '{since}'")),
        number(&migrated, "SELECT count(*) FROM file WHERE state IN ('failed', 'refused')"),
        number(&migrated, "SELECT count(*) FROM file WHERE filed_at IS NULL AND state IN ('waiting', 'reported', 'rejected')"),
    );
    assert_eq!(read::counts(&migrated, since).unwrap(), scanned);
    let report = read::report(&migrated, 7).unwrap().unwrap();
    assert_eq!(report.image.unwrap().thumbnail.len(), 900);
    drop(migrated);
    open::writer(&path).unwrap();
    assert_eq!(copies(dir.path()).len(), 1, "a second start copies nothing");
}

#[test]
fn a_ledger_of_version_2_keeps_every_row_and_tells_bundles_apart_by_their_qualifications() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.sqlite");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(OF_2).unwrap();
    let rows = |connection: &Connection| {
        let all = ["bundle", "run", "content", "job", "file", "report", "event", "tally"];
        all.map(|table| number(connection, &format!("SELECT count(*) FROM {table}")))
    };
    let before = rows(&old);
    drop(old);
    let migrated = open::writer(&path).unwrap();
    let mut after = rows(&migrated);
    after[6] -= 1; // that it was migrated
    assert_eq!(after, before);
    check::check(&migrated, &path, true).unwrap();
    let fresh = open::writer(&dir.path().join("fresh.sqlite")).unwrap();
    assert_eq!(columns(&migrated), columns(&fresh));
    assert_eq!(number(&migrated, "PRAGMA user_version"), 3);
    assert_eq!(number(&migrated, "PRAGMA foreign_keys"), 1, "references are watched again");
    assert!(migrated.execute("DELETE FROM bundle WHERE id = 1", []).is_err());
    let report = read::report(&migrated, 7).unwrap().unwrap();
    assert_eq!((report.bundle_sha256, report.trust, report.qualification_sha256), ("ab".repeat(32), None, None));
    let add = |qualification: Option<String>| {
        let sql = "INSERT INTO bundle(sha256, classes, first_seen, qualification_sha256) VALUES(?1, '[]', '', ?2)";
        migrated.execute(sql, rusqlite::params!["ab".repeat(32), qualification])
    };
    assert!(add(None).is_err(), "it is there");
    assert!(add(Some("12".repeat(32))).is_ok() && add(Some("12".repeat(32))).is_err());
    let [copy] = copies(dir.path()).try_into().unwrap();
    assert_eq!(number(&plain(&copy), "PRAGMA user_version"), 2);
}

#[test]
fn a_reader_of_an_old_ledger_is_told_to_start_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let path = old_ledger(dir.path());
    let error = open::reader(&path).unwrap_err();
    assert!(matches!(error, LedgerError::Older { found: 1, known: 3, .. }), "{error}");
    let failure = mmlnb_appliance::error::Failure::from(error);
    assert_eq!(failure.exit as u8, 78);
    assert!(failure.to_string().contains("start the daemon once"), "{failure}");
    assert!(!old_or_new(&path, "read"));
}

fn spawn(path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "migration_process", "--nocapture"]).env(LEDGER, path).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn sixty_kills_at_random_moments_leave_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = old_ledger(dir.path());
    let begun = Instant::now();
    assert!(spawn(&path).status().unwrap().success());
    let whole = begun.elapsed();
    // A fixed seed: the moments spread over the whole length, and a failure can be repeated.
    let (mut random, mut new, mut old) = (0x2545_F491_4F6C_DD1D_u64, 0, 0);
    for kill in 0..60 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let moment = whole.mul_f64((random % 1000) as f64 / 1000.0);
        let dir = tempfile::tempdir().unwrap();
        let path = old_ledger(dir.path());
        let mut child = spawn(&path).spawn().unwrap();
        std::thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
        match old_or_new(&path, &format!("kill {kill} after {moment:?}")) {
            true => new += 1,
            false => old += 1,
        }
        open::writer(&path).unwrap();
        assert!(old_or_new(&path, "after the next start"));
    }
    assert!(old > 0, "every one of {new} came too late");
}

#[cfg(feature = "failpoints")]
#[test]
fn every_step_may_fail_or_be_the_last() {
    let steps = ["before", "copied", "kept", "begun", "tables", "altered", "committed"];
    for (step, act) in steps.into_iter().flat_map(|step| ["abort", "eio", "enospc"].map(|act| (step, act))) {
        let dir = tempfile::tempdir().unwrap();
        let path = old_ledger(dir.path());
        let status = spawn(&path).env("MMLNB_FAILPOINTS", format!("migrate.{step}={act}")).status().unwrap();
        assert!(!status.success(), "{step}={act}");
        assert_eq!(old_or_new(&path, &format!("{step}={act}")), step == "committed", "{step}={act}");
        open::writer(&path).unwrap();
        assert!(old_or_new(&path, &format!("the next start after {step}={act}")));
    }
}

#[test]
fn without_a_copy_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = old_ledger(dir.path());
    std::fs::write(dir.path().join("backup"), b"a file where the folder belongs").unwrap();
    assert!(matches!(open::writer(&path), Err(LedgerError::Io(_))));
    assert!(!old_or_new(&path, "no copy"));
    std::fs::remove_file(dir.path().join("backup")).unwrap();
    open::writer(&path).unwrap();
    assert!(old_or_new(&path, "with a copy"));
}
