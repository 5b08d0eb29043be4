//! VGG16 and Swin.

use crate::{
    files::{Tensors, family, json, list, picture, text, tolerance},
    shared::{
        compare::{close, close_to_largest},
        device,
    },
};
use mmlnb_models::{
    config::{ImageEncoder, ImageInput, Resample},
    networks,
    prepare::classifier_image,
    weights::{Checkpoint, Naming, Weights},
};
use mmlnb_trainer::torch::{Plan, PlanOptions};
use serde_json::Value;
use std::path::Path;
use tch::Tensor;

/// A case's images `[images, 3, height, width]`, normalised as the config says.
fn pixels(dir: &Path, config: &Value, case: &Value, files: &[&str]) -> Tensor {
    let three = |key: &str| -> [f32; 3] { std::array::from_fn(|i| config[key][i].as_f64().unwrap() as f32) };
    let [width, height] = ["width", "height"].map(|key| case[key].as_i64().unwrap());
    let input = ImageInput {
        width,
        height,
        resample: Resample::Bilinear,
        mean: three("image_mean"),
        std: three("image_std"),
        stain: None,
    };
    let each = files.iter().map(|file| {
        let values = classifier_image::pixel_values(&picture(&dir.join(file)), &input);
        Tensor::from_slice(&values).reshape([3, height, width])
    });
    Tensor::stack(&each.collect::<Vec<_>>(), 0)
}

/// The encoder of a folder with these nodes as further outputs.
fn encoder(dir: &Path, naming: Naming, exposed: &[&str]) -> Plan {
    let config = ImageEncoder::from_dir(dir).unwrap_or_else(|error| panic!("{error}"));
    let graph = networks::image_encoder(&config, "").expose(exposed).unwrap();
    let checkpoint = Checkpoint::open(dir, naming).unwrap_or_else(|error| panic!("{error}"));
    checkpoint.check(graph.parameters()).unwrap_or_else(|error| panic!("{error}"));
    Plan::new(&graph, &Weights::new(&checkpoint), &PlanOptions::inference(device())).unwrap()
}

#[test]
fn golden_vgg16_stages_and_features() {
    let Some(dir) = family("vgg16") else { return };
    let cases = json(&dir.join("cases.json"));
    let (config, expected) = (json(&dir.join("config.json")), Tensors::read(dir.join("expected.safetensors")));
    let tolerance = tolerance(&cases, "relative_to_largest");
    let stages = ["maxpool2d", "maxpool2d_2", "maxpool2d_3", "maxpool2d_4", "maxpool2d_5"];
    let plan = encoder(&dir, Naming::Vgg16, &stages);
    for case in list(&cases, "cases") {
        let name = text(case, "name");
        let files: Vec<&str> = list(case, "files").iter().map(|file| file.as_str().unwrap()).collect();
        let pixels = pixels(&dir, &config, case, &files);
        if let Some(expected) = expected.find(&format!("{name}.pixel_values")) {
            close(&pixels, expected, 1e-6, &format!("{name}.pixel_values"));
        }
        let outputs = plan.forward(&[("pixel_values", pixels)]).unwrap();
        for (k, stage) in stages.iter().enumerate() {
            if let Some(expected) = expected.find(&format!("{name}.stage_{}", k + 1)) {
                close_to_largest(outputs.get(stage).unwrap(), expected, tolerance, &format!("{name}.{stage}"));
            }
        }
        for (output, key) in [("maxpool2d_5", "feature_map"), ("image_features", "image_features")] {
            let key = format!("{name}.{key}");
            close_to_largest(outputs.get(output).unwrap(), expected.get(&key), tolerance, &key);
        }
    }
}

fn swin(folder: &str) {
    let Some(dir) = family("swin") else { return };
    let cases = json(&dir.join("cases.json"));
    let (config, expected) = (json(&dir.join("config.json")), Tensors::read(dir.join("expected.safetensors")));
    let Ok(ImageEncoder::Swin(sizes)) = ImageEncoder::from_dir(&dir) else { panic!("{} holds no Swin", dir.display()) };
    let last = |stage: usize| format!("features.{}.{}.add_2", 2 * stage + 1, sizes.depths[stage] - 1);
    let mut exposed = vec![("patch_embed".to_string(), "features.0.2".to_string()), ("norm".into(), "norm".into())];
    exposed.extend((0..sizes.depths.len()).map(|stage| (format!("stage_{}", stage + 1), last(stage))));
    let plan = encoder(&dir.join(folder), Naming::Swin, &exposed.iter().map(|(_, node)| node.as_str()).collect::<Vec<_>>());
    for case in list(&cases, "cases") {
        let name = text(case, "name");
        let outputs = plan.forward(&[("pixel_values", pixels(&dir, &config, case, &[text(case, "file")]))]).unwrap();
        for (key, node) in &exposed {
            let key = format!("{name}.{key}");
            match expected.find(&key) {
                Some(expected) => close(outputs.get(node).unwrap(), expected, tolerance(&cases, "stages"), &key),
                // Only the odd case records the patch embedding.
                None => assert!(key.ends_with("patch_embed"), "{key} is not recorded"),
            }
        }
        let key = format!("{name}.image_features");
        close(outputs.get("image_features").unwrap(), expected.get(&key), tolerance(&cases, "image_features"), &key);
    }
}

#[test]
fn golden_swin_stages_and_features() {
    swin("");
}

#[test]
fn golden_swin_with_hub_keys() {
    swin("hub_keys");
}
