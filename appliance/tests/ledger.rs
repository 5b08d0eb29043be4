//! The ledger by itself: claims, commits and what a start finds, each operation also repeated as after a commit of unknown outcome.

use std::path::Path;
use std::sync::Arc;

use mmlnb_appliance::files::Stamp;
use mmlnb_appliance::ledger::{
    Claim, Classified, Image, Ledger, LedgerError, NewFile, NewReport, Rejection, RunStart, open, read, record,
};

const SHA: [u8; 32] = [5; 32];

struct Book {
    dir: tempfile::TempDir,
    ledger: Ledger,
    run: i64,
    bundle: i64,
}

fn open_book() -> Book {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&dir.path().join("ledger.sqlite"), Arc::default()).unwrap();
    let (run, bundle) = begin(&ledger);
    Book { dir, ledger, run, bundle }
}

fn begin(ledger: &Ledger) -> (i64, i64) {
    let start = RunStart {
        boot_id: "b".into(),
        host: "h".into(),
        provider: "cpu".into(),
        bundle_sha256: "ab".repeat(32),
        classes: ["X", "Y"].map(String::from).to_vec(),
    };
    ledger.write("ledger.begin_run", |tx| record::begin_run(tx, &start)).unwrap()
}

fn file(path: &str, ino: u64) -> NewFile {
    NewFile { path: path.into(), stamp: Stamp { dev: 1, ino, size: 10, mtime_ns: 3 }, owner: 7 }
}

fn image(pixels: u8) -> Image {
    Image {
        format: "PNG".into(),
        width: 64,
        height: 64,
        pixels_sha256: [pixels; 32],
        microns_per_pixel: None,
        thumbnail: vec![1],
    }
}

fn report(text: Option<&str>) -> NewReport {
    NewReport {
        verdict: "not_assessed".into(),
        verdict_reasons: vec!["not_calibrated".into()],
        class: Some("Y".into()),
        leading_class: "Y".into(),
        confidence: 0.75,
        classified: Classified {
            classes: ["X", "Y"].map(String::from).to_vec(),
            probabilities: vec![0.25, 0.75],
            logits: vec![0.0, 1.1],
            image_only: Some(vec![0.6, 0.4]),
            image_logits: None,
            logits_without_text: None,
            alpha_text: Some(0.5),
        },
        described: text.map(|text| mmlnb_appliance::ledger::Described {
            text: text.into(),
            tokens: 3,
            tokens_read: Some(3),
            read_until: Some(text.len() as i64),
            mean_token_logprob: -0.1,
            stop_reason: "end_token".into(),
        }),
        flags: vec!["disagree".into()],
        provider: "cpu".into(),
        provider_note: None,
        elapsed_ms: vec![("decode".into(), 1.5)],
    }
}

impl Book {
    fn claim(&self, file: &NewFile, sha256: &[u8; 32], token: i64) -> Claim {
        let (run, bundle) = (self.run, self.bundle);
        self.ledger.write("ledger.claim", |tx| record::claim(tx, file, sha256, bundle, run, token)).unwrap()
    }

