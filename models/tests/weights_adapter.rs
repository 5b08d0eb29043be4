//! PEFT's settings: what is honoured, what is refused, and bases that an adapter does not fit.

use mmlnb_models::{
    graph::{Adaption, Builder, Dim, Graph, Kind},
    weights::{Adapter, AdapterConfig, AdapterTensors, Checkpoint, KeyStyle, Layers, Naming, Targets, WeightError, Weights},
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use std::{collections::BTreeMap, collections::HashMap, fs, path::Path};
use tempfile::TempDir;

/// The settings of a plain adapter with some changed.
fn settings(changes: Value) -> Value {
    let mut all = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"});
    for (key, value) in changes.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}

fn problems(changes: Value) -> String {
    AdapterConfig::from_json(&settings(changes)).unwrap_err().join("; ")
}

fn write_file(file: &Path, tensors: &[(String, Vec<usize>)]) {
    let data: Vec<Vec<f32>> =
        tensors.iter().map(|(_, shape)| (0..shape.iter().product()).map(|i| i as f32 * 0.5 + 0.25).collect()).collect();
    let views = tensors
        .iter()
        .zip(&data)
        .map(|((name, shape), d)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(d)).unwrap()));
    fs::write(file, safetensors::serialize(views, None::<HashMap<String, String>>).unwrap()).unwrap();
}

/// An adapter's folder with these settings and tensors (key after `base_model.model.`, shape).
fn adapter(changes: Value, tensors: &[(&str, &[usize])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("adapter_config.json"), settings(changes).to_string()).unwrap();
    let tensors: Vec<_> = tensors.iter().map(|(key, shape)| (format!("base_model.model.{key}"), shape.to_vec())).collect();
    write_file(&folder.path().join("adapter_model.safetensors"), &tensors);
    folder
}

/// `lora_A` and `lora_B` of modules `[outputs 3, inputs 5]` with these ranks.
fn tensors(modules: &[(&str, usize)]) -> Vec<(String, Vec<usize>)> {
    let both = |(path, rank): &(&str, usize)| {
        [(format!("{path}.lora_A.weight"), vec![*rank, 5]), (format!("{path}.lora_B.weight"), vec![3, *rank])]
    };
    modules.iter().flat_map(both).collect()
}

fn with_modules(changes: Value, modules: &[(&str, usize)]) -> Result<Adapter, WeightError> {
    let tensors = tensors(modules);
    let borrowed: Vec<(&str, &[usize])> = tensors.iter().map(|(key, shape)| (key.as_str(), shape.as_slice())).collect();
    Adapter::open(adapter(changes, &borrowed).path())
}

/// A describer with two layers whose q and k are `[3, 5]`, and the kernel of the patches.
fn base() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = vec![("visual.patch_embed.proj.weight".to_string(), vec![4, 3, 2, 14, 14])];
    for layer in 0..2 {
        tensors.extend(["q_proj", "k_proj"].map(|n| (format!("model.layers.{layer}.self_attn.{n}.weight"), vec![3, 5])));
    }
    write_file(&folder.path().join("model.safetensors"), &tensors);
    folder
}

#[test]
fn settings_without_support_are_refused_by_name() {
    for (change, named) in [
        (json!({"peft_type": "LOHA"}), "`peft_type`"),
        (json!({"bias": "all"}), "`bias`"),
        (json!({"fan_in_fan_out": true}), "`fan_in_fan_out`"),
        (json!({"modules_to_save": ["lm_head"]}), "`modules_to_save`"),
        (json!({"use_qalora": true}), "`use_qalora`"),
        (json!({"use_something_new": true}), "`use_something_new`"),
        (json!({"target_parameters": ["x"]}), "`target_parameters`"),
        (json!({"trainable_token_indices": [1]}), "`trainable_token_indices`"),
        (json!({"layer_replication": [[0, 1]]}), "`layer_replication`"),
        (json!({"lora_bias": true}), "`lora_bias`"),
        (json!({"init_lora_weights": "pissa"}), "`init_lora_weights`"),
        (json!({"r": 0}), "rank 0"),
        (json!({"r": "8"}), "`r`"),
        (json!({"lora_alpha": null}), "`lora_alpha` is missing"),
        (json!({"target_modules": null}), "`target_modules` is missing"),
        (json!({"target_modules": "(q_proj"}), "no regular expression"),
        (json!({"rank_pattern": {"(": 3}}), "no regular expression"),
        (json!({"target_modules": ".*", "layers_to_transform": [0]}), "`layers_to_transform`"),
        (json!({"lora_dropout": 1.5}), "`lora_dropout`"),
    ] {
        let text = problems(change.clone());
        assert!(text.contains(named), "{change}: {text}");
    }
    let both = problems(json!({"use_qalora": true, "bias": "all"}));
    assert!(both.contains("use_qalora") && both.contains("bias"), "{both}");
}

