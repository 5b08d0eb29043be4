//! 16-bit plans compute what f32 plans compute, to 16 bits.

use crate::{
    random::{adapted, for_seeds},
    readings::{ragged, whole},
    shared::{compare::close_to_largest, describer::vision_inputs},
};
use mmlnb_models::{
    graph::Graph,
    networks,
    weights::{Naming, Weights},
};
use mmlnb_trainer::torch::{Plan, PlanOptions, Randomness, Trainable};
use tch::{Device, Kind, Tensor};

/// bf16 keeps 8 bits; a few layers add up.
const TOLERANCE: f64 = 0.08;

fn bfloat16_follows_f32(graph: &Graph, weights: &Weights<'_>, inputs: &[(&str, Tensor)]) {
    let wide = PlanOptions::inference(Device::Cpu);
    let narrow = PlanOptions { kind: Kind::BFloat16, ..wide };
    let [expected, found] = [wide, narrow].map(|options| Plan::new(graph, weights, &options).unwrap().forward(inputs).unwrap());
    for (name, expected) in expected.iter() {
        let found = found.get(name).unwrap();
        close_to_largest(found, expected, TOLERANCE, name);
        assert_ne!(&found.to_kind(Kind::Float), expected, "{name}: bf16 must have rounded something");
    }
}

#[test]
fn encoders_follow() {
    for_seeds(3, |draw| {
        let config = draw.bert();
        let graph = networks::bert(&config, "");
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Bert);
        let inputs = [("input_ids", draw.ids(&[2, 9], config.vocabulary)), ("attention_mask", ragged(draw, 2, 9))];
        bfloat16_follows_f32(&graph, &Weights::new(&checkpoint), &inputs);
        let graph = networks::swin(&draw.swin(), "");
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Swin);
        bfloat16_follows_f32(&graph, &Weights::new(&checkpoint), &[("pixel_values", draw.tensor(&[2, 3, 40, 50]))]);
    });
}

#[test]
fn describers_follow() {
    for_seeds(3, |draw| {
        let config = draw.qwen();
        let graph = networks::vision(&config.vision);
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Qwen);
        let inputs = vision_inputs(&config, &draw.tensor(&[24, 1176]), [1, 4, 6]);
        bfloat16_follows_f32(&graph, &Weights::new(&checkpoint), &inputs);
        let graph = networks::decoder(&config.text, false);
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Qwen);
        bfloat16_follows_f32(&graph, &Weights::new(&checkpoint), &whole(draw, &config.text, 2, 9));
    });
}

#[test]
fn adapters_stay_f32_beside_a_bfloat16_base() {
    for_seeds(3, |draw| {
        let config = draw.qwen().text;
        let plain = networks::decoder(&config, false);
        let (_files, checkpoint) = draw.checkpoint(&[&plain], Naming::Qwen);
        let dora = draw.pick(&[false, true]);
        let (_adapter_files, adapter) = draw.adapter(&[&plain], &["q_proj", "down_proj"], dora, &checkpoint);
        let weights = Weights::with_adapter(&checkpoint, &adapter).unwrap();
        let inputs = whole(draw, &config, 2, 9);
        let gradients = [Kind::Float, Kind::BFloat16].map(|kind| {
            let options = PlanOptions { kind, trainable: Trainable::Adapters, ..PlanOptions::inference(Device::Cpu) };
            let plan = Plan::new(&adapted(&plain, &adapter), &weights, &options).unwrap();
            let pass = plan.forward_for_training(&inputs, Randomness { seed: 1, step: 1 }).unwrap();
            let loss = pass.outputs().get("logits").unwrap().to_kind(Kind::Float).square().mean(Kind::Float);
            pass.backward(&loss).unwrap();
            let trained = plan.leaves().iter().filter(|leaf| leaf.tensor.requires_grad());
            trained.map(|leaf| (leaf.name.clone(), leaf.tensor.grad())).collect::<Vec<_>>()
        });
        let largest = gradients[0].iter().map(|(_, g)| g.abs().max().double_value(&[])).fold(0.0, f64::max);
        for ((name, expected), (_, found)) in gradients[0].iter().zip(&gradients[1]) {
            assert_eq!(found.kind(), Kind::Float, "{name}");
            let off = (found - expected).abs().max().double_value(&[]);
            assert!(off <= 0.1 * largest, "{name}: off by {off:.2e} of {largest:.2e}");
        }
    });
}
