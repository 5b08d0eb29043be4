//! Checkpoints that do not fit, and files that are damaged: every problem is listed, nothing panics.

use mmlnb_models::{
    graph::Parameter,
    weights::{Checkpoint, Mismatch, Naming, WeightError},
};
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use std::{collections::HashMap, fs, path::Path};
use tempfile::TempDir;

type Tensor<'a> = (&'a str, Dtype, &'a [usize]);

/// The bytes of a file with these tensors, filled with small numbers that differ.
fn bytes(tensors: &[Tensor<'_>]) -> Vec<u8> {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, t, shape)| (0..shape.iter().product::<usize>() * t.bitsize() / 8).map(|i| i as u8 % 60).collect())
        .collect();
    let views =
        tensors.iter().zip(&data).map(|((name, dtype, shape), d)| (*name, TensorView::new(*dtype, shape.to_vec(), d).unwrap()));
    safetensors::serialize(views, None::<HashMap<String, String>>).unwrap()
}

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, content)| fs::write(folder.path().join(name), content).unwrap());
    folder
}

fn parameter(key: &str, shape: &[i64]) -> Parameter {
    Parameter { key: key.into(), shape: shape.to_vec() }
}

fn mismatch(checkpoint: &Checkpoint, parameters: &[Parameter]) -> Mismatch {
    match checkpoint.check(parameters) {
        Err(WeightError::Mismatch { mismatch, .. }) => *mismatch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_that_does_not_fit_is_listed_at_once() {
    let held: [Tensor<'_>; 6] = [
        ("features.0.weight", Dtype::F32, &[2, 3]),
        ("features.0.bias", Dtype::F16, &[2]),
        ("features.9.weight", Dtype::BF16, &[4]),
        ("other", Dtype::F32, &[1]),
        ("counts", Dtype::I64, &[2]),
        ("classifier.0.weight", Dtype::F32, &[5, 5]),
    ];
    let folder = folder(&[("model.safetensors", bytes(&held))]);
    let checkpoint = Checkpoint::open(folder.path(), Naming::Vgg16).unwrap();
    let wanted = [
        parameter("features.0.weight", &[3, 2]),
        parameter("features.0.bias", &[2]),
        parameter("features.2.weight", &[7, 2]),
        parameter("features.2.bias", &[7]),
        parameter("counts", &[2]),
    ];
    let found = mismatch(&checkpoint, &wanted);
    assert_eq!(found.missing, ["features.2.bias [7]", "features.2.weight [7, 2]"]);
    assert_eq!(found.surplus, ["features.9.weight [4]", "other [1]"]);
    assert_eq!(found.misshapen, ["features.0.weight: found [2, 3], expected [3, 2]"]);
    assert_eq!(found.untyped, ["counts: I64"]);
    let text = checkpoint.check(&wanted).unwrap_err().to_string();
    for line in [&found.missing, &found.surplus, &found.misshapen, &found.untyped].into_iter().flatten() {
        assert!(text.contains(line.as_str()), "{text}");
    }
    assert!(checkpoint.tensor("counts").is_none());
    assert!(checkpoint.keys().all(|key| key != "classifier.0.weight"));
    checkpoint
        .check_all([&wanted[1..2], &[parameter("features.0.weight", &[2, 3]), parameter("features.9.weight", &[4])]])
        .unwrap_err();
}

#[test]
fn several_networks_share_a_checkpoint() {
    let folder = folder(&[("model.safetensors", bytes(&[("a", Dtype::F32, &[2]), ("b", Dtype::F32, &[3])]))]);
    let checkpoint = Checkpoint::open(folder.path(), Naming::Bert).unwrap();
    let (one, other) = ([parameter("a", &[2])], [parameter("b", &[3]), parameter("a", &[2])]);
    checkpoint.check_all([one.as_slice(), other.as_slice()]).unwrap();
    assert_eq!(mismatch(&checkpoint, &one).surplus, ["b [3]"]);
}

/// A describer's embedding and head with these bytes.
fn with_head(embedding: &[f32], head: &[f32]) -> TempDir {
    let views = [("model.embed_tokens.weight", embedding), ("lm_head.weight", head)]
        .map(|(name, values)| (name, TensorView::new(Dtype::F32, vec![2, 2], bytemuck::cast_slice(values)).unwrap()));
    folder(&[("model.safetensors", safetensors::serialize(views, None::<HashMap<String, String>>).unwrap())])
}

#[test]
fn a_head_beside_tied_embeddings_must_equal_them() {
    let tied = [parameter("model.embed_tokens.weight", &[2, 2])];
    let both = [tied[0].clone(), parameter("lm_head.weight", &[2, 2])];
    let equal = with_head(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 4.0]);
    let open = |folder: &TempDir| Checkpoint::open(folder.path(), Naming::Qwen).unwrap();
    open(&equal).check(&tied).unwrap();
    open(&equal).check(&both).unwrap();
    let different = with_head(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 5.0]);
    open(&different).check(&both).unwrap();
    let found = mismatch(&open(&different), &tied);
    assert!(found.others.len() == 1 && found.others[0].contains("lm_head.weight differs"), "{found}");
    assert!(found.surplus.is_empty());
}

