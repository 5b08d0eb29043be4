//! Weights in few bits with statistics of what goes into the layers: exact where factors move, and far nearer where channels are planted that are a hundred
//! times as large as the others.

use crate::{
    describer::{Language, Prompt, vision_inputs},
    golden_files::family,
    random::{numbers, text_config, write_checkpoint},
    session::{Onnx, assert_near},
};
use mmlnb_exporter::{FewBits, Network, Sizes, Source, Step, export_decided, lower_deciding, nodes::Attribute};
use mmlnb_models::{
    bundle::Precision,
    config::TextConfig,
    graph::{Graph, Parameter},
    networks,
    statistics::{Channels, FORMAT, Gathered, Statistics, linear_layers},
    weights::{Checkpoint, Naming, Weights},
};
use std::{cell::Cell, collections::BTreeMap};

/// Every so many channels between gate, up and down one is planted, unless a test says otherwise.
const EACH: Option<usize> = Some(10);
const FACTOR: f32 = 100.0;
const TOKENS: usize = 40;

fn config(layers: i64) -> TextConfig {
    TextConfig { hidden: 64, inner: 160, tied: false, ..text_config(16, 2, 2, layers) }
}

/// A random network. `up` gives a hundred times as much in the planted channels, and `down` takes a hundredth of them: in exact arithmetic nothing has changed.
fn planted(graph: &Graph, seed: u64, each: Option<usize>) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), graph, |p| values(p, seed, each));
    let checkpoint = Checkpoint::open(folder.path(), Naming::Qwen).unwrap();
    (folder, checkpoint)
}

fn values(p: &Parameter, seed: u64, each: Option<usize>) -> Vec<f32> {
    let count = p.shape.iter().product::<i64>() as usize;
    let seed = p.key.bytes().fold(seed, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let gain = p.key.contains("norm");
    let scale = if p.shape.len() == 1 { 0.3 } else { 1.7 / (p.shape[1] as f32).sqrt() };
    let mut values: Vec<f32> = numbers(seed, count).into_iter().map(|v| v * scale + if gain { 1.0 } else { 0.0 }).collect();
    let width = *p.shape.last().unwrap() as usize;
    let Some(each) = each else { return values };
    for (row, values) in values.chunks_exact_mut(width).enumerate() {
        if p.key.ends_with("up_proj.weight") && row % each == 5 {
            values.iter_mut().for_each(|value| *value *= FACTOR);
        }
        if p.key.ends_with("down_proj.weight") {
            values.iter_mut().skip(5).step_by(each).for_each(|value| *value /= FACTOR);
        }
    }
    values
}

fn prompt(config: &TextConfig, seed: u64) -> Prompt {
    let embeds = numbers(seed, TOKENS * config.hidden as usize).iter().map(|value| 0.1 * value).collect();
    Prompt { embeds, positions: std::array::from_fn(|_| (0..TOKENS as i64).collect()), delta: 0 }
}

/// A graph at a precision, with what was decided of it.
fn onnx(graph: &Graph, weights: &Weights<'_>, precision: Precision, few: &FewBits) -> Onnx {
    let folder = tempfile::tempdir().unwrap();
    let lowered = lower_deciding(graph, "graph", precision, few).unwrap();
    Onnx::load(&export_decided(&lowered, (weights, few), precision, folder.path(), &[], &|_| ()).unwrap().file)
}

/// Results of prompts of these seeds by name, every token's.
fn run(config: &TextConfig, mut onnx: Onnx, precision: Precision, seeds: std::ops::Range<u64>) -> BTreeMap<String, Vec<f32>> {
    let rows: Vec<i64> = (0..TOKENS as i64).collect();
    let mut all: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for seed in seeds {
        let mut language = Language::new(config.clone(), onnx, precision);
        let (_, results) = language.prefill(&prompt(config, seed), TOKENS, &rows);
        onnx = language.into_decoder();
        results.into_iter().for_each(|(name, (_, values))| all.entry(name).or_default().extend(values));
    }
    all
}

/// What goes into each layer, from the graph in f32.
fn statistics(config: &TextConfig, graph: &Graph, weights: &Weights<'_>) -> Statistics {
    let inputs: Vec<(String, String, usize)> = linear_layers(graph)
        .map(|(module, value, width)| (module.to_string(), graph.nodes[value.node as usize].name.to_string(), width))
        .collect();
    let mut names: Vec<&str> = inputs.iter().map(|(_, name, _)| name.as_str()).collect();
    names.dedup();
    let exposed = graph.expose(&names).unwrap();
    let results = run(config, onnx(&exposed, weights, Precision::F32, &FewBits::default()), Precision::F32, 100..108);
    let channels = |name: &str, width: usize| {
        let mut found = Channels { largest: vec![0.0; width], mean_square: vec![0.0; width] };
        let rows = results[name].len() / width;
        for row in results[name].chunks_exact(width) {
            for (channel, value) in row.iter().enumerate() {
                found.largest[channel] = found.largest[channel].max(value.abs());
                found.mean_square[channel] += value * value / rows as f32;
            }
        }
        found
    };
    let layers = inputs.iter().map(|(module, name, width)| (module.clone(), channels(name, *width))).collect();
    written(&layers, weights.checkpoint().sha256().unwrap())
}

/// Statistics as `mmlnb-train calibrate` writes them.
fn written(layers: &BTreeMap<String, Channels>, checkpoint_sha256: &str) -> Statistics {
    let folder = tempfile::tempdir().unwrap();
    let gathered = Gathered {
        format: FORMAT,
        producer: "test".into(),
        checkpoint_sha256: checkpoint_sha256.into(),
        adapter_sha256: None,
        data_sha256: "-".into(),
        rows: 8,
        written: 0,
        tokens: 8 * TOKENS,
        statistics_sha256: String::new(),
    };
    Statistics::write(layers, gathered, folder.path()).unwrap();
    Statistics::read(folder.path()).unwrap()
}

/// Root mean square of the difference, relative to that of what is expected.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    let sum = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let off = sum(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    (off / sum(&mut expected.iter().map(|value| f64::from(*value)))).sqrt()
}

