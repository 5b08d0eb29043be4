//! A whole classifier: encoders, fusion and heads from one folder.

use crate::{
    golden_files::{Tensors, family, json, text},
    session::{Given, Onnx, Read, Results, assert_within, tolerance},
};
use mmlnb_exporter::{Network, Source};
use mmlnb_models::bundle::Precision;

fn classify(read: Read) {
    let Some(folder) = family("curriculum") else { return };
    let cases = json(&folder.join("cases.json"));
    let classify = &cases["classify"];
    let expected = Tensors::read(folder.join(text(classify, "tensors")));
    let source = Source::open(&folder.join(text(classify, "checkpoint")), None).unwrap();
    let mut results = Results::new();
    for network in source.networks() {
        let mut onnx = read(&source.graph(network).unwrap(), &source.weights().unwrap(), Precision::F32);
        let floats = |key: &str| {
            let (shape, values) = expected.f32(key);
            Given::f32(&shape, values)
        };
        let integers = |key: &str| {
            let (shape, values) = expected.i64(key);
            Given::i64(&shape, values)
        };
        let made = |key: &str| Given::f32(&results[key].0, results[key].1.clone());
        let inputs = match network {
            Network::Bert => vec![("input_ids", integers("text_input_ids")), ("attention_mask", integers("text_attention_mask"))],
            Network::Prmf => vec![("image_features", made("image_features")), ("text_features", made("text_features"))],
            _ => vec![("pixel_values", floats("classifier_pixel_values"))],
        };
        let outputs = onnx.run(inputs);
        results.extend(outputs);
    }
    let compared = [
        ("image_features", "features"),
        ("text_features", "features"),
        ("projected_features", "features"),
        ("fused_features", "features"),
        ("logits", "logits"),
        ("image_logits", "logits"),
        ("alpha_text", "alpha_text"),
    ];
    for (key, allowed) in compared {
        assert_within(key, &results[key].1, &expected.f32(key).1, tolerance(&cases, allowed));
    }
}

#[test]
fn golden_curriculum_classify() {
    classify(Onnx::of);
}

#[test]
fn golden_curriculum_portable() {
    classify(Onnx::portable);
}
