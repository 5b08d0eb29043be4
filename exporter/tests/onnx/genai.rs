//! The graphs for onnxruntime-genai: what it binds to, and the same numbers as the product's own graphs.

use crate::{
    describer::{Describer, Language, Prompt},
    golden_files::{Tensors, family, json, list, picture, text},
    random::{numbers, text_config, write_random},
    session::{Given, Onnx, assert_near, assert_within, tolerance},
};
use mmlnb_exporter::{FewBits, Genai, Network, OnnxGraph, Sizes, Source, cache_head_size, lower_genai, nodes::Port};
use mmlnb_models::{
    bundle::Precision,
    config::{QwenConfig, TextConfig},
    networks,
    prepare::qwen_image::QwenImageProcessor,
    weights::{Checkpoint, Naming, Weights},
};
use proptest::prelude::*;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Int8, Precision::Int4];

fn opened(name: &str) -> Option<(std::path::PathBuf, Source, QwenConfig)> {
    let folder = family(name)?;
    let source = Source::open(&folder, None).unwrap();
    let Sizes::Qwen(config) = source.sizes().clone() else { panic!("a Qwen2.5-VL") };
    Some((folder, source, config))
}

fn ports(ports: &[Port]) -> Vec<String> {
    ports.iter().map(Port::to_string).collect()
}

fn part(source: &Source, network: Network, part: Genai<'_>) -> OnnxGraph {
    lower_genai(&source.graph(network).unwrap(), network.name(), Precision::F32, &FewBits::default(), part).unwrap()
}

#[test]
fn golden_qwen2_5_vl_graphs_have_the_ends_that_genai_binds_to() {
    for name in ["qwen2_5_vl", "qwen2_5_vl_b"] {
        let Some((_, source, config)) = opened(name) else { continue };
        let hidden = config.text.hidden;
        let vision = part(&source, Network::Vision, Genai::Vision { config: &config.vision, grid: [1, 6, 10] });
        assert_eq!(ports(&vision.inputs), ["pixel_values f32[60, 1176]", "image_grid_thw i64[1, 3]"]);
        assert_eq!(ports(&vision.outputs), [format!("image_features f32[15, {hidden}]")]);
        let embedding = part(&source, Network::Embedding, Genai::Embedding { image_token: config.image_token });
        let features = format!("image_features f32[image_tokens, {hidden}]");
        assert_eq!(ports(&embedding.inputs), ["input_ids i64[batch, tokens]".to_string(), features]);
        assert_eq!(ports(&embedding.outputs), [format!("inputs_embeds f32[batch, tokens, {hidden}]")]);
        let decoder = part(&source, Network::Decoder, Genai::Decoder(&config.text));
        let TextConfig { kv_heads, head_size, vocabulary, layers, .. } = config.text;
        let head = cache_head_size(head_size);
        let sides = || (0..layers).flat_map(|n| [format!("{n}.key"), format!("{n}.value")]);
        let mut inputs = vec![
            format!("inputs_embeds f32[batch, tokens, {hidden}]"),
            "attention_mask i64[batch, total]".into(),
            "position_ids i64[3, batch, tokens]".into(),
        ];
        inputs.extend(sides().map(|side| format!("past_key_values.{side} f32[batch, {kv_heads}, past, {head}]")));
        assert_eq!(ports(&decoder.inputs), inputs);
        let mut outputs: Vec<String> =
            sides().map(|side| format!("present.{side} f32[batch, {kv_heads}, total, {head}]")).collect();
        outputs.push(format!("logits f32[batch, 1, {vocabulary}]"));
        let mut found = ports(&decoder.outputs);
        found.sort();
        outputs.sort();
        assert_eq!(found, outputs);
    }
}

#[test]
fn golden_qwen2_5_vl_features_of_one_size_and_no_other() {
    for name in ["qwen2_5_vl", "qwen2_5_vl_b"] {
        let Some((folder, source, config)) = opened(name) else { continue };
        let cases = json(&folder.join("cases.json"));
        let image = &list(&cases, "images")[0];
        let processor = QwenImageProcessor::from_dir(&folder, &config.vision).unwrap();
        let patches = processor.patches(&picture(&folder.join(text(image, "file")))).unwrap();
        let form = Genai::Vision { config: &config.vision, grid: patches.grid };
        let mut onnx = Onnx::of_lowered(&part(&source, Network::Vision, form), &source.weights().unwrap(), Precision::F32);
        let [frames, rows, columns] = patches.grid;
        let inputs = |grid: [i64; 3]| {
            let shape = [(rows * columns) as usize, patches.pixel_values.len() / (rows * columns) as usize];
            vec![
                ("pixel_values", Given::f32(&shape, patches.pixel_values.clone())),
                ("image_grid_thw", Given::i64(&[1, 3], grid.to_vec())),
            ]
        };
        let expected = Tensors::read(folder.join(text(image, "tensors"))).f32("image_embeds").1;
        let features = onnx.run(inputs(patches.grid)).remove("image_features").unwrap().1;
        assert_within(name, &features, &expected, tolerance(&cases, "image_embeds"));
        let refused = onnx.refuses(inputs([frames, rows + 2, columns]));
        assert!(refused.contains("out of data bounds"), "{refused}");
    }
}

