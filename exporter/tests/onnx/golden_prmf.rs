//! The fusion block and its heads.

use crate::{
    golden_files::{Tensors, family, integer, json, list, text},
    random::{bert_config, write_checkpoint},
    session::{Given, Onnx, Read, assert_near, assert_within, tolerance},
};
use mmlnb_models::{
    bundle::Precision,
    config::{BertConfig, ClassifierConfig, Fusion, ImageEncoder, ImageInput, Resample, Vgg16Config},
    networks,
    weights::{Checkpoint, Naming, Weights},
};

fn config(sizes: &serde_json::Value, case: &serde_json::Value) -> ClassifierConfig {
    let encoder = ImageEncoder::Vgg16(Vgg16Config { channels: vec![integer(sizes, "image"); 5] });
    let input = ImageInput { width: 32, height: 32, resample: Resample::Bilinear, mean: [0.0; 3], std: [1.0; 3], stain: None };
    ClassifierConfig {
        classes: (0..integer(sizes, "classes")).map(|n| n.to_string()).collect(),
        image: Some((encoder, input)),
        text: Some(BertConfig { hidden: integer(sizes, "text"), heads: 1, ..bert_config() }),
        fusion: Fusion::Prmf,
        confidence_hidden: case["confidence_hidden"].as_i64(),
        image_head: true,
        dropout: 0.1,
    }
}

fn required_cases(read: Read) {
    let Some(folder) = family("prmf") else { return };
    let cases = json(&folder.join("cases.json"));
    let mut compared = 0;
    for case in list(&cases, "cases").iter().filter(|case| case["alternative_reading"] != true) {
        let expected = Tensors::read(folder.join(text(case, "tensors")));
        let graph = networks::prmf(&config(&cases["sizes"], case));
        let checkpoint = tempfile::tempdir().unwrap();
        write_checkpoint(checkpoint.path(), &graph, |p| expected.f32(&format!("parameter.{}", p.key)).1);
        let checkpoint = Checkpoint::open(checkpoint.path(), Naming::Classifier).unwrap();
        let mut onnx = read(&graph, &Weights::new(&checkpoint), Precision::F32);
        let input = |name| {
            let (shape, values) = expected.f32(name);
            (name, Given::f32(&shape, values))
        };
        let results = onnx.run(vec![input("image_features"), input("text_features")]);
        for name in ["projected_features", "alpha_text", "fused_features", "logits", "image_logits"] {
            let (shape, values) = expected.f32(name);
            assert_eq!(results[name].0, shape, "{name}");
            let what = format!("{} {name}", text(case, "name"));
            match case["scale"].as_f64() {
                Some(1.0) => assert_within(&what, &results[name].1, &values, tolerance(&cases, "outputs")),
                _ => assert_near(&what, &results[name].1, &values, tolerance(&cases, "relative_when_saturated")),
            }
        }
        compared += 1;
    }
    assert!(compared > 0, "cases.json requires no case");
}

#[test]
fn golden_prmf_required_cases() {
    required_cases(Onnx::of);
}

#[test]
fn golden_prmf_portable() {
    required_cases(Onnx::portable);
}
