//! The program: what it writes, what it refuses, with which exit code.

#[path = "../../models/tests/golden_files/mod.rs"]
mod golden_files;

use golden_files::{Tensors, family, json};
use mmlnb_exporter::{Network, Source};
use mmlnb_models::{
    provenance::{Role, TRAINING_DATA, TrainingData, new_salt},
    statistics::{Channels, FORMAT, Gathered, Statistics, linear_layers},
    weights::{Checkpoint, Naming},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mmlnb-export")).args(arguments).output().unwrap()
}

fn fails(arguments: &[&str], says: &[&str]) {
    ends_with(2, arguments, says);
}

fn ends_with(code: i32, arguments: &[&str], says: &[&str]) {
    let output = run(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "an error leaves standard output empty");
    says.iter().for_each(|part| assert!(error.contains(part), "`{part}` is not in: {error}"));
}

fn succeeds(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A copy of a family's files (without its subfolders) that may be damaged.
fn copy_of(folder: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(folder).unwrap() {
        let item = item.unwrap();
        if item.file_type().unwrap().is_file() {
            fs::copy(item.path(), to.join(item.file_name())).unwrap();
        }
    }
    to.to_path_buf()
}

/// Rewrites `model.safetensors` with other tensors.
fn change_tensors(dir: &Path, change: impl Fn(&mut Vec<(String, Vec<usize>, Vec<f32>)>)) {
    let file = dir.join("model.safetensors");
    let tensors = Tensors::read(file.clone());
    let mut all: Vec<(String, Vec<usize>, Vec<f32>)> = tensors
        .names()
        .into_iter()
        .map(|name| {
            let (shape, values) = tensors.f32(&name);
            (name, shape, values)
        })
        .collect();
    change(&mut all);
    let bytes: Vec<Vec<u8>> = all.iter().map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = all.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.as_str(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &file).unwrap();
}

fn hidden_files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

#[test]
fn golden_qwen2_5_vl_graph_is_deterministic_and_inspected() {
    let Some(folder) = family("qwen2_5_vl") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| temporary.path().join(name));
    for output in [&first, &second] {
        succeeds(&["graph", "--network", "decoder", "--checkpoint", path(&folder), "--output", path(output)]);
        assert_eq!(hidden_files(output), Vec::<String>::new());
    }
    for name in ["decoder.onnx", "decoder.onnx.data"] {
        assert!(fs::read(first.join(name)).unwrap() == fs::read(second.join(name)).unwrap(), "{name} differs");
    }
    let line = succeeds(&["inspect", "--json", path(&first.join("decoder.onnx"))]);
    let report: Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(line.lines().count(), 1);
    assert_eq!(report["metadata"]["precision"], "f32");
    assert_eq!(report["metadata"]["producer"], "mmlnb-export");
    let config = json(&folder.join("config.json"));
    assert_eq!(report["operators"]["com.microsoft.GroupQueryAttention"], config["num_hidden_layers"]);
    assert_eq!(report["files"].as_object().unwrap().len(), 2);
}

