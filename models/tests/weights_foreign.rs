//! Weights in forms that are not read (quantised, of torch.save, wrapped, empty, with an adapter inside) and numbers that are none: each is named,
//! with what to give instead.

use half::{bf16, f16};
use mmlnb_models::config::QwenConfig;
use mmlnb_models::weights::{
    Adapter, AdapterConfig, AdapterTensors, Checkpoint, KeyStyle, Naming, WeightError, check_merged, write_merged,
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

type Tensor<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

fn write(file: &Path, tensors: &[Tensor<'_>]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(file, safetensors::serialize(views, None::<HashMap<String, String>>).unwrap()).unwrap();
}

fn zeros<'a>(name: &'a str, dtype: Dtype, shape: &[usize]) -> Tensor<'a> {
    (name, dtype, shape.to_vec(), vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8])
}

fn opened(tensors: &[Tensor<'_>]) -> Result<Checkpoint, WeightError> {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model.safetensors"), tensors);
    Checkpoint::open(folder.path(), Naming::Qwen)
}

#[test]
fn foreign_tensors_are_told_by_their_names_and_types() {
    const Q: &str = "model.layers.0.self_attn.q_proj";
    let name = |ending: &str| format!("{Q}.{ending}");
    for (ending, dtype, shape, says) in [
        ("qweight", Dtype::I32, vec![8, 1], ["quantised (AWQ or GPTQ", "give the original"]),
        ("qzeros", Dtype::I32, vec![1, 1], ["quantised (AWQ or GPTQ", "give the original"]),
        ("weight", Dtype::F8_E4M3, vec![8, 8], ["quantised (FP8", "give the original"]),
        ("weight_scale_inv", Dtype::F32, vec![1, 1], ["quantised (FP8", "give the original"]),
        ("weight", Dtype::U8, vec![32, 1], ["quantised (8 bits or fewer", "give the original"]),
        ("weight", Dtype::I8, vec![8, 8], ["quantised (8 bits or fewer", "give the original"]),
        ("weight", Dtype::F6_E2M3, vec![8, 8], ["quantised (FP4 or FP6", "give the original"]),
        ("weight", Dtype::F64, vec![8, 8], ["the type F64", "save the weights again as F32"]),
        ("weight.absmax", Dtype::F32, vec![4], ["quantised (bitsandbytes", "give the original"]),
        ("weight.quant_state.bitsandbytes__nf4", Dtype::U8, vec![4], ["quantised (bitsandbytes", "give the original"]),
        ("SCB", Dtype::F32, vec![8], ["quantised (bitsandbytes", "give the original"]),
        ("weight_packed", Dtype::I32, vec![8], ["quantised (compressed-tensors", "give the original"]),
        ("weight", Dtype::BF16, vec![0], ["tensors without numbers: 1", "zero_to_fp32"]),
        ("weight", Dtype::BF16, vec![0, 8], ["tensors without numbers: 1", "ZeRO-3"]),
        ("base_layer.weight", Dtype::F32, vec![8, 8], ["adapter of PEFT", "merge with PEFT first"]),
        ("lora_A.default.weight", Dtype::F32, vec![2, 8], ["adapter of PEFT", "merge with PEFT first"]),
    ] {
        let name = name(ending);
        let error = opened(&[zeros("model.norm.weight", Dtype::F32, &[8]), zeros(&name, dtype, &shape)]).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, WeightError::Foreign { .. }), "{ending}: {text}");
        assert!(text.contains(&name) && says.iter().all(|words| text.contains(words)), "{ending}: {text}");
    }
    for (name, says) in [
        ("module.model.norm.weight", "model.module.state_dict()"),
        ("model.module.norm.weight", "model.module.state_dict()"),
        ("_orig_mod.model.norm.weight", "torch.compile"),
        ("base_model.model.model.norm.weight", "merge with PEFT first"),
    ] {
        let text = opened(&[zeros(name, Dtype::F32, &[8])]).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains(says), "{text}");
    }
    opened(&[zeros("model.norm.weight", Dtype::F32, &[8]), zeros("x.position_ids", Dtype::I64, &[8])]).unwrap();
}

#[test]
fn files_of_other_formats_are_told_by_their_bytes_and_folders_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.pth");
    for (bytes, says) in [
        (b"PK\x03\x04\x00\x00\x08\x08rest of a zip file".as_slice(), "mmlnb-train import"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "mmlnb-train import"),
        (b"GGUF\x03\x00\x00\x00rest of the file", "give the original checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ] {
        for name in ["weights.pth", "model.safetensors"] {
            fs::write(folder.path().join(name), bytes).unwrap();
            let text = Checkpoint::open(&folder.path().join(name), Naming::Vgg16).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains(says), "{text}");
        }
    }
    // A header of 640 bytes begins as a pickle does.
    let long = "n".repeat(640 - 65);
    let header = format!("{{\"{long}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}}}");
    let header = format!("{header:640}");
    fs::write(&file, [&640u64.to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat()).unwrap();
    Checkpoint::open(&file, Naming::Vgg16).unwrap();
    for (name, naming, says) in [
        ("pytorch_model.bin", Naming::Bert, "mmlnb-train import pytorch_model.bin"),
        ("model.pth", Naming::Swin, "mmlnb-train import model.pth"),
        ("pytorch_model-00001-of-00002.bin", Naming::Qwen, "save_pretrained"),
        ("model.gguf", Naming::Qwen, "GGUF"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), "x").unwrap();
        for beside in ["config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "a_training_args.txt", "training_args.bin"]
        {
            fs::write(folder.path().join(beside), "{}").unwrap();
        }
        let text = Checkpoint::open(folder.path(), naming).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains(says), "{text}");
    }
}

