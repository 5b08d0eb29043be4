//! Measuring a bundle where it is served: what it writes, that it goes on after a kill, and that a bundle is whole at every moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mmlnb_tests::{
    Appliance, Patch, Ran, appliance_binary, binary, bundle, command, copy_folder, drop_by_copy, has_failpoints, patches, run,
    sha256_hex, wait_for,
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
        self.qualify_as("0", failpoints)
    }

    fn qualify_as(&self, seed: &str, failpoints: &str) -> Ran {
        let mut qualify = command(&appliance_binary());
        qualify.arg("qualify").arg(self.path("bundle")).arg("--data").arg(self.path("data.csv"));
        qualify.arg("--images").arg(self.path("images")).args(["--json", "--provider", "cpu", "--threads", "1", "--seed", seed]);
        run(qualify.env("MMLNB_FAILPOINTS", failpoints))
    }

    fn manifest(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("bundle/manifest.json")).expect("a manifest is there")).expect("it is JSON")
    }

    /// What was found, null before.
    fn qualification(&self) -> Value {
        let file = fs::read(self.path("bundle/qualification.json"));
        file.map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).expect("it is JSON"))
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
    let after = study.qualification();
    assert_eq!((before["classifier"]["calibration"].clone(), study.manifest()), (Value::Null, before), "the manifest stays");
    assert!(after["calibration"]["temperature"].is_number());
    assert_eq!(after["bundle_sha256"], told["bundle_sha256"]);
    let bytes = fs::read(study.path("bundle/qualification.json")).expect("it is there");
    assert_eq!(told["qualification_sha256"], sha256_hex(&bytes));
    let found = &after["measured"];
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
    let card = fs::read_to_string(study.path("bundle/QUALIFICATION.md")).expect("a page is there");
    assert!(card.contains("# Qualification") && card.contains("12 images of 6 patients") && card.contains("| accuracy |"));
    assert_eq!(beside(study.folder.path()), Vec::<String>::new());

    let again = study.qualify("").expect(0).json_lines().remove(0);
    assert_eq!(again["known_answers"]["checked"], 3);
    assert_eq!(again["known_answers"]["differences"], serde_json::json!([]), "the same machine gives the same answers");
    let mut classify = command(&appliance_binary());
    let image = study.path("images").join(format!("0-{}", study.patches[0].name));
    classify.arg("classify").arg("--bundle").arg(study.path("bundle")).args(["--json", "--provider", "cpu"]).arg(image);
    let report = run(&mut classify).expect(0).json_lines().remove(0);
    assert!(report["verdict"] == "abstain" || report["verdict"] == "accepted", "{report}");
    assert_eq!(report["qualification_sha256"], again["qualification_sha256"]);
}

#[test]
fn a_known_image_gets_another_report_once_the_site_has_qualified_anew_and_signed_it() {
    let study = Study::new(6);
    let appliance = Appliance::new();
    let export = |words: &[&str]| run(command(&binary("mmlnb-export")).args(words)).expect(0).out;
    let folder = study.path("bundle").display().to_string();
    let keys = ["maker", "site"].map(|name| {
        let file = study.path(name).display().to_string();
        let out = export(&["keygen", "--no-password", "--output", &file]);
        (file, out.lines().last().expect("the public key is printed").to_owned())
    });
    let [(maker, maker_public), (site, site_public)] = &keys;
    export(&["sign", &folder, "--key", maker]);
    appliance.set("bundle", &format!("{folder:?}"));
    appliance.set("public_keys", &format!("[{maker_public:?}, {site_public:?}]"));
    appliance.set("allow_unsigned", "false");
    let mut qualifications = Vec::new();
    for (round, seed) in ["0", "1"].into_iter().enumerate() {
        let told = study.qualify_as(seed, "").expect(0);
        assert!(told.err.contains("is not signed yet"), "{}", told.err);
        let refused = appliance.daemon().refused().expect(78);
        assert!(refused.err.contains("qualification.json is not signed"), "{}", refused.err);
        let out = export(&["sign", &folder, "--key", site]);
        assert!(out.contains("manifest.json: signed") && out.contains("before, which stays"), "{out}");
        export(&["verify", &folder, "--public-key", maker_public, "--public-key", site_public]);
        let alone = run(command(&binary("mmlnb-export")).args(["verify", &folder, "--public-key", maker_public])).expect(1);
        assert!(alone.err.contains("qualification.json is signed with the key"), "{}", alone.err);
        let daemon = appliance.daemon().start();
        drop_by_copy(&study.patches[0].bytes, &appliance.inbox("patch.png"));
        appliance.wait_for_files(round + 1, Duration::from_secs(60));
        let names = appliance.listing("done");
        let json = names.iter().rfind(|name| name.ends_with(".report.json")).expect("a report is filed");
        let report: Value = serde_json::from_slice(&fs::read(appliance.done(json)).expect("there")).expect("JSON");
        let qualification = told.json_lines()[0]["qualification_sha256"].clone();
        assert_eq!((&report["qualification_sha256"], report["id"].as_i64()), (&qualification, Some(round as i64 + 1)));
        assert_eq!(report["trust"]["qualification"]["state"], "signed");
        assert_ne!(report["trust"]["qualification"]["key"], report["trust"]["bundle"]["key"]);
        let shown = appliance.operator(&["show", &(round + 1).to_string()]).expect(0).out;
        assert!(shown.contains(&format!("qualification {}", qualification.as_str().expect("hex"))), "{shown}");
        qualifications.push(qualification);
        assert_eq!(daemon.stop(Duration::from_secs(15)), 0);
    }
    assert_ne!(qualifications[0], qualifications[1]);
    assert_eq!(appliance.number("SELECT count(*) FROM reports"), 2);
    assert_eq!(appliance.number("SELECT count(DISTINCT image_sha256 || bundle_sha256) FROM reports"), 1);

    // What one qualification's key vouches for is not another one.
    let (file, signature) = (study.path("bundle/qualification.json"), study.path("bundle/qualification.json.minisig"));
    let kept = fs::read(&signature).expect("it is signed");
    study.qualify_as("2", "").expect(0);
    fs::write(&signature, kept).expect("the bundle is writable");
    let refused = appliance.daemon().refused().expect(78);
    assert!(refused.err.contains("qualification.json is not what was signed"), "{}", refused.err);
    fs::remove_file(&signature).and_then(|()| fs::remove_file(&file)).expect("they are there");
    let refused = appliance.daemon().refused().expect(78);
    assert!(refused.err.contains("QUALIFICATION.md") && refused.err.contains("does not list"), "{}", refused.err);
}

#[test]
fn a_known_answer_that_is_not_met_is_told() {
    let study = Study::new(6);
    study.qualify("").expect(0);
    let mut found = study.qualification();
    found["known_answers"][0]["classifier"]["probabilities"][0] = 0.987.into();
    fs::write(study.path("bundle/qualification.json"), found.to_string()).expect("the bundle is writable");
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
        assert_eq!((study.manifest(), study.qualification()), (before.clone(), Value::Null), "{point}: the old bundle");
    }
    let ran = study.qualify("qualify.exchanged=abort");
    assert!(ran.code == 128 + 6 && ran.err.contains("6 of 6 images are answered already"), "{}", ran.err);
    study.is_whole();
    assert!(study.qualification()["measured"].is_object(), "the new bundle");
    study.qualify("").expect(0);
    assert_eq!(beside(study.folder.path()), Vec::<String>::new(), "the next one clears up");
}
