//! The fusion block and the heads: results and every gradient.

use crate::{
    files::{Tensors, family, json, list, number, text, tolerance},
    shared::{
        compare::{close, largest},
        device,
    },
};
use mmlnb_models::{
    config::{BertConfig, ClassifierConfig, Fusion, ImageEncoder, ImageInput, Resample, Vgg16Config},
    networks,
    weights::{Checkpoint, Naming, Weights},
};
use mmlnb_trainer::torch::{Plan, PlanOptions, Randomness, Trainable};
use serde_json::Value;
use tch::Tensor;

/// A classifier of these sizes; its encoders' inner sizes do not matter here.
fn config(sizes: &Value, confidence_hidden: Option<i64>) -> ClassifierConfig {
    let size = |key: &str| sizes[key].as_i64().unwrap();
    let input = ImageInput { width: 64, height: 64, resample: Resample::Bilinear, mean: [0.0; 3], std: [1.0; 3], stain: None };
    let text = BertConfig {
        vocabulary: 2,
        hidden: size("text"),
        layers: 1,
        heads: 1,
        inner: 1,
        positions: 2,
        types: 1,
        eps: 1e-12,
        dropout: 0.0,
        attention_dropout: 0.0,
        max_length: None,
    };
    ClassifierConfig {
        classes: (0..size("classes")).map(|n| n.to_string()).collect(),
        image: Some((ImageEncoder::Vgg16(Vgg16Config { channels: vec![1, 1, 1, 1, size("image")] }), input)),
        text: Some(text),
        fusion: Fusion::Prmf,
        confidence_hidden,
        image_head: true,
        dropout: 0.0,
    }
}

#[test]
fn golden_prmf_results_losses_and_gradients() {
    let Some(dir) = family("prmf") else { return };
    let cases = json(&dir.join("cases.json"));
    for case in list(&cases, "cases").iter().filter(|case| case["alternative_reading"] != true) {
        let name = text(case, "name");
        let tensors = Tensors::read(dir.join(text(case, "tensors")));
        let graph = networks::prmf(&config(&cases["sizes"], case["confidence_hidden"].as_i64()));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        Tensor::write_safetensors(&tensors.below("parameter"), &file).unwrap();
        let checkpoint = Checkpoint::open(&file, Naming::Classifier).unwrap();
        checkpoint.check(graph.parameters()).unwrap_or_else(|error| panic!("{error}"));
        // Saturated cases have large numbers: there tolerances are relative to the largest.
        let saturated = number(case, "scale") > 1.0;
        let near = |found: &Tensor, expected: &Tensor, key: &str, what: &str| {
            let allowed = match saturated {
                true => tolerance(&cases, "relative_when_saturated") * largest(expected).max(1.0),
                false => tolerance(&cases, key),
            };
            close(found, expected, allowed, &format!("{name} {what}"));
        };
        for row in list(case, "losses") {
            let options = PlanOptions { trainable: Trainable::All, ..PlanOptions::inference(device()) };
            let plan = Plan::new(&graph, &Weights::new(&checkpoint), &options).unwrap();
            let input = |key: &str| tensors.get(key).detach().copy().set_requires_grad(true);
            let (image, written) = (input("image_features"), input("text_features"));
            let randomness = Randomness { seed: 1, step: 0 };
            let pass = plan.forward_for_training(&[("image_features", &image), ("text_features", &written)], randomness).unwrap();
            for key in ["projected_features", "alpha_text", "fused_features", "logits", "image_logits"] {
                near(pass.outputs().get(key).unwrap(), tensors.get(key), "outputs", key);
            }
            let weight = number(row, "lambda");
            let cross =
                |key: &str| pass.outputs().get(key).unwrap().cross_entropy_for_logits(&tensors.get("labels").to_device(device()));
            let loss = cross("logits") * weight + cross("image_logits") * (1.0 - weight);
            near(&loss, &Tensor::from(number(row, "loss") as f32), "outputs", "loss");
            pass.backward(&loss).unwrap();
            let prefix = format!("gradient.{weight:?}");
            let found = |key: &str| match key {
                "image_features" => image.grad(),
                "text_features" => written.grad(),
                key => plan.leaves().iter().find(|leaf| leaf.name == key).unwrap_or_else(|| panic!("{key}")).tensor.grad(),
            };
            let expected = tensors.below(&prefix);
            assert_eq!(expected.len(), plan.leaves().len() + 2, "{prefix}: every parameter and both inputs");
            for (key, expected) in expected {
                assert!(found(key).defined(), "{name} {prefix}.{key} is absent");
                near(&found(key), expected, "gradients", &format!("{prefix}.{key}"));
            }
        }
    }
}
