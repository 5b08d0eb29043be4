//! Swin as torchvision computes it, from torchvision's and from the hub's keys.

use crate::{
    golden_files::{Tensors, family, json, list, text},
    golden_vgg16::pixels,
    session::{Data, Given, Onnx, Read, assert_near, assert_within, tolerance},
};
use mmlnb_exporter::{Network, Sizes, Source, lower};
use mmlnb_models::{bundle::Precision, config::ImageEncoder};

fn features_and_stages(read: Read) {
    let Some(folder) = family("swin") else { return };
    let cases = json(&folder.join("cases.json"));
    let expected = Tensors::read(folder.join("expected.safetensors"));
    for dir in [folder.clone(), folder.join("hub_keys")] {
        let source = Source::open(&dir, None).unwrap();
        let Sizes::Image(ImageEncoder::Swin(config)) = source.sizes() else { panic!("a Swin") };
        let stages: Vec<String> =
            config.depths.iter().enumerate().map(|(s, depth)| format!("features.{}.{}.add_2", 2 * s + 1, depth - 1)).collect();
        let names: Vec<&str> = stages.iter().map(String::as_str).chain(["norm"]).collect();
        let exposed = source.graph(Network::Swin).unwrap().expose(&names).unwrap();
        let mut onnx = read(&exposed, &source.weights().unwrap(), Precision::F32);
        for case in list(&cases, "cases") {
            let results = onnx.run(vec![("pixel_values", pixels(&folder, case, &[text(case, "file")]))]);
            let name = text(case, "name");
            let compare = |key: String, output: &str, allowed: f32| {
                let (shape, values) = expected.f32(&key);
                assert_eq!(results[output].0, shape, "{key}");
                assert_within(&key, &results[output].1, &values, allowed);
            };
            stages.iter().enumerate().for_each(|(s, stage)| {
                compare(format!("{name}.stage_{}", s + 1), stage, tolerance(&cases, "stages"));
            });
            compare(format!("{name}.norm"), "norm", tolerance(&cases, "stages"));
            compare(format!("{name}.image_features"), "image_features", tolerance(&cases, "image_features"));
        }
    }
}

#[test]
fn golden_swin_features_and_stages_from_both_key_styles() {
    features_and_stages(Onnx::of);
}

#[test]
fn golden_swin_portable() {
    features_and_stages(Onnx::portable);
}

#[test]
fn golden_swin_in_f16() {
    let Some(folder) = family("swin") else { return };
    let cases = json(&folder.join("cases.json"));
    let expected = Tensors::read(folder.join("expected.safetensors"));
    let source = Source::open(&folder, None).unwrap();
    let mut onnx = Onnx::of(&source.graph(Network::Swin).unwrap(), &source.weights().unwrap(), Precision::F16);
    for case in list(&cases, "cases") {
        let results = onnx.run(vec![("pixel_values", pixels(&folder, case, &[text(case, "file")]))]);
        let features = expected.f32(&format!("{}.image_features", text(case, "name"))).1;
        assert_near(text(case, "name"), &results["image_features"].1, &features, 0.01);
    }
}

/// Written for one size, its windows are constants; the numbers are those of the graph for all sizes, also where maps are padded.
#[test]
fn golden_swin_of_one_size_is_the_same() {
    let Some(folder) = family("swin") else { return };
    let cases = json(&folder.join("cases.json"));
    let source = Source::open(&folder, None).unwrap();
    let (free, weights) = (source.graph(Network::Swin).unwrap(), source.weights().unwrap());
    for case in list(&cases, "cases") {
        let image = pixels(&folder, case, &[text(case, "file")]);
        let [height, width] = [image.shape[2], image.shape[3]].map(|side| side as i64);
        let fixed =
            free.at_sizes(&|name| [("height", height), ("width", width)].iter().find(|(n, _)| *n == name).map(|(_, size)| *size));
        let lowered = lower(&fixed, "swin", Precision::F32).unwrap();
        let of_maps = lowered.nodes.iter().filter(|node| node.op == "Shape" && !node.inputs[0].ends_with("/slice"));
        assert_eq!(of_maps.count(), 0, "only the batch is asked for");
        for precision in [Precision::F32, Precision::F16] {
            let [fixed, free] = [&fixed, &free].map(|graph| {
                let batch = Given { shape: vec![2, 3, height as usize, width as usize], data: twice(&image.data) };
                Onnx::of(graph, &weights, precision).run(vec![("pixel_values", batch)]).remove("image_features").unwrap().1
            });
            assert_near(text(case, "name"), &fixed, &free, 1e-6);
        }
    }
}

/// An image and its negative.
fn twice(image: &Data) -> Data {
    let Data::F32(values) = image else { panic!("f32") };
    Data::F32(values.iter().copied().chain(values.iter().map(|value| -value)).collect())
}

/// Also in a batch whose other images differ, where windows of all images stand in one tensor.
#[test]
fn golden_swin_image_does_not_depend_on_its_neighbours() {
    let Some(folder) = family("swin") else { return };
    let cases = json(&folder.join("cases.json"));
    let expected = Tensors::read(folder.join("expected.safetensors"));
    let source = Source::open(&folder, None).unwrap();
    let mut onnx = Onnx::of(&source.graph(Network::Swin).unwrap(), &source.weights().unwrap(), Precision::F32);
    for case in list(&cases, "cases") {
        let Given { mut shape, data: Data::F32(image) } = pixels(&folder, case, &[text(case, "file")]) else { panic!("f32") };
        shape[0] = 3;
        let batch = [-0.5, 1.0, 2.0].iter().flat_map(|factor| image.iter().map(move |v| v * factor)).collect();
        let results = onnx.run(vec![("pixel_values", Given::f32(&shape, batch))]);
        let features = expected.f32(&format!("{}.image_features", text(case, "name"))).1;
        let middle = &results["image_features"].1[features.len()..2 * features.len()];
        assert_within(text(case, "name"), middle, &features, tolerance(&cases, "image_features"));
    }
}
