//! A classifier folder: from image files and token ids to probabilities.

use crate::{
    files::{Tensors, family, integers, json, list, number, picture, text, tolerance},
    shared::{
        compare::{close, distance},
        device,
    },
};
use mmlnb_models::{
    config::ClassifierConfig,
    graph::Graph,
    networks,
    prepare::classifier_image,
    weights::{Checkpoint, Naming, Weights},
};
use mmlnb_trainer::{
    classify::{Batch, Curriculum, Images, LambdaSchedule, Mode, Network, StepOptions, Texts, train_step},
    optimiser::{Optimiser, OptimiserOptions},
    torch::{Plan, PlanOptions, Randomness},
};
use serde_json::Value;
use std::path::Path;
use tch::{Kind, Tensor};

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
    let options = PlanOptions::inference(device());
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

/// The training data of the trajectory: pixels, ids, masks and labels of all examples.
struct Examples([Tensor; 4]);

impl Examples {
    fn read(dir: &Path, trajectory: &Value, config: &ClassifierConfig) -> Examples {
        let data = Tensors::read(dir.join(text(trajectory, "data")));
        let input = &config.image.as_ref().unwrap().1;
        let channels = |values: &[f32; 3]| Tensor::from_slice(values).reshape([1, 3, 1, 1]);
        let scaled = data.get("images_rgb").to_kind(Kind::Float) / 255.0;
        let pixels = (scaled - channels(&input.mean)) / channels(&input.std);
        Examples([pixels, data.get("input_ids").copy(), data.get("attention_mask").copy(), data.get("labels").copy()])
    }

    fn batch(&self, row: &Value) -> Batch {
        let take = Tensor::from_slice(&integers(&row["examples"]));
        let [pixels, ids, mask, labels] = self.0.each_ref().map(|all| all.index_select(0, &take).to_device(device()));
        Batch { images: Some(Images::Pixels(pixels)), texts: Some(Texts::Tokens(ids, mask)), labels }
    }
}

/// The curriculum that the trajectory's sizes name.
fn curriculum(sizes: &Value) -> Curriculum {
    let stages = integers(&sizes["stages"]);
    Curriculum {
        epochs: sizes["epochs"].as_u64().unwrap() as usize,
        text_from: stages[0] as usize,
        encoders_until: stages[1] as usize,
        start: 0.3,
        end: 1.0,
        schedule: LambdaSchedule::Linear,
    }
}

/// Sum and norm of every tensor after a stage.
fn marked(network: &Network, marks: &Value, skipped: &[&str], stage: usize) {
    for leaf in network.leaves().filter(|leaf| !skipped.contains(&leaf.name.as_str())) {
        let mark = &marks[format!("after_stage_{stage}")][&leaf.name];
        let found = leaf.tensor.detach().to_kind(Kind::Double);
        let (sum, norm) = (found.sum(Kind::Double).double_value(&[]), found.norm().double_value(&[]));
        let off = (norm / number(mark, "norm") - 1.0).abs();
        assert!(off < 1e-5, "{} after stage {stage}: its norm is {norm}, off by {off:.1e}", leaf.name);
        let allowed = 1e-5 * (leaf.tensor.numel() as f64) + 1e-5;
        assert!((sum - number(mark, "sum")).abs() < allowed, "{} after stage {stage}: its sum is {sum}", leaf.name);
    }
}

