//! Qwen2.5-VL as transformers computes it: image embeddings, logits, greedy tokens over the cache, intermediates, a batch.

use crate::{
    describer::{Batch, Describer, Language, Prompt, vision_inputs},
    golden_files::{Tensors, family, integer, integers, json, list, picture, text},
    session::{Onnx, Read, assert_near, assert_within, tolerance},
};
use mmlnb_exporter::{Network, Sizes, Source};
use mmlnb_models::{
    bundle::Precision,
    config::QwenConfig,
    prepare::{qwen_image::QwenImageProcessor, sampling::Sampler, settings::GenerationSettings},
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One family of reference data and a checkpoint in it.
struct Golden {
    folder: PathBuf,
    cases: Value,
    config: QwenConfig,
    source: Source,
    read: Read,
}

impl Golden {
    fn open(folder: PathBuf, checkpoint: &str) -> Golden {
        let source = Source::open(&folder.join(checkpoint), None).unwrap();
        let Sizes::Qwen(config) = source.sizes().clone() else { panic!("a Qwen2.5-VL") };
        Golden { cases: json(&folder.join("cases.json")), folder, config, source, read: Onnx::of }
    }

    fn tensors(&self, case: &Value) -> Tensors {
        Tensors::read(self.folder.join(text(case, "tensors")))
    }

    fn describer(&self, precision: Precision) -> Describer {
        Describer::read(&self.source, self.config.clone(), precision, self.read)
    }

    /// Embeddings of the case's images, one after the other, each from its own call.
    fn image_rows(&self, describer: &mut Describer, case: &Value) -> Vec<f32> {
        let images = &self.cases["images"];
        integers(case, "images").iter().flat_map(|n| image_embeds(&self.folder, &images[*n as usize], describer)).collect()
    }
}

/// Embeddings of an image file.
pub fn image_embeds(folder: &Path, image: &Value, describer: &mut Describer) -> Vec<f32> {
    let processor = QwenImageProcessor::from_dir(folder, &describer.config.vision).unwrap();
    let patches = processor.patches(&picture(&folder.join(text(image, "file")))).unwrap();
    describer.image_embeds(patches.pixel_values, patches.grid)
}

/// `[3, rows, tokens]` -> the three lists of one row.
pub fn position_lists(tensors: &Tensors, key: &str, row: usize, tokens: std::ops::Range<usize>) -> [Vec<i64>; 3] {
    let (shape, values) = tensors.i64(key);
    std::array::from_fn(|axis| values[(axis * shape[1] + row) * shape[2]..][tokens.clone()].to_vec())
}

fn greedy(penalty: f64) -> GenerationSettings {
    GenerationSettings {
        max_new_tokens: 1000,
        do_sample: false,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: penalty,
        seed: 0,
        end_tokens: vec![-1],
    }
}

/// Greedy tokens and the raw logits of each step.
pub fn generate(describer: &mut Describer, ids: &[i64], prompt: &Prompt, penalty: f64, steps: usize) -> (Vec<i64>, Vec<f32>) {
    let mut sampler = Sampler::new(&greedy(penalty), [0; 32], ids);
    let last = ids.len() as i64 - 1;
    let (mut batch, mut results) = describer.language.prefill(prompt, ids.len() + steps, &[last]);
    let mut logits = results.remove("logits").unwrap().1;
    let (mut tokens, mut all) = (Vec::new(), Vec::new());
    for step in 0..steps {
        all.extend(&logits);
        tokens.push(sampler.next(&logits).unwrap().id);
        if step + 1 < steps {
            logits = describer.step(&mut batch, &tokens[step..]).remove(0);
        }
    }
    (tokens, all)
}

fn check_images(golden: &Golden) {
    let mut describer = golden.describer(Precision::F32);
    for image in list(&golden.cases, "images") {
        let expected = golden.tensors(image).f32("image_embeds").1;
        let found = image_embeds(&golden.folder, image, &mut describer);
        assert_within(text(image, "file"), &found, &expected, tolerance(&golden.cases, "image_embeds"));
    }
}

fn check_generation(golden: &Golden, precision: Precision, allowed: f32) {
    let mut describer = golden.describer(precision);
    for case in list(&golden.cases, "cases") {
        let (name, tensors) = (text(case, "name"), golden.tensors(case));
        let ids = tensors.i64("input_ids").1;
        let rows = golden.image_rows(&mut describer, case);
        let embeds = describer.embeds(&ids, &rows);
        let delta = tensors.i64("rope_deltas").1[0];
        let prompt = Prompt { embeds, positions: position_lists(&tensors, "position_ids", 0, 0..ids.len()), delta };
        for run in list(case, "runs") {
            let penalty = run["repetition_penalty"].as_f64().unwrap();
            let expected = integers(run, "token_ids");
            let (tokens, logits) = generate(&mut describer, &ids, &prompt, penalty, expected.len());
            assert_eq!(tokens, expected, "{name}, penalty {penalty}");
            let prefill = &logits[..golden.config.text.vocabulary as usize];
            assert_within(name, prefill, &tensors.f32("prefill_logits").1, allowed);
            if penalty == 1.0 {
                assert_within(name, &logits, &tensors.f32("penalty_1.0.logits").1, allowed);
            }
        }
    }
}

fn check_intermediates(golden: &Golden) {
    let allowed = tolerance(&golden.cases, "intermediates_relative_to_largest");
    let mut compared = 0;
    for case in list(&golden.cases, "cases").iter().filter(|case| case["intermediates"].is_string()) {
        let expected = Tensors::read(golden.folder.join(text(case, "intermediates")));
        let image = &golden.cases["images"][integers(case, "images")[0] as usize];
        let processor = QwenImageProcessor::from_dir(&golden.folder, &golden.config.vision).unwrap();
        let patches = processor.patches(&picture(&golden.folder.join(text(image, "file")))).unwrap();
        let nodes = vision_nodes(&golden.config);
        let results =
            exposed(golden, Network::Vision, &nodes).run(vision_inputs(patches.pixel_values, patches.grid, &golden.config));
        nodes.iter().for_each(|(key, node)| assert_near(key, &results[node].1, &expected.f32(key).1, allowed));
        let tensors = golden.tensors(case);
        let length = tensors.i64("input_ids").0[1];
        let nodes = text_nodes(&golden.config);
        let mut language = Language::new(golden.config.text.clone(), exposed(golden, Network::Decoder, &nodes), Precision::F32);
        let positions = position_lists(&tensors, "position_ids", 0, 0..length);
        let prompt = Prompt { embeds: expected.f32("text.inputs_embeds").1, positions, delta: tensors.i64("rope_deltas").1[0] };
        let (_, results) = language.prefill(&prompt, length, &(0..length as i64).collect::<Vec<_>>());
        nodes.iter().for_each(|(key, node)| assert_near(key, &results[node].1, &expected.f32(key).1, allowed));
        assert_near("text.logits", &results["logits"].1, &expected.f32("text.logits").1, allowed);
        compared += 1;
    }
    assert!(compared > 0, "no case has intermediates");
}

fn exposed(golden: &Golden, network: Network, nodes: &[(String, String)]) -> Onnx {
    let names: Vec<&str> = nodes.iter().map(|(_, node)| node.as_str()).collect();
    let graph = golden.source.graph(network).unwrap().expose(&names).unwrap();
    (golden.read)(&graph, &golden.source.weights().unwrap(), Precision::F32)
}

/// Key in the reference data, node in the graph.
fn vision_nodes(config: &QwenConfig) -> Vec<(String, String)> {
    let mut nodes = vec![("vision.patch_embed".to_string(), "visual.patch_embed.proj".to_string())];
    nodes.extend((0..config.vision.depth).map(|n| (format!("vision.blocks.{n}"), format!("visual.blocks.{n}.add_2"))));
    nodes.push(("vision.merger".to_string(), "visual.merger.mlp.2".to_string()));
    nodes
}

fn text_nodes(config: &QwenConfig) -> Vec<(String, String)> {
    let layers = (0..config.text.layers).map(|n| (format!("text.layers.{n}"), format!("model.layers.{n}.add_2")));
    layers.chain([("text.norm".to_string(), "model.norm".to_string())]).collect()
}

/// Two prompts of different length, each put into its slot alone, then decoded together.
fn check_batch(golden: &Golden) {
    let batch = &golden.cases["batch"];
    let tensors = golden.tensors(batch);
    let mut describer = golden.describer(Precision::F32);
    let (shape, ids) = tensors.i64("input_ids");
    let mask = tensors.i64("attention_mask").1;
    let (expected_shape, expected) = tensors.i64("token_ids");
    let (steps, vocabulary) = (expected_shape[1], golden.config.text.vocabulary as usize);
    let capacity = shape[1] + steps;
    let (mut rows, mut logits) = (Vec::new(), Vec::new());
    for row in 0..shape[0] {
        let padding = mask[row * shape[1]..(row + 1) * shape[1]].iter().filter(|m| **m == 0).count();
        let ids = &ids[row * shape[1] + padding..(row + 1) * shape[1]];
        let image = &golden.cases["images"][integers(batch, "images")[row] as usize];
        let image = image_embeds(&golden.folder, image, &mut describer);
        let positions = position_lists(&tensors, "position_ids", row, padding..shape[1]);
        let delta = positions.iter().flatten().max().unwrap() + 1 - ids.len() as i64;
        let prompt = Prompt { embeds: describer.embeds(ids, &image), positions, delta };
        let (slot, mut results) = describer.language.prefill(&prompt, capacity, &[ids.len() as i64 - 1]);
        rows.push(slot);
        logits.push(results.remove("logits").unwrap().1);
    }
    let mut together = Batch::joined(&rows);
    let reference = tensors.f32("logits").1;
    for step in 0..steps {
        let mut tokens = Vec::new();
        for (row, logits) in logits.iter().enumerate() {
            let at = (row * steps + step) * vocabulary;
            assert_within(
                &format!("row {row}, step {step}"),
                logits,
                &reference[at..at + vocabulary],
                tolerance(&golden.cases, "logits"),
            );
            let best = (0..vocabulary).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as i64;
            assert_eq!(best, expected[row * steps + step], "row {row}, step {step}");
            tokens.push(best);
        }
        if step + 1 < steps {
            logits = describer.step(&mut together, &tokens);
        }
    }
}

fn checkpoints(name: &str) -> Vec<Golden> {
    let Some(folder) = family(name) else { return Vec::new() };
    let newer = folder.join("new_style").is_dir().then_some("new_style");
    [""].into_iter().chain(newer).map(|checkpoint| Golden::open(folder.clone(), checkpoint)).collect()
}

/// The same in operators of the standard alone.
fn portable(name: &str) -> Vec<Golden> {
    checkpoints(name).into_iter().map(|golden| Golden { read: Onnx::portable, ..golden }).collect()
}

#[test]
fn golden_qwen2_5_vl_portable() {
    for golden in portable("qwen2_5_vl").iter().chain(&portable("qwen2_5_vl_b")) {
        check_images(golden);
        check_generation(golden, Precision::F32, tolerance(&golden.cases, "logits"));
        check_intermediates(golden);
        check_batch(golden);
    }
}

#[test]
fn golden_qwen2_5_vl_images() {
    checkpoints("qwen2_5_vl").iter().for_each(check_images);
}

#[test]
fn golden_qwen2_5_vl_b_images() {
    checkpoints("qwen2_5_vl_b").iter().for_each(check_images);
}

/// With the same tokens; the largest difference seen stands in docs/exporter.md.
#[test]
fn golden_qwen2_5_vl_and_golden_qwen2_5_vl_b_in_f16() {
    for golden in ["qwen2_5_vl", "qwen2_5_vl_b"].iter().flat_map(|family| checkpoints(family)) {
        let mut describer = golden.describer(Precision::F16);
        for image in list(&golden.cases, "images") {
            let expected = golden.tensors(image).f32("image_embeds").1;
            assert_near(text(image, "file"), &image_embeds(&golden.folder, image, &mut describer), &expected, 0.01);
        }
        check_generation(&golden, Precision::F16, 0.05);
    }
}

#[test]
fn golden_qwen2_5_vl_generation() {
    checkpoints("qwen2_5_vl").iter().for_each(|g| check_generation(g, Precision::F32, tolerance(&g.cases, "logits")));
}

#[test]
fn golden_qwen2_5_vl_b_generation() {
    checkpoints("qwen2_5_vl_b").iter().for_each(|g| check_generation(g, Precision::F32, tolerance(&g.cases, "logits")));
}

#[test]
fn golden_qwen2_5_vl_intermediates() {
    checkpoints("qwen2_5_vl").iter().for_each(check_intermediates);
}

#[test]
fn golden_qwen2_5_vl_b_intermediates() {
    checkpoints("qwen2_5_vl_b").iter().for_each(check_intermediates);
}

#[test]
fn golden_qwen2_5_vl_batch() {
    checkpoints("qwen2_5_vl").iter().for_each(check_batch);
}

#[test]
fn golden_qwen2_5_vl_b_batch() {
    checkpoints("qwen2_5_vl_b").iter().for_each(check_batch);
}

/// The layers that the files say, so that a folder of other sizes cannot pass with a part of its network.
#[test]
fn golden_qwen2_5_vl_sizes_come_from_the_config() {
    for golden in checkpoints("qwen2_5_vl") {
        let config = json(&golden.folder.join("config.json"));
        assert_eq!(golden.config.text.vocabulary, integer(&config, "vocab_size"));
        assert_eq!(golden.config.text.layers, integer(&config, "num_hidden_layers"));
    }
}
