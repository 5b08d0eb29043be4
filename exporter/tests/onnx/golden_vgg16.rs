//! VGG16 as torchvision computes it.

use crate::{
    golden_files::{Tensors, family, integer, json, list, picture, text},
    quantised::cosine,
    session::{Given, Onnx, Read, assert_near, tolerance},
};
use mmlnb_exporter::{Convolutions, FewBits, Network, Source, lower_deciding};
use mmlnb_models::{
    activations::{ACTIVATIONS, Activations, Layer, rectified},
    bundle::Precision,
    config::{ImageInput, Resample},
    graph::Value,
    prepare::classifier_image::pixel_values,
};
use std::{collections::BTreeMap, fs, path::Path};

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

/// Least cosine of the features in few bits to the reference's.
const LEAST: f64 = 0.9995;

/// Largest activations and means of all cases' images, by module: the graph in f32 tells them.
fn activations_of(folder: &Path, source: &Source) -> BTreeMap<String, Layer> {
    let cases = json(&folder.join("cases.json"));
    let mut graph = source.graph(Network::Vgg16).unwrap();
    let made: Vec<(String, Value)> = rectified(&graph).map(|(module, value)| (module.to_string(), value)).collect();
    let given: Vec<(String, Value)> =
        made.iter().map(|(module, value)| (format!("{module} in"), graph.nodes[value.node as usize].inputs[0])).collect();
    graph.outputs.extend(made.iter().chain(&given).cloned());
    let mut onnx = Onnx::of(&graph, &source.weights().unwrap(), Precision::F32);
    let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
    let cases = list(&cases, "cases");
    for case in cases {
        let files: Vec<&str> = list(case, "files").iter().map(|file| file.as_str().unwrap()).collect();
        let results = onnx.run(vec![("pixel_values", pixels(folder, case, &files))]);
        for (module, _) in &made {
            let layer = layers.entry(module.clone()).or_default();
            layer.largest = results[module].1.iter().fold(layer.largest, |most, value| most.max(*value));
            let (shape, values) = &results[&format!("{module} in")];
            layer.means.resize(shape[1], 0.0);
            for (number, map) in values.chunks_exact(shape[2] * shape[3]).enumerate() {
                layer.means[number % shape[1]] += map.iter().sum::<f32>() / (map.len() * shape[0] * cases.len()) as f32;
            }
        }
    }
    layers
}

/// The folder's weights with activations beside them, opened as a user would.
fn with_activations(folder: &Path) -> (tempfile::TempDir, Source) {
    let plain = Source::open(folder, None).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    let layers = activations_of(folder, &plain);
    let weights = plain.checkpoint().sha256().unwrap().to_string();
    let activations = Activations::new("test".into(), weights, "data".into(), 3, layers);
    fs::write(copy.path().join(ACTIVATIONS), activations.to_bytes()).unwrap();
    let source = Source::open(copy.path(), None).unwrap();
    (copy, source)
}

#[test]
fn golden_vgg16_at_int8() {
    let Some(folder) = family("vgg16") else { return };
    let cases = json(&folder.join("cases.json"));
    let expected = Tensors::read(folder.join("expected.safetensors"));
    let (_copy, source) = with_activations(&folder);
    let (graph, weights) = (source.graph(Network::Vgg16).unwrap(), source.weights().unwrap());
    for precision in [Precision::Int8, Precision::Int4, Precision::Int4Int8] {
        let few = FewBits::decide(&graph, &weights, precision, None).unwrap();
        let few = few.with_convolutions(Convolutions::open(&source, Network::Vgg16, precision).unwrap());
        let lowered = lower_deciding(&graph, "graph", precision, &few).unwrap();
        let count = |op: &str| lowered.nodes.iter().filter(|node| node.op == op).count();
        assert_eq!(["Conv", "QuantizeLinear", "DequantizeLinear", "Relu", "Cast"].map(count), [13, 13, 3 * 12 + 1, 0, 0]);
        let mut onnx = Onnx::of_decided(&lowered, &weights, &few, precision);
        for case in list(&cases, "cases") {
            let files: Vec<&str> = list(case, "files").iter().map(|file| file.as_str().unwrap()).collect();
            let given = pixels(&folder, case, &files);
            let found = onnx.run(vec![("pixel_values", given.clone())]).remove("image_features").unwrap().1;
            let width = found.len() / files.len();
            let reference = expected.f32(&format!("{}.image_features", text(case, "name"))).1;
            for (number, (found, reference)) in found.chunks_exact(width).zip(reference.chunks_exact(width)).enumerate() {
                let cosine = cosine(found, reference);
                println!("{} {number} at {precision}: cosine {cosine}", text(case, "name"));
                assert!(cosine >= LEAST, "{} {number} at {precision}: cosine {cosine}", text(case, "name"));
                let alone = onnx.run(vec![("pixel_values", pixels(&folder, case, &files[number..number + 1]))]);
                assert!(alone["image_features"].1 == found, "no image sees another");
            }
        }
    }
}

#[test]
fn without_activations_convolutions_stay_floats_and_foreign_ones_are_refused() {
    let Some(folder) = family("vgg16") else { return };
    let (copy, source) = with_activations(&folder);
    let open = |precision| Convolutions::open(&source, Network::Vgg16, precision);
    assert_eq!(open(Precision::F16).unwrap(), Convolutions::None);
    let file = copy.path().join(ACTIVATIONS);
    let text = fs::read_to_string(&file).unwrap();
    let weights = source.checkpoint().sha256().unwrap();
    for (from, to, part) in [
        (weights, "0000", "SHA-256 0000"),
        ("features.28", "features.29", "missing: features.28; surplus: features.29"),
        ("\"images\"", "\"more\": 1, \"images\"", "more"),
    ] {
        fs::write(&file, text.replace(from, to)).unwrap();
        let told = open(Precision::Int8).unwrap_err().to_string();
        for part in [part, ACTIVATIONS, "mmlnb-train calibrate --classifier"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert_eq!(open(Precision::F32).unwrap(), Convolutions::None, "f32 has no use for it");
    }
    fs::remove_file(&file).unwrap();
    let convolutions = open(Precision::Int8).unwrap();
    let (warning, told) = (convolutions.warning().unwrap(), convolutions.told().unwrap());
    assert!(warning.contains("calibrate --classifier") && told.contains("no activations.json"), "{warning} {told}");
    let few = FewBits::default().with_convolutions(convolutions);
    let lowered = lower_deciding(&source.graph(Network::Vgg16).unwrap(), "graph", Precision::Int8, &few).unwrap();
    assert!(lowered.nodes.iter().all(|node| node.op != "DequantizeLinear"), "{lowered}");
}
