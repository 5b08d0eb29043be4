//! Computing blocks again leaves results, dropout and gradients unchanged.

use crate::{
    random::{Draw, adapted, for_seeds},
    readings::{ragged, whole},
    shared::compare::close_to_largest,
};
use mmlnb_models::{
    config::BertConfig,
    graph::{self, Builder, Dim, Graph},
    networks,
    weights::{Naming, Weights},
};
use mmlnb_trainer::torch::{Plan, PlanOptions, Randomness, Trainable};
use tch::{Device, Kind, Tensor};

/// The same network in one piece: nothing is computed again.
fn in_one_piece(graph: &Graph) -> Graph {
    graph.clone().in_one_block(None)
}

/// A loss that gives every number of an output another gradient.
fn loss(output: &Tensor) -> Tensor {
    let weights = Tensor::arange(output.numel() as i64, (Kind::Float, Device::Cpu)).reshape(output.size()).sin();
    (output * weights).sum(Kind::Float)
}

/// Outputs, gradients of the leaves, gradients of the float inputs that ask for them.
fn train(
    graph: &Graph,
    weights: &Weights<'_>,
    options: &PlanOptions,
    (inputs, outputs): (&[(&str, Tensor)], &[&str]),
) -> Vec<(String, Tensor)> {
    let plan = Plan::new(graph, weights, options).unwrap();
    let inputs: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(name, t)| (*name, t.detach().copy().set_requires_grad(t.kind() == Kind::Float && t.dim() > 2)))
        .collect();
    let mut all = Vec::new();
    // Two steps: gradients of the second add to those of the first.
    for step in 0..2 {
        let pass = plan.forward_for_training(&inputs, Randomness { seed: 3, step }).unwrap();
        let results: Vec<Tensor> = outputs.iter().map(|name| pass.outputs().get(name).unwrap().shallow_clone()).collect();
        all.extend(outputs.iter().zip(&results).map(|(name, t)| (format!("{name}, step {step}"), t.detach())));
        let total = results.iter().map(loss).reduce(|a, b| a + b).unwrap();
        drop(results);
        pass.backward(&total).unwrap();
    }
    let leaves = plan.leaves().iter().filter(|leaf| leaf.tensor.requires_grad());
    all.extend(leaves.map(|leaf| (leaf.name.clone(), leaf.tensor.grad())));
    all.extend(inputs.iter().filter(|(_, t)| t.requires_grad()).map(|(name, t)| (name.to_string(), t.grad())));
    all
}

fn recomputed_equals_kept(
    graph: &Graph,
    weights: &Weights<'_>,
    options: &PlanOptions,
    case: (&[(&str, Tensor)], &[&str]),
    trained: usize,
) {
    assert!(graph.nodes.iter().any(|node| node.region.is_some()), "the network has blocks");
    let again = train(graph, weights, options, case);
    let kept = train(&in_one_piece(graph), weights, options, case);
    assert!(again.len() >= 2 * case.1.len() + trained, "{} results, {trained} trained tensors", again.len());
    assert_eq!(again.len(), kept.len());
    for ((name, found), (_, expected)) in again.iter().zip(&kept) {
        assert_eq!(found.defined(), expected.defined(), "{name}: one has a gradient, the other has none");
        if expected.defined() && expected.abs().max().double_value(&[]) > 1e-4 {
            close_to_largest(found, expected, 1e-5, name);
        }
    }
}

const ALL: PlanOptions = PlanOptions {
    device: Device::Cpu,
    kind: Kind::Float,
    trainable: Trainable::All,
    adapters: mmlnb_trainer::torch::Adapters::Live,
    adapter_dropout: 0.0,
};

