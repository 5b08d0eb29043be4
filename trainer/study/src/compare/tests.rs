use super::*;
use crate::{
    data::Part,
    run::predictions::{Prediction, write},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A run's folder with four patients too few or forty patients of two items, of which every `wrong`-th is wrong.
fn run(folder: &Path, name: &str, patients: usize, wrong: usize, classes: [&str; 2]) -> PathBuf {
    let run = folder.join(name);
    fs::create_dir_all(run.join("best")).unwrap();
    fs::write(run.join("run.toml"), "[recipe]\nname = 'paper'\n[data]\nordinal = true\n[seeds]\ntraining = 7\n").unwrap();
    let config = serde_json::json!({"classes": classes, "calibration": {"temperature": 2.0, "threshold": null}});
    fs::write(run.join("best/config.json"), config.to_string()).unwrap();
    let item = |number: usize| {
        let truth = ["A", "B"][number % 2];
        let said = if number.is_multiple_of(wrong) { ["A", "B"][(number + 1) % 2] } else { truth };
        Prediction {
            file_name: format!("{number:03}.png"),
            sha256: format!("{:064x}", 977 * number % 1000),
            line: number as u64 + 2,
            group: Some(format!("patient {}", number / 2)),
            site: None,
            part: Part::Test,
            class: truth.into(),
            logits: classes.iter().map(|class| if *class == said { 3.0 } else { 0.0 }).collect(),
            image_logits: None,
            text_logits: None,
            alpha_text: Some(0.25),
            description: None,
            novelty: None,
            verdict: if number.is_multiple_of(4) { "accepted".into() } else { "abstain".into() },
            verdict_reasons: Vec::new(),
        }
    };
    write(&run, &(0..2 * patients).map(item).collect::<Vec<_>>()).unwrap();
    run
}

#[test]
fn the_better_run_is_better() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (run(folder.path(), "good", 40, 10, ["A", "B"]), run(folder.path(), "bad", 40, 3, ["B", "A"]));
    let (items, runs) = read(&[good.clone(), bad]).unwrap();
    let found = compare(&items, &runs, 1).unwrap();
    let accuracy = |run: usize| found.runs[run].estimates.measures["accuracy"];
    assert_eq!((accuracy(0).value, accuracy(1).value), (Some(0.9), Some(53.0 / 80.0)));
    assert_eq!((found.items, found.runs[0].seed, found.runs[0].alpha_text), (80, Some(7), Some(0.25)));
    assert_eq!((found.runs[0].accepted, found.runs[0].accepted_error), (0.25, Some(0.2)));
    let against = &found.against[0];
    let row = against.differences.iter().find(|row| row.measure == "accuracy").unwrap();
    assert!(row.interval.unwrap().high < 0.0 && row.not_above == Some(1.0), "{row:?}");
    // Wrong in both are multiples of 30: 0, 30, 60.
    assert_eq!((against.mcnemar.only_first, against.mcnemar.only_second), (24, 5));
    assert_eq!(against.holm, against.mcnemar.p);
    let text = table(&found);
    assert!(text.contains("0.900 [") && text.contains("2000 draws of 40 patients"), "{text}");
    assert_eq!(
        lines(&found).iter().map(|line| line["kind"].as_str().unwrap().to_string()).collect::<Vec<_>>(),
        ["run", "run", "difference"]
    );
    let html = page(&found);
    assert!(html.contains("<svg") && html.contains(&good.display().to_string()) && !html.contains("NaN"));
}

#[test]
fn other_items_are_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let first = run(folder.path(), "first", 40, 10, ["A", "B"]);
    let refused = |other: &PathBuf| {
        let error = read(&[first.clone(), other.clone()]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    let fewer = refused(&run(folder.path(), "fewer", 38, 10, ["A", "B"]));
    assert!(fewer.contains("4 test items are in") && fewer.contains("first alone: ") && fewer.contains("and 1 more"), "{fewer}");
    let named = refused(&run(folder.path(), "named", 40, 10, ["A", "C"]));
    assert!(named.contains("named") && named.contains("classes"), "{named}");
    let other = run(folder.path(), "other", 40, 10, ["A", "B"]);
    let file = other.join("predictions.jsonl");
    let text = fs::read_to_string(&file).unwrap().replacen("\"class\":\"A\"", "\"class\":\"B\"", 1).replacen(
        "patient 1\"",
        "patient X\"",
        1,
    );
    fs::write(&file, text).unwrap();
    let moved = refused(&other);
    assert!(moved.contains("the class of 1 items differs") && moved.contains("000.png (\"A\" and \"B\")"), "{moved}");
    assert!(moved.contains("the patient of 1 items differs"), "{moved}");
    fs::remove_file(&file).unwrap();
    assert!(refused(&other).contains("no finished run of classify"));
}

#[test]
fn few_patients_give_no_interval_and_the_table_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (items, runs) = read(&[run(folder.path(), "few", 4, 3, ["A", "B"])]).unwrap();
    let found = compare(&items, &runs, 1).unwrap();
    assert!(found.against.is_empty() && found.runs[0].estimates.measures["accuracy"].interval.is_none());
    assert!(table(&found).contains("No intervals: 4 patients are too few"));
}

#[test]
fn a_mean_over_seeds_is_a_mean_of_measures() {
    let folder = tempfile::tempdir().unwrap();
    let runs = [run(folder.path(), "one", 40, 10, ["A", "B"]), run(folder.path(), "two", 40, 5, ["A", "B"])];
    let (items, runs) = read(&runs).unwrap();
    let seeds: Vec<Predictions> = runs.into_iter().map(|run| run.predictions).collect();
    let numbers = mean_numbers(&seeds, &vec![1; items.rows.len()]);
    let (name, value) = numbers[0];
    assert_eq!(name, "accuracy");
    assert!((value.unwrap() - 0.85).abs() < 1e-12);
}