#[test]
fn golden_qwen2_5_vl_features_stand_where_the_image_tokens_are() {
    let Some((_, source, config)) = opened("qwen2_5_vl") else { return };
    let (hidden, image) = (config.text.hidden as usize, config.image_token);
    for precision in PRECISIONS {
        let form = Genai::Embedding { image_token: image };
        let lowered =
            lower_genai(&source.graph(Network::Embedding).unwrap(), "embedding", precision, &FewBits::default(), form).unwrap();
        let mut onnx = Onnx::of_lowered(&lowered, &source.weights().unwrap(), precision);
        let mut embeds = |ids: &[i64], shape: [usize; 2], features: Vec<f32>| {
            let rows = features.len() / hidden;
            let given =
                vec![("input_ids", Given::i64(&shape, ids.to_vec())), ("image_features", Given::f32(&[rows, hidden], features))];
            let (shape, values) = onnx.run(given).remove("inputs_embeds").unwrap();
            assert_eq!(shape.last(), Some(&hidden));
            values.chunks_exact(hidden).map(<[f32]>::to_vec).collect::<Vec<_>>()
        };
        let own = embeds(&[3, image, 7], [1, 3], vec![]);
        let features = numbers(1, 3 * hidden);
        let given: Vec<Vec<f32>> = features.chunks_exact(hidden).map(<[f32]>::to_vec).collect();
        assert_eq!(
            embeds(&[3, image, image, 7, image], [1, 5], features.clone()),
            [&own[0], &given[0], &given[1], &own[2], &given[2]].map(Vec::clone)
        );
        // An image token that the model itself wrote is text.
        assert_eq!(
            embeds(&[image, image, image, image], [2, 2], features),
            [&given[0], &given[1], &given[2], &own[1]].map(Vec::clone)
        );
        assert_eq!(embeds(&[image], [1, 1], vec![]), [own[1].clone()]);
    }
}

/// A decoder on a cache that grows, as genai calls it.
struct Growing {
    onnx: Onnx,
    config: TextConfig,
    past: Vec<(String, Given)>,
    length: usize,
}

impl Growing {
    fn new(onnx: Onnx, config: &TextConfig) -> Growing {
        let shape = [1, config.kv_heads as usize, 0, cache_head_size(config.head_size) as usize];
        let names = (0..config.layers).flat_map(|n| ["key", "value"].map(|side| format!("past_key_values.{n}.{side}")));
        let past = names.map(|name| (name, Given::f32(&shape, vec![]))).collect();
        Growing { onnx, config: config.clone(), past, length: 0 }
    }

    /// Logits of the last token.
    fn call(&mut self, embeds: Vec<f32>, positions: &[Vec<i64>; 3]) -> Vec<f32> {
        let tokens = positions[0].len();
        self.length += tokens;
        let mut inputs = vec![
            ("inputs_embeds", Given::f32(&[1, tokens, self.config.hidden as usize], embeds)),
            ("attention_mask", Given::i64(&[1, self.length], vec![1; self.length])),
            ("position_ids", Given::i64(&[3, 1, tokens], positions.concat())),
        ];
        inputs.extend(self.past.iter().map(|(name, past)| (name.as_str(), past.clone())));
        let mut results = self.onnx.run(inputs);
        for (name, past) in &mut self.past {
            let (shape, values) = results.remove(&name.replace("past_key_values", "present")).unwrap();
            assert_eq!(shape[2], self.length, "{name}");
            *past = Given::f32(&shape, values);
        }
        let (shape, logits) = results.remove("logits").unwrap();
        assert_eq!(shape, [1, 1, self.config.vocabulary as usize]);
        logits
    }
}

