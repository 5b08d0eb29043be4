//! Measuring a bundle where it is served: what it writes, that it goes on after a kill, and that a bundle is whole at every moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mmlnb_tests::{
    Appliance, Patch, Ran, appliance_binary, binary, bundle, command, copy_folder, has_failpoints, patches, run, wait_for,
};
use serde_json::Value;
use tempfile::TempDir;

/// A copy of the bundle, and patches of six patients with classes and descriptions.
struct Study {
    folder: TempDir,
    patches: Vec<Patch>,
}

impl Study {
    fn new(count: usize) -> Study {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        copy_folder(bundle(), &folder.path().join("bundle"));
        let patches = patches(count);
        fs::create_dir(folder.path().join("images")).expect("the folder is writable");
        let mut csv = "file_name,description,class,group,split\n".to_owned();
        for (at, patch) in patches.iter().enumerate() {
            let name = format!("{at}-{}", patch.name);
            fs::write(folder.path().join("images").join(&name), &patch.bytes).expect("the folder is writable");
            // The bundle's classifier was not trained by us and does not say what it has seen: the file has to.
            let part = ["validation", "test"][at % 2];
            csv += &format!("{name},\"Small round cells, no neuropil.\",{},p{},{part}\n", ["UD", "PD", "D"][at % 3], at % 6);
        }
        fs::write(folder.path().join("data.csv"), csv).expect("the folder is writable");
        Study { folder, patches }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn qualify(&self, failpoints: &str) -> Ran {
        let mut qualify = command(&appliance_binary());
        qualify.arg("qualify").arg(self.path("bundle")).arg("--data").arg(self.path("data.csv"));
        qualify.arg("--images").arg(self.path("images")).args(["--json", "--provider", "cpu", "--threads", "1"]);
        run(qualify.env("MMLNB_FAILPOINTS", failpoints))
    }

    fn manifest(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("bundle/manifest.json")).expect("a manifest is there")).expect("it is JSON")
    }

    /// The exporter finds every file as the manifest names it.
    fn is_whole(&self) {
        run(command(&binary("mmlnb-export")).arg("inspect").arg(self.path("bundle"))).expect(0);
    }
}

fn beside(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("the folder is there").flatten();
    let mut hidden: Vec<String> =
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with('.')).collect();
    hidden.sort();
    hidden
}

#[test]
fn a_bundle_is_calibrated_measured_and_meets_its_own_answers() {
    let study = Study::new(12);
    let before = study.manifest();
    let told = study.qualify("").expect(0).json_lines().remove(0);
    study.is_whole();
    let after = study.manifest();
    assert_eq!(before["classifier"]["calibration"], Value::Null);
    assert!(after["classifier"]["calibration"]["temperature"].is_number());
    let found = &after["qualification"];
    assert_eq!((found["data"]["images"].as_u64(), found["data"]["groups"].as_u64()), (Some(12), Some(6)));
    assert_eq!(found["data"]["fitted"], found["data"]["reported"]);
    let verdicts = &found["classes"]["verdicts"];
    assert_eq!(verdicts["accepted"].as_u64().zip(verdicts["abstain"].as_u64()).map(|(some, rest)| some + rest), Some(6));
    assert!(found["classes"]["intervals"]["measures"]["accuracy"]["value"].is_number());
    assert!(found["descriptions"]["facts"]["pairs"] == 12 && found["descriptions"]["generated"]["texts"] == 12);
    assert_eq!(told["data"], found["data"]);
    let answers = after["known_answers"].as_array().expect("answers were recorded");
    assert_eq!(answers.len(), 3);
    for answer in answers {
        let image = study.path("bundle").join(answer["image"].as_str().expect("an answer names its image"));
        assert!(study.patches.iter().any(|patch| fs::read(&image).is_ok_and(|bytes| bytes == patch.bytes)));
        assert!(answer["describer"]["tolerance"].is_number() && answer["classifier"]["description"].is_string());
    }
    let card = fs::read_to_string(study.path("bundle/MODEL_CARD.md")).expect("a card is there");
    assert!(card.contains("## Qualification") && card.contains("12 images of 6 patients") && card.contains("| accuracy |"));
    assert_eq!(beside(study.folder.path()), Vec::<String>::new());

    let again = study.qualify("").expect(0).json_lines().remove(0);
    assert_eq!(again["known_answers"]["checked"], 3);
    assert_eq!(again["known_answers"]["differences"], serde_json::json!([]), "the same machine gives the same answers");
    let mut classify = command(&appliance_binary());
    let image = study.path("images").join(format!("0-{}", study.patches[0].name));
    classify.arg("classify").arg("--bundle").arg(study.path("bundle")).args(["--json", "--provider", "cpu"]).arg(image);
    let report = run(&mut classify).expect(0).json_lines().remove(0);
    assert!(report["verdict"] == "abstain" || report["verdict"] == "accepted", "{report}");
}

