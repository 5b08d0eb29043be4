//! Adapters both ways: what is trained here loads in PEFT, what PEFT makes loads here, and a merged checkpoint loads in transformers.
//!
//! Runs where MMLNB_PYTHON names a Python that has torch, transformers and peft; elsewhere it says so and passes.

use crate::{family, mmlnb_train, outcome};
use mmlnb_models::{
    prepare::decode::{Limits, decode},
    weights::{Adapter, Checkpoint, Naming, Weights},
};
use mmlnb_trainer::{
    generate::{Generator, Picture, Prompter},
    torch::{Adapters, PlanOptions},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tch::{Device, Tensor};

/// Largest difference of two logits of the same weights, in f32.
const TOLERANCE: f64 = 5e-4;

struct Python(PathBuf);

impl Python {
    fn find() -> Option<Python> {
        let found = std::env::var_os("MMLNB_PYTHON").filter(|path| !path.is_empty());
        if found.is_none() {
            eprintln!("SKIPPED: set MMLNB_PYTHON to a Python with torch, transformers and peft to compare with them");
        }
        found.map(|path| Python(path.into()))
    }

    fn run(&self, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peft/both_ways.py");
        // Python must not load this program's libtorch.
        let output = Command::new(&self.0)
            .arg(script)
            .args(arguments)
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("LD_LIBRARY_PATH")
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", self.0.display()));
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Logits `[tokens, vocabulary]` of the prompt in `input`.
    fn logits(&self, base: &Path, adapter: Option<&Path>, input: &Path, output: &Path) -> Tensor {
        let text = |path: &Path| path.to_str().unwrap().to_string();
        let (base, input, file) = (text(base), text(input), text(output));
        let adapter = adapter.map(text);
        let mut arguments = vec!["logits", "--base", &base, "--input", &input, "--output", &file];
        arguments.extend(adapter.iter().flat_map(|adapter| ["--adapter", adapter.as_str()]));
        self.run(&arguments);
        Tensor::read_safetensors(output).unwrap().remove(0).1
    }
}

/// The prompt of the family's first image.
fn prompt(base: &Path) -> (Prompter, mmlnb_trainer::generate::Prompt) {
    let prompter = Prompter::open(base, None, None, None).unwrap();
    let rgb = decode(&fs::read(base.join("images/0.png")).unwrap(), &Limits::default()).unwrap();
    let prompt = prompter.prepare(&Picture { sha256: [0; 32], rgb }).unwrap();
    (prompter, prompt)
}

fn ours(base: &Path, adapter: Option<&Path>, kind: Adapters) -> Tensor {
    let (prompter, prompt) = prompt(base);
    let checkpoint = Checkpoint::open(base, Naming::Qwen).unwrap();
    let adapter = adapter.map(|folder| Adapter::open(folder).unwrap());
    let weights = match &adapter {
        Some(adapter) => Weights::with_adapter(&checkpoint, adapter).unwrap(),
        None => Weights::new(&checkpoint),
    };
    let options = PlanOptions { adapters: kind, ..PlanOptions::inference(Device::Cpu) };
    Generator::sharing(prompter, &weights, &options, &[]).unwrap().logits(&prompt).unwrap()
}

fn write_input(base: &Path, file: &Path) {
    let (_, prompt) = prompt(base);
    let patches = prompt.vision.patch_positions.len() as i64;
    let tensors = [
        ("input_ids", Tensor::from_slice(&prompt.ids).unsqueeze(0)),
        ("pixel_values", Tensor::from_slice(&prompt.patches.pixel_values).reshape([patches, -1])),
        ("image_grid_thw", Tensor::from_slice(&prompt.patches.grid).unsqueeze(0)),
    ];
    Tensor::write_safetensors(&tensors, file).unwrap();
}

/// Compares, and prints the figure.
fn near(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let off = (found - expected).abs().max().double_value(&[]);
    println!("{what}: largest difference of {} logits {off:.2e}", found.numel());
    assert!(off <= TOLERANCE, "{what}: off by {off:.2e}");
}

#[test]
fn golden_lora_adapters_of_peft_load_here_and_merge_for_transformers() {
    let (Some(python), Some(base)) = (Python::find(), family("qwen2_5_vl")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let input = path("input.safetensors");
    write_input(&base, &input);
    let plain = python.logits(&base, None, &input, &path("plain.safetensors"));
    near(&ours(&base, None, Adapters::Live), &plain, "without an adapter, against transformers");
    for (seed, kind) in ["lora", "rslora", "dora"].iter().enumerate() {
        let (adapter, merged) = (path(kind), path(&format!("{kind}_merged")));
        let base_text = base.to_str().unwrap();
        let [adapter_text, merged_text] = [&adapter, &merged].map(|path| path.to_str().unwrap());
        python.run(&["adapter", "--base", base_text, "--kind", kind, "--seed", &seed.to_string(), "--output", adapter_text]);
        let expected = python.logits(&base, Some(&adapter), &input, &path("expected.safetensors"));
        assert!((&expected - &plain).abs().max().double_value(&[]) > 0.1, "{kind}: the adapter does nothing");
        near(&ours(&base, Some(&adapter), Adapters::Live), &expected, &format!("{kind} made by PEFT, live here"));
        near(&ours(&base, Some(&adapter), Adapters::Merged), &expected, &format!("{kind} made by PEFT, merged while loading"));
        let (code, errors) =
            outcome(&mmlnb_train(&["merge", "--base", base_text, "--adapter", adapter_text, "--output", merged_text]));
        assert_eq!(code, Some(0), "{errors}");
        let found = python.logits(&merged, None, &input, &path("merged.safetensors"));
        near(&found, &expected, &format!("{kind} merged here, loaded by transformers, against PEFT"));
    }
}

/// An adapter of this method, trained for two epochs on the family's first images.
fn trained(base: &Path, method: &str, folder: &Path) -> PathBuf {
    let [data, config, run] = ["data.csv", "config.toml", "run"].map(|name| folder.join(format!("{method}_{name}")));
    let rows = "file_name,description,split\n0.png,Small round cells in neuropil.,train\n1.png,Ganglion cells.,train\n2.png,No neuropil.,validation\n";
    fs::write(&data, rows).unwrap();
    let settings = format!(
        "method = \"{method}\"\nrank = 4\nepochs = 2\nlearning_rate = 0.02\nbatch_size = 2\naccumulation = 1\nvalidation_texts = 0\n"
    );
    fs::write(&config, settings).unwrap();
    let images = base.join("images");
    let [data, images, base, config, output] = [&data, &images, base, &config, &run].map(|path| path.to_str().unwrap());
    let arguments = [
        "describe", "--data", data, "--images", images, "--base", base, "--config", config, "--output", output, "--device", "cpu",
    ];
    let (code, errors) = outcome(&mmlnb_train(&arguments));
    assert_eq!(code, Some(0), "{errors}");
    run.join("last")
}

#[test]
fn golden_lora_adapters_trained_here_load_in_peft() {
    let (Some(python), Some(base)) = (Python::find(), family("qwen2_5_vl")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let input = path("input.safetensors");
    write_input(&base, &input);
    let plain = ours(&base, None, Adapters::Live);
    for method in ["lora", "rslora", "dora"] {
        let adapter = trained(&base, method, folder.path());
        let found = ours(&base, Some(&adapter), Adapters::Live);
        let moved = (&found - &plain).abs().max().double_value(&[]);
        assert!(moved > 0.01, "{method}: training changed the logits by {moved:.1e} only");
        let expected = python.logits(&base, Some(&adapter), &input, &path("expected.safetensors"));
        near(&found, &expected, &format!("{method} trained here (logits moved by {moved:.2}), against PEFT"));
        let merged = path(&format!("{method}_merged"));
        let [base, adapter, output] = [&base, &adapter, &merged].map(|path| path.to_str().unwrap());
        let (code, errors) = outcome(&mmlnb_train(&["merge", "--base", base, "--adapter", adapter, "--output", output]));
        assert_eq!(code, Some(0), "{errors}");
        near(
            &python.logits(&merged, None, &input, &path("merged.safetensors")),
            &expected,
            &format!("{method} merged, in transformers"),
        );
    }
}
