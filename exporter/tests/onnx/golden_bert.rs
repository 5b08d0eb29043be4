//! BERT as transformers computes it, from both key styles.

use crate::{
    golden_files::{Tensors, family, integer, json},
    session::{Given, Onnx, Read, Results, assert_within, tolerance},
};
use mmlnb_exporter::{Network, Source};
use mmlnb_models::bundle::Precision;

fn inputs(tensors: &Tensors, prefix: &str) -> Vec<(&'static str, Given)> {
    ["input_ids", "attention_mask"]
        .map(|name| {
            let (shape, values) = tensors.i64(&format!("{prefix}{name}"));
            (name, Given::i64(&shape, values))
        })
        .to_vec()
}

/// Numbers of the tokens whose mask is 1.
fn seen(values: &[f32], mask: &[i64]) -> Vec<f32> {
    let width = values.len() / mask.len();
    values.chunks_exact(width).zip(mask).filter(|(_, mask)| **mask == 1).flat_map(|(row, _)| row.to_vec()).collect()
}

fn hidden_states_and_pooler(read: Read) {
    let Some(folder) = family("bert") else { return };
    let cases = json(&folder.join("cases.json"));
    let expected = Tensors::read(folder.join("expected.safetensors"));
    let layers = integer(&cases["sizes"], "layers");
    let states: Vec<String> = std::iter::once("embeddings.LayerNorm".to_string())
        .chain((0..layers).map(|n| format!("encoder.layer.{n}.output.LayerNorm")))
        .collect();
    for dir in [folder.clone(), folder.join("prefixed")] {
        let source = Source::open(&dir, None).unwrap();
        let graph = source.graph(Network::Bert).unwrap();
        let exposed = graph.expose(&states.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        let mut onnx = read(&exposed, &source.weights().unwrap(), Precision::F32);
        let results: Results = onnx.run(inputs(&expected, ""));
        let mask = expected.i64("attention_mask").1;
        let mut compare = vec![("last_hidden_state".to_string(), "last_hidden_state")];
        compare.extend(states.iter().enumerate().map(|(n, state)| (format!("hidden.{n}"), state.as_str())));
        for (key, output) in compare {
            let values = expected.f32(&key).1;
            assert_within(&key, &seen(&results[output].1, &mask), &seen(&values, &mask), tolerance(&cases, "last_hidden_state"));
        }
        let pooled = tolerance(&cases, "pooler_output");
        assert_within("pooler", &results["text_features"].1, &expected.f32("pooler_output").1, pooled);
        let padded = onnx.run(inputs(&expected, "padded."));
        assert_within("padded", &padded["text_features"].1, &expected.f32("padded.pooler_output").1, pooled);
    }
}

#[test]
fn golden_bert_hidden_states_and_pooler_from_both_key_styles() {
    hidden_states_and_pooler(Onnx::of);
}

#[test]
fn golden_bert_portable() {
    hidden_states_and_pooler(Onnx::portable);
}

#[test]
fn golden_bert_in_f16() {
    let Some(folder) = family("bert") else { return };
    let expected = Tensors::read(folder.join("expected.safetensors"));
    let source = Source::open(&folder, None).unwrap();
    let mut onnx = Onnx::of(&source.graph(Network::Bert).unwrap(), &source.weights().unwrap(), Precision::F16);
    let results = onnx.run(inputs(&expected, ""));
    assert_within("pooler", &results["text_features"].1, &expected.f32("pooler_output").1, 0.01);
}