/// A random network with planted channels, and what its graph gives in f32: logits and what `down` gives in each layer.
struct Planted {
    config: TextConfig,
    graph: Graph,
    _folder: tempfile::TempDir,
    checkpoint: Checkpoint,
    names: Vec<String>,
}

impl Planted {
    fn new(layers: i64, seed: u64, each: Option<usize>) -> Planted {
        let config = config(layers);
        let graph = networks::decoder(&config, true);
        let mut names: Vec<String> = (0..layers).map(|n| format!("model.layers.{n}.mlp.down_proj")).collect();
        let graph = graph.expose(&names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        names.push("logits".into());
        let (_folder, checkpoint) = planted(&graph, seed, each);
        Planted { config, graph, _folder, checkpoint, names }
    }

    fn run(&self, precision: Precision, few: &FewBits) -> BTreeMap<String, Vec<f32>> {
        run(&self.config, onnx(&self.graph, &Weights::new(&self.checkpoint), precision, few), precision, 0..4)
    }
}

/// Prompts and steps share one cache, so that what goes through it is divided alike at every precision.
#[test]
fn factors_change_nothing_and_caches_are_alike() {
    let network = Planted::new(2, 3, EACH);
    let weights = Weights::new(&network.checkpoint);
    let statistics = statistics(&network.config, &network.graph, &weights);
    let expected = network.run(Precision::F32, &FewBits::default());
    let found = [Precision::Int8, Precision::Int4].map(|precision| {
        let few = FewBits::decide(&network.graph, &weights, precision, Some(&statistics)).unwrap();
        assert_ne!(few, FewBits::default());
        let found = network.run(Precision::F32, &few);
        network.names.iter().for_each(|name| assert_near(name, &found[name], &expected[name], 1e-3));
        found
    });
    let caches: Vec<&String> = expected.keys().filter(|name| name.starts_with("present")).collect();
    assert_eq!(caches.len(), 4);
    caches.iter().for_each(|name| assert_near(name, &found[0][*name], &found[1][*name], 1e-3));
    assert!(
        caches.iter().any(|name| relative(&found[0][*name], &expected[*name]) > 0.05),
        "something goes through the cache divided"
    );
}

/// The output's error is at most half of that of rounding to nearest: what planting costs is gone, and what 4 or 7 bits cost any network is left.
#[test]
fn planted_channels_cost_little_with_statistics() {
    for seed in 0..3 {
        let network = Planted::new(2, seed, EACH);
        let weights = Weights::new(&network.checkpoint);
        let statistics = statistics(&network.config, &network.graph, &weights);
        let expected = network.run(Precision::F32, &FewBits::default());
        for precision in [Precision::Int8, Precision::Int4] {
            let few = FewBits::decide(&network.graph, &weights, precision, Some(&statistics)).unwrap();
            let (nearest, fitted) = (network.run(precision, &FewBits::default()), network.run(precision, &few));
            for name in &network.names {
                let [nearest, fitted] = [&nearest, &fitted].map(|found| relative(&found[name], &expected[name]));
                println!("{seed} {precision} {name}: {nearest:.3} to nearest, {fitted:.3} with statistics");
                assert!(fitted <= nearest / 2.0, "{seed} {precision} {name}: {fitted}, {nearest} to nearest");
            }
        }
    }
}

/// One weight in each block is twenty times as large as the others: at 4 bits nothing is left of them. By weights alone, the matrix is measured and kept.
#[test]
fn a_matrix_that_suffers_from_4_bits_keeps_8() {
    let config = config(2);
    let graph = networks::decoder(&config, true);
    let folder = tempfile::tempdir().unwrap();
    let name = "model.layers.1.self_attn.o_proj.weight";
    write_checkpoint(folder.path(), &graph, |p| {
        let mut values = values(p, 9, EACH);
        if p.key == name {
            values.iter_mut().step_by(32).for_each(|value| *value *= 20.0);
        }
        values
    });
    let checkpoint = Checkpoint::open(folder.path(), Naming::Qwen).unwrap();
    let weights = Weights::new(&checkpoint);
    let few = FewBits::decide(&graph, &weights, Precision::Int4, None).unwrap();
    let names: Vec<&str> = few.kept().iter().map(|kept| kept.name.as_str()).collect();
    assert_eq!(names, [name]);
    assert_eq!(few, FewBits::decide(&graph, &weights, Precision::Int4, None).unwrap(), "the same each time");
    assert_eq!(FewBits::decide(&graph, &weights, Precision::Int8, None).unwrap(), FewBits::default());
    let lowered = lower_deciding(&graph, "decoder", Precision::Int4, &few).unwrap();
    let in_8_bits = lowered.nodes.iter().filter(|node| node.attributes.contains(&("bits", Attribute::Int(8))));
    assert_eq!(in_8_bits.map(|node| node.inputs[1].as_str()).collect::<Vec<_>>(), [format!("{name}/codes")]);
    let expected = run(&config, onnx(&graph, &weights, Precision::F32, &few), Precision::F32, 0..4);
    let [all, kept] = [&FewBits::default(), &few].map(|few| {
        let found = run(&config, onnx(&graph, &weights, Precision::Int4, few), Precision::Int4, 0..4);
        relative(&found["logits"], &expected["logits"])
    });
    println!("{all:.3} all in 4 bits, {kept:.3} with {few:?}");
    assert!(kept < 0.9 * all, "{kept}, {all} all in 4 bits");
}

/// Whatever the statistics are, what a vision tower gives in exact arithmetic stays.
#[test]
fn golden_qwen2_5_vl_vision_stays_what_it_is() {
    let Some(folder) = family("qwen2_5_vl") else { return };
    let source = Source::open(&folder, None).unwrap();
    let Sizes::Qwen(config) = source.sizes().clone() else { panic!("a Qwen2.5-VL") };
    let (graph, weights) = (source.graph(Network::Vision).unwrap(), source.weights().unwrap());
    let layers = linear_layers(&graph).map(|(module, _, width)| {
        let seed = module.bytes().fold(7, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let largest: Vec<f32> = numbers(seed, width).iter().map(|value| (5.0 * value).exp()).collect();
        let mean_square = largest.iter().map(|value| value * value / 9.0).collect();
        (module.to_string(), Channels { largest, mean_square })
    });
    let statistics = written(&layers.collect(), "-");
    let few = FewBits::decide(&graph, &weights, Precision::Int8, Some(&statistics)).unwrap();
    assert_ne!(few, FewBits::default());
    let pixels = numbers(
        5,
        16 * 16 * (config.vision.channels * config.vision.temporal * config.vision.patch * config.vision.patch) as usize,
    );
    let [plain, divided] = [&FewBits::default(), &few].map(|few| {
        let mut vision = onnx(&graph, &weights, Precision::F32, few);
        vision.run(vision_inputs(pixels.clone(), [1, 16, 16], &config)).remove("image_embeds").unwrap().1
    });
    assert_near("image_embeds", &divided, &plain, 1e-3);
}

/// All matrices that are announced are told, with statistics and without; nothing is announced where nothing is decided.
#[test]
fn progress_tells_all_matrices() {
    let network = Planted::new(2, 1, EACH);
    let weights = Weights::new(&network.checkpoint);
    let statistics = statistics(&network.config, &network.graph, &weights);
    for (precision, given, looks) in [
        (Precision::F32, Some(&statistics), 0),
        (Precision::Int8, None, 0),
        (Precision::Int8, Some(&statistics), 15),
        (Precision::Int4, None, 9),
        (Precision::Int4, Some(&statistics), 24),
    ] {
        let (announced, told, open) = (Cell::new(0), Cell::new(0), Cell::new(false));
        let progress = |step: Step<'_>| match step {
            Step::Decide { name, matrices } => {
                assert_eq!(name, "decoder");
                announced.set(matrices);
                open.set(true);
            }
            Step::Decided(more) => told.set(told.get() + more),
            Step::End => open.set(false),
            other => panic!("{other:?}"),
        };
        let few = FewBits::decide_telling(&network.graph, &weights, precision, given, ("decoder", &progress)).unwrap();
        assert_eq!(few, FewBits::decide(&network.graph, &weights, precision, given).unwrap());
        assert_eq!((announced.get(), told.get(), open.get()), (looks, looks, false), "{precision}");
    }
}