#[test]
fn a_known_answer_that_is_not_met_is_told() {
    let study = Study::new(6);
    study.qualify("").expect(0);
    let mut manifest = study.manifest();
    manifest["known_answers"][0]["classifier"]["probabilities"][0] = 0.987.into();
    fs::write(study.path("bundle/manifest.json"), manifest.to_string()).expect("the bundle is writable");
    let appliance = Appliance::new();
    appliance.set("bundle", &format!("{:?}", study.path("bundle").display().to_string()));
    let daemon = appliance.daemon().start();
    wait_for(Duration::from_secs(60), "a notice in STATUS.txt", || appliance.status_text().contains("a known answer"));
    appliance.operator(&["status", "--check"]).expect(1);
    assert_eq!(daemon.stop(Duration::from_secs(15)), 0);
    let ran = study.qualify("").expect(1);
    assert!(ran.err.contains("known_answers/qualified-1") && ran.err.contains("instead of 0.987"), "{}", ran.err);
}

#[test]
fn wrong_data_is_listed_and_nothing_is_started() {
    let study = Study::new(3);
    let before = study.manifest();
    let csv = "file_name,class\nabsent.png,UD\n../data.csv,PD\nx.png,GNB\n";
    fs::write(study.path("data.csv"), csv).expect("the folder is writable");
    let ran = study.qualify("").expect(2);
    for part in ["line 2: absent.png", "line 3: ../data.csv leaves the image folder", "line 4: class `GNB`"] {
        assert!(ran.err.contains(part), "{part} is not in {}", ran.err);
    }
    assert_eq!((ran.out.as_str(), study.manifest()), ("", before));
}

#[test]
fn a_classifier_that_does_not_say_what_trained_it_is_not_measured_on_rows_without_a_part() {
    let study = Study::new(3);
    let before = study.manifest();
    let csv = fs::read_to_string(study.path("data.csv")).expect("the table is there");
    let without: String = csv.lines().map(|line| line.rsplit_once(',').expect("a row has columns").0.to_owned() + "\n").collect();
    fs::write(study.path("data.csv"), without).expect("the folder is writable");
    let ran = study.qualify("").expect(2);
    for part in ["line 2: no split", "line 4: no split", "does not say which images trained it"] {
        assert!(ran.err.contains(part), "{part} is not in {}", ran.err);
    }
    assert_eq!(study.manifest(), before);
}

#[test]
fn a_kill_at_any_moment_leaves_a_whole_bundle_and_the_answers_so_far() {
    if !has_failpoints("kills of qualify") {
        return;
    }
    let study = Study::new(6);
    let before = study.manifest();
    for point in ["qualify.linked", "qualify.exchange"] {
        assert_eq!(study.qualify(&format!("{point}=abort")).code, 128 + 6, "{point}");
        study.is_whole();
        assert_eq!(study.manifest(), before, "{point}: the old bundle");
    }
    let ran = study.qualify("qualify.exchanged=abort");
    assert!(ran.code == 128 + 6 && ran.err.contains("6 of 6 images are answered already"), "{}", ran.err);
    study.is_whole();
    assert!(study.manifest()["qualification"].is_object(), "the new bundle");
    study.qualify("").expect(0);
    assert_eq!(beside(study.folder.path()), Vec::<String>::new(), "the next one clears up");
}
