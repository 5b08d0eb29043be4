//! Trainings of LoRA, rsLoRA and DoRA: every loss, every gradient's length and the weights at the end.

use crate::{
    files::{Tensors, family, integers, json, list, number, picture, text, tolerance},
    qwen::Family,
    shared::{compare::distance, device},
};
use mmlnb_models::weights::{Adapter, Checkpoint, Naming, Weights};
use mmlnb_trainer::{
    describe::{self, Batch, Describer, Image, Recipe, Sample, Schedule, Templates, Trained},
    generate::Prompter,
    optimiser::{Optimiser, OptimiserOptions},
};
use serde_json::Value;
use std::path::Path;
use tch::{IndexOp, Kind, Tensor};

/// Batch `number`, put together by our own rules from its samples; what it then holds must be what is stored.
fn batch(cases: &Value, stored: &Tensors, base: &Family, number: i64) -> Batch {
    let get = |key: &str| stored.get(&format!("{number}.{key}"));
    let examples = list(cases, "examples");
    let numbers = integers(&list(cases, "batches")[number as usize]);
    let lengths = Vec::<i64>::try_from(get("attention_mask").sum_dim_intlist(1, false, Kind::Int64)).unwrap();
    let row = |row: usize| {
        let cut = |key: &str| Vec::<i64>::try_from(get(key).i(row as i64).narrow(0, 0, lengths[row])).unwrap();
        let image = examples[numbers[row] as usize]["image"].as_i64().unwrap() as usize;
        let (pixels, grid) = base.image(image);
        (Sample { ids: cut("input_ids"), labels: cut("labels"), grid }, Image::Pixels(pixels))
    };
    let pad = get("input_ids").min().int64_value(&[]);
    let batch = Batch::new((0..numbers.len()).map(row).collect(), pad, &base.config).unwrap();
    let seen = get("attention_mask").flatten(0, 1);
    for axis in 0..3 {
        let expected = get("position_ids").i(axis).flatten(0, 1);
        assert_eq!(
            Tensor::from_slice(&batch.positions[axis as usize]) * &seen,
            expected * &seen,
            "positions {axis} of batch {number}"
        );
    }
    batch
}

/// A describer whose adapter starts with the stored numbers.
fn start(folder: &Path, dir: &Path, training: &Value) -> Adapter {
    let config = dir.join(text(training, "end")).join("adapter_config.json");
    std::fs::copy(config, folder.join("adapter_config.json")).unwrap();
    std::fs::copy(dir.join(text(training, "start")), folder.join("adapter_model.safetensors")).unwrap();
    Adapter::open(folder).unwrap_or_else(|error| panic!("{error}"))
}

/// Ids and labels of every row of every batch, by our own template from the example's image, question and answer.
#[test]
fn golden_lora_samples() {
    let Some(dir) = family("lora") else { return };
    let cases = json(&dir.join("cases.json"));
    let Some(folder) = family(text(&cases, "base")) else { return };
    let images = json(&folder.join("cases.json"));
    let stored = Tensors::read(dir.join(text(&cases, "batch_tensors")));
    let examples = list(&cases, "examples");
    for (number, batch) in list(&cases, "batches").iter().enumerate() {
        for (row, example) in integers(batch).into_iter().enumerate() {
            let example = &examples[example as usize];
            let file = text(&list(&images, "images")[example["image"].as_u64().unwrap() as usize], "file");
            let picture = picture(&folder.join(file));
            let recipe = Recipe { prompt: Some(text(example, "prompt").into()), ..Recipe::default() };
            let prompter = Prompter::with_settings(&folder, None, recipe.settings(), None).unwrap();
            let templates = Templates::new(&prompter, &recipe).unwrap();
            let sample = templates.sample(picture.width as i64, picture.height as i64, text(example, "answer")).unwrap();
            let length = sample.ids.len() as i64;
            let row = |key: &str| stored.get(&format!("{number}.{key}")).i(row as i64);
            let cut = |key: &str| Vec::<i64>::try_from(row(key).narrow(0, 0, length)).unwrap();
            assert_eq!(row("attention_mask").sum(Kind::Int64).int64_value(&[]), length, "batch {number}");
            assert_eq!((sample.ids, sample.labels), (cut("input_ids"), cut("labels")), "batch {number}");
        }
    }
}