#[test]
fn quantised_configurations_are_refused_before_their_tensors() {
    let config = |settings: serde_json::Value, inner: bool| {
        let mut config = json!({"model_type": "qwen2_5_vl", "text_config": {}, "vision_config": {}});
        let place = if inner { &mut config["text_config"] } else { &mut config };
        place["quantization_config"] = settings;
        QwenConfig::from_json(Path::new("config.json"), &config).unwrap_err().to_string()
    };
    for method in ["awq", "gptq", "fp8", "bitsandbytes", "compressed-tensors"] {
        for inner in [false, true] {
            let text = config(json!({"quant_method": method, "load_in_4bit": true}), inner);
            assert!(text.contains(&format!("quantised ({method}")) && text.contains("give the original"), "{text}");
        }
    }
    let off = config(json!({"quant_method": "bitsandbytes", "load_in_4bit": false, "load_in_8bit": false}), false);
    assert!(!off.contains("quantised"), "weights that were brought back are read: {off}");
}

fn encoded(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

#[test]
fn the_first_number_that_is_none_is_found_wherever_it_is() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let finite: Vec<f32> = (0..20_000).map(|n| (n as f32 - 10_000.0) * 3.0).collect();
        let largest = if dtype == Dtype::F16 { 65504.0 } else { 3.0e38 };
        let whole = [finite.as_slice(), &[largest, -largest, 0.0, -0.0, 1e-7]].concat();
        opened(&[("a", dtype, vec![whole.len()], encoded(dtype, &whole))]).unwrap().check_finite().unwrap();
        for place in [0, 1, 8_191, 8_192, 19_999] {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut spoilt = finite.clone();
                spoilt[place] = value;
                let b = ("b", dtype, vec![20_000], encoded(dtype, &spoilt));
                let a = ("a", dtype, vec![20_000], encoded(dtype, &finite));
                let error = opened(&[a, b]).unwrap().check_finite().unwrap_err();
                let WeightError::NotFinite { tensor, place: found, value: got, .. } = error else { panic!("{error}") };
                assert_eq!((tensor.as_str(), found, got.is_nan()), ("b", place, value.is_nan()), "{dtype:?}");
            }
        }
    }
}

#[test]
fn merging_refuses_numbers_that_are_none_in_any_tensor_and_results_beyond_the_type() {
    let module = "model.layers.0.self_attn.q_proj";
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]});
    let tensors = AdapterTensors { rank: 1, inputs: 4, outputs: 3, a: vec![1000.0; 4], b: vec![100.0; 3], magnitude: None };
    let tensors = BTreeMap::from([(module.to_string(), tensors)]);
    Adapter::write(folder.path(), &AdapterConfig::from_json(&config).unwrap(), KeyStyle::Later, &tensors).unwrap();
    let adapter = Adapter::open(folder.path()).unwrap();
    let key = format!("{module}.weight");
    let merged = |dtype: Dtype, q: [f32; 12], norm: [f32; 4]| {
        let base = opened(&[
            (&key, dtype, vec![3, 4], encoded(dtype, &q)),
            ("model.norm.weight", dtype, vec![4], encoded(dtype, &norm)),
        ]);
        let (base, output) = (base.unwrap(), tempfile::tempdir().unwrap());
        let checked = check_merged(&base, &adapter);
        let written = write_merged(&base, &adapter, output.path(), &mut |_, _| ());
        let overflow = |outcome: &Result<(), WeightError>| matches!(outcome, Err(WeightError::Overflow { .. }));
        assert_eq!(overflow(&checked), overflow(&written), "what will not be finite is known before anything is written");
        written
    };
    merged(Dtype::F32, [1.0; 12], [1.0; 4]).unwrap();
    merged(Dtype::BF16, [1.0; 12], [1.0; 4]).unwrap();
    let error = merged(Dtype::F16, [1.0; 12], [1.0; 4]).unwrap_err();
    assert!(matches!(&error, WeightError::Overflow { weight, .. } if *weight == key), "{error}");
    let error = merged(Dtype::F32, [1.0; 12], [1.0, 1.0, f32::INFINITY, 1.0]).unwrap_err();
    assert!(matches!(&error, WeightError::NotFinite { tensor, place: 2, .. } if tensor == "model.norm.weight"), "{error}");
    let mut q = [1.0; 12];
    q[5] = f32::NAN;
    let error = merged(Dtype::BF16, q, [1.0; 4]).unwrap_err();
    assert!(matches!(&error, WeightError::NotFinite { tensor, place: 5, .. } if *tensor == key), "{error}");
}
