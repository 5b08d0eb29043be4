//! Every golden checkpoint under the keys of its network: key styles, known extras, shapes and the number of parameters.

mod golden_files;

use mmlnb_models::{
    config::{BertConfig, ClassifierConfig, ImageEncoder, QwenConfig},
    cost,
    graph::{Graph, Weight},
    networks,
    weights::{Checkpoint, Naming, Weights},
};
use std::path::Path;

/// The checkpoint holds just what the networks need, and the cost reading counts its numbers.
fn fits(folder: &Path, naming: Naming, graphs: &[Graph]) -> Checkpoint {
    let checkpoint = Checkpoint::open(folder, naming).unwrap();
    checkpoint.check_all(graphs.iter().map(Graph::parameters)).unwrap();
    let numbers: usize = checkpoint.keys().map(|key| checkpoint.tensor(key).unwrap().shape.iter().product::<usize>()).sum();
    assert!(numbers > 0);
    assert_eq!(cost::parameters(&graphs.iter().collect::<Vec<_>>()), numbers as i64);
    checkpoint
}

/// Both hold the same tensors under the same keys.
fn equal(one: &Checkpoint, other: &Checkpoint) {
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for key in one.keys() {
        let (a, b) = (one.tensor(key).unwrap(), other.tensor(key).unwrap());
        assert_eq!((a.dtype, &a.shape), (b.dtype, &b.shape), "{key}");
        assert_eq!(a.parts.concat(), b.parts.concat(), "{key}");
        let weight = Weight::Key(key.to_string());
        assert_eq!(Weights::new(one).all(&weight).unwrap(), Weights::new(other).all(&weight).unwrap(), "{key}");
    }
}

fn describer(folder: &Path) -> Vec<Graph> {
    let config = QwenConfig::from_dir(folder).unwrap();
    vec![networks::vision(&config.vision), networks::embedding(&config.text), networks::decoder(&config.text, true)]
}

#[test]
fn golden_qwen2_5_vl_checkpoint_fits() {
    let Some(folder) = golden_files::family("qwen2_5_vl") else { return };
    fits(&folder, Naming::Qwen, &describer(&folder));
}

#[test]
fn golden_qwen2_5_vl_b_shards_and_newer_keys_are_one_checkpoint() {
    let Some(folder) = golden_files::family("qwen2_5_vl_b") else { return };
    let newer = folder.join("new_style");
    let one = fits(&folder, Naming::Qwen, &describer(&folder));
    let other = fits(&newer, Naming::Qwen, &describer(&newer));
    equal(&one, &other);
    assert_ne!(one.sha256().unwrap(), other.sha256().unwrap());
    assert_eq!(one.sha256().unwrap(), Checkpoint::open(&folder, Naming::Qwen).unwrap().sha256().unwrap());
}

#[test]
fn golden_bert_prefixed_and_plain_are_one_checkpoint() {
    let Some(folder) = golden_files::family("bert") else { return };
    let graphs = [networks::bert(&BertConfig::from_dir(&folder).unwrap(), "")];
    let plain = fits(&folder, Naming::Bert, &graphs);
    let prefixed = fits(&folder.join("prefixed"), Naming::Bert, &graphs);
    equal(&plain, &prefixed);
}

#[test]
fn golden_vgg16_checkpoint_fits() {
    let Some(folder) = golden_files::family("vgg16") else { return };
    fits(&folder, Naming::Vgg16, &[networks::image_encoder(&ImageEncoder::from_dir(&folder).unwrap(), "")]);
}

#[test]
fn golden_swin_hub_and_torchvision_keys_are_one_checkpoint() {
    let Some(folder) = golden_files::family("swin") else { return };
    let graphs = [networks::image_encoder(&ImageEncoder::from_dir(&folder).unwrap(), "")];
    let torchvision = fits(&folder, Naming::Swin, &graphs);
    let hub = fits(&folder.join("hub_keys"), Naming::Swin, &graphs);
    equal(&torchvision, &hub);
    assert!(hub.keys().any(|key| hub.tensor(key).unwrap().parts.len() == 3), "no qkv was put together from three");
}

#[test]
fn golden_curriculum_classifier_fits() {
    let Some(folder) = golden_files::family("curriculum") else { return };
    let folder = folder.join("checkpoint");
    let config = ClassifierConfig::from_dir(&folder).unwrap();
    let image = networks::image_encoder(&config.image.as_ref().unwrap().0, "image");
    let text = networks::bert(config.text.as_ref().unwrap(), "text");
    fits(&folder, Naming::Classifier, &[image, text, networks::prmf(&config)]);
}
