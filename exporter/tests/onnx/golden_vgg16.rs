//! VGG16 as torchvision computes it.

use crate::{
    golden_files::{Tensors, family, integer, json, list, picture, text},
    session::{Given, Onnx, Read, assert_near, tolerance},
};
use mmlnb_exporter::{Network, Source};
use mmlnb_models::{
    bundle::Precision,
    config::{ImageInput, Resample},
    prepare::classifier_image::pixel_values,
};
use std::path::Path;

/// The case's images as the encoder reads them, `[batch, 3, height, width]`.
pub fn pixels(folder: &Path, case: &serde_json::Value, files: &[&str]) -> Given {
    let config = json(&folder.join("config.json"));
    let three = |key: &str| -> [f32; 3] { std::array::from_fn(|i| config[key][i].as_f64().unwrap() as f32) };
    let (width, height) = (integer(case, "width"), integer(case, "height"));
    let input = ImageInput {
        width,
        height,
        resample: Resample::Bilinear,
        mean: three("image_mean"),
        std: three("image_std"),
        stain: None,
    };
    let values = files.iter().flat_map(|file| pixel_values(&picture(&folder.join(file)), &input)).collect();
    Given::f32(&[files.len(), 3, height as usize, width as usize], values)
}

fn features_and_stages(read: Read) {
    let Some(folder) = family("vgg16") else { return };
    let cases = json(&folder.join("cases.json"));
    let expected = Tensors::read(folder.join("expected.safetensors"));
    let source = Source::open(&folder, None).unwrap();
    let stages: Vec<String> = (1..=5).map(|k| if k == 1 { "maxpool2d".into() } else { format!("maxpool2d_{k}") }).collect();
    let graph = source.graph(Network::Vgg16).unwrap();
    let exposed = graph.expose(&stages.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let mut onnx = read(&exposed, &source.weights().unwrap(), Precision::F32);
    for case in list(&cases, "cases") {
        let files: Vec<&str> = list(case, "files").iter().map(|file| file.as_str().unwrap()).collect();
        let results = onnx.run(vec![("pixel_values", pixels(&folder, case, &files))]);
        let name = text(case, "name");
        let allowed = tolerance(&cases, "relative_to_largest");
        let compared = [("image_features".to_string(), "image_features"), ("feature_map".to_string(), &stages[4])]
            .into_iter()
            .chain((1..=5).map(|k| (format!("stage_{k}"), stages[k - 1].as_str())));
        for (key, output) in compared.filter(|(key, _)| expected.has(&format!("{name}.{key}"))) {
            let (shape, values) = expected.f32(&format!("{name}.{key}"));
            assert_eq!(results[output].0, shape, "{name}.{key}");
            assert_near(&format!("{name}.{key}"), &results[output].1, &values, allowed);
        }
    }
}

#[test]
fn golden_vgg16_features_and_stages() {
    features_and_stages(Onnx::of);
}

#[test]
fn golden_vgg16_portable() {
    features_and_stages(Onnx::portable);
}

#[test]
fn golden_vgg16_in_f16() {
    let Some(folder) = family("vgg16") else { return };
    let cases = json(&folder.join("cases.json"));
    let expected = Tensors::read(folder.join("expected.safetensors"));
    let source = Source::open(&folder, None).unwrap();
    let mut onnx = Onnx::of(&source.graph(Network::Vgg16).unwrap(), &source.weights().unwrap(), Precision::F16);
    for case in list(&cases, "cases") {
        let files: Vec<&str> = list(case, "files").iter().map(|file| file.as_str().unwrap()).collect();
        let results = onnx.run(vec![("pixel_values", pixels(&folder, case, &files))]);
        let features = expected.f32(&format!("{}.image_features", text(case, "name"))).1;
        assert_near(text(case, "name"), &results["image_features"].1, &features, 0.01);
    }
}