/// An image's positions between those of text: what one stream has, the others have not.
fn positions(before: i64, rows: i64, columns: i64, after: i64) -> ([Vec<i64>; 3], i64) {
    let cells = |place: &dyn Fn(i64) -> i64| (0..rows * columns).map(|cell| before + place(cell)).collect::<Vec<_>>();
    let image = [cells(&|_| 0), cells(&|cell| cell / columns), cells(&|cell| cell % columns)];
    let next = before + rows.max(columns);
    let lists = image.map(|middle| (0..before).chain(middle).chain(next..next + after).collect());
    (lists, next + after - (before + rows * columns + after))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    /// Prompt and steps on a growing cache, with positions in three streams: as the product's decoder on its slot and its table of angles.
    #[test]
    fn a_decoder_for_genai_is_the_product_s(
        head in prop::sample::select(vec![4i64, 12, 16, 32]),
        (kv, shared, layers) in (1i64..3, 1i64..4, 1i64..3),
        (before, rows, columns, after) in (1i64..4, 1i64..4, 1i64..4, 1i64..4),
        seed in any::<u64>(),
    ) {
        let half = head / 2;
        let (times, rows_of_head) = (half / 4, (half - half / 4) / 2);
        let mrope_section = vec![times, rows_of_head, half - times - rows_of_head];
        let config = TextConfig { mrope_section, ..text_config(head, kv, shared, layers) };
        let graph = networks::decoder(&config, true);
        let folder = tempfile::tempdir().unwrap();
        write_random(folder.path(), &graph, seed);
        let checkpoint = Checkpoint::open(folder.path(), Naming::Qwen).unwrap();
        let weights = Weights::new(&checkpoint);
        let (lists, delta) = positions(before, rows, columns, after);
        let length = lists[0].len();
        let hidden = config.hidden as usize;
        for (precision, allowed) in PRECISIONS.into_iter().zip([1e-5, 0.05, 0.05]) {
            let mut own = Language::new(config.clone(), Onnx::of(&graph, &weights, precision), precision);
            let prompt = Prompt { embeds: numbers(seed, length * hidden), positions: lists.clone(), delta };
            let (mut batch, results) = own.prefill(&prompt, length + 3, &[length as i64 - 1]);
            let lowered = lower_genai(&graph, "decoder", precision, &FewBits::default(), Genai::Decoder(&config)).unwrap();
            let mut growing = Growing::new(Onnx::of_lowered(&lowered, &weights, precision), &config);
            assert_near("prompt", &growing.call(prompt.embeds, &lists), &results["logits"].1, allowed);
            for step in 0..3 {
                let embeds = numbers(seed.wrapping_add(1 + step), hidden);
                let expected = own.step(&mut batch, embeds.clone()).remove(0);
                let place = length as i64 + step as i64 + delta;
                assert_near(&format!("step {step} at {precision}"), &growing.call(embeds, &[vec![place], vec![place], vec![place]]), &expected, allowed);
            }
        }
    }
}

/// The whole of it: image, prompt and greedy tokens through the three graphs, as the product's write them.
#[test]
fn golden_qwen2_5_vl_tokens_through_the_graphs_for_genai() {
    for name in ["qwen2_5_vl", "qwen2_5_vl_b"] {
        let Some((folder, source, config)) = opened(name) else { continue };
        let cases = json(&folder.join("cases.json"));
        let single = |case: &&serde_json::Value| case["images"].as_array().unwrap().len() == 1;
        let case = list(&cases, "cases").iter().find(single).expect("a case of one image");
        let tensors = Tensors::read(folder.join(text(case, "tensors")));
        let ids = tensors.i64("input_ids").1;
        let mut describer = Describer::new(&source, config.clone(), Precision::F32);
        let features = tensors.f32("image_embeds").1;
        let embeds = describer.embeds(&ids, &features);
        let streams = tensors.i64("position_ids").1;
        let streams: [Vec<i64>; 3] = std::array::from_fn(|axis| streams[axis * ids.len()..(axis + 1) * ids.len()].to_vec());
        let run = list(case, "runs").iter().find(|run| run["repetition_penalty"] == 1.0).expect("a greedy run");
        let expected: Vec<i64> = run["token_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
        let weights = source.weights().unwrap();
        let decoder = part(&source, Network::Decoder, Genai::Decoder(&config.text));
        let mut growing = Growing::new(Onnx::of_lowered(&decoder, &weights, Precision::F32), &config.text);
        let embedding = part(&source, Network::Embedding, Genai::Embedding { image_token: config.image_token });
        let mut embedding = Onnx::of_lowered(&embedding, &weights, Precision::F32);
        let mut rows = |ids: &[i64], features: Vec<f32>| {
            let hidden = config.text.hidden as usize;
            let features = Given::f32(&[features.len() / hidden, hidden], features);
            embedding
                .run(vec![("input_ids", Given::i64(&[1, ids.len()], ids.to_vec())), ("image_features", features)])
                .remove("inputs_embeds")
                .unwrap()
                .1
        };
        let prompt = rows(&ids, features);
        assert_near("inputs_embeds", &prompt, &embeds, 0.0);
        let mut logits = growing.call(prompt, &streams);
        let after = tensors.i64("rope_deltas").1[0] + ids.len() as i64;
        for (step, (place, token)) in (after..).zip(&expected).enumerate() {
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as i64;
            assert_eq!(best, *token, "{name}, step {step}");
            logits = growing.call(rows(&[best], vec![]), &[vec![place], vec![place], vec![place]]);
        }
    }
}
