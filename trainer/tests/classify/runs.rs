//! Runs from data to measures.

use crate::data::{options, written};
use mmlnb_models::{
    activations::{ACTIVATIONS, Activations},
    bundle::{KnownAnswer, Precision},
    config::ClassifierConfig,
};
use mmlnb_trainer::{
    classify::{Options, Protocol, Recipe, Recorder, RunMeasures, check_options, run},
    data::{Needs, Part, load},
    run::predictions,
};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};
use tch::{Device, Tensor};

fn ran(options: &Options) -> RunMeasures {
    run(options).unwrap_or_else(|error| panic!("{}: {error}", options.recipe_name)).expect("the run is fresh")
}

fn weights(folder: &Path) -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(folder.join("model.safetensors")).unwrap().into_iter().collect()
}

fn lines(run: &Path, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).filter(|line: &Value| line["kind"] == kind).collect()
}

#[test]
fn a_run_leaves_everything_that_readers_expect() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 18);
    let asked = options(folder.path(), "run", "paper", "image_init = 'random'\nepochs = 6");
    let measured = ran(&asked);
    let run_folder = folder.path().join("run");
    for name in [
        "run.toml",
        "metrics.jsonl",
        "predictions.jsonl",
        "measures.json",
        "report.html",
        "MODEL_CARD.md",
        "best/config.json",
        "best/tokenizer.json",
        "last/model.safetensors",
    ] {
        assert!(run_folder.join(name).is_file(), "{name}");
    }
    let config = ClassifierConfig::from_dir(&run_folder.join("best")).unwrap();
    assert_eq!(config.classes, crate::data::CLASSES);
    let stored: Value = serde_json::from_str(&fs::read_to_string(run_folder.join("best/config.json")).unwrap()).unwrap();
    assert!(stored["calibration"]["temperature"].as_f64().unwrap() > 0.0);
    assert_eq!(stored["recipe"]["text_unfrozen_from_epoch"], 2);
    let steps = lines(&run_folder, "step");
    assert_eq!(steps.len() % 6, 0);
    for key in ["loss", "loss_fused", "loss_image", "lambda", "alpha_mean", "alpha_std", "learning_rate", "train_accuracy"] {
        assert!(steps.iter().all(|line| line[key].is_number()), "{key}");
    }
    assert_eq!(steps[0]["lambda"], 0.3);
    assert_eq!(steps[steps.len() - 1]["lambda"], 1.0);
    let validations = lines(&run_folder, "validation");
    for key in ["accuracy", "macro_f1", "weighted_f1", "nll", "alpha_mean", "text_accuracy", "image_accuracy"] {
        assert!(validations.iter().all(|line| line[key].is_number()), "{key}");
    }
    let items = predictions::read(&run_folder).unwrap();
    let tested = items.iter().filter(|item| item.part == Part::Test).count();
    assert_eq!(measured.test.as_ref().unwrap().classes.items as usize, tested);
    assert!(items.iter().all(|item| item.alpha_text.is_some() && item.text_logits.is_some() && item.description.is_some()));
    let read: RunMeasures = serde_json::from_str(&fs::read_to_string(run_folder.join("measures.json")).unwrap()).unwrap();
    assert_eq!(read.best, measured.best);
    let answers = KnownAnswer::read_all(&run_folder.join("best")).unwrap();
    assert_eq!(answers.len(), 4);
    activations_are_recorded(&asked);
    assert!(!run_folder.join(".start.new").exists());
}

/// The activations of the training images are beside the weights, and recording those of all images anew finds at least as large ones.
fn activations_are_recorded(asked: &Options) {
    let best = asked.output.join("best");
    let recorded = Activations::read(&best).unwrap().expect("a VGG16 has some");
    assert_eq!(recorded.layers.len(), 13);
    assert!(recorded.layers.values().any(|layer| layer.largest > 0.0), "{recorded:?}");
    let run: toml::Table = fs::read_to_string(asked.output.join("run.toml")).unwrap().parse().unwrap();
    assert_eq!(Some(recorded.images as i64), run["data"]["train"].as_integer(), "few enough to be looked at all");
    assert_eq!(Some(recorded.data_sha256.as_str()), run["data"]["sha256"].as_str());
    let table = load(&asked.data, &asked.images, &Needs::default()).unwrap();
    let all = Recorder::open(&best, Device::Cpu).unwrap().record(&table, 1000).unwrap();
    assert_eq!((all.images, &all.weights_sha256), (72, &recorded.weights_sha256));
    for (module, layer) in &recorded.layers {
        let other = &all.layers[module];
        assert!(other.largest >= layer.largest * 0.9999, "{module}: {}, of all images {}", layer.largest, other.largest);
        assert_eq!(layer.means.len(), other.means.len());
        let behind_relu = module != "image.features.0";
        assert!(!behind_relu || layer.means.iter().all(|mean| (0.0..=1e4).contains(mean)), "{module}: {:?}", layer.means);
    }
    assert_eq!(Activations::read(&best).unwrap(), Some(all));
}

