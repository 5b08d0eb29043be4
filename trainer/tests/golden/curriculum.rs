//! A classifier folder: from image files and token ids to probabilities.

use crate::{
    files::{Tensors, family, json, list, picture, text, tolerance},
    shared::compare::close,
};
use mmlnb_models::{
    config::ClassifierConfig,
    graph::Graph,
    networks,
    prepare::classifier_image,
    weights::{Checkpoint, Naming, Weights},
};
use mmlnb_trainer::torch::{Plan, PlanOptions};
use tch::{Device, Kind, Tensor};

#[test]
fn golden_curriculum_classification() {
    let Some(dir) = family("curriculum") else { return };
    let cases = json(&dir.join("cases.json"));
    let case = &cases["classify"];
    let expected = Tensors::read(dir.join(text(case, "tensors")));
    let folder = dir.join(text(case, "checkpoint"));
    let config = ClassifierConfig::from_dir(&folder).unwrap_or_else(|error| panic!("{error}"));
    let (encoder, input) = config.image.as_ref().unwrap();
    let graphs = [
        networks::image_encoder(encoder, "image"),
        networks::bert(config.text.as_ref().unwrap(), "text"),
        networks::prmf(&config),
    ];
    let checkpoint = Checkpoint::open(&folder, Naming::Classifier).unwrap_or_else(|error| panic!("{error}"));
    checkpoint.check_all(graphs.iter().map(Graph::parameters)).unwrap_or_else(|error| panic!("{error}"));
    let options = PlanOptions::inference(Device::Cpu);
    let [image, written, prmf] = graphs.map(|graph| Plan::new(&graph, &Weights::new(&checkpoint), &options).unwrap());

    let pixels = list(case, "images").iter().map(|one| {
        let values = classifier_image::pixel_values(&picture(&dir.join(text(one, "file"))), input);
        Tensor::from_slice(&values).reshape([3, input.height, input.width])
    });
    let pixels = Tensor::stack(&pixels.collect::<Vec<_>>(), 0);
    let near = |found: &Tensor, key: &str, kind: &str| close(found, expected.get(key), tolerance(&cases, kind), key);
    near(&pixels, "classifier_pixel_values", "classifier_pixel_values");
    let seen = image.forward(&[("pixel_values", pixels)]).unwrap();
    let (ids, mask) = (expected.get("text_input_ids"), expected.get("text_attention_mask"));
    let read = written.forward(&[("input_ids", ids), ("attention_mask", mask)]).unwrap();
    let [seen, read] = [seen.get("image_features").unwrap(), read.get("text_features").unwrap()];
    near(seen, "image_features", "features");
    near(read, "text_features", "features");
    let outputs = prmf.forward(&[("image_features", seen), ("text_features", read)]).unwrap();
    for (key, kind) in [
        ("projected_features", "features"),
        ("fused_features", "features"),
        ("alpha_text", "alpha_text"),
        ("logits", "logits"),
        ("image_logits", "logits"),
    ] {
        near(outputs.get(key).unwrap(), key, kind);
    }
    for (logits, key) in [("logits", "probabilities"), ("image_logits", "image_probabilities")] {
        near(&outputs.get(logits).unwrap().softmax(-1, Kind::Float), key, "logits");
    }
}
