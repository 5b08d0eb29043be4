//! Rewritten graphs compute the same, learn the same, and are what their snapshots say.

use crate::{
    random::{Draw, for_seeds},
    readings::{ragged, whole},
    shared::{compare::close_to_largest, describer::vision_inputs},
};
use mmlnb_models::{
    config::{BertConfig, TextConfig},
    graph::{Graph, Op},
    networks,
    weights::{Naming, Weights},
};
use mmlnb_trainer::torch::{Plan, PlanOptions, Randomness, Trainable};
use std::{collections::BTreeMap, path::Path};
use tch::{Device, Kind, Tensor};

/// Relative to the largest number of a tensor.
const TOLERANCE: f64 = 1e-5;

/// Outputs without training, and every key's gradient of a loss on them.
fn learn(graph: &Graph, weights: &Weights<'_>, inputs: &[(&str, Tensor)], outputs: &[&str]) -> BTreeMap<String, Tensor> {
    let options = PlanOptions { trainable: Trainable::All, ..PlanOptions::inference(Device::Cpu) };
    let plan = Plan::new(graph, weights, &options).unwrap();
    let still = plan.forward(inputs).unwrap();
    let mut all: BTreeMap<String, Tensor> =
        outputs.iter().map(|name| (format!("output {name}"), still.get(name).unwrap().shallow_clone())).collect();
    let pass = plan.forward_for_training(inputs, Randomness { seed: 1, step: 1 }).unwrap();
    let losses = outputs.iter().map(|name| pass.outputs().get(name).unwrap().sin().sum(Kind::Float));
    let loss = losses.reduce(|a, b| a + b).unwrap();
    pass.backward(&loss).unwrap();
    all.extend(plan.leaves().iter().map(|leaf| (format!("gradient {}", leaf.name), leaf.tensor.grad())));
    all
}

fn linears(graph: &Graph) -> usize {
    graph.nodes.iter().filter(|node| matches!(node.op, Op::Linear { .. })).count()
}

fn rewrites_change_nothing(graph: &Graph, weights: &Weights<'_>, inputs: &[(&str, Tensor)], outputs: &[&str]) {
    let expected = learn(graph, weights, inputs, outputs);
    let (fused, stacked) = (graph.fuse_residual_norms(), graph.stack_linears());
    assert!(fused.nodes.len() < graph.nodes.len(), "residual norms did not fire");
    assert!(linears(&stacked) < linears(graph), "stacked linears did not fire");
    let both = fused.stack_linears();
    for (rule, after) in [("residual norms", fused), ("stacked linears", stacked), ("both", both)] {
        let found = learn(&after, weights, inputs, outputs);
        assert!(found.keys().eq(expected.keys()), "{rule}: outputs and leaves");
        for (name, tensor) in &expected {
            let what = format!("{rule}: {name}");
            assert_eq!(found[name].defined(), tensor.defined(), "{what}");
            if tensor.defined() && tensor.abs().max().double_value(&[]) > 1e-4 {
                close_to_largest(&found[name], tensor, TOLERANCE, &what);
            }
        }
        // Inference reads a stack as one matrix.
        let plan = Plan::new(&after, weights, &PlanOptions::inference(Device::Cpu)).unwrap();
        let still = plan.forward(inputs).unwrap();
        for name in outputs {
            let expected = &expected[&format!("output {name}")];
            close_to_largest(still.get(name).unwrap(), expected, TOLERANCE, &format!("{rule}, one matrix: {name}"));
        }
    }
}

#[test]
fn decoder_rewritten_is_the_same() {
    for_seeds(4, |draw| {
        let config = draw.qwen().text;
        let graph = networks::decoder(&config, false);
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Qwen);
        rewrites_change_nothing(&graph, &Weights::new(&checkpoint), &whole(draw, &config, 2, 7), &["logits"]);
    });
}

#[test]
fn vision_rewritten_is_the_same() {
    for_seeds(4, |draw| {
        let config = draw.qwen();
        let graph = networks::vision(&config.vision);
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Qwen);
        let inputs = vision_inputs(&config, &draw.tensor(&[24, 1176]), [1, 4, 6]);
        rewrites_change_nothing(&graph, &Weights::new(&checkpoint), &inputs, &["image_embeds"]);
    });
}

#[test]
fn bert_rewritten_is_the_same() {
    for_seeds(4, |draw| {
        // With dropout the masks would move with the nodes' numbers.
        let config = BertConfig { dropout: 0.0, ..draw.bert() };
        let graph = networks::bert(&config, "");
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Bert);
        let inputs = [("input_ids", draw.ids(&[3, 9], config.vocabulary)), ("attention_mask", ragged(draw, 3, 9))];
        rewrites_change_nothing(&graph, &Weights::new(&checkpoint), &inputs, &["text_features", "last_hidden_state"]);
    });
}

#[test]
fn swin_rewritten_is_the_same() {
    for_seeds(3, |draw| {
        let graph = networks::swin(&draw.swin(), "");
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Swin);
        let weights = Weights::new(&checkpoint);
        let inputs = [("pixel_values", draw.tensor(&[2, 3, 37, 29]))];
        let fused = graph.fuse_residual_norms();
        assert!(fused.nodes.len() < graph.nodes.len(), "residual norms did not fire");
        let [expected, found] = [&graph, &fused].map(|graph| learn(graph, &weights, &inputs, &["image_features"]));
        for (name, tensor) in expected.iter().filter(|(_, t)| t.abs().max().double_value(&[]) > 1e-4) {
            close_to_largest(&found[name], tensor, TOLERANCE, name);
        }
    });
}

/// One small decoder whose text is recorded.
fn small_decoder() -> Graph {
    let config = TextConfig {
        hidden: 12,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_size: 6,
        inner: 20,
        vocabulary: 30,
        eps: 1e-6,
        rope_theta: 1e4,
        mrope_section: vec![1, 1, 1],
        tied: false,
    };
    networks::decoder(&config, true)
}

/// With MMLNB_BLESS set, records the texts anew instead of comparing.
fn is_recorded(graph: &Graph, name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/graphs").join(name);
    if std::env::var_os("MMLNB_BLESS").is_some() {
        std::fs::write(&file, graph.to_string()).unwrap();
    }
    let recorded = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert_eq!(graph.to_string(), recorded, "{}: if the change is meant, record it with MMLNB_BLESS=1", file.display());
}

#[test]
fn rewritten_graphs_are_as_recorded() {
    let decoder = small_decoder();
    is_recorded(&decoder, "decoder.txt");
    is_recorded(&decoder.fuse_residual_norms().stack_linears(), "decoder_rewritten.txt");
    let bert = networks::bert(&BertConfig { layers: 1, ..Draw::new(5).bert() }, "");
    is_recorded(&bert.fuse_residual_norms().stack_linears(), "bert_rewritten.txt");
}