#[test]
fn settings_that_are_off_or_have_no_effect_are_ignored() {
    let quiet = json!({"eva_config": {"rho": 2}, "megatron_core": "megatron.core", "qalora_group_size": 16, "new_list": [], "new_flag": false,
        "new_text": null, "peft_version": "0.21.2", "init_lora_weights": "gaussian", "runtime_config": {"ephemeral_gpu_offload": false}});
    let config = AdapterConfig::from_json(&settings(quiet)).unwrap();
    assert_eq!((config.rank, config.alpha, config.targets), (2, 4.0, Targets::Names(vec!["q_proj".into()])));
}

#[test]
fn patterns_choose_rank_and_alpha_by_the_end_of_the_path() {
    let changes = json!({"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 4, "k_proj": 1}, "alpha_pattern": {".*0.*q_proj": 10}});
    let names = [0, 1].map(|n| ["q_proj", "k_proj"].map(|name| format!("model.language_model.layers.{n}.self_attn.{name}")));
    let ranks = [(names[0][0].as_str(), 2), (names[0][1].as_str(), 1), (names[1][0].as_str(), 4), (names[1][1].as_str(), 1)];
    let found = with_modules(changes.clone(), &ranks).unwrap();
    let at = |layer: usize, name: &str| found.adaption(&format!("model.layers.{layer}.self_attn.{name}")).unwrap();
    assert_eq!(at(0, "q_proj"), Adaption { rank: 2, scale: 5.0, magnitude: false });
    assert_eq!(at(1, "q_proj"), Adaption { rank: 4, scale: 1.0, magnitude: false });
    assert_eq!(at(1, "k_proj"), Adaption { rank: 1, scale: 4.0, magnitude: false });
    let stabilised = json!({"use_rslora": true});
    let found = with_modules(stabilised, &[("model.layers.0.self_attn.q_proj", 2)]).unwrap();
    assert_eq!(found.adaption("model.layers.0.self_attn.q_proj").unwrap().scale, 4.0 / 2f64.sqrt());
    let wrong = with_modules(changes, &[(names[1][0].as_str(), 2)]).unwrap_err().to_string();
    assert!(wrong.contains("rank 4"), "{wrong}");
}

#[test]
fn layers_and_exclusions_are_honoured() {
    let path = |layer: i64| format!("model.language_model.layers.{layer}.self_attn.q_proj");
    for (changes, allowed) in [
        (json!({"layers_to_transform": [1]}), [false, true]),
        (json!({"layers_to_transform": 0, "layers_pattern": "layers"}), [true, false]),
        (json!({"layers_to_transform": [0, 1], "layers_pattern": ["blocks"]}), [false, false]),
        (json!({"exclude_modules": ".*layers\\.0\\..*"}), [false, true]),
        (json!({"exclude_modules": ["layers.1.self_attn.q_proj"]}), [true, false]),
        (json!({"target_modules": "all-linear"}), [true, true]),
        (json!({"target_modules": ".*\\.(?!0)\\d\\.self_attn\\.q_proj"}), [false, true]),
        (json!({"target_modules": "self_attn.q_proj"}), [false, false]),
        (json!({"target_modules": ["proj"]}), [false, false]),
    ] {
        for layer in 0..2 {
            let found = with_modules(changes.clone(), &[(&path(layer), 2)]);
            assert_eq!(found.is_ok(), allowed[layer as usize], "{changes}, layer {layer}: {found:?}");
        }
    }
}

#[test]
fn files_that_contradict_their_settings_are_refused() {
    const Q: &str = "model.layers.0.self_attn.q_proj";
    let open = |changes: Value, tensors: &[(String, Vec<usize>)]| {
        let borrowed: Vec<(&str, &[usize])> = tensors.iter().map(|(key, shape)| (key.as_str(), shape.as_slice())).collect();
        Adapter::open(adapter(changes, &borrowed).path())
    };
    let plain = tensors(&[(Q, 2)]);
    let more = |key: &str, shape: &[usize]| [plain.clone(), vec![(key.to_string(), shape.to_vec())]].concat();
    let magnitude = format!("{Q}.lora_magnitude_vector");
    assert!(open(json!({}), &plain).is_ok());
    assert!(open(json!({"use_dora": true}), &more(&magnitude, &[3])).is_ok());
    assert!(open(json!({"use_dora": true}), &more(&format!("{magnitude}.weight"), &[3])).is_ok());
    for (changes, tensors, expected) in [
        (json!({}), more("model.embed_tokens.lora_embedding_A", &[2, 5]), "lora_embedding_A"),
        (json!({}), more("model.layers.0.self_attn.q_proj.weight", &[3, 5]), "is no LoRA tensor"),
        (json!({}), plain[..1].to_vec(), "lora_A or lora_B is missing"),
        (json!({}), vec![], "there are no tensors"),
        (json!({}), more(&magnitude, &[3]), "`use_dora` is false"),
        (json!({"use_dora": true}), plain.clone(), "lora_magnitude_vector is missing"),
        (json!({"use_dora": true}), more(&magnitude, &[4]), "expected [3]"),
        (
            json!({"use_dora": true}),
            [more(&magnitude, &[3]), more(&format!("{magnitude}.weight"), &[3])[2..].to_vec()].concat(),
            "there twice",
        ),
        (json!({"r": 3}), plain.clone(), "do not have the rank 3"),
        (json!({"target_modules": ["k_proj"]}), plain.clone(), "`target_modules` in adapter_config.json does not name it"),
        (json!({}), [plain.clone(), tensors(&[("model.language_model.layers.1.self_attn.q_proj", 2)])].concat(), "both styles"),
        (
            json!({"target_modules": ["proj"]}),
            vec![
                ("visual.patch_embed.proj.lora_A.weight".into(), vec![2, 3, 2, 14, 14]),
                ("visual.patch_embed.proj.lora_B.weight".into(), vec![4, 2, 1, 1, 1]),
            ],
            "convolution",
        ),
    ] {
        let text = open(changes, &tensors).unwrap_err().to_string();
        assert!(text.contains(expected), "expected {expected}: {text}");
    }
}

#[test]
fn modules_that_the_base_does_not_have_are_all_listed() {
    let base = base();
    let checkpoint = Checkpoint::open(base.path(), Naming::Qwen).unwrap();
    let paths = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.7.self_attn.q_proj",
        "model.layers.8.self_attn.q_proj",
        "visual.patch_embed.proj",
    ];
    let adapter = with_modules(json!({"target_modules": ["q_proj", "proj"]}), &paths.map(|path| (path, 2))).unwrap();
    let error = Weights::with_adapter(&checkpoint, &adapter).unwrap_err();
    let WeightError::Unmatched { problems, .. } = &error else { panic!("{error}") };
    assert_eq!(problems.len(), 3);
    let text = error.to_string();
    assert!(text.contains("model.layers.7.self_attn.q_proj: the base has no such module"), "{text}");
    assert!(text.contains("model.layers.8.self_attn.q_proj"), "{text}");
    assert!(text.contains("visual.patch_embed.proj: a convolution"), "{text}");
}

#[test]
fn targeted_modules_without_tensors_are_reported() {
    let base = base();
    let checkpoint = Checkpoint::open(base.path(), Naming::Qwen).unwrap();
    let adapter =
        with_modules(json!({"target_modules": ["q_proj", "k_proj"]}), &[("model.layers.0.self_attn.q_proj", 2)]).unwrap();
    let expected = ["model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.k_proj", "model.layers.1.self_attn.q_proj"];
    assert_eq!(adapter.absent(&checkpoint), expected);
    let error = Weights::with_adapter(&checkpoint, &adapter).unwrap_err();
    assert!(matches!(&error, WeightError::Partial { modules, .. } if *modules == expected), "{error}");
    let text = error.to_string();
    assert!(expected.iter().all(|module| text.contains(module)) && text.contains("--allow-partial"), "{text}");
    let told = adapter.told_partial(&checkpoint).unwrap();
    assert!(told.contains("3 of the modules") && told.contains(expected[0]), "{told}");
    Weights::with_adapter(&checkpoint, &adapter.allowing_partial(true)).unwrap();
}

#[test]
fn a_whole_adapter_lacks_nothing_whatever_its_settings_are() {
    let base = base();
    let checkpoint = Checkpoint::open(base.path(), Naming::Qwen).unwrap();
    let paths = |style: &str| ["q_proj", "k_proj"].map(|n| [0, 1].map(|l| format!("{style}layers.{l}.self_attn.{n}")));
    for (changes, held) in [
        (json!({"target_modules": ["q_proj", "k_proj"], "layers_to_transform": []}), vec![0, 1, 2, 3]),
        (json!({"target_modules": ".*layers.*_proj", "layers_to_transform": []}), vec![0, 1, 2, 3]),
        (json!({"target_modules": ["q_proj"], "layers_to_transform": []}), vec![0, 1]),
        (json!({"target_modules": ["q_proj"], "layers_to_transform": [1]}), vec![1]),
        (json!({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": []}), vec![1]),
        (json!({"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["k_proj"]}), vec![0, 1]),
        (json!({"target_modules": "all-linear"}), vec![0, 1, 2, 3]),
        (json!({"target_modules": "all-linear", "init_lora_weights": "orthogonal"}), vec![0, 1, 2, 3]),
    ] {
        for style in ["model.", "model.language_model."] {
            let paths = paths(style).concat();
            let modules: Vec<(&str, usize)> = held.iter().map(|n| (paths[*n].as_str(), 2)).collect();
            let adapter = with_modules(changes.clone(), &modules).unwrap_or_else(|error| panic!("{changes}: {error}"));
            assert_eq!(adapter.absent(&checkpoint), Vec::<String>::new(), "{changes} {style}");
            Weights::with_adapter(&checkpoint, &adapter).unwrap_or_else(|error| panic!("{changes}: {error}"));
        }
    }
}

#[test]
fn what_is_not_read_here_is_refused_with_what_to_do() {
    let merge = "merge with PEFT first";
    for change in [
        json!({"modules_to_save": ["lm_head"]}),
        json!({"bias": "lora_only"}),
        json!({"lora_bias": true}),
        json!({"trainable_token_indices": [1]}),
        json!({"trainable_token_indices": {"embed_tokens": [1]}}),
        json!({"target_parameters": ["x"]}),
        json!({"init_lora_weights": "pissa"}),
        json!({"init_lora_weights": "pissa_niter_4"}),
        json!({"init_lora_weights": "olora"}),
        json!({"init_lora_weights": "corda"}),
        json!({"init_lora_weights": "loftq"}),
        json!({"init_lora_weights": "lora_ga"}),
        json!({"peft_type": "LOHA"}),
    ] {
        let text = problems(change.clone());
        assert!(text.contains(merge), "{change}: {text}");
    }
    for init in [json!(true), json!(false), json!("gaussian"), json!("eva"), json!("orthogonal"), json!(null)] {
        AdapterConfig::from_json(&settings(json!({"init_lora_weights": init}))).unwrap();
    }
    let held = tensors(&[("model.layers.0.self_attn.q_proj", 2)]);
    for more in [
        "model.lm_head.weight",
        "model.embed_tokens.lora_embedding_A",
        "model.embed_tokens.token_adapter.trainable_tokens_delta",
        "model.layers.0.self_attn.q_proj.lora_B.bias",
    ] {
        let all = [held.clone(), vec![(more.to_string(), vec![2, 5])]].concat();
        let borrowed: Vec<(&str, &[usize])> = all.iter().map(|(key, shape)| (key.as_str(), shape.as_slice())).collect();
        let text = Adapter::open(adapter(json!({}), &borrowed).path()).unwrap_err().to_string();
        assert!(text.contains(more) && text.contains(merge), "{text}");
    }
}

#[test]
fn tensors_of_a_wrapper_or_without_numbers_are_told() {
    let open = |tensors: &[(&str, &[usize])]| Adapter::open(adapter(json!({}), tensors).path()).unwrap_err().to_string();
    let (a, b) = ("model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_B.weight");
    let text = open(&[(a, &[0]), (b, &[0])]);
    assert!(text.contains("tensors without numbers: 2") && text.contains("ZeRO-3") && text.contains("zero_to_fp32"), "{text}");
    let text = open(&[(a, &[2, 5]), (b, &[0])]);
    assert!(text.contains("tensors without numbers: 1") && text.contains("lora_B"), "{text}");
    let text = open(&[(&format!("module.{a}"), &[2, 5]), (&format!("module.{b}"), &[3, 2])]);
    assert!(text.contains("`module.`") && text.contains("model.module.state_dict()"), "{text}");
    let folder = adapter(json!({}), &[(a, &[2, 5]), (b, &[3, 2])]);
    fs::rename(folder.path().join("adapter_model.safetensors"), folder.path().join("adapter_model.bin")).unwrap();
    let text = Adapter::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("adapter_model.bin") && text.contains("save_pretrained"), "{text}");
}

#[test]
fn numbers_that_are_none_are_refused_with_the_tensors_name() {
    const MODULE: &str = "base_model.model.model.layers.0.self_attn.q_proj";
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (spoilt, place) in [("lora_A.weight", 7), ("lora_B.weight", 5)] {
            let folder = adapter(json!({}), &[]);
            let mut a = vec![0.5f32; 10];
            let mut b = vec![0.25f32; 6];
            if spoilt.contains('A') {
                a[place] = value
            } else {
                b[place] = value
            }
            let names = [format!("{MODULE}.lora_A.weight"), format!("{MODULE}.lora_B.weight")];
            let views = [
                (&names[0], TensorView::new(Dtype::F32, vec![2, 5], bytemuck::cast_slice(&a)).unwrap()),
                (&names[1], TensorView::new(Dtype::F32, vec![3, 2], bytemuck::cast_slice(&b)).unwrap()),
            ];
            let bytes = safetensors::serialize(views, None::<HashMap<String, String>>).unwrap();
            fs::write(folder.path().join("adapter_model.safetensors"), bytes).unwrap();
            let error = Adapter::open(folder.path()).unwrap_err();
            assert!(matches!(error, WeightError::NotFinite { place: at, .. } if at == place), "{error}");
            assert!(error.to_string().contains(&format!("{MODULE}.{spoilt}")), "{error}");
        }
    }
}

fn config(dora: bool) -> AdapterConfig {
    let names = vec!["q_proj".to_string()];
    AdapterConfig {
        rank: 2,
        alpha: 4.5,
        dropout: 0.05,
        rslora: true,
        dora,
        targets: Targets::Names(names.clone()),
        exclude: Some(Targets::Pattern(".*visual.*".into())),
        layers: Some(Layers { numbers: vec![0, 1], patterns: vec!["layers".into()] }),
        rank_pattern: vec![("layers.1.self_attn.q_proj".into(), 1)],
        alpha_pattern: vec![("layers.1.self_attn.q_proj".into(), 3.0)],
        base_model: Some("a base".into()),
    }
}

fn two_modules(dora: bool, b: f32) -> BTreeMap<String, AdapterTensors> {
    let of = |rank: usize| AdapterTensors {
        rank,
        inputs: 5,
        outputs: 3,
        a: (0..rank * 5).map(|i| i as f32 - 2.5).collect(),
        b: vec![b; 3 * rank],
        magnitude: dora.then(|| vec![1.0, 2.0, 3.0]),
    };
    BTreeMap::from([
        ("model.layers.0.self_attn.q_proj".to_string(), of(2)),
        ("model.layers.1.self_attn.q_proj".to_string(), of(1)),
    ])
}

#[test]
fn what_is_written_is_read_again_in_both_styles() {
    for (style, prefix) in [
        (KeyStyle::Old, "base_model.model.model.layers.0."),
        (KeyStyle::Later, "base_model.model.model.language_model.layers.0."),
    ] {
        for dora in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let tensors = two_modules(dora, 0.5);
            Adapter::write(folder.path(), &config(dora), style, &tensors).unwrap();
            let bytes = fs::read(folder.path().join("adapter_model.safetensors")).unwrap();
            let names = safetensors::SafeTensors::deserialize(&bytes)
                .unwrap()
                .names()
                .into_iter()
                .map(str::to_string)
                .collect::<Vec<_>>();
            assert!(names.iter().any(|name| name.starts_with(prefix)), "{names:?}");
            let adapter = Adapter::open(folder.path()).unwrap();
            assert_eq!(adapter.config(), &config(dora));
            assert_eq!(adapter.style(), style);
            assert_eq!(adapter.modules(), tensors.keys().cloned().collect::<Vec<_>>());
            assert!(tensors.iter().all(|(module, t)| adapter.tensors(module).as_ref() == Some(t)));
            assert!(fs::read_dir(folder.path()).unwrap().count() == 2, "no partial files stay");
        }
    }
}

#[test]
fn tensors_that_do_not_fit_the_settings_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = two_modules(false, 0.5);
    tensors.insert("model.layers.0.self_attn.v_proj".into(), tensors["model.layers.0.self_attn.q_proj"].clone());
    tensors.get_mut("model.layers.1.self_attn.q_proj").unwrap().b.push(0.0);
    let text = Adapter::write(folder.path(), &config(false), KeyStyle::Later, &tensors).unwrap_err().to_string();
    assert!(
        text.contains("v_proj: `target_modules` does not name") && text.contains("model.layers.1.self_attn.q_proj: A, B"),
        "{text}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Two linear layers, `model.layers.N.self_attn.q_proj`.
fn network() -> Graph {
    let b = Builder::new();
    let x = b.input("x", Kind::Float, [Dim::named("batch"), Dim::from(5)]);
    b.output("first", x.linear("model.layers.0.self_attn.q_proj", 3, false));
    b.output("second", x.linear("model.layers.1.self_attn.q_proj", 3, false));
    b.finish()
}

fn verified(tensors: &BTreeMap<String, AdapterTensors>, dora: bool, graph: &Graph) -> Result<Vec<String>, WeightError> {
    let (base, folder) = (base(), tempfile::tempdir().unwrap());
    Adapter::write(folder.path(), &config(dora), KeyStyle::Later, tensors).unwrap();
    let (checkpoint, adapter) = (Checkpoint::open(base.path(), Naming::Qwen).unwrap(), Adapter::open(folder.path()).unwrap());
    let weights = Weights::with_adapter(&checkpoint, &adapter).unwrap();
    let graph = graph.adapt(&|module| adapter.adaption(module), &[]).unwrap();
    adapter.verify_changes(&weights, &[&graph.stack_linears()])
}

#[test]
fn merging_must_change_what_the_adapter_touches() {
    assert_eq!(verified(&two_modules(false, 0.5), false, &network()).unwrap(), Vec::<String>::new());
    assert_eq!(verified(&two_modules(true, 0.5), true, &network()).unwrap(), Vec::<String>::new());
    let mut partly_zero = two_modules(false, 0.5);
    partly_zero.get_mut("model.layers.1.self_attn.q_proj").unwrap().b.fill(0.0);
    assert_eq!(verified(&partly_zero, false, &network()).unwrap(), ["model.layers.1.self_attn.q_proj"]);
    // So small that f32 swallows it.
    let mut swallowed = two_modules(false, 0.5);
    swallowed.get_mut("model.layers.1.self_attn.q_proj").unwrap().b.fill(1e-30);
    let modules = |result: Result<Vec<String>, WeightError>| match result {
        Err(WeightError::Unchanged { modules, .. }) => modules,
        other => panic!("{other:?}"),
    };
    assert_eq!(modules(verified(&swallowed, false, &network())), ["model.layers.1.self_attn.q_proj"]);
    assert_eq!(modules(verified(&two_modules(false, 0.0), false, &network())).len(), 2);
    let b = Builder::new();
    let x = b.input("x", Kind::Float, [Dim::named("batch"), Dim::from(5)]);
    b.output("first", x.linear("model.layers.0.self_attn.q_proj", 3, false));
    assert_eq!(modules(verified(&two_modules(false, 0.5), false, &b.finish())), ["model.layers.1.self_attn.q_proj"]);
}

#[test]
fn the_hash_follows_settings_and_tensors() {
    let hash = |tensors: &BTreeMap<String, AdapterTensors>, config: &AdapterConfig| {
        let folder = tempfile::tempdir().unwrap();
        Adapter::write(folder.path(), config, KeyStyle::Later, tensors).unwrap();
        Adapter::open(folder.path()).unwrap().sha256().unwrap().to_string()
    };
    let first = hash(&two_modules(false, 0.5), &config(false));
    assert_eq!(first, hash(&two_modules(false, 0.5), &config(false)));
    assert_ne!(first, hash(&two_modules(false, 0.25), &config(false)));
    assert_ne!(first, hash(&two_modules(false, 0.5), &AdapterConfig { alpha: 5.0, ..config(false) }));
    assert_eq!(first.len(), 64);
}
