use crate::{family, mmlnb_train, outcome};
use std::{fs, path::Path};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn golden_curriculum_evaluate_refuses_what_a_classifier_would_not_use() {
    let Some(curriculum) = family("curriculum") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    copy(&curriculum.join("checkpoint"), &folder.path().join("run/best"));
    let run = path("run");
    for (more, says) in [
        (["--settings", "x.toml"], "--settings would not be used"),
        (["--base", "x"], "--base would not be used"),
        (["--batch", "2"], "--batch would not be used"),
        (["--seed", "2"], "--blind"),
    ] {
        let arguments = ["evaluate", &run, "--data", "no.csv", "--images", "no"];
        let (code, errors) = outcome(&mmlnb_train(&[arguments.as_slice(), &more].concat()));
        assert!(code == Some(2) && errors.contains(says), "{more:?}: {errors}");
        assert!(!folder.path().join("run/evaluations").exists(), "nothing was begun");
    }
}

#[test]
fn golden_lora_evaluate_sets_base_and_tuned_side_by_side() {
    let (Some(base), Some(lora)) = (family("qwen2_5_vl"), family("lora")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    copy(&lora.join("lora"), &folder.path().join("run/best"));
    fs::write(folder.path().join("settings.toml"), "max_new_tokens = 5\n").unwrap();
    let rows = "file_name,description,class,group\n0.png,No neuropil.,UD,p1\n1.png,\"Abundant neuropil, rosettes.\",PD,p2\n2.png,Ganglion cells.,D,p3\n";
    fs::write(folder.path().join("data.csv"), rows).unwrap();
    let (run, csv, images, settings) = (path("run"), path("data.csv"), base.join("images"), path("settings.toml"));
    let images = images.to_str().unwrap();
    let arguments = ["evaluate", &run, "--data", &csv, "--images", images, "--settings", &settings, "--blind"];
    let (code, errors) = outcome(&mmlnb_train(&arguments));
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("--base"), "{errors}");
    let (code, errors) = outcome(&mmlnb_train(&["evaluate", &run, "--data", &csv, "--images", images, "--output", &run]));
    assert!(code == Some(2) && errors.contains("would be overwritten"), "{errors}");

    let arguments = [arguments.as_slice(), &["--base", base.to_str().unwrap()]].concat();
    let (code, errors) = outcome(&mmlnb_train(&arguments));
    assert_eq!(code, Some(0), "{errors}");
    let read = |name: &str| {
        fs::read_to_string(folder.path().join("run/evaluations/data").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let measures: serde_json::Value = serde_json::from_str(&read("measures.json")).unwrap();
    assert_eq!(measures["items"], 3);
    for side in ["base", "tuned"] {
        assert!(measures[side]["overlap"]["bleu"].is_number() && measures[side]["facts"]["pairs"] == 3, "{measures}");
    }
    let said = |name: &str| -> Vec<String> {
        csv::Reader::from_reader(read(name).as_bytes()).records().map(|row| row.unwrap()[1].to_string()).collect()
    };
    assert_ne!(said("base.csv"), said("tuned.csv"));
    assert!(!said("tuned.csv").contains(&"No neuropil.".to_string()), "the expert's text was not replaced");
    let key: serde_json::Value = serde_json::from_str(&read("blind_key.json")).unwrap();
    assert_eq!(key.as_array().unwrap().len(), 3);
    assert_eq!(read("blind_answers.csv").lines().count(), 4);
    assert!(read("blind.html").contains("Picture 3") && read("evaluation.html").contains("No neuropil."));
}
