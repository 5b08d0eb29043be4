//! The ledger by itself: claims, commits and what a start finds, each operation also repeated as after a commit of unknown outcome.
#![allow(clippy::disallowed_methods, reason = "tests prepare files by paths")]

use std::path::Path;
use std::sync::Arc;

use mmlnb_appliance::files::Stamp;
use mmlnb_appliance::ledger::{
    Claim, Classified, FileRow, FileState, Hold, INBOX, Image, Ledger, LedgerError, NewFile, NewReport, Rejection, RunStart,
    open, read, record,
};
use mmlnb_models::bundle::{Standing, Standings};

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

/// Each start has a time of its own.
fn another_moment() -> String {
    static SECONDS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let second = SECONDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("2026-01-31T{:02}:{:02}:{:02}.000Z", second / 3600, second / 60 % 60, second % 60)
}

/// A start of its own.
fn start() -> RunStart {
    RunStart {
        started_at: another_moment(),
        boot_id: "b".into(),
        host: "h".into(),
        bundle_sha256: "ab".repeat(32),
        classes: ["X", "Y"].map(String::from).to_vec(),
        qualification_sha256: None,
        trust: Default::default(),
        oom_kills: None,
    }
}

fn begin(ledger: &Ledger) -> (i64, i64) {
    ledger.write("ledger.begin_run", |tx| record::begin_run(tx, &start())).unwrap()
}

fn file(path: &str, ino: u64) -> NewFile {
    NewFile { folder: INBOX.into(), path: path.into(), stamp: Stamp { dev: 1, ino, size: 10, mtime_ns: 3 }, owner: 7 }
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
        temperature: Some(1.5),
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
    assert_eq!((known.state, known.report), (FileState::Reported, Some(id)));
    let row = book.ledger.read(|connection| read::report(connection, id)).unwrap().unwrap();
    assert_eq!(row.report, report(None));
    assert!(row.cases.is_empty(), "what still lies in the inbox may yet be renamed");
    for row in &rows {
        book.ledger.write("ledger.filed", |tx| record::placed(tx, row.id, Path::new("/done/x"))).unwrap();
    }
    let row = book.ledger.read(|connection| read::report(connection, id)).unwrap().unwrap();
    assert_eq!(row.cases, ["", "S1"]);
    assert_eq!((row.source.as_str(), row.size), ("a.png", 10));
}

#[test]
fn another_bundle_gives_another_report() {
    let book = open_book();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    let start = RunStart { bundle_sha256: "cd".repeat(32), ..start() };
    let (run, bundle) = book.ledger.write("ledger.begin_run", |tx| record::begin_run(tx, &start)).unwrap();
    let claim = book.ledger.write("ledger.claim", |tx| record::claim(tx, &file("a2.png", 9), &SHA, bundle, run, 1)).unwrap();
    assert!(matches!(claim, Claim::Work { job: other, .. } if other != job));
}

#[test]
fn another_qualification_gives_another_report_which_says_who_signed_what() {
    let book = open_book();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    let key = "0FBE4098BD9E43F4".parse().unwrap();
    let trust =
        Standings { bundle: Standing::Signed { key, comment: "timestamp:1".into() }, qualification: Some(Standing::Unsigned) };
    let mut seen = Vec::new();
    for (at, qualification) in ["12", "34", "12"].into_iter().enumerate() {
        let start = RunStart { qualification_sha256: Some(qualification.repeat(32)), trust: trust.clone(), ..start() };
        let (run, bundle) = book.ledger.write("ledger.begin_run", |tx| record::begin_run(tx, &start)).unwrap();
        let again = file("a.png", 9 + at as u64);
        match book.ledger.write("ledger.claim", |tx| record::claim(tx, &again, &SHA, bundle, run, 1)).unwrap() {
            Claim::Work { job, .. } => {
                let done = book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None)));
                let (id, _) = done.unwrap();
                let row = book.ledger.read(|connection| read::report(connection, id)).unwrap().unwrap();
                assert_eq!(row.trust.as_ref(), Some(&trust));
                seen.push(row.qualification_sha256.unwrap());
            }
            Claim::Known(_) => assert_eq!(at, 2, "the first qualification's report is there"),
            Claim::Attached { .. } => panic!("nothing is in work"),
        }
    }
    assert_eq!(seen, ["12".repeat(32), "34".repeat(32)]);
    assert_eq!(book.number("SELECT count(*) FROM reports WHERE bundle_sha256 = (SELECT sha256 FROM bundle WHERE id = 1)"), 3);
    assert_eq!(book.number("SELECT count(*) FROM reports WHERE trust ->> '$.bundle.key' = '0FBE4098BD9E43F4'"), 2);
}

