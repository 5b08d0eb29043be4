//! An adapter beside the base equals the merged matrix, in both readings and whatever else is rewritten.

use crate::{
    onnx::{Onnx, TOLERANCE},
    random::{adapted, for_seeds},
    readings::whole,
    shared::{compare::close_to_largest, describer::vision_inputs},
};
use mmlnb_models::{
    graph::Graph,
    networks,
    weights::{Adapter, Checkpoint, Naming, Weights},
};
use mmlnb_trainer::torch::{Adapters, Plan, PlanOptions};
use tch::{Device, Tensor};

fn merged_equals_live(graph: &Graph, (checkpoint, adapter): (&Checkpoint, &Adapter), inputs: &[(&str, Tensor)], output: &str) {
    let weights = Weights::with_adapter(checkpoint, adapter).unwrap();
    let live = PlanOptions::inference(Device::Cpu);
    let merged = PlanOptions { adapters: Adapters::Merged, ..live };
    let run = |graph: &Graph, weights: &Weights<'_>, options: &PlanOptions| {
        let outputs = Plan::new(graph, weights, options).unwrap().forward(inputs).unwrap();
        outputs.get(output).unwrap().shallow_clone()
    };
    let with = adapted(graph, adapter);
    let expected = run(&with, &weights, &live);
    close_to_largest(&run(&with, &weights, &merged), &expected, 1e-5, "merged");
    let stacked = with.fuse_residual_norms().stack_linears();
    close_to_largest(&run(&stacked, &weights, &live), &expected, 1e-5, "stacked, live");
    close_to_largest(&run(&stacked, &weights, &merged), &expected, 1e-5, "stacked, merged");
    let onnx = Onnx::new(&with, &weights).run(inputs);
    let (_, found) = onnx.iter().find(|(name, _)| name == output).unwrap();
    close_to_largest(found, &expected, TOLERANCE, "exported");
    // The adapter must matter, or the law says nothing.
    let without = run(graph, &Weights::new(checkpoint), &live);
    let change = (&without - &expected).abs().max().double_value(&[]);
    assert!(change > 1e-3 * expected.abs().max().double_value(&[]), "the adapter changes next to nothing: {change}");
}

#[test]
fn decoder_merged_equals_adapter_beside_base() {
    for_seeds(6, |draw| {
        let config = draw.qwen().text;
        let graph = networks::decoder(&config, false);
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Qwen);
        let names: &[&str] =
            draw.pick(&[&["q_proj", "v_proj"], &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]]);
        let dora = draw.pick(&[false, true]);
        let (_adapter_files, adapter) = draw.adapter(&[&graph], names, dora, &checkpoint);
        let inputs = whole(draw, &config, 2, 9);
        merged_equals_live(&graph, (&checkpoint, &adapter), &inputs, "logits");
    });
}

#[test]
fn vision_merged_equals_adapter_beside_base() {
    for_seeds(4, |draw| {
        let config = draw.qwen();
        let graph = networks::vision(&config.vision);
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Qwen);
        let dora = draw.pick(&[false, true]);
        let (_adapter_files, adapter) = draw.adapter(&[&graph], &["qkv", "up_proj", "down_proj"], dora, &checkpoint);
        let inputs = vision_inputs(&config, &draw.tensor(&[48, 1176]), [1, 8, 6]);
        merged_equals_live(&graph, (&checkpoint, &adapter), &inputs, "image_embeds");
    });
}
