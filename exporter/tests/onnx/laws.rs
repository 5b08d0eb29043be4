//! What must hold for any sizes: the cache changes nothing, neighbours change nothing, fusing changes nothing.

use crate::{
    describer::{Batch, Language, Prompt},
    random::{bert_config, numbers, text_config, vision_config, write_random},
    session::{Given, Onnx, Results, assert_near},
};
use mmlnb_exporter::{
    OnnxGraph, lower, lower_as_is,
    nodes::{Attribute, Elem},
};
use mmlnb_models::{
    bundle::Precision,
    config::{TextConfig, VisionConfig},
    graph::Graph,
    networks,
    prepare::rotary::rotary_table,
    weights::{Checkpoint, Naming, Weights},
};
use proptest::prelude::*;

/// f16 against f32, relative to the largest value: see docs/exporter.md.
const F16: f32 = 0.02;

fn checkpoint(graph: &Graph, naming: Naming, seed: u64) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    write_random(folder.path(), graph, seed);
    let checkpoint = Checkpoint::open(folder.path(), naming).unwrap();
    (folder, checkpoint)
}

/// A text-only prompt of random embeddings.
fn prompt(config: &TextConfig, length: usize, seed: u64) -> Prompt {
    let embeds = numbers(seed, length * config.hidden as usize);
    Prompt { embeds, positions: std::array::from_fn(|_| (0..length as i64).collect()), delta: 0 }
}

fn logits(results: &Results) -> &[f32] {
    &results["logits"].1
}

fn sizes() -> impl Strategy<Value = TextConfig> {
    let heads = prop::sample::select(vec![4i64, 12, 16, 20, 32]);
    (heads, 1i64..3, 1i64..4, 1i64..3).prop_map(|(head, kv, shared, layers)| text_config(head, kv, shared, layers))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// prefill(n) + decode = prefill(n + 1) = the same network without a cache.
    #[test]
    fn a_cache_changes_nothing(config in sizes(), length in 2usize..20, seed in any::<u64>()) {
        let graph = networks::decoder(&config, true);
        let (_folder, checkpoint) = checkpoint(&graph, Naming::Qwen, seed);
        let weights = Weights::new(&checkpoint);
        let whole = prompt(&config, length, seed);
        let hidden = config.hidden as usize;
        let before = Prompt { embeds: whole.embeds[..(length - 1) * hidden].to_vec(), ..prompt(&config, length - 1, seed) };
        for (precision, allowed) in [(Precision::F32, 1e-4), (Precision::F16, F16)] {
            let mut language = Language::new(config.clone(), Onnx::of(&graph, &weights, precision), precision);
            let (_, results) = language.prefill(&whole, length + 3, &[length as i64 - 1]);
            let (mut batch, _) = language.prefill(&before, length + 3, &[0]);
            let stepped = language.step(&mut batch, whole.embeds[(length - 1) * hidden..].to_vec());
            assert_near("stepped", &stepped[0], logits(&results), allowed);
            let uncached = uncached(&config, &weights, &whole);
            assert_near("uncached", logits(&results), &uncached, allowed);
        }
    }

    /// A row's logits are the same alone and in a batch whose other rows are longer or shorter.
    #[test]
    fn a_row_does_not_depend_on_its_neighbours(config in sizes(), lengths in prop::collection::vec(1usize..12, 2..5), seed in any::<u64>()) {
        let graph = networks::decoder(&config, true);
        let (_folder, checkpoint) = checkpoint(&graph, Naming::Qwen, seed);
        let weights = Weights::new(&checkpoint);
        for precision in [Precision::F32, Precision::Int8, Precision::Int4] {
            let mut language = Language::new(config.clone(), Onnx::of(&graph, &weights, precision), precision);
            let (mut rows, mut alone, mut next) = (Vec::new(), Vec::new(), Vec::new());
            for (row, length) in lengths.iter().enumerate() {
                let (batch, _) = language.prefill(&prompt(&config, *length, seed ^ row as u64), 16, &[0]);
                let embeds = numbers(seed.wrapping_add(row as u64), config.hidden as usize);
                // In 4 bits one row alone has a kernel of its own: it stands twice.
                let copies = if precision == Precision::Int4 { 2 } else { 1 };
                let mut itself = Batch::joined(&vec![batch.clone(); copies]);
                alone.push(language.step(&mut itself, embeds.repeat(copies)).remove(0));
                next.extend(embeds);
                rows.push(batch);
            }
            let together = language.step(&mut Batch::joined(&rows), next);
            for (row, (together, alone)) in together.iter().zip(&alone).enumerate() {
                assert_near(&format!("row {row} at {precision}"), together, alone, 1e-5);
            }
        }
    }
}

