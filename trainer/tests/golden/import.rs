//! Files of torch.save, in both formats, and the released model.

use crate::{
    files::{Tensors, family, json, list, number, text, tolerance},
    shared::{compare::close, device},
};
use mmlnb_models::{
    config::ClassifierConfig,
    hash, networks,
    weights::{Checkpoint, Naming, Weights},
};
use mmlnb_trainer::{
    import::{StateDict, import},
    torch::{Plan, PlanOptions},
};
use serde_json::Value;
use std::path::Path;

fn hashes(bytes: &[(String, Vec<usize>, Vec<u8>)]) -> Value {
    let entry = |(name, shape, bytes): &(String, Vec<usize>, Vec<u8>)| {
        (name.clone(), serde_json::json!({ "shape": shape, "sha256": hash::sha256_hex(bytes) }))
    };
    Value::Object(bytes.iter().map(entry).collect())
}

fn same_tensors(found: &Value, expected: &Value, what: &str) {
    let (found, expected) = (found.as_object().unwrap(), expected.as_object().unwrap());
    assert!(!expected.is_empty());
    assert_eq!(found.len(), expected.len(), "{what}: number of tensors");
    for (name, expected) in expected {
        assert_eq!(found.get(name), Some(expected), "{what}: {name}");
    }
}

#[test]
fn golden_vgg16_imports_both_formats() {
    let Some(dir) = family("vgg16") else { return };
    let expected = json(&dir.join("model.sha256.json"));
    for name in ["model.zip.pth", "model.legacy.pth"] {
        let state = StateDict::read(&dir.join(name)).unwrap_or_else(|error| panic!("{error}"));
        let tensors: Vec<_> = state
            .shapes()
            .map(|(name, _)| {
                let (_, shape, bytes) = state.tensor(name).unwrap();
                (name.to_string(), shape, bytes.into_owned())
            })
            .collect();
        same_tensors(&hashes(&tensors), &expected, name);

        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("vgg16.safetensors");
        let imported = import(&dir.join(name), &output, None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(imported.tensors, tensors.len());
        let written = std::fs::read(&output).unwrap();
        let written = safetensors::SafeTensors::deserialize(&written).unwrap();
        let written: Vec<_> =
            written.iter().map(|(name, view)| (name.to_string(), view.shape().to_vec(), view.data().to_vec())).collect();
        same_tensors(&hashes(&written), &expected, name);
        assert!(import(&dir.join(name), &output, None).unwrap_err().to_string().contains("is there already"));
    }
}

#[test]
fn golden_vgg16_damaged_files_are_refused() {
    let Some(dir) = family("vgg16") else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.zip.pth", "model.legacy.pth"] {
        let whole = std::fs::read(dir.join(name)).unwrap();
        for part in [0, 1, 10, whole.len() / 2, whole.len() - 1] {
            let file = folder.path().join(name);
            std::fs::write(&file, &whole[..part]).unwrap();
            assert!(StateDict::read(&file).is_err(), "{name}, {part} bytes");
        }
    }
}

#[test]
fn golden_curriculum_released_model() {
    let Some(dir) = family("curriculum") else { return };
    let cases = json(&dir.join("cases.json"));
    let case = &cases["released"];
    let checkpoint = dir.join(text(&cases["classify"], "checkpoint"));
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("classifier");
    let file = dir.join(text(case, "file"));
    assert!(import(&file, &output, None).unwrap_err().to_string().contains("--text"));
    import(&file, &output, Some(&checkpoint)).unwrap_or_else(|error| panic!("{error}"));
    // What is being written lies for a while where this --text does.
    let taken = folder.path().join("other.partial");
    std::fs::create_dir(&taken).unwrap();
    for entry in std::fs::read_dir(&checkpoint).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        std::fs::copy(&entry, taken.join(entry.file_name().unwrap())).unwrap();
    }
    let refused = import(&file, &folder.path().join("other"), Some(&taken)).unwrap_err().to_string();
    assert!(refused.contains("would be overwritten") && taken.join("config.json").is_file(), "{refused}");

    let config = ClassifierConfig::from_dir(&output).unwrap_or_else(|error| panic!("{error}"));
    let classes: Vec<&str> = list(case, "classes").iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(config.classes, classes);
    assert_eq!(config.confidence_hidden, Some(number(case, "confidence_hidden") as i64));
    assert!(!config.image_head);
    let absent = Checkpoint::open(&output, Naming::Classifier).unwrap();
    list(case, "missing_after_import").iter().for_each(|key| assert!(absent.tensor(key.as_str().unwrap()).is_none()));
    compare_outputs(&output, &config, &dir, &cases);
}

fn compare_outputs(folder: &Path, config: &ClassifierConfig, dir: &Path, cases: &Value) {
    let inputs = Tensors::read(dir.join(text(&cases["released"], "inputs")));
    let expected = Tensors::read(dir.join(text(&cases["released"], "tensors")));
    let checkpoint = Checkpoint::open(folder, Naming::Classifier).unwrap();
    let plan = |graph| Plan::new(&graph, &Weights::new(&checkpoint), &PlanOptions::inference(device())).unwrap();
    let image = plan(networks::image_encoder(&config.image.as_ref().unwrap().0, "image"));
    let written = plan(networks::bert(config.text.as_ref().unwrap(), "text"));
    let prmf = plan(networks::prmf(config));
    let seen = image.forward(&[("pixel_values", inputs.get("classifier_pixel_values"))]).unwrap();
    let (ids, mask) = (inputs.get("text_input_ids"), inputs.get("text_attention_mask"));
    let read = written.forward(&[("input_ids", ids), ("attention_mask", mask)]).unwrap();
    let [seen, read] = [seen.get("image_features").unwrap(), read.get("text_features").unwrap()];
    let outputs = prmf.forward(&[("image_features", seen), ("text_features", read)]).unwrap();
    close(seen, expected.get("image_features"), tolerance(cases, "features"), "image_features");
    close(read, expected.get("text_features"), tolerance(cases, "features"), "text_features");
    for (key, kind) in [("alpha_text", "alpha_text"), ("fused_features", "features"), ("logits", "logits")] {
        close(outputs.get(key).unwrap(), expected.get(key), tolerance(cases, kind), key);
    }
}