#[test]
fn golden_curriculum_training() {
    let Some(dir) = family("curriculum") else { return };
    let case = &json(&dir.join("cases.json"))["trajectory"];
    let trajectory = json(&dir.join(text(case, "file")));
    let folder = dir.join(text(case, "start"));
    let config = ClassifierConfig::from_dir(&folder).unwrap_or_else(|error| panic!("{error}"));
    let examples = Examples::read(&dir, case, &config);
    let checkpoint = Checkpoint::open(&folder, Naming::Classifier).unwrap_or_else(|error| panic!("{error}"));
    let network = Network::new(&config, &checkpoint, device(), false).unwrap_or_else(|error| panic!("{error}"));
    let adam = OptimiserOptions { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, decoupled: false };
    let mut optimiser = Optimiser::new(adam);
    let curriculum = curriculum(&trajectory["sizes"]);
    let skipped: Vec<&str> = list(&trajectory, "weights_not_compared").iter().map(|key| key.as_str().unwrap()).collect();
    let rows = list(&trajectory, "steps");
    for (number_of_row, row) in rows.iter().enumerate() {
        let (step, epoch) = (row["step"].as_u64().unwrap(), row["epoch"].as_u64().unwrap() as usize);
        let frozen = curriculum.frozen(epoch);
        network.freeze(frozen);
        assert_eq!(curriculum.stage(epoch) as u64, row["stage"].as_u64().unwrap(), "stage of epoch {epoch}");
        let options = StepOptions {
            lambda: curriculum.lambda(epoch),
            learning_rate: number(&trajectory["sizes"], "learning_rate"),
            label_smoothing: 0.0,
            class_weights: None,
            mode: Mode { frozen, frozen_drop: true, randomness: Randomness { seed: 1, step } },
        };
        let result = train_step(&network, &mut optimiser, &examples.batch(row), &options).unwrap();
        let near = |found: f64, key: &str, allowed: f64| {
            let expected = number(row, key);
            assert!((found - expected).abs() <= allowed, "{key} of step {step}: {found} instead of {expected}");
        };
        near(options.lambda, "lambda", 1e-12);
        let loss = tolerance(&trajectory, "loss");
        near(result.loss, "loss", loss);
        near(result.fused, "fused_cross_entropy", loss);
        near(result.image.unwrap(), "image_cross_entropy", loss);
        let alpha = result.alpha.unwrap();
        near(alpha.iter().sum::<f64>() / alpha.len() as f64, "mean_alpha", tolerance(&trajectory, "mean_alpha"));
        let gradients: Vec<Tensor> =
            network.leaves().filter(|leaf| leaf.tensor.requires_grad()).map(|leaf| leaf.tensor.grad()).collect();
        assert_eq!(gradients.len() as u64, row["with_gradient"].as_u64().unwrap(), "tensors that learn in step {step}");
        let norm = gradients.iter().map(|g| g.square().sum(Kind::Double).double_value(&[])).sum::<f64>().sqrt();
        near(norm, "gradient_norm", tolerance(&trajectory, "gradient_norm_relative") * number(row, "gradient_norm"));
        if rows.get(number_of_row + 1).is_none_or(|next| next["stage"] != row["stage"]) {
            marked(&network, &trajectory["marks"], &skipped, curriculum.stage(epoch));
        }
    }
    let end = Tensors::read(dir.join(text(case, "end")).join("model.safetensors"));
    for leaf in network.leaves().filter(|leaf| !skipped.contains(&leaf.name.as_str())) {
        let expected = end.get(&leaf.name);
        close(&leaf.tensor.detach(), expected, tolerance(&trajectory, "weights_largest"), &leaf.name);
        let mean = (leaf.tensor.detach() - expected.to_device(device())).abs().mean(Kind::Double).double_value(&[]);
        assert!(mean <= tolerance(&trajectory, "weights_mean_absolute"), "{}: off by {mean:.1e} in the mean", leaf.name);
    }
    let start = Tensors::read(folder.join("model.safetensors"));
    let moved = network.leaves().filter(|leaf| distance(&leaf.tensor.detach(), start.get(&leaf.name), &leaf.name) > 0.0).count();
    assert_eq!(moved, network.leaves().count(), "every tensor has learned");
}

#[test]
fn golden_curriculum_lambda_tables() {
    let Some(dir) = family("curriculum") else { return };
    let tables = json(&dir.join("lambda_tables.json"));
    for (name, table) in tables.as_object().unwrap() {
        let (schedule, sizes) = name.split_once('_').unwrap();
        let sizes: Vec<usize> = sizes.split('_').map(|size| size.parse().unwrap()).collect();
        let schedule = if schedule == "stairs" { LambdaSchedule::Stairs } else { LambdaSchedule::Linear };
        let curriculum =
            Curriculum { epochs: sizes[2], text_from: sizes[0], encoders_until: sizes[1], start: 0.3, end: 1.0, schedule };
        for (epoch, expected) in table.as_array().unwrap().iter().enumerate() {
            let (found, expected) = (curriculum.lambda(epoch), expected.as_f64().unwrap());
            assert!((found - expected).abs() < 1e-12, "{name}, epoch {epoch}: {found} instead of {expected}");
        }
    }
}
