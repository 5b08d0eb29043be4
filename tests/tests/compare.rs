//! Two bundles beside each other: what is equal is equal to the bit, what differs differs by what the traces say, and what cannot be compared is refused.

use std::fs;
use std::path::{Path, PathBuf};

use mmlnb_tests::{
    Ran, Tmpfs, appliance_binary, binary, command, copy_folder, golden, patches, read_tensors, run, sha256_hex, skipped,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The golden networks in f32 and in four bits, and images with a table.
struct Desk {
    folder: TempDir,
}

/// Greedy and without a penalty, so that `describe` writes what `compare` does.
const SETTINGS: &str = "max_new_tokens = 8\nrepetition_penalty = 1.0\ndo_sample = false\n";

impl Desk {
    /// `count` images of four patients, with classes and descriptions.
    fn new(count: usize) -> Desk {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let desk = Desk { folder };
        fs::create_dir(desk.path("images")).expect("the folder is writable");
        fs::create_dir(desk.path("scratch")).expect("the folder is writable");
        fs::write(desk.path("settings.toml"), SETTINGS).expect("the folder is writable");
        for precision in ["f32", "int4"] {
            let mut export = command(&binary("mmlnb-export"));
            export.arg("bundle").arg("--output").arg(desk.path(precision)).args(["--precision", precision]);
            export.arg("--vlm").arg(golden("qwen2_5_vl")).arg("--classifier").arg(golden("curriculum/checkpoint"));
            run(export.arg("--settings").arg(desk.path("settings.toml")).args(["--image-size", "112x84"])).expect(0);
        }
        let mut csv = "file_name,description,class,group,split\n".to_owned();
        for (at, patch) in patches(count).iter().enumerate() {
            let name = format!("{at}-{}", patch.name);
            fs::write(desk.path("images").join(&name), &patch.bytes).expect("the folder is writable");
            csv += &format!("{name},\"Small round cells, no neuropil.\",{},p{},test\n", ["UD", "PD", "D"][at % 3], at % 4);
        }
        desk.table(&csv);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn table(&self, csv: &str) {
        fs::write(self.path("data.csv"), csv).expect("the folder is writable");
    }

    /// Names of the images, sorted.
    fn images(&self) -> Vec<String> {
        let listing = fs::read_dir(self.path("images")).expect("the folder is there").flatten();
        let mut names: Vec<String> = listing.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A copy of an exported bundle with a changed manifest.
    fn bundle(&self, name: &str, precision: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let folder = self.path(name);
        copy_folder(&self.path(precision), &folder);
        let file = folder.join("manifest.json");
        let mut manifest: Value = serde_json::from_slice(&fs::read(&file).expect("a manifest is there")).expect("it is JSON");
        change(&mut manifest);
        fs::write(&file, manifest.to_string()).expect("the folder is writable");
        folder
    }

    fn compare(&self, reference: &Path, bundle: &Path, more: &[&str]) -> Ran {
        let ran = self.compare_in(&self.path("scratch"), reference, bundle, more);
        let left = fs::read_dir(self.path("scratch")).expect("the folder is there").count();
        assert_eq!(left, 0, "nothing is left in the scratch folder");
        ran
    }

    fn compare_in(&self, scratch: &Path, reference: &Path, bundle: &Path, more: &[&str]) -> Ran {
        let mut compare = command(&appliance_binary());
        compare.arg("compare").arg(reference).arg(bundle).arg("--data").arg(self.path("data.csv"));
        compare.arg("--images").arg(self.path("images")).arg("--scratch").arg(scratch);
        run(compare.args(["--provider", "cpu", "--threads", "1"]).args(more))
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_bundle_is_equal_to_itself_to_the_bit() {
    let desk = Desk::new(6);
    let f32 = desk.path("f32");
    for precision in ["f32", "int4"] {
        let bundle = desk.path(precision);
        let found = desk.compare(&bundle, &bundle, &["--json"]).expect(0).json_lines().remove(0);
        let describer = &found["describer"];
        let positions = describer["kl"]["positions"].as_u64().expect("positions are counted");
        assert!((6..=48).contains(&positions), "{positions}");
        for key in ["mean", "median", "p99", "largest"] {
            assert_eq!(number(&describer["kl"][key]), 0.0, "{precision} {key}: {describer}");
        }
        assert_eq!((&describer["same_token"], &describer["same_text"]), (&json!(1.0), &json!(1.0)));
        assert_eq!(describer["common_prefix"], describer["tokens"]);
        assert_eq!(number(&describer["tokens"]) * 6.0, positions as f64);
        assert_eq!(describer["facts"]["reference"], describer["facts"]["bundle"]);
        assert_eq!(describer["facts"]["f1"]["difference"]["value"].as_f64().unwrap_or(0.0), 0.0);
        let classifier = &found["classifier"];
        for key in ["same_class", "same_verdict", "same_image_class"] {
            assert_eq!(classifier[key], 1.0, "{precision} {key}: {classifier}");
        }
        assert_eq!((&classifier["mean_difference"], &classifier["largest_difference"]), (&json!(0.0), &json!(0.0)));
        assert_eq!(classifier["verdicts"]["reference"], json!({"not_assessed": 6}));
        assert_eq!(classifier["accuracy"]["difference"]["value"], 0.0);
        assert_eq!(found["data"]["images"].as_u64().zip(found["data"]["groups"].as_u64()), Some((6, 4)));
        assert_eq!((&found["failed"], &found["bundle"]["precision"]), (&json!([]), &json!(precision)));
    }
    let told = desk.compare(&f32, &f32, &[]).expect(0).out;
    for part in
        ["KL, nats", "mean 0.0000", "same likeliest token    1.0000", "same verdict            1.0000", "4 patients are too few"]
    {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

/// What `describe --trace` leaves of an image: tokens, and the logits at each.
fn traced(bundle: &Path, image: &Path, folder: &Path) -> (Vec<i64>, Vec<Vec<f64>>) {
    let file = folder.join("trace.safetensors");
    let mut describe = command(&appliance_binary());
    describe.arg("describe").arg("--bundle").arg(bundle).arg("--trace").arg(&file).arg("--json");
    run(describe.args(["--provider", "cpu", "--threads", "1"]).arg(image)).expect(0);
    let tensors = read_tensors(&file);
    let find = |name: &str| tensors.iter().find(|tensor| tensor.name == name).expect("the trace holds it");
    let ids = find("token_ids").bytes.chunks_exact(8);
    let ids = ids.map(|bytes| i64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect();
    let logits = find("logits");
    let rows =
        logits.f32().chunks_exact(logits.shape[1]).map(|row| row.iter().map(|value| f64::from(*value)).collect()).collect();
    (ids, rows)
}

/// sum p (ln p - ln q), without any trick.
fn divergence(reference: &[f64], other: &[f64]) -> f64 {
    let shares = |logits: &[f64]| {
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        logits.iter().map(|logit| logit.exp() / total).collect::<Vec<f64>>()
    };
    shares(reference).iter().zip(shares(other)).map(|(p, q)| p * (p.ln() - q.ln())).sum()
}

fn likeliest(logits: &[f64]) -> usize {
    (0..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best })
}

#[test]
fn fewer_bits_are_as_far_away_as_the_traces_say() {
    let desk = Desk::new(3);
    let (mut everywhere_equal, mut differing) = (0, 0);
    for name in desk.images() {
        let image = desk.path("images").join(&name);
        let (way, reference) = traced(&desk.path("f32"), &image, desk.folder.path());
        let (own, other) = traced(&desk.path("int4"), &image, desk.folder.path());
        // Up to the first token that differs, both wrote after the same tokens.
        let prefix = way.iter().zip(&own).take_while(|(one, other)| one == other).count();
        let shown = (prefix + 1).min(way.len());
        let change = |manifest: &mut Value| manifest["describer"]["generation"]["max_new_tokens"] = shown.into();
        let [f32, int4] = ["f32", "int4"].map(|precision| desk.bundle(&format!("{name}-{precision}"), precision, change));
        desk.table(&format!("file_name,split\n{name},test\n"));
        let found = desk.compare(&f32, &int4, &["--json"]).expect(0).json_lines().remove(0);
        let expected: Vec<f64> = (0..shown).map(|at| divergence(&reference[at], &other[at])).collect();
        let kl = &found["describer"]["kl"];
        assert_eq!(kl["positions"], shown);
        let close = |value: &Value, expected: f64| {
            assert!((number(value) - expected).abs() <= 1e-9 * (1.0 + expected), "{name}: {value}, the traces say {expected}");
        };
        close(&kl["mean"], expected.iter().sum::<f64>() / shown as f64);
        close(&kl["largest"], expected.iter().copied().fold(0.0, f64::max));
        assert!(number(&kl["mean"]) > 1e-6, "four bits are not 32: {kl}");
        let same = (0..shown).filter(|at| likeliest(&other[*at]) as i64 == way[*at]).count();
        assert_eq!(number(&found["describer"]["same_token"]), same as f64 / shown as f64);
        let equal = way[..shown] == own[..shown.min(own.len())];
        assert_eq!(number(&found["describer"]["same_text"]), f64::from(equal));
        assert_eq!(number(&found["describer"]["common_prefix"]), prefix as f64);
        assert!(found["describer"]["facts"].is_null() && found["classifier"]["accuracy"].is_null(), "the table has neither");
        (everywhere_equal, differing) = (everywhere_equal + usize::from(equal), differing + usize::from(!equal));
    }
    assert_eq!(everywhere_equal + differing, 3);
    assert!(differing > 0, "four bits change some text of these small networks");
}

#[test]
fn both_pipelines_are_those_of_classify() {
    let desk = Desk::new(2);
    let paths: Vec<PathBuf> = desk.images().iter().map(|name| desk.path("images").join(name)).collect();
    let bundles = [("f32", 1.5), ("int4", 0.5)].map(|(precision, temperature)| {
        desk.bundle(&format!("calibrated-{precision}"), precision, |manifest| {
            manifest["classifier"]["calibration"] = json!({"temperature": temperature, "threshold": 0.1});
        })
    });
    let reports = bundles.each_ref().map(|bundle| {
        let mut classify = command(&appliance_binary());
        classify.arg("classify").arg("--bundle").arg(bundle).args(["--json", "--provider", "cpu"]).args(&paths);
        run(classify.args(["--threads", "1", "--slots", "1"])).expect(0).json_lines()
    });
    let found = desk.compare(&bundles[0], &bundles[1], &["--json"]).expect(0).json_lines().remove(0);
    let mut apart = Vec::new();
    for (one, other) in reports[0].iter().zip(&reports[1]) {
        for (class, share) in one["probabilities"].as_object().expect("an object") {
            apart.push((number(share) - number(&other["probabilities"][class])).abs());
        }
    }
    assert_eq!(apart.len(), 6);
    let classifier = &found["classifier"];
    let largest = apart.iter().copied().fold(0.0, f64::max);
    assert!(largest > 0.0 && (number(&classifier["largest_difference"]) - largest).abs() < 1e-6, "{largest} {classifier}");
    let mean = apart.iter().sum::<f64>() / 6.0;
    assert!((number(&classifier["mean_difference"]) - mean).abs() < 1e-6, "{mean} {classifier}");
    for (key, of) in [("same_class", "leading_class"), ("same_verdict", "verdict")] {
        let same = reports[0].iter().zip(&reports[1]).filter(|(one, other)| one[of] == other[of]).count();
        assert_eq!(number(&classifier[key]), same as f64 / 2.0, "{key}");
    }
    assert!(reports[0].iter().all(|report| report["verdict"] != "not_assessed") && found["warnings"] == json!([]), "{found}");
    let mixed = desk.compare(&bundles[0], &desk.path("int4"), &[]).expect(0);
    assert!(mixed.err.contains("BUNDLE is not calibrated and the other is"), "{}", mixed.err);
    let right = reports[1].iter().zip(["UD", "PD"]).filter(|(report, class)| report["leading_class"] == **class).count();
    assert_eq!(number(&classifier["accuracy"]["bundle"]["value"]), right as f64 / 2.0);
    let same = reports[0].iter().zip(&reports[1]).filter(|(one, other)| one["description"] == other["description"]).count();
    assert_eq!(number(&found["describer"]["same_text"]), same as f64 / 2.0);
}

#[test]
fn a_half_is_compared_with_its_like_alone() {
    let desk = Desk::new(2);
    let without = |half: &'static str| move |manifest: &mut Value| manifest[half] = Value::Null;
    let describers = ["f32", "int4"].map(|precision| desk.bundle(&format!("d-{precision}"), precision, without("classifier")));
    let classifiers = ["f32", "int4"].map(|precision| desk.bundle(&format!("c-{precision}"), precision, without("describer")));
    let described = desk.compare(&describers[0], &describers[1], &["--json"]).expect(0).json_lines().remove(0);
    assert!(described["classifier"].is_null() && number(&described["describer"]["kl"]["mean"]) > 0.0, "{described}");
    let classified = desk.compare(&classifiers[0], &classifiers[1], &["--json"]).expect(0).json_lines().remove(0);
    assert!(classified["describer"].is_null() && classified["classifier"]["accuracy"]["mcnemar"].is_object(), "{classified}");
    let ran = desk.compare(&describers[0], &classifiers[1], &[]).expect(2);
    for part in ["BUNDLE has no describer, but REFERENCE has one", "REFERENCE has no classifier, but BUNDLE has one"] {
        assert!(ran.err.contains(part), "{part} is not in {}", ran.err);
    }
    // The classifier reads texts, and nobody writes them.
    desk.table(&format!("file_name,class,split\n{},UD,test\n", desk.images()[0]));
    let ran = desk.compare(&classifiers[0], &classifiers[1], &[]).expect(2);
    assert!(ran.err.contains("no column `description`"), "{}", ran.err);
}

#[test]
fn bundles_that_are_asked_or_answer_otherwise_are_refused_with_every_difference() {
    let desk = Desk::new(1);
    let other = desk.bundle("other", "f32", |manifest| {
        manifest["describer"]["prompt"] = "What is it?".into();
        manifest["describer"]["system"] = "Be brief.".into();
        manifest["describer"]["image_size"] = json!([56, 56]);
        manifest["describer"]["generation"]["max_new_tokens"] = 5.into();
        manifest["describer"]["generation"]["end_tokens"] = json!([1]);
        manifest["describer"]["generation"]["do_sample"] = true.into();
        manifest["classifier"]["classes"] = json!(["UD", "D", "PD"]);
        manifest["classifier"]["max_length"] = 7.into();
    });
    for half in ["describer", "classifier"] {
        let file = other.join(half).join("tokenizer.json");
        let text = fs::read_to_string(&file).expect("a tokenizer is there") + "\n";
        fs::write(&file, &text).expect("the folder is writable");
        let manifest = other.join("manifest.json");
        let mut listed: Value = serde_json::from_slice(&fs::read(&manifest).expect("it is there")).expect("it is JSON");
        let entry = json!({"size": text.len(), "sha256": sha256_hex(text.as_bytes())});
        listed["files"][format!("{half}/tokenizer.json")] = entry;
        fs::write(&manifest, listed.to_string()).expect("the folder is writable");
    }
    let ran = desk.compare(&desk.path("f32"), &other, &["--json"]).expect(2);
    for part in [
        "the describer's prompt: \"You are",
        "the describer's system turn: null in REFERENCE, \"Be brief.\" in BUNDLE",
        "the describer's image size: [112,84] in REFERENCE, [56,56] in BUNDLE",
        "max_new_tokens: 8 in REFERENCE, 5 in BUNDLE",
        "end_tokens: ",
        "describer/tokenizer.json differs",
        "the classes: [\"UD\",\"PD\",\"D\"] in REFERENCE, [\"UD\",\"D\",\"PD\"] in BUNDLE",
        "the classifier's longest text: ",
        "classifier/tokenizer.json differs",
    ] {
        assert!(ran.err.contains(part), "{part} is not in {}", ran.err);
    }
    assert_eq!(ran.err.matches("error: ").count(), 9, "how tokens are drawn does not count: {}", ran.err);
    assert_eq!(ran.out, "");
    let mut absent = command(&appliance_binary());
    absent.arg("compare").arg(desk.path("none")).arg(desk.path("nothing")).arg("--data").arg(desk.path("data.csv"));
    let ran = run(absent.arg("--images").arg(desk.path("images"))).expect(78);
    assert!(ran.err.contains("none") && ran.err.contains("nothing"), "{}", ran.err);
}

#[test]
fn a_broken_image_is_told_and_the_others_are_compared() {
    let desk = Desk::new(3);
    let name = desk.images().into_iter().find(|name| name.ends_with(".png")).expect("one of the images is a PNG");
    let path = desk.path("images").join(&name);
    let mut bytes = fs::read(&path).expect("it is there");
    // The header stays whole, so that only decoding finds it.
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40].fill(0x55);
    fs::write(&path, &bytes).expect("the folder is writable");
    let f32 = desk.path("f32");
    let ran = desk.compare(&f32, &f32, &["--json"]).expect(3);
    let found = ran.json_lines().remove(0);
    assert_eq!(found["data"]["images"], 2);
    let failed = found["failed"].as_array().expect("a list");
    assert!(
        failed.len() == 1 && failed[0].as_str().is_some_and(|line| line.contains(&name) && line.ends_with("(REFERENCE)")),
        "{found}"
    );
    assert!(ran.err.contains(&name), "{}", ran.err);
    desk.table(&format!("file_name,split\n{name},test\n"));
    let ran = desk.compare(&f32, &f32, &["--json"]).expect(2);
    assert!(ran.err.contains(&name) && ran.out.is_empty(), "nothing is left to compare: {}", ran.err);
}

#[test]
fn wrong_data_and_a_wrong_scratch_folder_are_told_before_anything_is_loaded() {
    let desk = Desk::new(1);
    let f32 = desk.path("f32");
    let name = &desk.images()[0];
    desk.table(&format!("file_name,class,split\n{name},GNB,test\nabsent.png,UD,test\n"));
    let ran = desk.compare(&f32, &f32, &[]).expect(2);
    for part in ["line 2: class `GNB`", "line 3: absent.png"] {
        assert!(ran.err.contains(part), "{part} is not in {}", ran.err);
    }
    desk.table(&format!("file_name,split\n{name},test\n"));
    let ran = desk.compare_in(&desk.path("no-such-folder"), &f32, &f32, &[]).expect(2);
    assert!(ran.err.contains("no-such-folder") && ran.err.contains("--scratch"), "{}", ran.err);
}

#[test]
fn a_scratch_folder_with_little_room_makes_rounds_and_the_same_figures() {
    let Some(disk) = Tmpfs::mount(1) else {
        return skipped("rounds on a small disk", "mounting needs root");
    };
    let desk = Desk::new(3);
    let [f32, int4] = ["f32", "int4"].map(|precision| desk.path(precision));
    let wide = desk.compare(&f32, &int4, &["--json"]).expect(0);
    assert!(!wide.err.contains("round"), "{}", wide.err);
    // 8 tokens of 640 logits are 20 KiB an image, and half of the room is taken.
    disk.fill(90_000);
    let narrow = desk.compare_in(disk.path(), &f32, &int4, &["--json"]).expect(0);
    for part in ["REFERENCE, round 1 of 2: 2 of 2 images", "BUNDLE, round 2 of 2: 1 of 1 images"] {
        assert!(narrow.err.contains(part), "{part} is not in {}", narrow.err);
    }
    assert_eq!(narrow.out, wide.out);
    disk.free();
    disk.fill(30_000);
    let ran = desk.compare_in(disk.path(), &f32, &int4, &["--json"]).expect(2);
    assert!(ran.err.contains("may take 1 MiB") && ran.err.contains("--scratch"), "{}", ran.err);
}
