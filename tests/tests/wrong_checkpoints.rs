//! Checkpoints with a fault: the exporter lists all that is wrong, ends with 2 and leaves nothing that looks whole.

use std::fs;
use std::path::Path;

use mmlnb_tests::{Ran, StoredTensor, binary, command, copy_folder, edit_checkpoint, golden, run};
use tempfile::TempDir;

/// Exports `VLM` and `CLASSIFIER` into a bundle that must not come to be.
#[track_caller]
fn refused(folder: &Path, half: &str) -> String {
    let output = folder.join("bundle");
    let mut export = command(&binary("mmlnb-export"));
    export.args(["bundle", half]).arg(folder.join("checkpoint")).arg("--output").arg(&output);
    let Ran { err, .. } = run(&mut export).expect(2);
    assert!(!output.join("manifest.json").exists(), "no bundle is left");
    let left: Vec<_> =
        fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it can be listed").file_name()).collect();
    assert!(left.len() <= 2, "nothing half-written is left beside: {left:?}");
    err
}

#[track_caller]
fn assert_lists(err: &str, words: &[&str]) {
    for word in words {
        assert!(err.contains(word), "`{word}` is missing in:\n{err}");
    }
}

fn copy_of(family: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    copy_folder(&golden(family), &folder.path().join("checkpoint"));
    folder
}

/// Removes two tensors, turns a third and adds a fourth.
fn spoil(folder: &Path, missing: [&str; 2], turned: &str, surplus: &str) {
    edit_checkpoint(folder, |tensors| {
        let before = tensors.len();
        tensors.retain(|tensor| !missing.contains(&tensor.name.as_str()));
        assert_eq!(tensors.len(), before - 2);
        let turned = tensors.iter_mut().find(|tensor| tensor.name == turned).expect("the tensor is there");
        turned.shape.reverse();
        let bytes = vec![0; 12];
        tensors.push(StoredTensor { name: surplus.to_owned(), dtype: safetensors::Dtype::F32, shape: vec![3], bytes });
    });
}

#[test]
fn missing_turned_and_surplus_tensors_of_a_describer_are_listed_together() {
    let folder = copy_of("qwen2_5_vl");
    let missing = ["model.layers.1.mlp.up_proj.weight", "visual.blocks.2.attn.qkv.bias"];
    let turned = "model.layers.0.self_attn.k_proj.weight";
    spoil(&folder.path().join("checkpoint"), missing, turned, "model.layers.7.extra.weight");
    let err = refused(folder.path(), "--vlm");
    assert_lists(&err, &[missing[0], missing[1], turned, "model.layers.7.extra.weight"]);
    assert_lists(&err, &["64", "32"]);
}

#[test]
fn missing_turned_and_surplus_tensors_of_a_classifier_are_listed_together() {
    let folder = copy_of("curriculum/checkpoint");
    let checkpoint = folder.path().join("checkpoint");
    let missing = ["prmf.projection.weight", "classifier.bias"];
    spoil(&checkpoint, missing, "image_head.weight", "prmf.confidence.9.weight");
    let err = refused(folder.path(), "--classifier");
    assert_lists(&err, &[missing[0], missing[1], "image_head.weight", "prmf.confidence.9.weight"]);
}

type Fault = fn(&mut Vec<StoredTensor>);

#[test]
fn each_fault_alone_is_refused_too() {
    let faults: [(&str, Fault); 3] = [
        ("model.norm.weight", |tensors| tensors.retain(|tensor| tensor.name != "model.norm.weight")),
        ("lm_head.weight", |tensors| {
            tensors.iter_mut().filter(|tensor| tensor.name == "lm_head.weight").for_each(|tensor| tensor.shape.reverse());
        }),
        ("visual.surplus.bias", |tensors| {
            let norm = tensors.iter().find(|tensor| tensor.name == "model.norm.weight").expect("it is there").clone();
            tensors.push(StoredTensor { name: "visual.surplus.bias".to_owned(), ..norm });
        }),
    ];
    for (named, fault) in faults {
        let folder = copy_of("qwen2_5_vl");
        edit_checkpoint(&folder.path().join("checkpoint"), fault);
        assert_lists(&refused(folder.path(), "--vlm"), &[named]);
    }
}

#[test]
fn another_chat_template_is_refused_with_the_difference_shown() {
    let folder = copy_of("qwen2_5_vl");
    let file = folder.path().join("checkpoint/chat_template.json");
    let text = fs::read_to_string(&file).expect("the golden checkpoint has a template");
    assert!(text.contains("You are a helpful assistant."));
    fs::write(&file, text.replace("You are a helpful assistant.", "You are a careless assistant."))
        .expect("the copy is writable");
    let err = refused(folder.path(), "--vlm");
    assert_lists(&err, &["template", "careless", "helpful"]);
}

#[test]
fn a_cut_off_weight_file_is_refused() {
    let folder = copy_of("qwen2_5_vl");
    let file = folder.path().join("checkpoint/model.safetensors");
    let bytes = fs::read(&file).expect("the copy can be read");
    fs::write(&file, &bytes[..bytes.len() / 2]).expect("the copy is writable");
    assert_lists(&refused(folder.path(), "--vlm"), &["model.safetensors"]);
}

#[test]
fn wrong_usage_is_told_before_anything_starts() {
    let folder = copy_of("qwen2_5_vl");
    for wrong in [["--image-size", "100x84"], ["--precision", "int3"]] {
        let mut export = command(&binary("mmlnb-export"));
        export.args(["bundle", "--vlm"]).arg(folder.path().join("checkpoint")).arg("--output").arg(folder.path().join("bundle"));
        let ran = run(export.args(wrong)).expect(2);
        assert_lists(&ran.err, &[wrong[1]]);
        assert!(!folder.path().join("bundle").exists());
    }
}