#[test]
fn an_image_that_runs_alone_is_set_aside_sooner_for_own_faults_than_for_unexplained_ends() {
    for (died, rejected_after) in [(true, 3), (false, 13)] {
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
        assert_eq!((row.state, row.code.as_deref()), (FileState::Rejected, Some("crashed_repeatedly")));
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
    record::unclean(connection, None)
}

#[test]
fn what_a_worker_repeats_does_not_hit_the_claim_of_another() {
    let book = open_book();
    let why = Rejection { code: "engine_failed".into(), message: "again".into() };
    let first = Hold { job: book.work(&file("a.png", 1), &SHA, 1), run: book.run, token: 1 };
    book.ledger.write("ledger.release", |tx| record::unclaim(tx, &first)).unwrap();
    assert_eq!(book.number("SELECT count(*) FROM job"), 0, "nothing is left of it");
    let job = book.work(&file("b.png", 2), &SHA, 2);
    assert_eq!(job, first.job, "SQLite gives the number again");
    book.ledger.write("ledger.release", |tx| record::unclaim(tx, &first)).unwrap();
    book.ledger.write("ledger.release", |tx| record::release(tx, &first)).unwrap();
    book.ledger.write("ledger.release", |tx| record::retry_later(tx, &first, &why)).unwrap();
    assert_eq!(book.number("SELECT count(*) FROM job WHERE state = 'claimed' AND attempts = 1"), 1);
    assert_eq!(book.number("SELECT count(*) FROM files WHERE state = 'waiting'"), 1);
}

#[test]
fn a_file_that_waits_to_be_whole_leaves_no_row_although_it_was_there_when_the_program_was_killed() {
    let mut book = open_book();
    book.work(&file("a.png", 1), &SHA, 1);
    let (run, _) = begin(&book.ledger);
    book.ledger.write("ledger.begin_run", |tx| record::recover(tx, run, false, 3)).unwrap();
    book.run = run;
    let job = book.work(&file("a.png", 1), &SHA, 2);
    assert_eq!(book.number("SELECT attempts FROM job"), 1, "a kill is no failure");
    book.ledger.write("ledger.release", |tx| record::unclaim(tx, &Hold { job, run, token: 2 })).unwrap();
    assert_eq!(book.number("SELECT count(*) FROM files"), 0);
    assert_eq!(book.number("SELECT kills FROM job"), 1, "that is not forgotten");
}

#[test]
fn a_start_that_is_repeated_begins_one_run() {
    let book = open_book();
    let start = start();
    let twice = [(); 2].map(|()| book.ledger.write("ledger.begin_run", |tx| record::begin_run(tx, &start)).unwrap());
    assert_eq!(twice[0], twice[1]);
    assert_eq!(book.number("SELECT count(*) FROM run"), 2, "with the book's own");
}

#[test]
fn a_file_that_is_gone_is_put_away_if_its_twin_was_judged_meanwhile() {
    let book = open_book();
    let gone = |path: &str, ino: u64| book.ledger.write("ledger.left", |tx| record::gone(tx, &file(path, ino))).unwrap();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    assert!(matches!(book.claim(&file("b.png", 2), &SHA, 2), Claim::Attached { .. }));
    book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    assert!(gone("b.png", 2).is_some_and(|row| row.state == FileState::Reported));
    book.ledger
        .write("ledger.wait", |tx| {
            record::wait(tx, &file("c.png", 3), &Rejection { code: "unreadable".into(), message: "no".into() })
        })
        .unwrap();
    assert!(gone("c.png", 3).is_none() && gone("never.png", 4).is_none());
    assert_eq!(book.number("SELECT count(*) FROM files WHERE state = 'vanished'"), 1);
}

#[test]
fn a_filed_file_may_come_again_in_the_very_same_state() {
    let book = open_book();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    let (_, rows) = book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    book.ledger.write("ledger.filed", |tx| record::placed(tx, rows[0].id, Path::new("/done/a.png"))).unwrap();
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
    book.ledger.write("ledger.filed", |tx| record::placed(tx, rows[0].id, Path::new("/failed/a.png"))).unwrap();
    let row = book.ledger.read(|connection| read::file(connection, rows[0].id)).unwrap().unwrap();
    book.ledger.write("ledger.retry", |tx| record::begin_retry(tx, &row, "0 root")).unwrap();
    assert_eq!(book.ledger.read(read::half_retried).unwrap().len(), 1);
    book.ledger.write("ledger.retry", |tx| record::end_retry(tx, &row)).unwrap();
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
    connection.execute_batch("PRAGMA user_version = 4").unwrap();
    drop(connection);
    assert!(matches!(open::writer(&at("newer")), Err(LedgerError::Newer { found: 4, known: 3, .. })));
    std::fs::write(at("noise"), [7; 4096]).unwrap();
    assert!(open::writer(&at("noise")).unwrap_err().is_damage());
}

/// The next run after one that ended without saying so; the kernel has killed `oom_kills` processes by now.
fn next_run(book: &mut Book, died: bool, oom_kills: Option<i64>) -> Vec<bool> {
    let start = RunStart { oom_kills, ..start() };
    (book.run, _) = book.ledger.write("ledger.begin_run", |tx| record::begin_run(tx, &start)).unwrap();
    let jobs = book.ledger.write("ledger.begin_run", |tx| record::recover(tx, book.run, died, 3)).unwrap();
    jobs.iter().map(|job| job.rejected).collect()
}

#[test]
fn a_kill_for_want_of_memory_counts_as_a_crash() {
    let mut book = open_book();
    next_run(&mut book, false, Some(4));
    for (times, kills) in [5, 6, 9].into_iter().enumerate() {
        book.work(&file("a.png", 1), &SHA, 1 + times as i64);
        assert_eq!(next_run(&mut book, false, Some(kills)), [times == 2], "{times}");
    }
    assert_eq!(book.number("SELECT count(*) FROM run WHERE end_reason = 'crash'"), 3);
    assert_eq!(book.number("SELECT count(*) FROM event WHERE action = 'set_aside'"), 1);
}

#[test]
fn nothing_is_set_aside_for_a_death_in_which_it_was_not_alone() {
    let mut book = open_book();
    for start in 0..50 {
        for (number, name) in [(1, "a.png"), (2, "b.png")] {
            book.work(&file(name, number), &[number as u8; 32], start * 2 + number as i64);
        }
        assert_eq!(next_run(&mut book, start % 2 == 0, None), [false, false]);
        for number in [1, 2] {
            assert!(book.ledger.read(|connection| read::is_suspect(connection, &[number; 32])).unwrap());
        }
    }
    // Alone, one more death by its own fault is the third.
    book.work(&file("a.png", 1), &[1; 32], 1000);
    assert_eq!(next_run(&mut book, true, None), [true]);
    book.work(&file("b.png", 2), &[2; 32], 1001);
    assert_eq!(next_run(&mut book, false, None), [false]);
}

#[test]
fn random_kills_over_thousands_of_rounds_set_nothing_aside() {
    let mut book = open_book();
    book.ledger.read(|connection| Ok(connection.execute_batch("PRAGMA synchronous = OFF")?)).unwrap();
    let (mut random, mut token) = (0x9E37_79B9_7F4A_7C15_u64, 0);
    let mut dice = move |sides: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % sides
    };
    for round in 0..1000_u64 {
        let sha =
            |number: u64| <[u8; 32]>::try_from([round.to_le_bytes(), number.to_le_bytes(), [0; 8], [0; 8]].concat()).unwrap();
        let mut left: Vec<u64> = (0..4).collect();
        while !left.is_empty() {
            let suspects = left
                .iter()
                .position(|number| book.ledger.read(|connection| read::is_suspect(connection, &sha(*number))).unwrap());
            let now: Vec<u64> = match suspects {
                Some(at) => vec![left[at]],
                None => left.clone(),
            };
            let mut jobs = Vec::new();
            for number in &now {
                token += 1;
                jobs.push(book.work(&file(&format!("{round}-{number}"), round * 10 + number), &sha(*number), token));
            }
            // One time in four the kill comes before the end.
            if dice(4) == 0 {
                assert!(next_run(&mut book, false, Some(0)).iter().all(|rejected| !rejected), "round {round}");
                continue;
            }
            for job in jobs {
                let commit = |tx: &rusqlite::Transaction<'_>| record::commit(tx, job, &image(1), &report(None));
                book.ledger.write("ledger.commit_report", commit).unwrap();
            }
            left.retain(|number| !now.contains(number));
        }
    }
    assert_eq!(book.number("SELECT count(*) FROM job WHERE state = 'rejected'"), 0);
}