    fn work(&self, file: &NewFile, sha256: &[u8; 32], token: i64) -> i64 {
        match self.claim(file, sha256, token) {
            Claim::Work { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    fn number(&self, sql: &str) -> i64 {
        self.ledger.read(|connection| Ok(connection.query_row(sql, [], |row| row.get(0))?)).unwrap()
    }
}

#[test]
fn a_claim_repeated_after_an_unknown_commit_is_the_same_claim() {
    let book = open_book();
    let first = book.work(&file("a.png", 1), &SHA, 1);
    assert_eq!(book.work(&file("a.png", 1), &SHA, 1), first);
    assert_eq!(book.number("SELECT attempts FROM job"), 1);
    assert!(matches!(book.claim(&file("b.png", 2), &SHA, 2), Claim::Attached { job } if job == first));
    assert_eq!(book.number("SELECT count(*) FROM files"), 2);
}

#[test]
fn a_commit_gives_every_file_of_the_bytes_and_is_done_once() {
    let book = open_book();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    book.claim(&file("S1/b.png", 2), &SHA, 2);
    let commit = || book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    let (id, rows) = commit();
    assert_eq!(rows.iter().map(|row| row.path_text.as_str()).collect::<Vec<_>>(), ["a.png", "S1/b.png"]);
    assert_eq!(commit().0, id);
    assert_eq!(book.number("SELECT count(*) FROM reports"), 1);
    let Claim::Known(known) = book.claim(&file("c.png", 3), &SHA, 3) else { panic!() };
    assert_eq!((known.state.as_str(), known.report), ("reported", Some(id)));
    let row = book.ledger.read(|connection| read::report(connection, id)).unwrap().unwrap();
    assert_eq!(row.report, report(None));
    assert_eq!(row.cases, ["", "S1"]);
    assert_eq!((row.source.as_str(), row.size), ("a.png", 10));
}

#[test]
fn another_bundle_gives_another_report() {
    let book = open_book();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    let start = RunStart {
        boot_id: String::new(),
        host: String::new(),
        provider: "cpu".into(),
        bundle_sha256: "cd".repeat(32),
        classes: vec!["X".into(), "Y".into()],
    };
    let (run, bundle) = book.ledger.write("ledger.begin_run", |tx| record::begin_run(tx, &start)).unwrap();
    let claim = book.ledger.write("ledger.claim", |tx| record::claim(tx, &file("a2.png", 9), &SHA, bundle, run, 1)).unwrap();
    assert!(matches!(claim, Claim::Work { job: other, .. } if other != job));
}

#[test]
fn only_own_faults_count_against_an_image() {
    for (died, rejected_after) in [(true, 3), (false, 30)] {
        let mut book = open_book();
        for start in 1..=rejected_after {
            let job = book.work(&file("a.png", 1), &SHA, start);
            let (run, _) = begin(&book.ledger);
            let jobs = book.ledger.write("ledger.begin_run", |tx| record::recover(tx, run, died, 3)).unwrap();
            assert_eq!((jobs.len(), jobs[0].job), (1, job));
            assert_eq!(jobs[0].rejected, start == rejected_after, "died {died}, start {start}");
            book.run = run;
        }
        let Claim::Known(row) = book.claim(&file("a.png", 1), &SHA, 99) else { panic!() };
        assert_eq!((row.state.as_str(), row.code.as_deref()), ("rejected", Some("crashed_repeatedly")));
        assert_eq!(book.number("SELECT count(*) FROM run WHERE ended_at IS NULL"), 1);
    }
}

#[test]
fn a_stop_gives_the_attempt_back() {
    let book = open_book();
    book.work(&file("a.png", 1), &SHA, 1);
    book.ledger.write("ledger.end_run", |tx| record::end_run(tx, book.run, "stop")).unwrap();
    assert_eq!(book.number("SELECT count(*) FROM job WHERE state = 'released' AND attempts = 0 AND crashes = 0"), 1);
    assert!(!book.ledger.read(record_unclean).unwrap());
}

fn record_unclean(connection: &rusqlite::Connection) -> Result<bool, LedgerError> {
    record::unclean(connection)
}

#[test]
fn a_filed_file_may_come_again_in_the_very_same_state() {
    let book = open_book();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    let (_, rows) = book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    book.ledger.write("ledger.filed", |tx| record::filed(tx, rows[0].id, "filed", Path::new("/done/a.png"))).unwrap();
    let Claim::Known(again) = book.claim(&file("a.png", 1), &SHA, 2) else { panic!() };
    assert_ne!(again.id, rows[0].id);
    assert_eq!(book.number("SELECT count(*) FROM files"), 2);
}

#[test]
fn retry_forgets_the_failures() {
    let book = open_book();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    let why = Rejection { code: "timed_out".into(), message: "too long".into() };
    let rows = book.ledger.write("ledger.reject", |tx| record::reject(tx, job, &why)).unwrap();
    book.ledger.write("ledger.filed", |tx| record::filed(tx, rows[0].id, "failed", Path::new("/failed/a.png"))).unwrap();
    let row = book.ledger.read(|connection| read::file(connection, rows[0].id)).unwrap().unwrap();
    book.ledger.write("ledger.retry", |tx| record::begin_retry(tx, &row)).unwrap();
    assert_eq!(book.ledger.read(read::half_retried).unwrap().len(), 1);
    book.ledger.write("ledger.retry", |tx| record::end_retry(tx, row.id)).unwrap();
    assert!(matches!(book.claim(&file("a.png", 2), &SHA, 2), Claim::Work { attempts: 1, .. }));
}

#[test]
fn same_pixels_and_repeated_descriptions_are_flagged() {
    let book = open_book();
    let flags = |number: u8, pixels: u8| {
        let sha = [number; 32];
        let job = book.work(&file(&format!("{number}.png"), u64::from(number)), &sha, i64::from(number));
        let done =
            book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(pixels), &report(Some("the same"))));
        let (id, _) = done.unwrap();
        book.ledger.read(|connection| read::report(connection, id)).unwrap().unwrap().report.flags
    };
    assert_eq!(flags(1, 1), ["disagree"]);
    assert_eq!(flags(2, 1), ["disagree", "recompressed_same_pixels"]);
    assert_eq!(flags(3, 3), ["disagree"]);
    assert_eq!(flags(4, 4), ["disagree", "description_generic"]);
}

#[test]
fn reports_never_change_and_never_go() {
    let book = open_book();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    for sql in ["UPDATE report SET class = 'X'", "DELETE FROM report", "INSERT OR REPLACE INTO report SELECT * FROM report"] {
        let result = book.ledger.write("ledger.left", |tx| Ok(tx.execute(sql, [])?));
        assert!(result.is_err(), "{sql}");
    }
    assert_eq!(book.number("SELECT count(*) FROM reports WHERE class = 'Y'"), 1);
}

#[test]
fn readers_can_open_it_while_it_runs_and_after_a_clean_end() {
    let book = open_book();
    book.work(&file("a.png", 1), &SHA, 1);
    let path = book.dir.path().join("ledger.sqlite");
    let count = || {
        let connection = open::reader(&path).unwrap();
        connection.query_row("SELECT count(*) FROM files", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(count(), 1);
    let Book { dir, ledger, .. } = book;
    ledger.checkpoint().unwrap();
    drop(ledger);
    assert!(dir.path().join("ledger.sqlite-wal").exists() && dir.path().join("ledger.sqlite-shm").exists());
    assert_eq!(count(), 1);
    assert!(open::reader(&path).unwrap().execute("DELETE FROM file", []).is_err());
}

#[test]
fn foreign_and_newer_files_are_refused_and_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    rusqlite::Connection::open(at("foreign")).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    assert!(matches!(open::writer(&at("foreign")), Err(LedgerError::Foreign(_))));
    assert!(matches!(open::reader(&at("absent")), Err(LedgerError::Absent(_))));
    let connection = open::writer(&at("newer")).unwrap();
    connection.execute_batch("PRAGMA user_version = 2").unwrap();
    drop(connection);
    assert!(matches!(open::writer(&at("newer")), Err(LedgerError::Newer { found: 2, known: 1, .. })));
    std::fs::write(at("noise"), [7; 4096]).unwrap();
    assert!(open::writer(&at("noise")).unwrap_err().is_damage());
}