#[test]
fn golden_lora_trainings() {
    let Some(dir) = family("lora") else { return };
    let cases = json(&dir.join("cases.json"));
    let Some(folder) = family(text(&cases, "base")) else { return };
    let base = Family::open(folder.clone(), &folder);
    let checkpoint = Checkpoint::open(&folder, Naming::Qwen).unwrap_or_else(|error| panic!("{error}"));
    let stored = Tensors::read(dir.join(text(&cases, "batch_tensors")));
    for training in list(&cases, "training") {
        let name = text(training, "name");
        let start_folder = tempfile::tempdir().unwrap();
        let adapter = start(start_folder.path(), &dir, training);
        let weights = Weights::with_adapter(&checkpoint, &adapter).unwrap();
        let trained = Trained { adapters: true, language: true, vision_blocks: false, merger: false, recompute: true };
        let place = (device(), Kind::Float);
        let describer = Describer::new(&base.config, &weights, place, trained, adapter.config().dropout, true).unwrap();
        train(&cases, training, &describer, |number| batch(&cases, &stored, &base, number));
        assert_eq!(describe::without_gradient(&describer), Vec::<String>::new(), "{name}");
        let end = Adapter::open(&dir.join(text(training, "end"))).unwrap_or_else(|error| panic!("{error}"));
        compare_weights(&describer, &end, tolerance(&cases, "weights_mean_absolute"), name);
    }
}

fn train(cases: &Value, training: &Value, describer: &Describer, batch: impl Fn(i64) -> Batch) {
    let sizes = &cases["sizes"];
    let [peak, weight_decay, clip] = ["learning_rate", "weight_decay", "clip"].map(|key| number(sizes, key));
    let [warmup, steps] = ["warmup", "steps"].map(|key| sizes[key].as_u64().unwrap());
    let schedule = Schedule { peak, warmup, steps, shape: describe::Shape::Cosine };
    let options = OptimiserOptions { betas: (0.9, 0.999), eps: 1e-8, weight_decay, decoupled: true };
    let mut optimiser = Optimiser::new(options);
    for expected in list(training, "steps") {
        let step = expected["step"].as_u64().unwrap();
        let what = format!("{}, step {step}", text(training, "name"));
        let rate = schedule.rate(step);
        assert!((rate - number(expected, "learning_rate")).abs() <= 1e-12, "{what}: learning rate {rate}");
        let window = [batch(expected["batch"].as_i64().unwrap())];
        let done = describe::step(describer, &mut optimiser, &window, (rate, clip), (0, step)).unwrap();
        assert_eq!(done.answer_tokens as i64, expected["answer_tokens"].as_i64().unwrap(), "{what}");
        let off = (done.loss - number(expected, "loss")).abs();
        assert!(off <= tolerance(cases, "loss"), "{what}: loss {} is off by {off:.2e}", done.loss);
        let norm = number(expected, "gradient_norm");
        let off = (done.gradient_norm - norm).abs() / norm;
        assert!(off <= tolerance(cases, "gradient_norm_relative"), "{what}: norm {} is off by {off:.2e}", done.gradient_norm);
    }
}

/// The mean over all numbers of a tensor: single ones may differ by a step of Adam where a gradient is rounding noise.
fn compare_weights(describer: &Describer, end: &Adapter, tolerance: f64, name: &str) {
    let mut compared = 0;
    for module in end.modules() {
        let expected = end.tensors(module).unwrap();
        let mut parts = vec![("lora_A", expected.a), ("lora_B", expected.b)];
        parts.extend(expected.magnitude.map(|values| ("lora_magnitude_vector", values)));
        for (part, values) in parts {
            let key = format!("{module}.{part}");
            let leaves = describer.trained_leaves();
            let leaf = leaves.iter().find(|leaf| leaf.name == key).unwrap_or_else(|| panic!("{name}: {key} is not trained"));
            let expected = Tensor::from_slice(&values).reshape(leaf.tensor.size()).to_device(device());
            distance(&leaf.tensor, &expected, &key);
            let off = (leaf.tensor.detach() - expected).abs().mean(Kind::Double).double_value(&[]);
            assert!(off <= tolerance, "{name}: {key} is off by {off:.2e} on average");
            compared += 1;
        }
    }
    assert_eq!(compared, describer.trained_leaves().len(), "{name}: tensors compared");
}
