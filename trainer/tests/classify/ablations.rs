//! An ablation as a whole, at tiny sizes.

use super::data;
use mmlnb_trainer::{
    ablate::{Options, lines, markdown, page, run, variations},
    error::TrainError,
};
use std::{fs, path::Path};
use tch::Device;

/// Options over two dozen patients whose texts name a class.
fn options(folder: &Path, names: &[&str], seeds: &[u64]) -> Options {
    mmlnb_trainer::start::start().unwrap();
    let (data, images) = data::written(folder, 24);
    let named = fs::read_to_string(&data).unwrap().replace(" Field ", " Poorly differentiated neuroblastoma, field ");
    fs::write(&data, named).unwrap();
    let start = data::start().display().to_string();
    let config = toml::Table::from_iter(
        [("epochs", 1.into()), ("batch_size", 16.into()), ("start", toml::Value::from(start))]
            .map(|(key, value)| (key.to_string(), value)),
    );
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    Options {
        data,
        images,
        output: folder.join("ablation"),
        variations: variations(&names, &config).unwrap(),
        seeds: seeds.to_vec(),
        describer: None,
        base: None,
        ranks: Vec::new(),
        class_order: None,
        split_seed: 5,
        device: Device::Cpu,
    }
}

#[test]
fn an_ablation_is_trained_once_and_told_in_three_files() {
    let folder = tempfile::tempdir().unwrap();
    let asked = options(folder.path(), &["paper", "image-only", "masked-text"], &[1, 2]);
    let found = run(&asked).unwrap();
    assert_eq!(found.rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["paper", "image-only", "masked-text"]);
    assert!(found.rows.iter().all(|row| row.seeds == [Some(1), Some(2)]) && found.failed.is_empty());
    assert!(found.rows[0].differences.is_empty() && !found.rows[1].differences.is_empty());
    assert!(found.rows[0].alpha_text.is_some() && found.rows[1].alpha_text.is_none());
    let alphas = found.alphas.as_ref().unwrap();
    let accuracy = found.rows[0].measures.measures["accuracy"].value.unwrap();
    for own in alphas.conditions.iter().filter(|one| one.share == 0.0) {
        assert!((own.accuracy - accuracy).abs() < 1e-9, "asked again with its own text, the classifier answers as in the run");
        assert!((own.alpha - found.rows[0].alpha_text.unwrap()).abs() < 1e-5);
    }
    let text = markdown(&found);
    assert!(text.contains("| image-only | 0.7173 |") && text.contains("| paper | 0.8073 |"), "{text}");
    assert_eq!(fs::read_to_string(asked.output.join("ablation.md")).unwrap(), text);
    assert_eq!(lines(&found).len(), 3 + 12);
    assert!(page(&found).contains("<svg"));
    let json: serde_json::Value = serde_json::from_slice(&fs::read(asked.output.join("ablation.json")).unwrap()).unwrap();
    assert_eq!(json["rows"][1]["published"], 0.7173);

    let weights = asked.output.join("paper/seed-1/best/model.safetensors");
    let before = fs::metadata(&weights).unwrap().modified().unwrap();
    assert_eq!(run(&asked).unwrap(), found, "finished runs are kept");
    assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), before);
    let masked = fs::read_to_string(asked.output.join("masked-text/seed-1/predictions.jsonl")).unwrap();
    assert!(masked.contains("[class], field") && !masked.contains("Poorly"), "{masked}");
}

#[test]
fn a_run_that_cannot_be_trained_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut asked = options(folder.path(), &["image-only", "base-vlm"], &[1]);
    let found = run(&asked).unwrap();
    assert_eq!((found.rows.len(), found.failed.len()), (1, 1));
    assert!(found.failed[0].contains("base-vlm with seed 1") && markdown(&found).contains("Not trained"), "{:?}", found.failed);
    assert!(found.alphas.is_none(), "an image-only classifier has no alpha");
    asked.variations.remove(0);
    assert!(matches!(run(&asked), Err(TrainError::Asked(_))), "nothing could be trained");
}
