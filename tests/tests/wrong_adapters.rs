//! Adapters and bases with a fault, through every command that reads them: refused with the tensor's or the module's name, exit 2, and nothing is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mmlnb_tests::{
    Ran, StoredTensor, binary, bundle, command, copy_folder, edit_checkpoint, edit_tensors, golden, phantoms, run,
};
use tempfile::TempDir;

/// A base and an adapter that may be spoilt, and where outputs go.
struct Bench {
    root: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { root: tempfile::tempdir().expect("a temporary folder can be made") };
        copy_folder(&golden("qwen2_5_vl"), &bench.base());
        copy_folder(&golden("lora/lora"), &bench.adapter());
        bench
    }

    fn base(&self) -> PathBuf {
        self.root.path().join("base")
    }

    fn adapter(&self) -> PathBuf {
        self.root.path().join("adapter")
    }

    fn output(&self) -> PathBuf {
        self.root.path().join("made/for/output")
    }

    fn edit_adapter(&self, edit: impl FnOnce(&mut Vec<StoredTensor>)) {
        edit_tensors(&self.adapter().join("adapter_model.safetensors"), edit);
    }

    fn export(&self, what: &[&str], from: &str, adapter: bool) -> Command {
        let mut command = command(&binary("mmlnb-export"));
        command.args(what).arg(from).arg(self.base()).arg("--output").arg(self.output());
        if adapter {
            command.arg("--adapter").arg(self.adapter());
        }
        command
    }

    fn decoder(&self, adapter: bool) -> Command {
        self.export(&["graph", "--network", "decoder"], "--checkpoint", adapter)
    }

    fn bundle(&self, adapter: bool) -> Command {
        self.export(&["bundle"], "--vlm", adapter)
    }

    fn merge(&self) -> Command {
        let mut command = command(&binary("mmlnb-train"));
        command.args(["merge", "--no-check", "--base"]).arg(self.base()).arg("--adapter").arg(self.adapter());
        command.arg("--output").arg(self.output());
        command
    }

    fn generate(&self, adapter: bool) -> Command {
        let data = phantoms();
        let table = fs::read_to_string(data.join("data.csv")).expect("phantoms have a table");
        let first: String = table.lines().take(2).map(|line| format!("{line}\n")).collect();
        fs::write(self.root.path().join("data.csv"), first).expect("the folder is writable");
        let settings = self.root.path().join("settings.toml");
        fs::write(&settings, "max_new_tokens = 2\n").expect("the folder is writable");
        let mut command = command(&binary("mmlnb-train"));
        command.args(["generate", "--image-size", "56x56", "--data"]).arg(self.root.path().join("data.csv"));
        command.arg("--images").arg(data.join("images")).arg("--base").arg(self.base()).arg("--settings").arg(settings);
        if adapter {
            command.arg("--adapter").arg(self.adapter());
        }
        command.arg("--output").arg(self.root.path().join("described.csv")).env("OMP_NUM_THREADS", "1");
        command
    }

    fn describe(&self) -> Command {
        let data = phantoms();
        let mut command = command(&binary("mmlnb-train"));
        command.arg("describe").arg("--data").arg(data.join("data.csv")).arg("--images").arg(data.join("images"));
        command.arg("--base").arg(self.base()).arg("--output").arg(self.output()).args(["--device", "cpu"]);
        command
    }

    /// Every command that reads the base, with the adapter where there is one.
    fn commands(&self) -> Vec<Command> {
        vec![self.decoder(true), self.bundle(true), self.merge(), self.generate(true)]
    }

    #[track_caller]
    fn refuses(&self, command: &mut Command, words: &[&str]) {
        let before = self.listing();
        let Ran { err, .. } = run(command).expect(2);
        words.iter().for_each(|word| assert!(err.contains(word), "`{word}` is missing in:\n{err}"));
        assert_eq!(self.listing(), before, "nothing is left behind by {command:?}");
    }

    fn listing(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.path()).expect("it is there");
        let mut listing: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
        listing.sort();
        listing
    }
}

fn is_of(layer: &str) -> impl Fn(&StoredTensor) -> bool {
    move |tensor| tensor.name.contains(&format!("layers.{layer}."))
}

#[test]
fn an_adapter_without_modules_that_it_names_is_refused_unless_allowed() {
    let bench = Bench::new();
    bench.edit_adapter(|tensors| tensors.retain(is_of("0")));
    let absent = "model.layers.1.mlp.down_proj";
    for mut command in bench.commands() {
        bench.refuses(&mut command, &[absent, "adapter_config.json names", "--allow-partial"]);
    }
    for mut command in bench.commands() {
        let ran = run(command.arg("--allow-partial")).expect(0);
        assert!(ran.err.contains("warning: the adapter") && ran.err.contains(absent), "{}", ran.err);
        if bench.output().exists() {
            fs::remove_dir_all(bench.output()).expect("an output can be removed");
        }
    }
    let ran = run(bench.decoder(false).arg("--allow-partial")).expect(2);
    assert!(ran.err.contains("--adapter"), "{}", ran.err);
}