fn uncached(config: &TextConfig, weights: &Weights<'_>, prompt: &Prompt) -> Vec<f32> {
    let length = prompt.positions[0].len();
    let table = rotary_table(&prompt.positions, config);
    let half = config.head_size as usize / 2;
    let mut onnx = Onnx::of(&networks::decoder(config, false), weights, Precision::F32);
    let results = onnx.run(vec![
        ("inputs_embeds", Given::f32(&[1, length, config.hidden as usize], prompt.embeds.clone())),
        ("position_ids", Given::i64(&[1, length], (0..length as i64).collect())),
        ("cos", Given::f32(&[length, half], table.cos)),
        ("sin", Given::f32(&[length, half], table.sin)),
        ("logits_rows", Given::i64(&[1], vec![length as i64 - 1])),
    ]);
    logits(&results).to_vec()
}

/// A graph in bf16 with f32 in its place, so that a processor runs it.
fn widened(mut graph: OnnxGraph) -> OnnxGraph {
    let ports = graph.inputs.iter_mut().chain(&mut graph.outputs).map(|port| &mut port.elem);
    let elems = ports.chain(graph.initialisers.iter_mut().map(|initialiser| &mut initialiser.elem));
    let narrow: Vec<&mut Elem> = elems.filter(|elem| **elem == Elem::Bf16).collect();
    assert!(!narrow.is_empty(), "the graph is in bf16");
    narrow.into_iter().for_each(|elem| *elem = Elem::F32);
    let to_bf16 = ("to", Attribute::Int(Elem::Bf16.code().into()));
    let attributes = graph.nodes.iter_mut().flat_map(|node| &mut node.attributes).filter(|attribute| **attribute == to_bf16);
    attributes.for_each(|attribute| attribute.1 = Attribute::Int(Elem::F32.code().into()));
    graph
}

/// No processor runs bf16. That its graph computes the same network is seen with f32 in the place of bf16.
#[test]
fn the_form_in_bf16_is_the_same_network() {
    for head in [12, 16] {
        let config = text_config(head, 2, 2, 2);
        let graph = networks::decoder(&config, true);
        let (_folder, checkpoint) = checkpoint(&graph, Naming::Qwen, 5);
        let weights = Weights::new(&checkpoint);
        let wide = widened(lower(&graph, "decoder", Precision::Bf16).unwrap());
        let mut language = Language::new(config.clone(), Onnx::of_lowered(&wide, &weights, Precision::F32), Precision::F32);
        let prompt = prompt(&config, 9, 5);
        let (_, results) = language.prefill(&prompt, 12, &[8]);
        assert_near("logits", logits(&results), &uncached(&config, &weights, &prompt), 1e-4);
    }
}

#[test]
fn the_vision_tower_in_bf16_is_the_same_network() {
    let (config, inputs) = small_vision();
    let graph = networks::vision(&config);
    let (_folder, checkpoint) = checkpoint(&graph, Naming::Qwen, 5);
    let weights = Weights::new(&checkpoint);
    let wide = widened(lower(&graph, "vision", Precision::Bf16).unwrap());
    let found = Onnx::of_lowered(&wide, &weights, Precision::F32).run(inputs.clone());
    let expected = Onnx::of(&graph, &weights, Precision::F32).run(inputs);
    assert_near("image_embeds", &found["image_embeds"].1, &expected["image_embeds"].1, 1e-4);
}