#[test]
fn frozen_parts_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 12);
    let start = weights(&crate::data::start());
    for (stage, keys) in [
        ("text_unfrozen_from_epoch = 2\nencoders_frozen_from_epoch = 2", vec!["text."]),
        // lambda is 1 from the start: the image head's gradient is zero, and it has no moments that could move it.
        ("text_unfrozen_from_epoch = 0\nencoders_frozen_from_epoch = 0", vec!["text.", "image.", "image_head."]),
    ] {
        let asked = options(folder.path(), &format!("run{}", keys.len()), "paper", &format!("epochs = 2\n{stage}"));
        ran(&asked);
        let end = weights(&asked.output.join("last"));
        for (name, tensor) in &end {
            let frozen = keys.iter().any(|key| name.starts_with(key));
            assert_eq!(*tensor == start[name], frozen, "{name}");
        }
    }
}

/// The state after three epochs in one go, and with a pause after the first.
#[test]
fn a_run_that_goes_on_equals_one_that_never_stopped() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 12);
    let changes = |epochs: usize| {
        format!(
            "epochs = {epochs}\ntext_unfrozen_from_epoch = 1\nencoders_frozen_from_epoch = 3\nlambda_schedule = 'stairs'\nflips = true\n\
             rotations = true\nstain_jitter = 0.1\nsampling = 'balanced'"
        )
    };
    let whole = options(folder.path(), "whole", "paper", &changes(4));
    ran(&whole);
    let parts = options(folder.path(), "parts", "paper", &changes(2));
    ran(&parts);
    let more = Options { resume: true, ..options(folder.path(), "parts", "paper", &changes(4)) };
    ran(&more);
    for part in ["best", "last"] {
        assert_eq!(weights(&whole.output.join(part)), weights(&parts.output.join(part)), "{part}");
    }
    for file in ["metrics.jsonl", "predictions.jsonl", "measures.json"] {
        let read = |options: &Options| fs::read_to_string(options.output.join(file)).unwrap();
        // The first part also reported on its own test part.
        let plain = |text: String| text.lines().filter(|line| !line.contains("\"kind\":\"test\"")).collect::<Vec<_>>().join("\n");
        assert_eq!(plain(read(&whole)), plain(read(&parts)), "{file}");
    }
}

#[test]
fn known_features_train_as_computed_ones() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 12);
    let changes = "epochs = 3\nfrozen_mode = 'eval'\nimage_init = 'random'";
    let known = options(folder.path(), "known", "paper", changes);
    ran(&known);
    let logged = lines(&known.output, "step");
    // A quarter turn of nothing: augmentation that changes nothing keeps features from being known.
    let computed = options(folder.path(), "computed", "paper", &format!("{changes}\nstain_jitter = 1e-30"));
    ran(&computed);
    for (one, other) in logged.iter().zip(lines(&computed.output, "step")) {
        let off = (one["loss"].as_f64().unwrap() - other["loss"].as_f64().unwrap()).abs();
        assert!(off < 2e-3, "{one} against {other}");
    }
}

#[test]
fn every_network_of_the_recipes_trains() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 12);
    let swin = "embed_dim = 8\ndepths = [1, 1]\nnum_heads = [1, 2]\nwindow_size = 7\nimage_init = 'random'";
    for (recipe, changes) in [
        ("image-only", ""),
        ("text-only", ""),
        ("no-prmf-concat", ""),
        ("no-prmf-fixed-0.3", ""),
        ("no-curriculum", ""),
        ("released", "confidence_hidden = 16"),
        ("swin", swin),
        ("robust", ""),
        ("slow", "stain_normalisation = 'reinhard'\nnull_text = 'shuffled'"),
    ] {
        let asked = options(folder.path(), recipe, recipe, &format!("epochs = 1\n{changes}"));
        let measured = ran(&asked);
        assert_eq!(measured.validation.alpha.is_some(), !recipe.starts_with("no-prmf") && !recipe.ends_with("only"), "{recipe}");
        let vgg = !recipe.contains("swin") && recipe != "text-only";
        assert_eq!(asked.output.join("best").join(ACTIVATIONS).is_file(), vgg, "{recipe}");
        let bundle = mmlnb_exporter::Recipe {
            output: folder.path().join(format!("{recipe}.bundle")),
            vlm: None,
            adapter: None,
            allow_partial: false,
            classifier: Some(asked.output.join("best")),
            settings: None,
            precision: Precision::F32,
            portable: false,
            calibration: None,
            image_size: None,
        };
        for precision in [Precision::F32, Precision::Int8] {
            let bundle = mmlnb_exporter::Recipe { precision, ..bundle.clone() };
            mmlnb_exporter::export_bundle(&bundle, &|_| ()).unwrap_or_else(|error| panic!("{recipe} at {precision}: {error}"));
            let card = fs::read_to_string(bundle.output.join("MODEL_CARD.md")).unwrap();
            assert_eq!(card.contains("image encoder: 7 bits"), vgg && precision == Precision::Int8, "{recipe}: {card}");
            assert_eq!(card.contains("image encoder: f32"), recipe == "swin" && precision == Precision::Int8, "{recipe}: {card}");
        }
    }
}