#[test]
fn golden_qwen2_5_vl_and_golden_curriculum_make_a_bundle() {
    let (Some(vlm), Some(curriculum)) = (family("qwen2_5_vl"), family("curriculum")) else { return };
    let temporary = tempfile::tempdir().unwrap();
    let output = temporary.path().join("bundle");
    let classifier = curriculum.join("checkpoint");
    let settings = temporary.path().join("settings.toml");
    fs::write(&settings, "prompt = \"What is seen?\"\nmax_new_tokens = 7\n").unwrap();
    let arguments = ["bundle", "--output", path(&output), "--vlm", path(&vlm), "--classifier", path(&classifier)];
    let with = ["--settings", path(&settings), "--image-size", "56x84"];
    let first = succeeds(&[arguments.as_slice(), &with].concat());
    assert_eq!(
        first,
        succeeds(&[arguments.as_slice(), &with].concat()),
        "a second bundle replaces the first and has the same hash"
    );
    assert_eq!(hidden_files(temporary.path()), Vec::<String>::new());
    let manifest = json(&output.join("manifest.json"));
    assert_eq!(manifest["describer"]["prompt"], "What is seen?");
    assert_eq!(manifest["describer"]["generation"]["max_new_tokens"], 7);
    assert_eq!(manifest["describer"]["image_size"], serde_json::json!([56, 84]));
    assert_eq!(manifest["classifier"]["classes"], json(&classifier.join("config.json"))["classes"]);
    let lines = succeeds(&["inspect", "--json", path(&output)]);
    assert_eq!(lines.lines().count(), 7, "the bundle and six graphs");
    let few = temporary.path().join("few");
    let arguments = ["bundle", "--output", path(&few), "--vlm", path(&vlm), "--classifier", path(&classifier)];
    succeeds(&[arguments.as_slice(), &["--precision", "int4+int8"]].concat());
    let lines = succeeds(&["inspect", "--json", path(&few)]);
    assert_eq!(lines.lines().count(), 8, "the bundle and seven graphs: prompts have one of their own");
    let operators = |name: &str| {
        let graph = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .find(|line| line["metadata"]["network"] == name);
        graph.unwrap_or_else(|| panic!("no graph {name} in {lines}"))["operators"].as_object().unwrap().clone()
    };
    assert!(operators("decoder").contains_key("com.microsoft.MatMulNBits"));
    assert!(operators("prompts").contains_key("com.microsoft.MatMulIntegerToFloat"));
    assert_eq!(json(&few.join("manifest.json"))["describer"]["decoder"]["cache_dtype"], "f32");
    let half = temporary.path().join("half");
    let arguments = ["bundle", "--output", path(&half), "--vlm", path(&vlm), "--classifier", path(&classifier)];
    succeeds(&[arguments.as_slice(), &["--precision", "bf16"]].concat());
    let manifest = json(&half.join("manifest.json"));
    assert_eq!((&manifest["precision"], &manifest["describer"]["decoder"]["cache_dtype"]), (&"bf16".into(), &"bf16".into()));
    let graph = output.join("classifier/prmf.onnx");
    let mut bytes = fs::read(&graph).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&graph, bytes).unwrap();
    ends_with(1, &["inspect", path(&output)], &["prmf.onnx", "SHA-256"]);
}

#[test]
fn golden_qwen2_5_vl_and_golden_curriculum_in_operators_of_the_standard() {
    let (Some(vlm), Some(curriculum), Some(swin)) = (family("qwen2_5_vl"), family("curriculum"), family("swin")) else { return };
    let temporary = tempfile::tempdir().unwrap();
    let output = temporary.path().join("bundle");
    let classifier = curriculum.join("checkpoint");
    let arguments = ["bundle", "--output", path(&output), "--vlm", path(&vlm), "--classifier", path(&classifier), "--portable"];
    fails(&[arguments.as_slice(), &["--precision", "int4+int8"]].concat(), &["--portable", "int4+int8", "--precision"]);
    assert!(!output.exists(), "nothing was begun");
    for precision in ["f32", "f16", "int8"] {
        succeeds(&[arguments.as_slice(), &["--precision", precision]].concat());
        let manifest = json(&output.join("manifest.json"));
        assert_eq!((&manifest["portable"], &manifest["precision"]), (&true.into(), &precision.into()));
        assert!(fs::read_to_string(output.join("MODEL_CARD.md")).unwrap().contains("- portable: "));
        let lines = succeeds(&["inspect", "--json", path(&output)]);
        let graphs: Vec<Value> = lines.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(graphs.len(), 6);
        graphs.iter().for_each(|graph| assert_eq!(foreign(graph), Vec::<&String>::new(), "{}", graph["path"]));
    }
    let decoder = |arguments: &[&str], name: &str| {
        let output = temporary.path().join(name);
        let whole = ["graph", "--network", "decoder", "--checkpoint", path(&vlm), "--output", path(&output)];
        succeeds(&[whole.as_slice(), arguments].concat());
        serde_json::from_str::<Value>(&succeeds(&["inspect", "--json", path(&output.join("decoder.onnx"))])).unwrap()
    };
    let (usual, portable) = (decoder(&[], "usual"), decoder(&["--portable"], "portable"));
    assert!(!foreign(&usual).is_empty() && foreign(&portable).is_empty());
    for key in ["inputs", "outputs", "parameters"] {
        assert_eq!(usual[key], portable[key], "{key}");
    }
    let graph = ["graph", "--network", "swin", "--checkpoint", path(&swin), "--output", path(temporary.path()), "--portable"];
    fails(&[graph.as_slice(), &["--precision", "int4"]].concat(), &["--portable", "int4", "--precision"]);
    succeeds(&graph);
}