#[test]
fn bert_with_dropout_learns_the_same() {
    for_seeds(4, |draw| {
        let config = BertConfig { attention_dropout: 0.2, ..draw.bert() };
        let graph = networks::bert(&config, "");
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Bert);
        let inputs = [("input_ids", draw.ids(&[3, 9], config.vocabulary)), ("attention_mask", ragged(draw, 3, 9))];
        let case = (inputs.as_slice(), ["text_features", "last_hidden_state"].as_slice());
        recomputed_equals_kept(&graph, &Weights::new(&checkpoint), &ALL, case, graph.parameters().len());
    });
}

#[test]
fn swin_learns_the_same() {
    for_seeds(4, |draw| {
        let graph = networks::swin(&draw.swin(), "");
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Swin);
        let inputs = [("pixel_values", draw.tensor(&[2, 3, 37, 29]))];
        let case = (inputs.as_slice(), ["image_features"].as_slice());
        recomputed_equals_kept(&graph, &Weights::new(&checkpoint), &ALL, case, graph.parameters().len());
    });
}

#[test]
fn vgg16_learns_what_plain_convolutions_learn() {
    for_seeds(4, |draw| {
        let graph = networks::vgg16(&draw.vgg16(), "");
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Vgg16);
        let [height, width] = [0, 1].map(|_| draw.size(32, 70));
        let pixels = draw.tensor(&[2, 3, height, width]);
        let inputs = [("pixel_values", pixels.shallow_clone())];
        let found = train(&graph, &Weights::new(&checkpoint), &ALL, (&inputs, &["image_features"]));

        let plan = Plan::new(&graph, &Weights::new(&checkpoint), &ALL).unwrap();
        let weight = |name: &str| {
            let leaf = plan.leaves().iter().find(|leaf| leaf.name == name).unwrap();
            leaf.tensor.detach().copy().set_requires_grad(true)
        };
        let pixels = pixels.set_requires_grad(true);
        let mut x = pixels.shallow_clone();
        let mut weights = Vec::new();
        for index in 0..31 {
            x = match index {
                4 | 9 | 16 | 23 | 30 => x.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false),
                _ if plan.leaves().iter().any(|leaf| leaf.name == format!("features.{index}.weight")) => {
                    let names = ["weight", "bias"].map(|part| format!("features.{index}.{part}"));
                    let [kernel, bias] = [0, 1].map(|part| weight(&names[part]));
                    let y = x.conv2d(&kernel, Some(&bias), [1, 1], [1, 1], [1, 1], 1);
                    weights.extend(names.into_iter().zip([kernel, bias]));
                    y
                }
                _ => x.relu(),
            };
        }
        let features = x.mean_dim([2, 3].as_slice(), false, Kind::Float);
        // `train` makes two steps on the same weights, whose gradients add up.
        (loss(&features) * 2.0).backward();
        assert_eq!(weights.len(), 26);
        weights.push(("pixel_values".into(), pixels));
        let result = |name: &str| &found.iter().find(|(known, _)| known == name).unwrap().1;
        close_to_largest(result("image_features, step 0"), &features.detach(), 1e-6, "features");
        for (name, tensor) in &weights {
            close_to_largest(result(name), &tensor.grad(), 1e-5, name);
        }
    });
}

#[test]
fn adapters_with_dropout_learn_the_same() {
    for_seeds(6, |draw| {
        let config = draw.qwen().text;
        let plain = networks::decoder(&config, false);
        let (_files, checkpoint) = draw.checkpoint(&[&plain], Naming::Qwen);
        let dora = draw.pick(&[false, true]);
        let (_adapter_files, adapter) = draw.adapter(&[&plain], &["q_proj", "up_proj", "down_proj"], dora, &checkpoint);
        let weights = Weights::with_adapter(&checkpoint, &adapter).unwrap();
        let graph = adapted(&plain, &adapter);
        let inputs = whole(draw, &config, 2, 7);
        let options = PlanOptions { trainable: Trainable::Adapters, adapter_dropout: 0.2, ..ALL };
        let trained = adapter.modules().len() * if dora { 3 } else { 2 };
        recomputed_equals_kept(&graph, &weights, &options, (&inputs, &["logits"]), trained);
    });
}