#[test]
fn a_step_that_the_table_does_not_hold_is_refused_and_not_written() {
    let book = open_book();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    let (_, rows) = book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    book.ledger.write("ledger.filed", |tx| record::placed(tx, rows[0].id, Path::new("/done/a.png"))).unwrap();
    let vanish = book.ledger.write("ledger.left", |tx| record::left(tx, rows[0].id, mmlnb_appliance::ledger::FileEvent::Vanish));
    assert!(matches!(vanish, Err(LedgerError::Transition { state: "filed", .. })), "{vanish:?}");
    let why = Rejection { code: "timed_out".into(), message: "too long".into() };
    let reject = book.ledger.write("ledger.reject", |tx| record::reject(tx, job, &why));
    assert!(matches!(reject, Err(LedgerError::Transition { state: "committed", .. })));
    assert_eq!(book.number("SELECT count(*) FROM file WHERE state = 'filed' AND code IS NULL"), 1);
}

#[test]
fn counts_follow_every_step_without_reading_the_files() {
    let book = open_book();
    let counts = || book.ledger.read(|connection| read::counts(connection, "2000-01-01T00:00:00.000Z")).unwrap();
    assert_eq!(counts(), (0, 0, 0));
    let job = book.work(&file("a.png", 1), &SHA, 1);
    assert_eq!(counts(), (0, 0, 1));
    let (_, rows) = book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    book.ledger.write("ledger.filed", |tx| record::placed(tx, rows[0].id, Path::new("/done/a.png"))).unwrap();
    assert_eq!(counts(), (1, 0, 0));
    let why = Rejection { code: "truncated".into(), message: "cut".into() };
    let row = book.ledger.write("ledger.reject", |tx| record::reject_file(tx, &file("b.png", 2), &why, false)).unwrap();
    assert_eq!(counts(), (1, 0, 1));
    book.ledger.write("ledger.filed", |tx| record::placed(tx, row.id, Path::new("/failed/b.png"))).unwrap();
    assert_eq!(counts(), (1, 1, 0));
    let row = book.ledger.read(|connection| read::file(connection, row.id)).unwrap().unwrap();
    book.ledger.write("ledger.retry", |tx| record::begin_retry(tx, &row, "0 root")).unwrap();
    book.ledger.write("ledger.retry", |tx| record::end_retry(tx, &row)).unwrap();
    assert_eq!(counts(), (1, 0, 0));
    let future = book.ledger.read(|connection| read::counts(connection, "2999-01-01T00:00:00.000Z")).unwrap();
    assert_eq!(future, (0, 0, 0));
    let plan: String = book
        .ledger
        .read(|connection| {
            let mut statement =
                connection.prepare("EXPLAIN QUERY PLAN SELECT sum(files) FROM tally WHERE state = 'filed' AND quarter >= 'x'")?;
            Ok(statement.query_row([], |row| row.get(3))?)
        })
        .unwrap();
    assert!(plan.starts_with("SEARCH tally"), "{plan}");
    assert_eq!(book.number("SELECT count(*) FROM event WHERE action = 'retry' AND actor = '0 root'"), 1);
}

