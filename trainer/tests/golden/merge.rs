//! A merged checkpoint: the reference's weights, everything else untouched, and logits as with the adapter beside the base.

use crate::{
    files::{Tensors, family, json, list, text, tolerance},
    shared::{compare::close, device},
};
use mmlnb_models::{
    provenance::{Role, TRAINING_DATA, TrainingData, new_salt},
    weights::{Adapter, AdapterConfig, AdapterTensors, Checkpoint, DType, KeyStyle, Naming, Stored, Weights, write_merged},
};
use mmlnb_trainer::generate::merge::{compare, merge};
use std::{collections::BTreeMap, fs, path::Path};
use tch::Tensor;

fn numbers(stored: &Stored<'_>) -> Tensor {
    let shape: Vec<i64> = stored.shape.iter().map(|size| *size as i64).collect();
    Tensor::from_slice(&stored.decode(0..stored.rows())).reshape(shape)
}

#[test]
fn golden_lora_merged_checkpoints() {
    let Some(dir) = family("lora") else { return };
    let cases = json(&dir.join("cases.json"));
    let Some(base) = family(text(&cases, "base")) else { return };
    let folder = tempfile::tempdir().unwrap();
    for case in list(&cases, "cases") {
        let name = text(case, "name");
        let (adapter, output) = (dir.join(text(case, "adapter")), folder.path().join(name));
        merge(&base, &adapter, &output, false, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = Tensors::read(dir.join(text(case, "tensors")));
        let changed: Vec<&str> = list(case, "changed_weights").iter().map(|key| key.as_str().unwrap()).collect();
        let (before, after) = (Checkpoint::open(&base, Naming::Qwen).unwrap(), Checkpoint::open(&output, Naming::Qwen).unwrap());
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for key in before.keys() {
            let [old, new] = [&before, &after].map(|checkpoint| checkpoint.tensor(key).unwrap());
            assert_eq!((old.dtype, &old.shape), (new.dtype, &new.shape), "{name}: {key}");
            assert_eq!(old.parts != new.parts, changed.contains(&key), "{name}: {key} changed");
        }
        for (key, tensor) in expected.below("merged") {
            close(&numbers(&after.tensor(key).unwrap()), tensor, tolerance(&cases, "merged_weights"), &format!("{name}: {key}"));
        }
        for file in ["config.json", "tokenizer.json", "generation_config.json", "preprocessor_config.json"] {
            assert_eq!(fs::read(base.join(file)).unwrap(), fs::read(output.join(file)).unwrap(), "{file}");
        }
        let difference = compare(&base, &adapter, &output, device()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(difference.largest <= tolerance(&cases, "logits"), "{name}: {difference:?}");
        assert!(merge(&base, &adapter, &output, false, None).unwrap_err().to_string().contains("is there already"));
    }
}

/// A copy of a folder's files.
fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

#[test]
fn golden_lora_merged_checkpoints_say_what_base_and_adapter_have_seen() {
    let (Some(dir), Some(hub)) = (family("lora"), family("qwen2_5_vl")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let [base, adapter, output] = ["base", "adapter", "merged"].map(|name| folder.path().join(name));
    copied(&hub, &base);
    copied(&dir.join("lora"), &adapter);
    let mut seen = TrainingData::new(new_salt().unwrap(), None);
    seen.add(Role::Trained, "aa", None);
    fs::write(base.join(TRAINING_DATA), seen.to_bytes()).unwrap();
    merge(&base, &adapter, &output, false, None).unwrap();
    let merged = TrainingData::read(&output).unwrap().unwrap();
    assert!(merged.seen("aa", None).is_some() && !merged.is_complete(), "the base's is known, the adapter's is not");
}

#[test]
fn golden_lora_merges_that_are_no_numbers_leave_nothing() {
    let (Some(dir), Some(base)) = (family("lora"), family("qwen2_5_vl")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (adapter, output) = (folder.path().join("adapter"), folder.path().join("new/merged"));
    copied(&dir.join("lora"), &adapter);
    for (alpha, says) in [(1e38, "adapter"), (1e300, ".weight")] {
        let mut config = json(&adapter.join("adapter_config.json"));
        config["lora_alpha"] = alpha.into();
        fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
        let error = merge(&base, &adapter, &output, false, Some(device())).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(says), "{alpha}: {error}");
        assert!(!folder.path().join("new").exists(), "{alpha}");
    }
}

/// An adapter of rank 2 beside the first layer's query projection.
fn small_adapter(base: &Checkpoint, folder: &Path) {
    let module = "model.layers.0.self_attn.q_proj".to_string();
    let shape = base.tensor(&format!("{module}.weight")).unwrap().shape;
    let (outputs, inputs, rank) = (shape[0], shape[1], 2);
    let config = serde_json::json!({ "peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": ["layers.0.self_attn.q_proj"], "task_type": "CAUSAL_LM" });
    let config = AdapterConfig::from_json(&config).unwrap();
    let values = |count: usize| (0..count).map(|n| (n as f32 * 0.37).sin() * 0.05).collect::<Vec<f32>>();
    let tensors = AdapterTensors { rank, inputs, outputs, a: values(rank * inputs), b: values(outputs * rank), magnitude: None };
    Adapter::write(folder, &config, KeyStyle::Later, &BTreeMap::from([(module, tensors)])).unwrap();
}

#[test]
fn golden_qwen2_5_vl_b_merged_shards_keep_their_files_and_types() {
    let Some(dir) = family("qwen2_5_vl_b") else { return };
    let folder = tempfile::tempdir().unwrap();
    for base in [dir.clone(), dir.join("new_style")] {
        let before = Checkpoint::open(&base, Naming::Qwen).unwrap();
        let (adapter, output) = (folder.path().join("adapter"), folder.path().join("merged"));
        small_adapter(&before, &adapter);
        merge(&base, &adapter, &output, false, None).unwrap_or_else(|error| panic!("{error}"));
        let weights = |folder: &Path| {
            let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.filter(|name| name.starts_with("model") && name.contains("safetensors")).collect();
            names.sort();
            names
        };
        assert_eq!(weights(&base), weights(&output));
        let after = Checkpoint::open(&output, Naming::Qwen).unwrap();
        let key = "model.layers.0.self_attn.q_proj.weight";
        let opened = Adapter::open(&adapter).unwrap();
        let adapted = opened.tensors("model.layers.0.self_attn.q_proj").unwrap();
        let product = Tensor::from_slice(&adapted.b)
            .reshape([adapted.outputs as i64, 2])
            .matmul(&Tensor::from_slice(&adapted.a).reshape([2, adapted.inputs as i64]))
            * opened.adaption("model.layers.0.self_attn.q_proj").unwrap().scale;
        let expected = (numbers(&before.tensor(key).unwrap()) + product).to_kind(tch::Kind::BFloat16);
        assert_eq!(after.tensor(key).unwrap().dtype, DType::BF16);
        // One rounding: at most the last bit where the sum in f32 lies on the border.
        close(&numbers(&after.tensor(key).unwrap()), &expected, 2e-3, key);
        let untouched = before.keys().filter(|other| *other != key);
        untouched.for_each(|key| assert!(before.tensor(key).unwrap().parts == after.tensor(key).unwrap().parts, "{key}"));
        let bytes: u64 = [base.clone(), output.clone()]
            .map(|folder| weights(&folder).iter().map(|name| fs::metadata(folder.join(name)).unwrap().len()).sum())
            .iter()
            .fold(0, |a: u64, b: &u64| a.abs_diff(*b));
        assert_eq!(bytes, 0, "the files' sizes");
        fs::remove_dir_all(&output).unwrap();
    }
}

#[test]
fn golden_lora_an_adapter_of_another_base_is_refused() {
    let (Some(dir), Some(other)) = (family("lora"), family("qwen2_5_vl_b")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&other, Naming::Qwen).unwrap();
    let adapter = Adapter::open(&dir.join("lora")).unwrap();
    let fits = |module: &String| {
        let held = adapter.tensors(module).unwrap();
        checkpoint.tensor(&format!("{module}.weight")).is_some_and(|weight| weight.shape == [held.outputs, held.inputs])
    };
    if adapter.modules().iter().all(fits) {
        return eprintln!("skipped: every module of the adapter fits the second base of this set");
    }
    assert!(write_merged(&checkpoint, &adapter, folder.path(), &mut |_, _| ()).is_err());
    assert!(Weights::with_adapter(&checkpoint, &adapter).is_err());
    let output = folder.path().join("merged");
    assert!(merge(&other, &dir.join("lora"), &output, false, None).unwrap_err().to_string().contains("does not fit the base"));
    assert!(!output.exists());
}
