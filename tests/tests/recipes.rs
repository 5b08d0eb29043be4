//! Every kind of classifier that training can leave is exported and served.

use std::fs;
use std::path::{Path, PathBuf};

use mmlnb_tests::{
    StoredTensor, appliance_binary, binary, command, copy_folder, edit_checkpoint, golden, patches, read_tensors, run,
};
use serde_json::{Value, json};

const TEXT: &str = "Sheets of small round cells without neuropil.";

/// The golden classifier with another config.json and other tensors.
fn classifier(at: &Path, config: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut Vec<StoredTensor>)) -> PathBuf {
    let folder = at.join("classifier");
    copy_folder(&golden("curriculum/checkpoint"), &folder);
    let file = folder.join("config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&file).expect("a config is there")).expect("it is JSON");
    config(&mut value);
    fs::write(file, value.to_string()).expect("the copy is writable");
    edit_checkpoint(&folder, tensors);
    folder
}

/// Exports the classifier and classifies one patch; the answer.
fn served(at: &Path, classifier: &Path, text: Option<&str>) -> Value {
    let bundle = at.join("bundle");
    let mut export = command(&binary("mmlnb-export"));
    run(export.arg("bundle").arg("--output").arg(&bundle).arg("--classifier").arg(classifier)).expect(0);
    let patch = &patches(1)[0];
    let image = at.join(&patch.name);
    fs::write(&image, &patch.bytes).expect("the folder is writable");
    let mut classify = command(&appliance_binary());
    classify.arg("classify").arg("--bundle").arg(&bundle).args(["--json", "--provider", "cpu"]);
    if let Some(text) = text {
        classify.args(["--description", text]);
    }
    let answer = run(classify.arg(&image)).expect(0).json_lines().remove(0);
    let sum: f64 = answer["probabilities"].as_object().expect("an object").values().filter_map(Value::as_f64).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{answer}");
    assert_eq!((&answer["verdict"], answer["class"].is_string()), (&json!("not_assessed"), true));
    answer
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

fn filled(name: &str, shape: &[usize]) -> StoredTensor {
    let bytes = (0..shape.iter().product()).flat_map(|at: usize| ((at % 7) as f32 * 0.1 - 0.3).to_le_bytes()).collect();
    StoredTensor { name: name.to_owned(), dtype: safetensors::Dtype::F32, shape: shape.to_vec(), bytes }
}

fn without(tensors: &mut Vec<StoredTensor>, prefixes: &[&str]) {
    tensors.retain(|tensor| !prefixes.iter().any(|prefix| tensor.name.starts_with(prefix)));
}

#[test]
fn golden_curriculum_with_prmf() {
    let at = folder();
    let answer = served(at.path(), &classifier(at.path(), |_| (), |_| ()), Some(TEXT));
    assert!(answer["alpha_text"].as_f64().is_some_and(|alpha| alpha > 0.0 && alpha < 1.0) && answer["image_only"].is_object());
}

#[test]
fn golden_curriculum_with_a_fixed_weight() {
    let at = folder();
    let fixed = |config: &mut Value| (config["fusion"], config["alpha_text"]) = (json!("fixed"), json!(0.3));
    let folder = classifier(at.path(), fixed, |tensors| without(tensors, &["prmf.confidence."]));
    let answer = served(at.path(), &folder, Some(TEXT));
    assert!((answer["alpha_text"].as_f64().expect("the weight is told") - 0.3).abs() < 1e-6);
}

#[test]
fn golden_curriculum_with_concatenation() {
    let at = folder();
    let folder = classifier(
        at.path(),
        |config| config["fusion"] = json!("concat"),
        |tensors| {
            let [image, text] = ["image_head.weight", "classifier.weight"].map(|name| {
                tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}")).shape.clone()
            });
            without(tensors, &["prmf.", "classifier.weight"]);
            tensors.push(filled("classifier.weight", &[image[0], image[1] + text[1]]));
        },
    );
    let answer = served(at.path(), &folder, Some(TEXT));
    assert!(answer["alpha_text"].is_null() && answer["image_only"].is_object());
}

#[test]
fn golden_curriculum_with_images_only() {
    let at = folder();
    let folder = classifier(
        at.path(),
        |config| config["text_encoder"] = Value::Null,
        |tensors| without(tensors, &["text.", "prmf.", "classifier."]),
    );
    let answer = served(at.path(), &folder, None);
    assert!(answer["alpha_text"].is_null() && answer["image_only"].is_null() && answer["description"].is_null());
}

#[test]
fn golden_curriculum_with_texts_only() {
    let at = folder();
    let folder = classifier(
        at.path(),
        |config| (config["image_encoder"], config["image_head"]) = (Value::Null, json!(false)),
        |tensors| without(tensors, &["image", "prmf."]),
    );
    let answer = served(at.path(), &folder, Some(TEXT));
    assert!(answer["alpha_text"].is_null() && answer["image_only"].is_null());
}

#[test]
fn golden_swin_with_prmf() {
    let at = folder();
    let swin: Value =
        serde_json::from_slice(&fs::read(golden("swin/config.json")).expect("a config is there")).expect("it is JSON");
    let features = swin["embed_dim"].as_u64().expect("a width") as usize * 8;
    let encoder = |config: &mut Value| {
        let mut encoder = swin.clone();
        (encoder["image_size"], encoder["resample"], encoder["feature_size"]) =
            (json!([64, 64]), json!("bilinear"), json!(features));
        config["image_encoder"] = encoder;
    };
    let folder = classifier(at.path(), encoder, |tensors| {
        let text = |name: &str| tensors.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.shape[0]);
        let (classes, hidden) = (text("classifier.bias").expect("a head"), text("prmf.projection.bias").expect("a projection"));
        without(tensors, &["image", "prmf.confidence.weight", "prmf.projection.weight"]);
        let image = read_tensors(&golden("swin/model.safetensors")).into_iter();
        let image = image.filter(|tensor| !tensor.name.starts_with("head."));
        tensors.extend(image.map(|tensor| StoredTensor { name: format!("image.{}", tensor.name), ..tensor }));
        tensors.push(filled("prmf.confidence.weight", &[1, features + hidden]));
        tensors.push(filled("prmf.projection.weight", &[hidden, features]));
        tensors.push(filled("image_head.weight", &[classes, features]));
        tensors.push(filled("image_head.bias", &[classes]));
    });
    let answer = served(at.path(), &folder, Some(TEXT));
    assert!(answer["alpha_text"].is_number() && answer["image_only"].is_object());
}