#[test]
fn frozen_parts_get_no_gradient() {
    let mut draw = Draw::new(1);
    let config = draw.bert();
    let graph = networks::bert(&config, "");
    let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Bert);
    let plan = Plan::new(&graph, &Weights::new(&checkpoint), &ALL).unwrap();
    let is_pooler = |name: &str| name.starts_with("pooler");
    for leaf in plan.leaves().iter().filter(|leaf| !is_pooler(&leaf.name)) {
        let _ = leaf.tensor.set_requires_grad(false);
    }
    let inputs = [("input_ids", draw.ids(&[2, 5], config.vocabulary)), ("attention_mask", ragged(&mut draw, 2, 5))];
    let pass = plan.forward_for_training(&inputs, Randomness { seed: 1, step: 1 }).unwrap();
    let total = loss(pass.outputs().get("text_features").unwrap());
    assert!(!pass.outputs().get("last_hidden_state").unwrap().requires_grad(), "nothing before the pooler learns");
    pass.backward(&total).unwrap();
    for leaf in plan.leaves() {
        assert_eq!(leaf.tensor.grad().defined(), is_pooler(&leaf.name), "{}", leaf.name);
    }
}

#[test]
fn attention_drops_shares_whose_mean_is_the_whole() {
    let mut draw = Draw::new(5);
    let b = Builder::new();
    let dims = || [Dim::named("batch"), Dim::named("tokens"), Dim::from(8)];
    let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, graph::Kind::Float, dims()));
    let mask = b.input("mask", graph::Kind::Int, [Dim::named("batch"), Dim::named("tokens")]);
    b.output("y", q.masked_attention(k, v, mask, 2, 0.3));
    let network = b.finish();
    // The network has no weights; any checkpoint will do.
    let some = networks::vgg16(&draw.vgg16(), "");
    let (_files, checkpoint) = draw.checkpoint(&[&some], Naming::Vgg16);
    let plan = Plan::new(&network, &Weights::new(&checkpoint), &ALL).unwrap();
    let mut inputs: Vec<(&str, Tensor)> = ["q", "k", "v"].map(|name| (name, draw.tensor(&[2, 6, 8]))).into();
    inputs.push(("mask", ragged(&mut draw, 2, 6)));
    let whole = plan.forward(&inputs).unwrap().get("y").unwrap().shallow_clone();
    let dropped: Vec<Tensor> = (0..600)
        .map(|step| {
            let pass = plan.forward_for_training(&inputs, Randomness { seed: 1, step }).unwrap();
            pass.outputs().get("y").unwrap().shallow_clone()
        })
        .collect();
    assert_ne!(dropped[0], dropped[1]);
    close_to_largest(&Tensor::stack(&dropped, 0).mean_dim(0, false, Kind::Float), &whole, 0.06, "mean over masks");
}

#[test]
fn dropout_differs_between_steps_and_seeds_and_is_absent_in_inference() {
    let mut draw = Draw::new(2);
    let config = draw.bert();
    let graph = networks::bert(&config, "");
    let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Bert);
    let plan = Plan::new(&graph, &Weights::new(&checkpoint), &ALL).unwrap();
    let inputs = [("input_ids", draw.ids(&[2, 9], config.vocabulary)), ("attention_mask", ragged(&mut draw, 2, 9))];
    let run = |seed, step| {
        let pass = plan.forward_for_training(&inputs, Randomness { seed, step }).unwrap();
        pass.outputs().get("text_features").unwrap().detach()
    };
    let still = || plan.forward(&inputs).unwrap().get("text_features").unwrap().shallow_clone();
    assert_eq!(run(1, 1), run(1, 1));
    assert_eq!(still(), still());
    for other in [run(1, 2), run(2, 1), still()] {
        assert_ne!(run(1, 1), other);
    }
}
