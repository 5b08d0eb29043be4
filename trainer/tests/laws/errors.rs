//! What does not fit is refused with names: of the input, or of the node and the line that made it.

use crate::random::Draw;
use mmlnb_models::{
    networks,
    weights::{Naming, Weights},
};
use mmlnb_trainer::torch::{Plan, PlanOptions, TorchError};
use tch::{Device, Kind, Tensor};

fn bert() -> Plan {
    let mut draw = Draw::new(3);
    let config = draw.bert();
    let graph = networks::bert(&config, "");
    let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Bert);
    Plan::new(&graph, &Weights::new(&checkpoint), &PlanOptions::inference(Device::Cpu)).unwrap()
}

fn ones(shape: &[i64]) -> Tensor {
    Tensor::ones(shape, (Kind::Int64, Device::Cpu))
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let plan = bert();
    let (ids, mask) = (("input_ids", ones(&[2, 5])), ("attention_mask", ones(&[2, 5])));
    let given = |inputs: &[&(&'static str, Tensor)]| -> Vec<(&'static str, Tensor)> {
        inputs.iter().map(|(name, tensor)| (*name, tensor.shallow_clone())).collect()
    };
    let cases = [
        (given(&[&ids]), "attention_mask", "not given"),
        (given(&[&ids, &mask, &ids]), "input_ids", "given twice"),
        (given(&[&ids, &mask, &("labels", ones(&[2]))]), "labels", "no such input"),
        (given(&[&ids, &("attention_mask", ones(&[2, 4]))]), "attention_mask", "`tokens` is 4"),
        (given(&[&ids, &("attention_mask", ones(&[2]))]), "attention_mask", "int [batch, tokens]"),
        (given(&[&ids, &("attention_mask", ones(&[2, 5]).to_kind(Kind::Float))]), "attention_mask", "Float"),
    ];
    for (inputs, expected, text) in cases {
        let error = plan.forward(&inputs).unwrap_err();
        let TorchError::Input { name, problem } = &error else { panic!("{error}") };
        assert_eq!(name, expected);
        assert!(problem.contains(text), "{problem} does not say {text}");
    }
}

#[test]
fn sizes_that_follow_from_others_are_checked() {
    let mut draw = Draw::new(4);
    let config = draw.qwen();
    let graph = networks::vision(&config.vision);
    let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Qwen);
    let plan = Plan::new(&graph, &Weights::new(&checkpoint), &PlanOptions::inference(Device::Cpu)).unwrap();
    let inputs = [
        ("pixel_values", draw.tensor(&[16, 1176])),
        ("patch_positions_hw", ones(&[16, 2])),
        ("window_index", ones(&[5])),
        ("cu_window_seqlens", ones(&[2])),
    ];
    let error = plan.forward(&inputs).unwrap_err().to_string();
    assert!(error.contains("`window_index`") && error.contains("patches/4"), "{error}");
}

#[test]
fn a_failing_operator_is_named_with_its_line() {
    let error = bert().forward(&[("input_ids", ones(&[1, 3]) * 1000), ("attention_mask", ones(&[1, 3]))]).unwrap_err();
    let text = error.to_string();
    let TorchError::Node { node, op, at, inputs, problem } = error else { panic!("{text}") };
    assert_eq!((node.as_str(), op.as_str(), inputs.as_str()), ("embeddings.word_embeddings", "Embedding", "Int64 [1, 3]"));
    assert!(at.contains("bert.rs:") && problem.contains("out of range") && !text.contains('\n'), "{text}");
}

#[test]
fn segments_that_do_not_cover_the_rows_are_refused() {
    let mut draw = Draw::new(5);
    let mut config = draw.qwen();
    config.vision.full_attention = vec![];
    let graph = networks::vision(&config.vision);
    let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Qwen);
    let plan = Plan::new(&graph, &Weights::new(&checkpoint), &PlanOptions::inference(Device::Cpu)).unwrap();
    for bounds in [[0, 12], [4, 16], [0, 20]] {
        let inputs = [
            ("pixel_values", draw.tensor(&[16, 1176])),
            ("patch_positions_hw", ones(&[16, 2])),
            ("window_index", Tensor::arange(4, (Kind::Int64, Device::Cpu))),
            ("cu_window_seqlens", Tensor::from_slice(&bounds)),
        ];
        let error = plan.forward(&inputs).unwrap_err().to_string();
        assert!(error.contains("visual.blocks.0.attn.attention") && error.contains(&format!("{bounds:?}")), "{error}");
    }
}

#[test]
fn an_unknown_output_is_answered_with_the_known_ones() {
    let outputs = bert().forward(&[("input_ids", ones(&[1, 3])), ("attention_mask", ones(&[1, 3]))]).unwrap();
    let error = outputs.get("pooler").unwrap_err().to_string();
    assert!(error.contains("`pooler`") && error.contains("text_features, last_hidden_state"), "{error}");
}