#[test]
fn other_cases_are_named_up_to_a_bound() {
    let book = open_book();
    let job = book.work(&file("C00/a.png", 1), &SHA, 1);
    for number in 1..30 {
        book.claim(&file(&format!("C{number:02}/a.png"), 1 + number), &SHA, 1 + number as i64);
        book.claim(&file(&format!("C{number:02}/again.png"), 100 + number), &SHA, 100 + number as i64);
    }
    let (id, rows) = book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    let filed_cases = || book.ledger.read(|connection| read::filed_cases(connection, &SHA, 3)).unwrap();
    assert_eq!(filed_cases(), 0);
    for (row, expected) in rows.iter().zip([1, 2, 2, 3, 3, 3]) {
        book.ledger.write("ledger.filed", |tx| record::placed(tx, row.id, Path::new("/done/x"))).unwrap();
        assert_eq!(filed_cases(), expected, "{}", row.path_text);
    }
    for row in &rows[6..] {
        book.ledger.write("ledger.filed", |tx| record::placed(tx, row.id, Path::new("/done/x"))).unwrap();
    }
    let found = book.ledger.read(|connection| read::report(connection, id)).unwrap().unwrap();
    assert_eq!((found.cases.len(), found.more_cases, found.cases[9].as_str()), (10, true, "C09"));
    assert_eq!(book.ledger.read(|connection| read::cases(connection, &SHA, u32::MAX)).unwrap().len(), 30);
}