fn spoil(tensors: &mut [StoredTensor], name: &str, value: f32) {
    let tensor = tensors.iter_mut().find(|tensor| tensor.name.ends_with(name)).unwrap_or_else(|| panic!("{name} is there"));
    let at = tensor.bytes.len() / 8 * 4;
    tensor.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn numbers_that_are_none_are_refused_by_every_command_with_the_tensors_name() {
    for value in [f32::NAN, f32::NEG_INFINITY] {
        let bench = Bench::new();
        let tensor = "layers.1.mlp.up_proj.lora_B.weight";
        bench.edit_adapter(|tensors| spoil(tensors, tensor, value));
        bench.commands().iter_mut().for_each(|command| bench.refuses(command, &[tensor, "give an earlier"]));

        for name in ["model.layers.1.mlp.up_proj.weight", "model.layers.1.self_attn.k_proj.bias", "model.norm.weight"] {
            let bench = Bench::new();
            edit_checkpoint(&bench.base(), |tensors| spoil(tensors, name, value));
            for mut command in bench.commands() {
                bench.refuses(&mut command, &[name, "give an earlier"]);
            }
            for mut command in [bench.decoder(false), bench.bundle(false), bench.generate(false), bench.describe()] {
                bench.refuses(&mut command, &[name, "give an earlier"]);
            }
        }
    }
}

#[test]
fn numbers_beyond_f16_are_refused_in_f16_alone() {
    let bench = Bench::new();
    let name = "model.layers.1.self_attn.k_proj.weight";
    edit_checkpoint(&bench.base(), |tensors| spoil(tensors, name, 70_000.0));
    for mut command in [bench.decoder(false), bench.bundle(false)] {
        bench.refuses(command.args(["--precision", "f16"]), &[name, "70000", "--precision f32"]);
    }
    run(&mut bench.decoder(false)).expect(0);
}

#[test]
fn a_tokenizer_beyond_the_embedding_is_refused_at_the_start() {
    let bench = Bench::new();
    let file = bench.base().join("tokenizer.json");
    let mut tokenizer: serde_json::Value = read_json(&file);
    let rows = read_json(&bench.base().join("config.json"))["vocab_size"].as_i64().expect("a number");
    let list = tokenizer["added_tokens"].as_array_mut().expect("a list");
    let next = list.iter().filter_map(|token| token["id"].as_i64()).max().expect("tokens were added") + 1;
    for id in next..=rows {
        list.push(serde_json::json!({"id": id, "content": format!("<|finding_{id}|>"), "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}));
    }
    fs::write(&file, tokenizer.to_string()).expect("the copy is writable");
    let (last, rows) = (format!("id {rows} (`<|finding_{rows}|>`)"), format!("{rows} rows"));
    for mut command in [bench.bundle(false), bench.generate(false), bench.describe(), bench.merge()] {
        bench.refuses(&mut command, &[&last, &rows, "give the tokenizer"]);
    }
}

#[test]
fn a_tokenizer_of_bert_beyond_its_embedding_is_refused_at_the_start() {
    let root = tempfile::tempdir().expect("a temporary folder can be made");
    let checkpoint = root.path().join("checkpoint");
    copy_folder(&golden("curriculum/checkpoint"), &checkpoint);
    let file = checkpoint.join("tokenizer.json");
    let mut tokenizer: serde_json::Value = read_json(&file);
    let rows = read_json(&checkpoint.join("config.json"))["text_encoder"]["vocab_size"].as_i64().expect("a number");
    let words = tokenizer["model"]["vocab"].as_object_mut().expect("words");
    words.insert("ganglioneuroblastoma".into(), rows.into());
    fs::write(&file, tokenizer.to_string()).expect("the copy is writable");
    let output = root.path().join("output");
    let mut export = command(&binary("mmlnb-export"));
    export.args(["bundle", "--classifier"]).arg(&checkpoint).arg("--output").arg(&output);
    let data = phantoms();
    let settings = root.path().join("settings.toml");
    fs::write(&settings, format!("start = {:?}\nepochs = 1\n", checkpoint.display().to_string())).expect("it is writable");
    let mut classify = command(&binary("mmlnb-train"));
    classify.arg("classify").arg("--data").arg(data.join("data.csv")).arg("--images").arg(data.join("images"));
    classify.arg("--output").arg(&output).arg("--config").arg(&settings);
    for mut command in [export, classify] {
        let Ran { err, .. } = run(&mut command).expect(2);
        for word in [format!("id {rows}"), format!("{rows} rows"), "ganglioneuroblastoma".into()] {
            assert!(err.contains(&word), "`{word}` is missing in:\n{err}");
        }
        assert!(!output.exists());
    }
}

fn read_json(file: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(file).expect("the file can be read")).expect("the file is JSON")
}

#[test]
fn foreign_weights_are_told_with_the_next_step() {
    type Fault = fn(&Bench);
    let faults: [(Fault, &[&str]); 5] = [
        (
            |bench| bench.edit_adapter(|tensors| tensors.iter_mut().filter(|t| is_of("0")(t)).for_each(empty)),
            &["tensors without numbers", "ZeRO-3"],
        ),
        (|bench| edit_checkpoint(&bench.base(), |tensors| tensors.iter_mut().for_each(wrap)), &["module.", "state_dict"]),
        (
            |bench| {
                edit_checkpoint(&bench.base(), |tensors| {
                    let q = tensors.iter_mut().find(|t| t.name.ends_with("q_proj.weight")).expect("it is there");
                    q.name = q.name.replace(".weight", ".qweight");
                })
            },
            &["quantised", "give the original"],
        ),
        (
            |bench| {
                // The golden folder's tensors of expected values are no part of a checkpoint.
                for entry in fs::read_dir(bench.base()).expect("the copy can be listed") {
                    let path = entry.expect("the copy can be listed").path();
                    if path.extension().is_some_and(|extension| extension == "safetensors")
                        && !path.ends_with("model.safetensors")
                    {
                        fs::remove_file(path).expect("the copy is writable");
                    }
                }
                let file = bench.base().join("model.safetensors");
                fs::rename(&file, file.with_file_name("pytorch_model.bin")).expect("the copy is writable");
            },
            &["pytorch_model.bin", "save_pretrained"],
        ),
        (
            |bench| {
                let file = bench.adapter().join("adapter_config.json");
                let mut config = read_json(&file);
                config["modules_to_save"] = serde_json::json!(["lm_head"]);
                fs::write(&file, config.to_string()).expect("the copy is writable");
            },
            &["modules_to_save", "merge with PEFT first"],
        ),
    ];
    for (fault, words) in faults {
        let bench = Bench::new();
        fault(&bench);
        bench.commands().iter_mut().for_each(|command| bench.refuses(command, words));
    }
}

fn empty(tensor: &mut StoredTensor) {
    tensor.shape = vec![0];
    tensor.bytes.clear();
}

fn wrap(tensor: &mut StoredTensor) {
    tensor.name = format!("module.{}", tensor.name);
}

#[test]
fn an_altered_bundle_is_1_for_inspect_and_78_for_the_appliance() {
    type Change = fn(&Path);
    let changes: [(Change, &str); 5] = [
        (
            |dir| fs::write(dir.join("describer/processor_config.json"), "{}").expect("it is writable"),
            "describer/processor_config.json",
        ),
        (|dir| fs::write(dir.join("classifier/.hidden"), "").expect("it is writable"), "classifier/.hidden"),
        (|dir| fs::remove_file(dir.join("MODEL_CARD.md")).expect("it is there"), "MODEL_CARD.md"),
        (|dir| fs::write(dir.join("MODEL_CARD.md"), "better").expect("it is writable"), "MODEL_CARD.md"),
        (|dir| fs::write(dir.join("manifest.json"), "{").expect("it is writable"), "manifest.json"),
    ];
    for (change, named) in changes {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let copy = root.path().join("bundle");
        copy_folder(bundle(), &copy);
        run(command(&binary("mmlnb-export")).arg("inspect").arg(&copy)).expect(0);
        change(&copy);
        let ran = run(command(&binary("mmlnb-export")).args(["inspect", "--json"]).arg(&copy)).expect(1);
        assert!(ran.err.contains(named) && ran.out.is_empty(), "{}", ran.err);
        let mut classify = command(&binary("mmlnb-appliance"));
        classify.args(["classify", "--bundle"]).arg(&copy).arg(first_file(&phantoms().join("images")));
        let ran = run(&mut classify).expect(78);
        assert!(ran.err.contains(named), "{}", ran.err);
    }
    let absent = tempfile::tempdir().expect("a temporary folder can be made");
    run(command(&binary("mmlnb-export")).arg("inspect").arg(absent.path())).expect(2);
    run(command(&binary("mmlnb-export")).arg("inspect").arg(absent.path().join("bundle"))).expect(2);
}

fn first_file(folder: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it can be listed").path()).collect();
    files.sort();
    files.swap_remove(0)
}
