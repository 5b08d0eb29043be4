//! Whole runs.

use crate::bench::{Bench, base, quick};
use mmlnb_exporter::Source;
use mmlnb_models::{
    bundle::KnownAnswer,
    record::Record,
    weights::{Adapter, Checkpoint, DType, KeyStyle, Naming, Weights},
};
use mmlnb_trainer::{
    data::Part,
    describe::{AdapterKeys, Method, Recipe, Shape},
    generate::{Generator, Prompter},
};
use serde_json::Value;
use std::{fs, path::Path};

fn metrics(run: &Path, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == kind).collect()
}

fn bytes(run: &Path, name: &str) -> Vec<u8> {
    fs::read(run.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn a_run_learns_and_leaves_an_adapter_that_is_served_as_it_was_trained() {
    let recipe = Recipe { epochs: 6, ..quick() };
    let bench = Bench::new(8, &recipe);
    let run = bench.folder.path().join("run");
    let outcome = bench.train(&recipe, &run, false).unwrap();
    let steps = metrics(&run, "step");
    let loss = |line: &Value| line["loss"].as_f64().unwrap();
    assert_eq!(steps.len(), 12, "6 images, 2 x 2 a step: 2 steps an epoch");
    assert!(loss(&steps[11]) < 0.9 * loss(&steps[0]), "from {} to {}", loss(&steps[0]), loss(&steps[11]));
    let validation = metrics(&run, "validation");
    assert_eq!(validation.len(), 6);
    for key in ["nll", "bleu", "rouge1", "rouge2", "rougeL", "chrf", "stopped", "distinct"] {
        assert!(validation.iter().all(|line| line[key].is_f64()), "{key} in {:?}", validation[0]);
    }
    let best = validation.iter().map(|line| line["nll"].as_f64().unwrap()).fold(f64::INFINITY, f64::min);
    assert_eq!(outcome.best, Some(best));

    let folder = run.join("best");
    let source = Source::open(&base(), Some(&folder)).unwrap();
    assert_eq!(source.adapter().unwrap().style(), KeyStyle::Later);
    assert_eq!(source.adapter().unwrap().modules().len(), 21);
    assert_eq!(Record::read(&folder).unwrap().unwrap().image_size, Some([56, 56]));
    assert!(folder.join("training_data.json").is_file());
    for file in ["report.html", "MODEL_CARD.md", "run.toml"] {
        assert!(!bytes(&run, file).is_empty(), "{file}");
    }
    answers_hold(&folder);
}

/// The known answers are what the merged describer writes without a repetition penalty.
fn answers_hold(folder: &Path) {
    let answers = KnownAnswer::read_all(folder).unwrap();
    assert!(!answers.is_empty());
    let mut prompter = Prompter::open(&base(), Some(folder), None, None).unwrap();
    prompter.settings.generation.repetition_penalty = 1.0;
    prompter.settings.generation.max_new_tokens = 8;
    let generator = Generator::new(prompter, &base(), Some(folder), tch::Device::Cpu).unwrap();
    for answer in answers {
        let bytes = fs::read(folder.join("known_answers").join(&answer.image)).unwrap();
        let limits = mmlnb_models::prepare::decode::Limits { min_side: 1, ..Default::default() };
        let rgb = mmlnb_models::prepare::decode::decode(&bytes, &limits).unwrap();
        let written = generator.describe_batch(&[mmlnb_trainer::generate::Picture { sha256: [0; 32], rgb }]).unwrap();
        let known = answer.describer.unwrap();
        assert_eq!(written[0].token_ids[..known.token_ids.len()], known.token_ids);
        assert_eq!(known.logits.len(), known.token_ids.len());
    }
}

#[test]
fn a_run_that_goes_on_ends_with_the_same_bytes() {
    for method in [Method::Dora, Method::Full] {
        let whole = Recipe { method, epochs: 3, schedule: Shape::Constant, warmup: 0.0, ..quick() };
        let bench = Bench::new(8, &whole);
        let [at_once, in_parts] = ["at_once", "in_parts"].map(|name| bench.folder.path().join(name));
        bench.train(&whole, &at_once, false).unwrap();
        bench.train(&Recipe { epochs: 1, ..whole.clone() }, &in_parts, false).unwrap();
        bench.train(&whole, &in_parts, true).unwrap();
        let weights = if method == Method::Full { "model.safetensors" } else { "adapter_model.safetensors" };
        for folder in ["best", "last"] {
            let name = format!("{folder}/{weights}");
            assert!(bytes(&at_once, &name) == bytes(&in_parts, &name), "{method:?}: {name} differs");
        }
        assert_eq!(metrics(&at_once, "validation"), metrics(&in_parts, "validation"));
    }
}

#[test]
fn full_tuning_leaves_a_checkpoint_of_the_bases_kind() {
    let narrow = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/qwen2_5_vl_b");
    let recipe = Recipe { method: Method::Full, learning_rate: 1e-2, vision_blocks: true, merger: true, warmup: 0.0, ..quick() };
    let bench = Bench::on(&narrow, 4, &recipe);
    let run = bench.folder.path().join("run");
    bench.train(&recipe, &run, false).unwrap();
    let folder = run.join("best");
    let source = Source::open(&folder, None).unwrap();
    let changed = source.checkpoint();
    let (mut moved, mut all) = (0, 0);
    for key in bench.base.keys() {
        let (before, after) = (bench.base.tensor(key).unwrap(), changed.tensor(key).unwrap());
        assert_eq!((before.dtype, &before.shape), (DType::BF16, &after.shape), "{key}");
        assert_eq!(after.dtype, DType::BF16, "{key}");
        all += 1;
        moved += usize::from(before.parts != after.parts);
    }
    assert!(moved > all * 3 / 4, "{moved} of {all} tensors have moved");
    for file in ["config.json", "tokenizer.json", "model.safetensors.index.json"] {
        assert_eq!(bytes(&narrow, file), bytes(&folder, file), "{file}");
    }
}

#[test]
fn old_key_style_and_early_stop_on_request() {
    // The learning rate is far too high: the validation loss rises.
    let recipe =
        Recipe { adapter_keys: AdapterKeys::Old, patience: 1, epochs: 20, learning_rate: 0.5, validation_texts: 0, ..quick() };
    let bench = Bench::new(8, &recipe);
    let run = bench.folder.path().join("run");
    let outcome = bench.train(&recipe, &run, false).unwrap();
    assert!(outcome.epochs < 20, "{outcome:?}");
    let adapter = Adapter::open(&run.join("best")).unwrap();
    assert_eq!(adapter.style(), KeyStyle::Old);
    let base = Checkpoint::open(&base(), Naming::Qwen).unwrap();
    Weights::with_adapter(&base, &adapter).unwrap();
}

#[test]
fn a_part_for_validation_is_not_needed() {
    let recipe = Recipe { epochs: 1, method: Method::Rslora, ..quick() };
    let mut bench = Bench::new(3, &recipe);
    bench.table.rows.iter_mut().for_each(|row| row.split = Some(Part::Train));
    let run = bench.folder.path().join("run");
    bench.train(&recipe, &run, false).unwrap();
    assert!(Adapter::open(&run.join("best")).unwrap().config().rslora);
    assert!(metrics(&run, "validation").is_empty());
}