#[test]
fn a_file_is_never_received_after_the_work_on_it_began() {
    let book = open_book();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    let (id, _) = book.ledger.write("ledger.commit_report", |tx| record::commit(tx, job, &image(1), &report(None))).unwrap();
    let row = book.ledger.read(|connection| read::report(connection, id)).unwrap().unwrap();
    assert!(row.received_at <= row.started_at && row.started_at <= row.reported_at, "{row:?}");
    // A clock that was set back between sighting and claim.
    book.ledger.write("ledger.left", |tx| Ok(tx.execute("UPDATE file SET seen_at = '2999-01-01T00:00:00.000Z'", [])?)).unwrap();
    let row = book.ledger.read(|connection| read::report(connection, id)).unwrap().unwrap();
    assert!(row.received_at <= row.started_at);
}

#[test]
fn drops_that_one_failed_file_stands_for_go_back_together() {
    let book = open_book();
    let job = book.work(&file("a.png", 1), &SHA, 1);
    let again = book.ledger.write("ledger.claim", |tx| record::claim(tx, &file("a.png", 2), &SHA, book.bundle, book.run, 2));
    assert!(matches!(again, Ok(Claim::Attached { .. })));
    let other = book.work(&file("b.png", 3), &[9; 32], 3);
    let why = Rejection { code: "timed_out".into(), message: "too long".into() };
    for job in [job, other] {
        for row in book.ledger.write("ledger.reject", |tx| record::reject(tx, job, &why)).unwrap() {
            book.ledger.write("ledger.filed", |tx| record::placed(tx, row.id, Path::new("/failed/a.png"))).unwrap();
        }
    }
    let rows = book.ledger.read(|connection| read::failed(connection, None)).unwrap();
    assert_eq!(rows.len(), 3);
    let states = || -> Vec<String> {
        let state = |row: &FileRow| book.ledger.read(|connection| read::file(connection, row.id)).unwrap().unwrap().state;
        rows.iter().map(|row| state(row).to_string()).collect()
    };
    book.ledger.write("ledger.retry", |tx| record::begin_retry(tx, &rows[1], "0 root")).unwrap();
    assert_eq!(states(), ["retrying", "retrying", "failed"]);
    book.ledger.write("ledger.retry", |tx| record::give_up_retry(tx, &rows[1])).unwrap();
    assert_eq!(states(), ["failed", "failed", "failed"]);
    for _ in 0..2 {
        book.ledger.write("ledger.retry", |tx| record::begin_retry(tx, &rows[1], "0 root")).unwrap();
    }
    book.ledger.write("ledger.retry", |tx| record::end_retry(tx, &rows[1])).unwrap();
    // What a commit of unknown outcome repeats changes nothing, and nobody else's.
    book.ledger.write("ledger.retry", |tx| record::end_retry(tx, &rows[1])).unwrap();
    assert_eq!(states(), ["retried", "retried", "failed"]);
}