#[test]
fn golden_qwen2_5_vl_and_golden_lora_for_onnxruntime_genai() {
    let (Some(vlm), Some(lora), Some(curriculum)) = (family("qwen2_5_vl"), family("lora"), family("curriculum")) else { return };
    let temporary = tempfile::tempdir().unwrap();
    let output = temporary.path().join("genai");
    let arguments = ["genai", "--vlm", path(&vlm), "--image-size", "84x56", "--output", path(&output)];
    succeeds(&arguments);
    let files = || -> Vec<(String, Vec<u8>)> {
        let items = fs::read_dir(&output).unwrap().map(|item| item.unwrap());
        let mut files: Vec<_> =
            items.map(|item| (item.file_name().into_string().unwrap(), fs::read(item.path()).unwrap())).collect();
        files.sort();
        files
    };
    let first = files();
    let names: Vec<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
    let settings = ["genai_config.json", "processor_config.json", "prompt.txt", "tokenizer.json", "tokenizer_config.json"];
    let graphs = ["vision.onnx", "embedding.onnx", "decoder.onnx"];
    settings.iter().chain(&graphs).for_each(|name| assert!(names.contains(name), "{name} is not in {names:?}"));
    let (checkpoint, written) = (json(&vlm.join("config.json")), json(&output.join("genai_config.json")));
    assert_eq!(written["model"]["decoder"]["num_hidden_layers"], checkpoint["num_hidden_layers"]);
    assert_eq!(written["model"]["vocab_size"], checkpoint["vocab_size"]);
    assert_eq!(written["model"]["image_token_id"], checkpoint["image_token_id"]);
    assert_eq!(written["model"]["eos_token_id"], json(&vlm.join("generation_config.json"))["eos_token_id"]);
    assert_eq!(written["search"]["repetition_penalty"], json(&vlm.join("generation_config.json"))["repetition_penalty"]);
    assert_eq!(
        (&written["search"]["do_sample"], &written["search"]["past_present_share_buffer"]),
        (&false.into(), &false.into())
    );
    let resize = &json(&output.join("processor_config.json"))["processor"]["transforms"][2]["operation"]["attrs"];
    assert_eq!((&resize["width"], &resize["height"], &resize["smart_resize"]), (&84.into(), &56.into(), &0.into()));
    let prompt = fs::read_to_string(output.join("prompt.txt")).unwrap();
    assert!(prompt.contains("<|vision_start|><|image_pad|><|vision_end|>"), "{prompt}");
    let vision: Value = serde_json::from_str(&succeeds(&["inspect", "--json", path(&output.join("vision.onnx"))])).unwrap();
    assert_eq!(vision["inputs"][0]["shape"], serde_json::json!(["24", "1176"]), "4 rows of 6 patches");

    succeeds(&arguments);
    assert!(files() == first, "the second folder replaces the first and is the same");
    succeeds(&[arguments.as_slice(), &["--precision", "int4", "--adapter", path(&lora.join("lora"))]].concat());
    assert!(files() != first);
    let decoder: Value = serde_json::from_str(&succeeds(&["inspect", "--json", path(&output.join("decoder.onnx"))])).unwrap();
    assert!(decoder["operators"]["com.microsoft.MatMulNBits"].is_u64() && decoder["metadata"]["adapter_sha256"].is_string());
    assert_eq!(hidden_files(temporary.path()), Vec::<String>::new());

    let before = files();
    fails(
        &[["genai", "--vlm", path(&curriculum.join("checkpoint"))].as_slice(), &arguments[3..]].concat(),
        &["--vlm", "Qwen2.5-VL"],
    );
    assert!(files() == before, "what failed changed nothing");
    let mine = temporary.path().join("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("notes.txt"), "mine").unwrap();
    let other = copy_of(&vlm, &temporary.path().join("other"));
    fs::write(other.join("chat_template.json"), "{\"chat_template\": \"{{ messages[0].content }}\"}").unwrap();
    let wrong = ["genai", "--vlm", path(&other), "--image-size", "84x56", "--output", path(&mine)];
    fails(&wrong, &["not empty", "chat_template.json"]);
    assert_eq!(fs::read_dir(&mine).unwrap().count(), 1);
    fails(&[&arguments[..3], &["--image-size", "30x28"], &arguments[5..]].concat(), &["multiples of 28"]);
    fails(&[&arguments[..3], &arguments[5..]].concat(), &["--image-size"]);
    fails(&[arguments.as_slice(), &["--precision", "f16"]].concat(), &["f16", "possible values: f32, int8, int4]"]);
    let mut generation = json(&vlm.join("generation_config.json"));
    for name in ["pad_token_id", "bos_token_id"] {
        assert_eq!(written["model"][name], generation[name]);
    }
    let padded = copy_of(&vlm, &temporary.path().join("padded"));
    generation["pad_token_id"] = checkpoint["vision_start_token_id"].clone();
    fs::write(padded.join("generation_config.json"), generation.to_string()).unwrap();
    let unread = temporary.path().join("unread");
    fails(
        &[["genai", "--vlm", path(&padded)].as_slice(), &arguments[3..5], &["--output", path(&unread)]].concat(),
        &["pad token"],
    );
    assert!(!unread.exists());
}

/// Operators of a graph that the standard does not have.
fn foreign(graph: &Value) -> Vec<&String> {
    graph["operators"].as_object().unwrap().keys().filter(|name| name.contains('.')).collect()
}

#[test]
fn golden_lora_and_golden_curriculum_carry_what_training_left_beside_them() {
    let (Some(lora), Some(curriculum), Some(vlm)) = (family("lora"), family("curriculum"), family("qwen2_5_vl")) else { return };
    let temporary = tempfile::tempdir().unwrap();
    let adapter = copy_of(&lora.join("lora"), &temporary.path().join("adapter"));
    let classifier = copy_of(&curriculum.join("checkpoint"), &temporary.path().join("classifier"));
    let mut config = json(&classifier.join("config.json"));
    config["calibration"] = serde_json::json!({"temperature": 1.5, "threshold": 0.7,
        "novelty": {"threshold": 0.3, "false_alarm": 0.05, "neighbours": 10}});
    fs::write(classifier.join("config.json"), config.to_string()).unwrap();
    let output = temporary.path().join("bundle");
    let arguments = [
        "bundle",
        "--output",
        path(&output),
        "--vlm",
        path(&vlm),
        "--adapter",
        path(&adapter),
        "--classifier",
        path(&classifier),
    ];
    fails(&arguments, &["novelty.safetensors"]);
    fs::write(classifier.join("novelty.safetensors"), b"features").unwrap();
    let record = serde_json::json!({"image_size": [56, 84], "prompt": "What is it?", "data_sha256": "d1"});
    fs::write(adapter.join("describer.json"), record.to_string()).unwrap();
    let estimate = serde_json::json!({"value": 0.8125, "interval": {"low": 0.75, "high": 0.875, "redraws": 0}});
    config["data_sha256"] = "d2".into();
    config["measures"] = serde_json::json!({"part": "test", "estimates": {"unit": "patients", "units": 12, "draws": 2000, "seed": 1,
        "no_interval": null, "warning": null, "measures": {"accuracy": estimate}}});
    fs::write(classifier.join("config.json"), config.to_string()).unwrap();
    let tokens = serde_json::json!({"token_ids": [5], "logits": [2.0], "tolerance": 0.002});
    let probabilities = serde_json::json!({"description": "x", "probabilities": [0.5, 0.25, 0.25], "tolerance": 0.001});
    for (folder, half, answer) in [(&adapter, "describer", tokens), (&classifier, "classifier", probabilities)] {
        fs::create_dir(folder.join("known_answers")).unwrap();
        fs::write(folder.join("known_answers/a.png"), b"image").unwrap();
        let answers = serde_json::json!([{"image": "a.png", half: answer}]);
        fs::write(folder.join("known_answers/answers.json"), answers.to_string()).unwrap();
    }
    succeeds(&arguments);
    let manifest = json(&output.join("manifest.json"));
    assert_eq!(manifest["provenance"]["data"], serde_json::json!(["d1", "d2"]));
    assert_eq!(manifest["describer"]["image_size"], serde_json::json!([56, 84]), "the size that the adapter was trained at");
    assert_eq!(manifest["classifier"]["calibration"], config["calibration"]);
    assert_eq!(manifest["known_answers"][0]["image"], "known_answers/describer-a.png");
    assert_eq!(manifest["known_answers"][1]["classifier"]["description"], "x");
    for file in ["classifier/novelty.safetensors", "known_answers/describer-a.png", "known_answers/classifier-a.png"] {
        assert!(manifest["files"][file]["sha256"].is_string() && output.join(file).is_file(), "{file}");
    }
    let card = fs::read_to_string(output.join("MODEL_CARD.md")).unwrap();
    assert_eq!(manifest["describer"]["prompt"], "What is it?");
    for part in ["accepted from probability 0.7 on", "SHA-256 d2", "| accuracy | 0.8125 | 0.7500 to 0.8750 |"] {
        assert!(card.contains(part), "{part} is not in {card}");
    }
}

#[test]
fn golden_lora_records_of_base_and_adapter_both_reach_the_bundle_and_damaged_ones_do_not() {
    let (Some(lora), Some(vlm)) = (family("lora"), family("qwen2_5_vl")) else { return };
    let temporary = tempfile::tempdir().unwrap();
    let adapter = copy_of(&lora.join("lora"), &temporary.path().join("adapter"));
    let base = copy_of(&vlm, &temporary.path().join("base"));
    let record = |folder: &Path, image: &str| {
        let mut seen = TrainingData::new(new_salt().unwrap(), None);
        seen.add(Role::Trained, image, None);
        fs::write(folder.join(TRAINING_DATA), seen.to_bytes()).unwrap();
    };
    let output = temporary.path().join("bundle");
    let arguments = ["bundle", "--output", path(&output), "--vlm", path(&base), "--adapter", path(&adapter)];
    let told = |image: &str| {
        let held = TrainingData::read(&output.join("describer")).unwrap();
        held.map(|held| (held.seen(image, None).is_some(), held.is_complete()))
    };
    succeeds(&arguments);
    assert_eq!(told("aa"), None, "nobody says");
    record(&base, "aa");
    succeeds(&arguments);
    assert_eq!(told("aa"), Some((true, false)), "the base's is known, the adapter's is not");
    record(&adapter, "bb");
    succeeds(&arguments);
    assert_eq!((told("aa"), told("bb")), (Some((true, true)), Some((true, true))));
    for damaged in [&base, &adapter] {
        let before = fs::read(damaged.join(TRAINING_DATA)).unwrap();
        fs::write(damaged.join(TRAINING_DATA), "{\"images\": 3}").unwrap();
        fails(&arguments, &[path(damaged), TRAINING_DATA, "train again"]);
        fs::write(damaged.join(TRAINING_DATA), before).unwrap();
    }
}

#[test]
fn golden_curriculum_classifiers_that_say_what_cannot_be_are_refused() {
    let Some(curriculum) = family("curriculum") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let classifier = copy_of(&curriculum.join("checkpoint"), &temporary.path().join("classifier"));
    let whole = json(&classifier.join("config.json"));
    let output = temporary.path().join("bundle");
    let arguments = ["bundle", "--output", path(&output), "--classifier", path(&classifier)];
    let changed = |key: &str, value: Value| {
        let mut config = whole.clone();
        config[key] = value;
        fs::write(classifier.join("config.json"), config.to_string()).unwrap();
    };
    for (classes, says) in [
        (["A", "a", "C"], "`A` and `a`"),
        (["A", "A\u{a0}", "C"], "two spellings"),
        (["A", "A", "C"], "A"),
        (["A", "\u{200b}", "C"], "empty"),
        (["A", "B\u{202e}", "C"], "\\u{202e}"),
        (["A", "B\n", "C"], "\\u{a}"),
    ] {
        changed("classes", serde_json::json!(classes));
        fails(&arguments, &["config.json", "classes", says]);
    }
    changed(
        "calibration",
        serde_json::json!({"temperature": 1.0, "threshold": 0.5, "guarantee":
        {"risk": 7.0, "confidence": -3.0, "items": 1, "groups": null, "effective_items": 1.0, "errors": 0}}),
    );
    fails(&arguments, &["config.json", "guarantee.risk", "train again"]);
    fs::write(classifier.join("config.json"), whole.to_string()).unwrap();
    fs::write(classifier.join(TRAINING_DATA), "{").unwrap();
    fails(&arguments, &[TRAINING_DATA, "train again"]);
    assert!(!output.exists());
    fs::remove_file(classifier.join(TRAINING_DATA)).unwrap();
    succeeds(&arguments);
    assert_eq!(json(&output.join("manifest.json"))["classifier"]["classes"], whole["classes"]);
}

#[test]
fn golden_vgg16_checkpoint_that_does_not_fit_lists_all() {
    let Some(folder) = family("vgg16") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let copy = copy_of(&folder, &temporary.path().join("vgg16"));
    change_tensors(&copy, |tensors| {
        tensors.retain(|(name, ..)| name != "features.0.bias");
        tensors.iter_mut().filter(|(name, ..)| name == "features.2.bias").for_each(|(_, shape, values)| {
            shape[0] += 1;
            values.push(0.0);
        });
        tensors.push(("features.99.weight".into(), vec![1], vec![0.0]));
    });
    let output = temporary.path().join("output");
    fails(
        &["graph", "--network", "vgg16", "--checkpoint", path(&copy), "--output", path(&output)],
        &["missing", "features.0.bias", "surplus", "features.99.weight", "features.2.bias", "found", "expected"],
    );
    assert!(!output.exists(), "nothing was begun");
}

#[test]
fn golden_vgg16_graph_of_another_program_is_not_overwritten() {
    let Some(folder) = family("vgg16") else { return };
    let temporary = tempfile::tempdir().unwrap();
    fs::write(temporary.path().join("vgg16.onnx"), "mine").unwrap();
    let arguments = ["graph", "--network", "vgg16", "--checkpoint", path(&folder), "--output", path(temporary.path())];
    fails(&arguments, &["vgg16.onnx", "was not written by mmlnb-export"]);
    assert_eq!(fs::read(temporary.path().join("vgg16.onnx")).unwrap(), b"mine");
}

#[test]
fn golden_vgg16_weight_that_f16_cannot_hold() {
    let Some(folder) = family("vgg16") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let copy = copy_of(&folder, &temporary.path().join("vgg16"));
    change_tensors(&copy, |tensors| {
        tensors.iter_mut().filter(|(name, ..)| name == "features.0.weight").for_each(|(_, _, values)| values[0] = 1e6);
    });
    let output = temporary.path().join("output");
    let arguments = ["graph", "--network", "vgg16", "--checkpoint", path(&copy), "--output", path(&output), "--precision", "f16"];
    fails(&arguments, &["features.0.weight", "1000000", "--precision f32"]);
    assert!(!output.exists(), "no half of a graph stays, nor the folder that was made for it");
}

#[test]
fn golden_qwen2_5_vl_of_another_chat_template() {
    let Some(folder) = family("qwen2_5_vl") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let copy = copy_of(&folder, &temporary.path().join("vlm"));
    fs::write(copy.join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let output = temporary.path().join("bundle");
    fails(&["bundle", "--output", path(&output), "--vlm", path(&copy)], &["chat_template.jinja", "differ"]);
    assert!(!output.exists());
}

#[test]
fn golden_lora_whose_modules_the_base_lacks() {
    let (Some(lora), Some(base)) = (family("lora"), family("qwen2_5_vl_b")) else { return };
    let temporary = tempfile::tempdir().unwrap();
    let (adapter, output) = (lora.join("lora"), temporary.path().join("output"));
    let unfit = modules_that_do_not_fit(&adapter, &base);
    let arguments = ["graph", "--network", "decoder", "--checkpoint", path(&base), "--output", path(&output)];
    let arguments = [arguments.as_slice(), &["--adapter", path(&adapter)]].concat();
    if unfit.is_empty() {
        // The two bases of this set are alike, or the second has more layers: then modules of it are missing, or all fits.
        assert!([Some(0), Some(2)].contains(&run(&arguments).status.code()));
        return eprintln!("skipped: every module of the adapter fits the second base of this set");
    }
    fails(&arguments, &["does not fit"]);
    fails(&arguments, &unfit.iter().map(String::as_str).collect::<Vec<_>>());
}

/// `MODULE: ` of every module of an adapter that a base has not, or in other sizes, by the two files' own names and shapes.
fn modules_that_do_not_fit(adapter: &Path, base: &Path) -> Vec<String> {
    let held = Tensors::read(adapter.join("adapter_model.safetensors"));
    let base = Checkpoint::open(base, Naming::Qwen).unwrap();
    let shape = |name: &str| held.f32(name).0;
    let b_of =
        held.names().into_iter().filter_map(|name| name.strip_suffix(".lora_B.weight").map(str::to_owned)).collect::<Vec<_>>();
    let unfit = b_of.into_iter().filter_map(|module| {
        let size = [shape(&format!("{module}.lora_B.weight"))[0], shape(&format!("{module}.lora_A.weight"))[1]];
        let own = module.strip_prefix("base_model.model.").unwrap();
        let hub = own.replacen("model.language_model.", "model.", 1).replacen("model.visual.", "visual.", 1);
        let fits = base.tensor(&format!("{hub}.weight")).is_some_and(|weight| weight.shape == size);
        (!fits).then(|| format!("{hub}: "))
    });
    unfit.collect()
}

#[test]
fn what_was_asked_for_wrongly_is_listed_at_once() {
    let temporary = tempfile::tempdir().unwrap();
    fs::write(temporary.path().join("notes.txt"), "mine").unwrap();
    let output = path(temporary.path());
    fails(
        &["bundle", "--output", output, "--adapter", "x", "--image-size", "56x56"],
        &["--vlm", "--adapter", "--image-size", "not empty"],
    );
    fails(
        &["graph", "--network", "vision", "--checkpoint", "x", "--output", output, "--image-size", "30x28"],
        &["multiples of 28"],
    );
    fails(&["graph", "--network", "vision", "--checkpoint", "x", "--output", output, "--precision", "fp8"], &["fp8"]);
    fails(
        &["graph", "--network", "decoder", "--checkpoint", "x", "--output", output, "--precision", "int4+int8"],
        &["int4+int8", "possible values: f32, f16, bf16, int8, int4]"],
    );
    fails(&["graph", "--network", "vision", "--checkpoint", "no/such/folder", "--output", output], &["no/such/folder"]);
    fails(&["inspect", path(&temporary.path().join("notes.txt"))], &["notes.txt", "not an ONNX graph"]);
    let help = succeeds(&["graph", "--help"]);
    assert!(help.contains("f16") && help.contains("int4") && !help.contains("int4+int8") && help.contains("bf16"), "{help}");
    assert!(succeeds(&["bundle", "--help"]).contains("int4+int8"));
}

/// Made-up statistics of a describer's layers, changed.
fn statistics(source: &Source, to: &Path, change: impl FnOnce(&mut BTreeMap<String, Channels>, &mut Gathered)) {
    let mut layers = BTreeMap::new();
    for graph in [Network::Vision, Network::Decoder].map(|network| source.graph(network).unwrap()) {
        for (module, _, width) in linear_layers(&graph) {
            let largest: Vec<f32> = (0..width).map(|channel| if channel % 9 == 4 { 100.0 } else { 1.0 }).collect();
            let mean_square = largest.iter().map(|value| value * value / 9.0).collect();
            layers.insert(module.to_string(), Channels { largest, mean_square });
        }
    }
    let mut gathered = Gathered {
        format: FORMAT,
        producer: "test".into(),
        checkpoint_sha256: source.checkpoint().sha256().unwrap().into(),
        adapter_sha256: source.adapter().map(|adapter| adapter.sha256().unwrap().to_string()),
        data_sha256: "d".into(),
        rows: 1,
        written: 0,
        tokens: 1,
        statistics_sha256: String::new(),
    };
    change(&mut layers, &mut gathered);
    fs::create_dir_all(to).unwrap();
    Statistics::write(&layers, gathered, to).unwrap();
}

#[test]
fn golden_qwen2_5_vl_and_golden_lora_calibrations_are_used_and_those_of_others_refused() {
    let (Some(vlm), Some(lora)) = (family("qwen2_5_vl"), family("lora")) else { return };
    let temporary = tempfile::tempdir().unwrap();
    let source = Source::open(&vlm, None).unwrap();
    let at = |name: &str| temporary.path().join(name);
    statistics(&source, &at("good"), |_, _| ());
    let output = at("out");
    let graph = |network: &str, precision: &str, folder: &Path, more: &[&str]| -> Vec<String> {
        let arguments = ["graph", "--network", network, "--checkpoint", path(&vlm), "--output", path(&output)];
        let with = ["--precision", precision, "--calibration", path(folder)];
        arguments.iter().chain(&with).chain(more).map(ToString::to_string).collect()
    };
    let refused = |arguments: Vec<String>, says: &[&str]| {
        fails(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), says);
        assert!(!output.exists(), "nothing is written");
    };
    for precision in ["f32", "f16"] {
        refused(graph("decoder", precision, &at("good"), &[]), &["--calibration is for weights in few bits", precision]);
    }
    refused(graph("embedding", "int8", &at("good"), &[]), &["vision and decoder"]);
    refused(graph("decoder", "int8", &vlm, &[]), &["calibration.json", "mmlnb-train calibrate"]);
    statistics(&source, &at("other"), |_, gathered| gathered.checkpoint_sha256 = "0123".into());
    refused(graph("decoder", "int8", &at("other"), &[]), &["of a checkpoint of SHA-256 0123"]);
    let adapter = lora.join("lora");
    refused(
        graph("decoder", "int8", &at("good"), &["--adapter", path(&adapter)]),
        &["no adapter, here is an adapter of SHA-256"],
    );
    statistics(&source, &at("layers"), |layers, _| {
        layers.remove("model.layers.0.mlp.down_proj").unwrap();
        layers.insert("model.layers.77.mlp.down_proj".into(), Channels { largest: vec![1.0], mean_square: vec![1.0] });
        layers.get_mut("visual.blocks.0.attn.qkv").unwrap().largest.push(1.0);
        layers.get_mut("visual.blocks.0.attn.qkv").unwrap().mean_square.push(1.0);
    });
    let problems =
        ["missing: model.layers.0.mlp.down_proj", "surplus: model.layers.77.mlp.down_proj", "visual.blocks.0.attn.qkv: "];
    refused(graph("vision", "int8", &at("layers"), &[]), &problems);
    let classifier =
        ["bundle", "--output", path(&output), "--classifier", path(&vlm), "--calibration", path(&at("good"))].map(str::to_string);
    refused(classifier.to_vec(), &["--calibration is for the describer"]);

    let arguments = ["bundle", "--output", path(&output), "--vlm", path(&vlm)];
    succeeds(&[arguments.as_slice(), &["--precision", "int4+int8"]].concat());
    let codes = |name: &str| fs::read(output.join(name)).unwrap();
    let plain = ["describer/decoder.onnx", "describer/prompts.onnx", "describer/vision.onnx"].map(codes);
    let good = at("good");
    let calibrated = ["--precision", "int4+int8", "--calibration", path(&good)];
    let written = run(&[arguments.as_slice(), &calibrated].concat());
    let [first, said] = [written.stdout, written.stderr].map(|text| String::from_utf8(text).unwrap());
    for name in ["vision", "decoder", "prompts"] {
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with(&format!("{name}: "))).collect();
        let [deciding, writing] = ["deciding", "writing"].map(|what| lines.iter().position(|line| line.contains(what)));
        assert!(deciding.is_some() && deciding < writing, "{said}");
    }
    assert_eq!(first, succeeds(&[arguments.as_slice(), &calibrated].concat()), "the same bundle each time");
    let manifest = json(&output.join("manifest.json"));
    let (_, sha256) = mmlnb_models::hash::sha256_file(&at("good").join("calibration.json")).unwrap();
    assert_eq!(manifest["provenance"]["calibration"], serde_json::json!({"name": "good", "sha256": sha256}));
    assert!(
        fs::read_to_string(output.join("MODEL_CARD.md")).unwrap().contains(&format!("- calibration: good, SHA-256 {sha256}"))
    );
    let new = ["describer/decoder.onnx", "describer/prompts.onnx", "describer/vision.onnx"].map(codes);
    assert!(plain.iter().zip(&new).all(|(plain, new)| plain != new), "statistics change every network");
    let told: Value = serde_json::from_str(succeeds(&["inspect", "--json", path(&output)]).lines().next().unwrap()).unwrap();
    assert_eq!(told["manifest"]["provenance"]["calibration"]["sha256"], sha256.as_str());
}

/// What 4 bits are too coarse for has 8, and everybody is told.
#[test]
fn golden_qwen2_5_vl_tells_which_matrices_keep_8_bits() {
    let Some(vlm) = family("qwen2_5_vl") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let changed = copy_of(&vlm, &temporary.path().join("vlm"));
    change_tensors(&changed, |tensors| {
        let one = tensors.iter_mut().find(|(name, ..)| name.ends_with("layers.0.self_attn.o_proj.weight")).unwrap();
        one.2.iter_mut().step_by(64).for_each(|value| *value *= 10.0);
    });
    let output = temporary.path().join("bundle");
    succeeds(&["bundle", "--output", path(&output), "--vlm", path(&changed), "--precision", "int4"]);
    let card = fs::read_to_string(output.join("MODEL_CARD.md")).unwrap();
    let name = "model.layers.0.self_attn.o_proj.weight";
    assert!(card.contains("- in 8 bits, by the error of their outputs:") && card.contains(&format!("  - {name} (")), "{card}");
    let told = succeeds(&["inspect", path(&output.join("describer/decoder.onnx"))]);
    assert!(told.contains(&format!("eight_bits {name} (")), "{told}");
}