/// A network fused and not fused, on the same inputs; the fused one has fewer operators.
fn fusing_changes_nothing(graph: &Graph, naming: Naming, inputs: Vec<(&str, Given)>) {
    let (_folder, checkpoint) = checkpoint(graph, naming, 7);
    let weights = Weights::new(&checkpoint);
    let (fused, plain) = (lower(graph, "fused", Precision::F32).unwrap(), lower_as_is(graph, "plain", Precision::F32).unwrap());
    assert!(fused.nodes.len() < plain.nodes.len(), "{} operators fused, {} plain", fused.nodes.len(), plain.nodes.len());
    let mut fused = Onnx::of_lowered(&fused, &weights, Precision::F32);
    let mut plain = Onnx::of_lowered(&plain, &weights, Precision::F32);
    let (fused, plain) = (fused.run(inputs.clone()), plain.run(inputs));
    assert_eq!(fused.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
    fused.iter().for_each(|(name, (_, values))| assert_near(name, values, &plain[name].1, 1e-5));
}

#[test]
fn fusing_changes_nothing_in_bert() {
    let mask = vec![1, 1, 1, 1, 1, 1, 1, 0, 0, 0];
    let inputs = vec![
        ("input_ids", Given::i64(&[2, 5], vec![1, 2, 3, 4, 5, 6, 7, 0, 0, 0])),
        ("attention_mask", Given::i64(&[2, 5], mask)),
    ];
    fusing_changes_nothing(&networks::bert(&bert_config(), ""), Naming::Bert, inputs);
}

#[test]
fn fusing_changes_nothing_in_the_decoder() {
    for head in [12, 16] {
        let config = text_config(head, 2, 2, 2);
        let (length, half) = (5usize, head as usize / 2);
        let table = rotary_table(&std::array::from_fn(|_| (0..length as i64).collect()), &config);
        let mut inputs = vec![
            ("inputs_embeds", Given::f32(&[1, length, 32], numbers(3, length * 32))),
            ("position_ids", Given::i64(&[1, length], (0..length as i64).collect())),
            ("cos", Given::f32(&[length, half], table.cos)),
            ("sin", Given::f32(&[length, half], table.sin)),
            ("logits_rows", Given::i64(&[2], vec![4, 1])),
            ("seqlens_k", Given::i32(&[1], vec![length as i32 - 1])),
            ("total_sequence_length", Given::i32(&[], vec![length as i32])),
        ];
        let past = || Given::f32(&[1, 2, 8, 16], vec![0.0; 2 * 8 * 16]);
        let names = ["past.0.key", "past.0.value", "past.1.key", "past.1.value"];
        inputs.extend(names.map(|name| (name, past())));
        fusing_changes_nothing(&networks::decoder(&config, true), Naming::Qwen, inputs);
    }
}

#[test]
fn fusing_changes_nothing_in_the_vision_tower() {
    let (config, inputs) = small_vision();
    fusing_changes_nothing(&networks::vision(&config), Naming::Qwen, inputs);
}

/// A vision tower with one layer of windows and one without, and an image for it.
fn small_vision() -> (VisionConfig, Vec<(&'static str, Given)>) {
    let config = VisionConfig { patch: 2, window: 8, ..vision_config(2, &[1]) };
    let patches = 24usize;
    let positions = (0..patches as i64).flat_map(|p| [p / 6, p % 6]).collect();
    let inputs = vec![
        ("pixel_values", Given::f32(&[patches, 24], numbers(5, patches * 24))),
        ("patch_positions_hw", Given::i64(&[patches, 2], positions)),
        ("window_index", Given::i64(&[6], vec![0, 1, 3, 4, 2, 5])),
        ("cu_window_seqlens", Given::i64(&[3], vec![0, 16, 24])),
    ];
    (config, inputs)
}