#[test]
fn the_papers_protocol_reports_on_the_part_that_chose() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 12);
    let asked = Options { protocol: Protocol::Paper, ..options(folder.path(), "run", "paper", "epochs = 1") };
    let measured = ran(&asked);
    assert!(measured.test.is_none() && measured.chosen_by.contains("weighted_f1"));
    assert!(measured.warnings.iter().any(|warning| warning.to_lowercase().contains("chosen")), "{:?}", measured.warnings);
    let missing = |what: &str| measured.warnings.iter().any(|warning| warning.contains(what) && warning.contains("too few"));
    assert!(missing("the distance to the training data") && missing("unusual colours"), "{:?}", measured.warnings);
}

#[test]
fn sizes_are_those_of_the_start_and_another_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 12);
    let start = ClassifierConfig::from_dir(&crate::data::start()).unwrap();
    let (_, input) = start.image.as_ref().unwrap();
    let side = input.width + 32;
    for (changes, key) in [
        (format!("image_size = [{side}, {side}]"), "image_size"),
        ("channels = [3, 3, 3, 3, 3]".into(), "channels"),
        ("max_length = 9".into(), "max_length"),
    ] {
        let error = run(&options(folder.path(), "refused", "paper", &changes)).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(&format!("`{key}` is ")), "{key}: {error}");
        assert!(!folder.path().join("refused").exists());
    }
    let longest = start.text.as_ref().unwrap().longest_text();
    let given = format!("epochs = 1\nimage_size = [{}, {}]\nmax_length = {longest}", input.width, input.height);
    ran(&options(folder.path(), "run", "paper", &given));
    let decided = mmlnb_trainer::run::Decided::read(&folder.path().join("run")).unwrap().0;
    assert_eq!(decided["recipe"]["max_length"].as_integer(), Some(longest));
    ran(&options(folder.path(), "silent", "paper", "epochs = 1"));
    let silent = mmlnb_trainer::run::Decided::read(&folder.path().join("silent")).unwrap().0;
    assert_eq!(silent["recipe"], decided["recipe"], "what is not given is recorded as it was used");
}

#[test]
fn options_that_nobody_would_use_are_refused() {
    let recipe = |name: &str, changes: &str| Recipe::with_changes(name, changes.parse().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [whole, adapter] = ["whole", "adapter/best"].map(|name| folder.path().join(name));
    [&whole, &adapter].iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    fs::write(whole.join("config.json"), "{}").unwrap();
    let (whole, adapter) = (whole.as_path(), adapter.parent().unwrap());
    for (name, describer, base, option) in [
        ("human-text", Some(adapter), None, "--describer"),
        ("image-only", Some(adapter), Some(whole), "--describer"),
        ("image-only", None, Some(whole), "--base"),
        ("human-text", None, Some(whole), "--base"),
        ("paper", None, Some(whole), "--base"),
        ("paper", Some(whole), Some(whole), "--base"),
    ] {
        let error = check_options(&recipe(name, ""), describer, base).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().starts_with(option), "{name}: {error}");
    }
    for (name, describer, base) in [
        ("paper", Some(adapter), Some(whole)),
        ("paper", None, None),
        ("image-only", None, None),
        ("base-vlm", None, Some(whole)),
        ("base-vlm", Some(whole), Some(whole)),
    ] {
        check_options(&recipe(name, ""), describer, base).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn a_dry_run_and_wrong_requests_start_nothing() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 12);
    let dry = Options { dry_run: true, ..options(folder.path(), "run", "paper", "") };
    assert!(run(&dry).unwrap().is_none());
    let mut no_source = options(folder.path(), "run", "paper", "");
    no_source.recipe.start = None;
    let error = run(&no_source).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("text_weights"), "{error}");
    no_source.recipe.text_weights = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/bert"));
    let text = run(&no_source).unwrap_err().to_string();
    assert!(text.contains("mmlnb-train import") && text.contains("image_init = \"random\""), "{text}");
    let describer = Options { describer: Some(folder.path().join("nothing")), ..options(folder.path(), "run", "paper", "") };
    assert!(run(&describer).unwrap_err().to_string().contains("neither an adapter nor a checkpoint"));
    assert!(!folder.path().join("run").exists());
}
