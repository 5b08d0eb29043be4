//! The operator's commands on a real ledger.

use crate::appliance::{Appliance, png, text};

fn with_reports() -> Appliance {
    let mut appliance = Appliance::new();
    for seed in 0..3 {
        appliance.drop_png(&format!("S{seed}/patch.png"), seed);
    }
    appliance.drop("S0/text.png", b"not an image but a text");
    appliance.start();
    appliance.until("all have ended", |appliance| appliance.in_state("filed") == 3 && appliance.in_state("failed") == 1);
    appliance
}

fn lines(appliance: &Appliance, arguments: &[&str]) -> Vec<serde_json::Value> {
    let output = appliance.cli(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn reports_are_listed_and_filtered() {
    let appliance = with_reports();
    assert_eq!(lines(&appliance, &["reports", "--json"]).len(), 3);
    assert_eq!(lines(&appliance, &["reports", "--json", "--case", "S1"])[0]["case_id"], "S1");
    assert_eq!(lines(&appliance, &["reports", "--json", "--file", "S2/"]).len(), 1);
    assert_eq!(lines(&appliance, &["reports", "--json", "--verdict", "accepted"]).len(), 0);
    assert_eq!(lines(&appliance, &["reports", "--json", "--since", "2000-01-01", "--until", "2001-01-01"]).len(), 0);
    assert_eq!(lines(&appliance, &["reports", "--json", "--limit", "2"]).len(), 2);
    let by_class: usize =
        ["A", "B", "C"].iter().map(|class| lines(&appliance, &["reports", "--json", "--class", class]).len()).sum();
    assert_eq!(by_class, 3);
    assert!(text(&appliance.cli(&["reports"]).stdout).starts_with("ID"));
    assert_eq!(text(&appliance.cli(&["reports", "--csv"]).stdout).lines().count(), 4);
    assert_eq!(appliance.cli(&["reports", "--since", "soon"]).status.code(), Some(2));
}

#[test]
fn show_and_explain_find_reports_and_failures() {
    let appliance = with_reports();
    let id = appliance.rows("SELECT id FROM reports WHERE case_id = 'S1'")[0].clone();
    for subject in [id.as_str(), "S1/patch.png", &appliance.path("done/S1/patch.png").display().to_string()] {
        let shown = appliance.cli(&["show", subject]);
        assert!(text(&shown.stdout).contains("S1/patch.png"), "{subject}: {shown:?}");
    }
    let explained = &lines(&appliance, &["explain", "--json", &id])[0];
    assert!(explained["probabilities_without_text"].is_object() && explained["logits"].is_object());
    let failed = text(&appliance.cli(&["show", "S0/text.png"]).stdout);
    assert!(failed.contains("not_an_image") && failed.contains("retry:"), "{failed}");
    assert_eq!(appliance.cli(&["show", "no-such"]).status.code(), Some(66));
}

#[test]
fn retry_brings_a_file_back_running_or_not() {
    let mut appliance = with_reports();
    let id = appliance.rows("SELECT id FROM files WHERE state = 'failed'")[0].clone();
    let retried = appliance.cli(&["retry", &id]);
    assert!(retried.status.success(), "{retried:?}");
    appliance.until("it failed again", |appliance| appliance.in_state("failed") == 1 && appliance.in_state("retried") == 1);
    assert_eq!(appliance.cli(&["retry", &id]).status.code(), Some(66));
    appliance.stop();
    let again = appliance.cli(&["retry", "--code", "not_an_image"]);
    assert!(again.status.success(), "{again:?}");
    assert!(appliance.path("inbox/S0/text.png").exists() && !appliance.path("failed/S0/text.png.note.html").exists());
    std::fs::write(appliance.path("inbox/S0/text.png"), png(64, 64, 99)).unwrap();
    appliance.start();
    appliance.until("it is filed now", |appliance| appliance.in_state("filed") == 4);
    appliance.check();
}

#[test]
fn drops_that_one_failed_file_stands_for_are_sent_back_together() {
    let mut appliance = with_reports();
    appliance.drop("S0/text.png", b"not an image but a text");
    appliance.until("it failed too", |appliance| appliance.in_state("failed") == 2);
    assert_eq!(appliance.rows("SELECT DISTINCT filed_path FROM file WHERE state = 'failed'").len(), 1);
    let retried = appliance.cli(&["retry", "--all"]);
    assert!(text(&retried.stdout).contains("2 of 2 queued again"), "{retried:?}");
    appliance.until("it failed again", |appliance| appliance.in_state("failed") == 1 && appliance.in_state("retried") == 2);
    let verify = appliance.cli(&["verify"]);
    assert!(verify.status.success(), "{verify:?}");
    appliance.check();
}

#[test]
fn sidecars_go_with_their_image_and_come_back_with_it() {
    let mut appliance = Appliance::new();
    appliance.set("MMLNB_SIDECARS", "[\"*.xml\"]");
    for (name, bytes) in [("S0/a.xml", "good"), ("S0/b.xml", "first"), ("S0/b.png.xml", "whole"), ("S0/bb.xml", "nobody's")] {
        appliance.drop(name, bytes.as_bytes());
    }
    appliance.start();
    appliance.drop_png("S0/a.png", 1);
    appliance.drop("S0/b.png", b"one text");
    appliance.until("both have ended", |appliance| appliance.in_state("filed") == 1 && appliance.in_state("failed") == 1);
    let holds = |appliance: &Appliance, path: &str| std::fs::read_to_string(appliance.path(path)).unwrap_or_default();
    assert_eq!(holds(&appliance, "done/S0/a.xml"), "good");
    assert_eq!(
        (holds(&appliance, "failed/S0/b.xml").as_str(), holds(&appliance, "failed/S0/b.png.xml").as_str()),
        ("first", "whole")
    );
    assert_eq!(holds(&appliance, "inbox/S0/bb.xml"), "nobody's");

    // Another text of its name: image and sidecar get a mark together.
    appliance.drop("S0/b.xml", b"second");
    appliance.drop("S0/b.png", b"another text");
    appliance.until("it failed too", |appliance| appliance.in_state("failed") == 2);
    let names =
        std::fs::read_dir(appliance.path("failed/S0")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let marked = names.filter(|name| name.starts_with("b~") && name.ends_with(".png")).collect::<Vec<_>>();
    let marked_sidecar = format!("failed/S0/{}", marked[0].replace(".png", ".xml"));
    assert_eq!(holds(&appliance, &marked_sidecar), "second");

    appliance.stop();
    let ids = appliance.rows("SELECT id FROM files WHERE state = 'failed' ORDER BY id");
    assert!(appliance.cli(&["retry", &ids[0]]).status.success());
    assert_eq!(holds(&appliance, "inbox/S0/b.png"), "one text");
    assert_eq!(
        (holds(&appliance, "inbox/S0/b.xml").as_str(), holds(&appliance, "inbox/S0/b.png.xml").as_str()),
        ("first", "whole")
    );
    assert_eq!(holds(&appliance, &marked_sidecar), "second", "it is the other one's");
    appliance.start();
    appliance.until("it failed again", |appliance| appliance.in_state("failed") == 2 && appliance.in_state("retried") == 1);
    assert_eq!(holds(&appliance, "failed/S0/b.xml"), "first");
    assert!(appliance.cli(&["retry", &ids[1]]).status.success(), "the running daemon brings them back too");
    appliance.until("it failed again", |appliance| appliance.in_state("failed") == 2 && appliance.in_state("retried") == 2);
    assert_eq!(holds(&appliance, &marked_sidecar), "second");
    appliance.check();
}

#[test]
fn retry_names_the_other_files_of_its_bytes() {
    let mut appliance = with_reports();
    appliance.drop("S1/other.png", b"not an image but a text");
    appliance.until("it failed too", |appliance| appliance.in_state("failed") == 2);
    let ids = appliance.rows("SELECT id FROM files WHERE state = 'failed' ORDER BY id");
    let retried = appliance.cli(&["retry", &ids[0], &ids[0]]);
    let said = text(&retried.stdout);
    assert!(said.contains("1 of 1 queued again") && said.contains(&format!("retry {}`", ids[1])), "{retried:?}");
    appliance.until("it failed again", |appliance| appliance.in_state("failed") == 2 && appliance.in_state("retried") == 1);
    let refused = appliance.cli(&["retry", "4711", &ids[1]]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(
        text(&refused.stdout).contains("1 of 2 queued again") && text(&refused.stderr).contains("no file 4711"),
        "{refused:?}"
    );
}

#[test]
fn retry_takes_no_other_file_of_its_name() {
    let appliance = with_reports();
    let first = appliance.rows("SELECT id FROM files WHERE state = 'failed'")[0].clone();
    std::fs::remove_file(appliance.path("failed/S0/text.png")).unwrap();
    appliance.drop("S0/text.png", b"another text under its name");
    let mut appliance = appliance;
    appliance.until("it failed too", |appliance| appliance.in_state("failed") == 2);
    let retried = appliance.cli(&["retry", &first]);
    assert_eq!(retried.status.code(), Some(66), "{retried:?}");
    assert!(text(&retried.stderr).contains("another file of its name"), "{retried:?}");
    assert_eq!(std::fs::read(appliance.path("failed/S0/text.png")).unwrap(), b"another text under its name");
    assert!(appliance.cli(&["retry", "--all"]).status.code() == Some(3), "the other one goes back");
    appliance.until("it failed again", |appliance| appliance.in_state("retried") == 1 && appliance.in_state("failed") == 2);
}

#[test]
fn a_possible_mix_up_is_told_wherever_reports_are_read() {
    let mut appliance = with_reports();
    appliance.drop_png("S9/patch.png", 1);
    appliance.until("both cases are filed", |appliance| appliance.in_state("filed") == 4);
    let flagged = |line: &serde_json::Value| line["flags"].as_array().unwrap().iter().any(|flag| flag == "same_image_other_case");
    let told = lines(&appliance, &["reports", "--json"]);
    assert_eq!(told.iter().filter(|line| flagged(line)).count(), 1, "{told:?}");
    assert_eq!(text(&appliance.cli(&["reports", "--csv"]).stdout).matches("same_image_other_case").count(), 1);
    let id = appliance.rows("SELECT id FROM reports WHERE source = 'S1/patch.png'")[0].clone();
    for command in [&["reports"][..], &["show", &id], &["explain", &id], &["explain", "--json", &id]] {
        assert!(text(&appliance.cli(command).stdout).contains("same_image_other_case"), "{command:?}");
    }
}

#[test]
fn verify_names_what_is_missing_or_changed() {
    let appliance = with_reports();
    assert!(appliance.cli(&["verify"]).status.success());
    std::fs::write(appliance.path("done/S1/patch.png"), b"other").unwrap();
    std::fs::remove_file(appliance.path("done/S2/patch.png")).unwrap();
    let verify = appliance.cli(&["verify"]);
    let said = text(&verify.stdout);
    assert_eq!(verify.status.code(), Some(1));
    assert!(said.contains("CHANGED") && said.contains("MISSING"), "{said}");
}

#[test]
fn submissions_of_one_name_at_once_all_arrive() {
    let mut appliance = Appliance::new();
    appliance.start();
    let exports = ["1", "2", "3", "4"].map(|folder| appliance.path("exports").join(folder).join("tile.png"));
    for (seed, file) in exports.iter().enumerate() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, png(512, 512, 20 + seed as u8)).unwrap();
    }
    std::thread::scope(|scope| {
        for file in &exports {
            let appliance = &appliance;
            scope.spawn(move || {
                let submitted = appliance.cli(&["submit", "--case", "S9", &file.display().to_string()]);
                assert!(submitted.status.success(), "{submitted:?}");
            });
        }
    });
    appliance.until("all are filed", |appliance| appliance.in_state("filed") == 4);
    assert_eq!(appliance.reports(), 4);
    appliance.check();
}

#[test]
fn a_file_that_cannot_be_copied_keeps_no_other_from_it() {
    let mut appliance = with_reports();
    let [good, other] = ["u.png", "v.png"].map(|name| appliance.path(name));
    std::fs::write(&good, png(64, 64, 31)).unwrap();
    std::fs::write(&other, png(64, 64, 32)).unwrap();
    let [good, other] = [good, other].map(|path| path.display().to_string());
    let submitted = appliance.cli(&["submit", "--case", "S9", &good, "/proc/self/mem", &other]);
    assert_eq!(submitted.status.code(), Some(3), "{submitted:?}");
    assert!(text(&submitted.stderr).contains("/proc/self/mem cannot be copied"), "{submitted:?}");
    appliance.until("both others are filed", |appliance| appliance.in_state("filed") == 5);
    assert_eq!(std::fs::read_dir(appliance.path("inbox/S9")).unwrap().count(), 0, "nothing half copied is left");
    appliance.check();
}

#[test]
fn status_tells_whether_it_runs_and_submit_copies() {
    let mut appliance = Appliance::new();
    assert_eq!(appliance.cli(&["status", "--check"]).status.code(), Some(69));
    appliance.start();
    appliance.until("it is green", |appliance| appliance.cli(&["status", "--check"]).status.success());
    let file = appliance.path("outside.png");
    std::fs::write(&file, png(64, 64, 1)).unwrap();
    let submitted = appliance.cli(&["submit", "--case", "S9", &file.display().to_string()]);
    assert!(submitted.status.success(), "{submitted:?}");
    appliance
        .until("it is filed", |appliance| appliance.rows("SELECT source FROM files WHERE state = 'filed'") == ["S9/outside.png"]);
    assert!(file.exists());
    assert_eq!(appliance.cli(&["submit", "/no/such.png"]).status.code(), Some(66));
    let monitoring = std::fs::read_to_string(appliance.path("state/status.json")).unwrap();
    assert!(!monitoring.contains("S9"));
}

#[test]
fn ledgers_that_are_not_ours_are_refused_and_left_alone() {
    let cases: [(&str, i32); 3] = [("PRAGMA user_version = 99", 78), ("PRAGMA application_id = 1", 78), ("", 65)];
    for (sql, exit) in cases {
        let mut appliance = Appliance::new();
        appliance.start();
        appliance.stop();
        let ledger = appliance.path("state/ledger.sqlite");
        if sql.is_empty() {
            for suffix in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(appliance.path(&format!("state/ledger.sqlite{suffix}")));
            }
            std::fs::write(&ledger, vec![7; 8192]).unwrap();
        } else {
            let connection = rusqlite::Connection::open(&ledger).unwrap();
            connection.execute_batch(&format!("{sql}; PRAGMA wal_checkpoint(TRUNCATE);")).unwrap();
        }
        let before = std::fs::read(&ledger).unwrap();
        appliance.spawn();
        assert_eq!(appliance.ended(), Some(exit), "{sql}\n{}", appliance.log());
        assert_eq!(std::fs::read(&ledger).unwrap(), before);
        assert_eq!(appliance.cli(&["reports"]).status.code(), Some(exit));
    }
}

#[test]
fn a_changed_bundle_and_three_mistakes_are_told() {
    let mut appliance = Appliance::new();
    std::fs::write(appliance.path("bundle/classifier/prmf.onnx"), b"a test double needs no grapH").unwrap();
    appliance.spawn();
    assert_eq!(appliance.ended(), Some(78));
    assert!(appliance.log().contains("prmf.onnx"), "{}", appliance.log());
    let config = std::fs::read_to_string(appliance.config()).unwrap();
    std::fs::write(appliance.config(), config + "\nsetle_ms = 3\nslots = 0\n").unwrap();
    std::fs::remove_dir_all(appliance.path("done")).unwrap();
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_mmlnb-appliance"))
        .arg("run")
        .arg("--config")
        .arg(appliance.config())
        .output();
    let run = run.unwrap();
    assert_eq!(run.status.code(), Some(78));
    assert_eq!(text(&run.stderr).matches("error:").count(), 3, "{}", text(&run.stderr));
}

#[test]
fn the_examples_of_the_documentation_work() {
    let appliance = with_reports();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/database.md")).unwrap();
    let connection = mmlnb_appliance::ledger::open::reader(&appliance.path("state/ledger.sqlite")).unwrap();
    let mut examples = 0;
    for block in text.split("```sql\n").skip(1) {
        let sql = block.split("```").next().unwrap();
        let mut statement = connection.prepare(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
        let mut rows = statement.query([]).unwrap();
        while rows.next().unwrap().is_some() {}
        examples += 1;
    }
    assert_eq!(examples, 5);
    for view in ["reports", "files"] {
        let statement = connection.prepare(&format!("SELECT * FROM {view}")).unwrap();
        for column in statement.column_names() {
            assert!(text.contains(&format!("| `{column}` |")), "docs/database.md lacks {view}.{column}");
        }
    }
}