#[test]
fn known_extras_of_a_describer_are_not_its_tensors() {
    let held: [Tensor<'_>; 3] = [
        ("model.language_model.norm.weight", Dtype::F32, &[2]),
        ("model.language_model.rotary_emb.inv_freq", Dtype::F32, &[2]),
        ("model.visual.rotary_pos_emb.inv_freq", Dtype::F32, &[2]),
    ];
    let folder = folder(&[("model.safetensors", bytes(&held))]);
    let checkpoint = Checkpoint::open(folder.path(), Naming::Qwen).unwrap();
    assert_eq!(checkpoint.keys().collect::<Vec<_>>(), ["model.norm.weight"]);
}

#[test]
fn one_tensor_under_two_names_is_an_error() {
    let held: [Tensor<'_>; 2] = [("model.language_model.norm.weight", Dtype::F32, &[2]), ("model.norm.weight", Dtype::F32, &[2])];
    let folder = folder(&[("model.safetensors", bytes(&held))]);
    let text = Checkpoint::open(folder.path(), Naming::Qwen).unwrap_err().to_string();
    assert!(text.contains("two tensors stand for"), "{text}");
}

#[test]
fn incomplete_query_key_and_value_are_an_error() {
    let scope = "encoder.layers.0.blocks.0.attention.self";
    let (q, k) = (format!("{scope}.query.weight"), format!("{scope}.key.weight"));
    let folder = folder(&[("model.safetensors", bytes(&[(&q, Dtype::F32, &[2, 2]), (&k, Dtype::F32, &[2, 2])]))]);
    let text = Checkpoint::open(folder.path(), Naming::Swin).unwrap_err().to_string();
    assert!(text.contains("features.1.0.attn.qkv.weight"), "{text}");
}

/// A sharded checkpoint whose index says what is given.
fn sharded(index: &str) -> TempDir {
    folder(&[
        ("model-1.safetensors", bytes(&[("a", Dtype::F32, &[2])])),
        ("model-2.safetensors", bytes(&[("b", Dtype::F32, &[3]), ("c", Dtype::F32, &[1])])),
        ("model.safetensors.index.json", index.as_bytes().to_vec()),
    ])
}

#[test]
fn an_index_must_agree_with_its_files() {
    let open = |index: &str| Checkpoint::open(sharded(index).path(), Naming::Bert);
    let right = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}"#;
    assert_eq!(open(right).unwrap().keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    for (index, expected) in [
        (right.replace(r#", "c": "model-2.safetensors""#, ""), "holds `c`"),
        (right.replace(r#""a": "#, r#""d": "#), "lacks `d`"),
        (right.replace("model-1.saf", "model-3.saf"), "model-3.safetensors"),
        (right.replace("model-1.saf", "../model-1.saf"), "not the name of a file"),
        ("{".into(), "not valid JSON"),
        ("{}".into(), "weight_map"),
    ] {
        let text = open(&index).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn folders_without_weights_say_what_is_expected() {
    let text = |folder: &Path| Checkpoint::open(folder, Naming::Bert).unwrap_err().to_string();
    assert!(text(folder(&[]).path()).contains("no .safetensors file"));
    assert!(text(Path::new("/nonexistent/checkpoint")).contains("cannot read /nonexistent/checkpoint"));
    let two = folder(&[("x.safetensors", bytes(&[])), ("y.safetensors", bytes(&[]))]);
    assert!(text(two.path()).contains("no index"));
    let named = folder(&[("weights.safetensors", bytes(&[("a", Dtype::F32, &[2])]))]);
    assert_eq!(Checkpoint::open(named.path(), Naming::Bert).unwrap().keys().count(), 1);
    assert_eq!(Checkpoint::open(&named.path().join("weights.safetensors"), Naming::Bert).unwrap().keys().count(), 1);
}

/// A file with this header and so many bytes of data.
fn raw(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn malformed_files_are_errors_that_name_the_file() {
    let huge = usize::MAX;
    let cases: Vec<Vec<u8>> = vec![
        vec![],
        vec![1, 2, 3],
        u64::MAX.to_le_bytes().to_vec(),
        (1u64 << 40).to_le_bytes().to_vec(),
        raw("{", 0),
        raw("[1]", 0),
        raw("\u{0}", 0),
        raw(&"[".repeat(5000), 0),
        raw(r#"{"a": 1}"#, 0),
        raw(r#"{"a": {"dtype": "F32", "shape": [2]}}"#, 8),
        raw(r#"{"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}"#, 8),
        raw(r#"{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}"#, 8),
        raw(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#, 7),
        raw(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#, 9),
        raw(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}"#, 8),
        raw(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}"#, 12),
        raw(r#"{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}"#, 8),
        raw(&format!(r#"{{"a": {{"dtype": "U8", "shape": [{huge}], "data_offsets": [0, {huge}]}}}}"#), 8),
        raw(&format!(r#"{{"a": {{"dtype": "F32", "shape": [{huge}, 4], "data_offsets": [0, 8]}}}}"#), 8),
        raw(
            r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}"#,
            12,
        ),
    ];
    for case in cases {
        let folder = folder(&[("model.safetensors", case.clone())]);
        match Checkpoint::open(folder.path(), Naming::Bert) {
            Err(error @ WeightError::Malformed { .. }) => assert!(error.to_string().contains("model.safetensors: "), "{error}"),
            other => panic!("{:?}: {other:?}", String::from_utf8_lossy(&case)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A file that is cut, or of which bytes are changed, is refused or read; whatever is read lies within the file.
    #[test]
    fn damaged_files_never_panic(cut in 0usize..400, changes in prop::collection::vec((0usize..300, any::<u8>()), 0..6)) {
        let mut content = bytes(&[("a", Dtype::F32, &[2, 3]), ("b.weight", Dtype::BF16, &[4]), ("c", Dtype::I64, &[1])]);
        let length = content.len();
        for (at, value) in changes {
            content[at % length] = value;
        }
        content.truncate(length.saturating_sub(cut.saturating_sub(200)));
        let folder = folder(&[("model.safetensors", content)]);
        if let Ok(checkpoint) = Checkpoint::open(folder.path(), Naming::Bert) {
            for key in checkpoint.keys() {
                if let Some(tensor) = checkpoint.tensor(key) {
                    prop_assert_eq!(tensor.decode(0..tensor.rows()).len(), tensor.byte_len() / tensor.dtype.size());
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(content in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = folder(&[("model.safetensors", content)]);
        prop_assert!(Checkpoint::open(folder.path(), Naming::Bert).is_err());
    }
}
