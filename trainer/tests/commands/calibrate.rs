use crate::{family, mmlnb_train, outcome};
use mmlnb_exporter::{Recipe, Step, export_bundle, inspect};
use mmlnb_models::{
    activations::Activations,
    bundle::{Bundle, Precision},
    config::QwenConfig,
    prepare::{
        decode::{Limits, decode},
        qwen_image::QwenImageProcessor,
    },
    statistics::Statistics,
};
use std::{cell::RefCell, fs, path::Path};

/// Three images, two of them described, and one row more than is asked for.
fn data(base: &Path, folder: &Path) {
    let images = folder.join("images");
    fs::create_dir(&images).unwrap();
    for name in ["0.png", "1.png", "2.png"] {
        fs::copy(base.join("images").join(name), images.join(name)).unwrap();
    }
    fs::write(folder.join("data.csv"), "file_name,description\n0.png,the cells are small\n1.png,\n2.png,many cells\n").unwrap();
    fs::write(folder.join("settings.toml"), "max_new_tokens = 5\n").unwrap();
}

/// Largest magnitude and mean square of each channel of the images' patches, by hand.
fn patches(base: &Path, names: &[&str]) -> (Vec<f32>, Vec<f32>) {
    let config = QwenConfig::from_dir(base).unwrap();
    let processor = QwenImageProcessor::from_dir(base, &config.vision).unwrap();
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for name in names {
        let rgb = decode(&fs::read(base.join("images").join(name)).unwrap(), &Limits::default()).unwrap();
        let patches = processor.patches(&rgb).unwrap();
        let count: i64 = patches.grid.iter().product();
        rows.extend(patches.pixel_values.chunks_exact(patches.pixel_values.len() / count as usize).map(<[f32]>::to_vec));
    }
    let channels = 0..rows[0].len();
    let largest = channels.clone().map(|c| rows.iter().fold(0.0f32, |most, row| most.max(row[c].abs())));
    let mean = |c: usize| rows.iter().map(|row| f64::from(row[c]).powi(2)).sum::<f64>() / rows.len() as f64;
    (largest.collect(), channels.map(|c| mean(c) as f32).collect())
}

#[test]
fn golden_qwen2_5_vl_calibrate_writes_statistics_that_the_exporter_takes() {
    let Some(base) = family("qwen2_5_vl") else { return };
    let folder = tempfile::tempdir().unwrap();
    data(&base, folder.path());
    let at = |name: &str| folder.path().join(name);
    let path = |name: &str| at(name).to_str().unwrap().to_string();
    let (csv, images, output, settings) = (path("data.csv"), path("images"), path("made/statistics"), path("settings.toml"));
    let base_path = base.to_str().unwrap();
    let ask = |more: &[&str]| {
        let mut arguments = vec!["calibrate", "--data", &csv, "--images", &images, "--base", base_path, "--output", &output];
        arguments.extend(["--settings", &settings]);
        arguments.extend(more);
        outcome(&mmlnb_train(&arguments))
    };
    let (code, told) = ask(&["--dry-run"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("3 of 3 rows, 2 with their descriptions, 1 described first"), "{told}");
    assert!(!at("made").exists(), "a dry run writes nothing");

    let (code, told) = ask(&[]);
    assert_eq!(code, Some(0), "{told}");
    let all = Statistics::read(&at("made/statistics")).unwrap();
    let gathered = &all.gathered;
    assert_eq!((gathered.rows, gathered.written, gathered.adapter_sha256.as_deref()), (3, 1, None));
    let (largest, mean_square) = patches(&base, &["0.png", "1.png", "2.png"]);
    let seen = &all.layers["visual.patch_embed.proj"];
    assert_eq!(seen.largest, largest);
    seen.mean_square.iter().zip(&mean_square).for_each(|(found, expected)| assert!((found - expected).abs() <= 1e-5 * expected));
    let layer = |name: &str| &all.layers[&format!("model.layers.0.{name}")];
    assert_eq!(layer("self_attn.q_proj"), layer("self_attn.v_proj"), "one input");
    assert_ne!(layer("self_attn.q_proj"), layer("mlp.up_proj"));
    assert!(layer("mlp.down_proj").largest.iter().all(|value| *value > 0.0));
    // The same again, and fewer rows, in the same place.
    let record = fs::read(at("made/statistics/calibration.json")).unwrap();
    assert_eq!(ask(&[]).0, Some(0));
    assert_eq!(fs::read(at("made/statistics/calibration.json")).unwrap(), record);

    let bundle = at("bundle");
    let recipe = Recipe {
        output: bundle.clone(),
        vlm: Some(base.clone()),
        adapter: None,
        allow_partial: false,
        classifier: None,
        settings: None,
        precision: Precision::Int4Int8,
        portable: false,
        calibration: Some(at("made/statistics")),
        image_size: None,
    };
    export_bundle(&recipe, &|_| ()).unwrap();
    assert_eq!(Bundle::open(&bundle).unwrap().manifest.provenance.calibration.unwrap().sha256, all.sha256());
    let graph = fs::read(bundle.join("describer/decoder.onnx")).unwrap();
    assert!(graph.windows(64).any(|bytes| bytes == all.sha256().as_bytes()), "the graph's metadata names its statistics");

    assert_eq!(ask(&["--rows", "2"]).0, Some(0));
    let few = Statistics::read(&at("made/statistics")).unwrap();
    assert_eq!((few.gathered.rows, few.gathered.written), (2, 1), "rows 1 and 2");
    assert_eq!(few.layers["visual.patch_embed.proj"].largest, patches(&base, &["0.png", "1.png"]).0);
    let names: Vec<String> =
        fs::read_dir(at("made")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["statistics"], "nothing is left beside it");
}

#[test]
fn golden_qwen2_5_vl_and_golden_lora_calibrate_refuses_wrong_input_and_names_the_adapter() {
    let (Some(base), Some(lora)) = (family("qwen2_5_vl"), family("lora")) else { return };
    let folder = tempfile::tempdir().unwrap();
    data(&base, folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (csv, images, output) = (path("data.csv"), path("images"), path("statistics"));
    let base = base.to_str().unwrap();
    let ask = |data: &str, output: &str, more: &[&str]| {
        let mut arguments = vec!["calibrate", "--data", data, "--images", &images, "--base", base, "--output", output];
        arguments.extend(more);
        outcome(&mmlnb_train(&arguments))
    };
    let wrong = path("wrong.csv");
    fs::write(&wrong, "file_name,description\n0.png,<|image_pad|> cells\nabsent.png,x\n../1.png,y\n").unwrap();
    let control = path("control.csv");
    fs::write(&control, "file_name,description\n0.png,<|image_pad|> cells\n").unwrap();
    for (data, output, more, expected) in [
        (&csv, &output, ["--image-size", "100x56"].as_slice(), ["multiples of 28"].as_slice()),
        (&csv, &output, &["--rows", "0"], &["above 0"]),
        (&csv, &output, &["--device", "tpu"], &["no device"]),
        (&csv, &output, &["--adapter", &images], &["adapter_config.json"]),
        (&csv, &images, &[], &["--images"]),
        (&csv, &csv, &[], &["--data"]),
        (&csv, &path(""), &[], &["holds other files"]),
        (&wrong, &output, &[], &["line 3: absent.png", "line 4: ../1.png"]),
        (&control, &output, &[], &["line 2", "<|image_pad|>"]),
    ] {
        let (code, errors) = ask(data, output, more);
        assert_eq!(code, Some(2), "{more:?}: {errors}");
        expected.iter().for_each(|part| assert!(errors.contains(part), "{more:?}: `{part}` is not in {errors}"));
    }
    assert!(!folder.path().join("statistics").exists());
    let adapter = lora.join("lora");
    let (code, errors) = ask(&csv, &output, &["--adapter", adapter.to_str().unwrap(), "--rows", "1"]);
    assert_eq!(code, Some(0), "{errors}");
    let found = Statistics::read(Path::new(&output)).unwrap();
    let expected = mmlnb_models::weights::Adapter::open(&adapter).unwrap().sha256().unwrap().to_string();
    assert_eq!(found.gathered.adapter_sha256, Some(expected));
}

/// A bundle of a classifier alone.
fn of_classifier(output: &Path, classifier: &Path) -> Recipe {
    Recipe {
        output: output.to_path_buf(),
        vlm: None,
        adapter: None,
        allow_partial: false,
        classifier: Some(classifier.to_path_buf()),
        settings: None,
        precision: Precision::F32,
        portable: false,
        calibration: None,
        image_size: None,
    }
}

/// A classifier that was not trained here, or before activations were recorded: its convolutions are f32 at int8, and told so, until it is calibrated.
#[test]
fn golden_curriculum_calibrate_lets_a_classifiers_convolutions_be_in_8_bits() {
    let Some(golden) = family("curriculum") else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let path = |name: &str| at(name).to_str().unwrap().to_string();
    for (from, to) in [("checkpoint", "classifier"), ("images", "images")] {
        fs::create_dir(at(to)).unwrap();
        for file in fs::read_dir(golden.join(from)).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), at(to).join(file.file_name())).unwrap();
        }
    }
    let mut names: Vec<String> =
        fs::read_dir(at("images")).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    fs::write(at("data.csv"), format!("file_name\n{}\n", names.join("\n"))).unwrap();
    let bundle = |precision: Precision, portable: bool| {
        let warnings = RefCell::new(Vec::new());
        let recipe = Recipe { precision, portable, ..of_classifier(&at("bundle"), &at("classifier")) };
        export_bundle(&recipe, &|step| match step {
            Step::Warning(warning) => warnings.borrow_mut().push(warning.to_string()),
            Step::Decide { .. } | Step::Decided(_) | Step::Begin { .. } | Step::Wrote(_) | Step::End => {}
        })
        .unwrap();
        let card = fs::read_to_string(at("bundle/MODEL_CARD.md")).unwrap();
        (inspect(&at("bundle")).unwrap().to_string(), card, warnings.into_inner().join("\n"))
    };
    let (report, card, warnings) = bundle(Precision::Int8, false);
    assert!(!report.contains(" DequantizeLinear") && card.contains("image encoder: f32"), "{report}{card}");
    assert!(warnings.contains("activations.json") && warnings.contains("calibrate --classifier"), "{warnings}");
    assert_eq!(bundle(Precision::F32, false).2, "", "f32 wants nothing");

    let (csv, images, classifier) = (path("data.csv"), path("images"), path("classifier"));
    let ask = |more: &[&str]| {
        let mut arguments = vec!["calibrate", "--data", &csv, "--images", &images, "--classifier", &classifier];
        arguments.extend(more);
        outcome(&mmlnb_train(&arguments))
    };
    let (code, told) = ask(&["--dry-run"]);
    assert_eq!((code, at("classifier/activations.json").exists()), (Some(0), false), "{told}");
    assert_eq!(ask(&["--output", "elsewhere"]).0, Some(2), "the folder itself gets the file");
    let (code, told) = ask(&["--rows", "2"]);
    assert_eq!(code, Some(0), "{told}");
    let few = Activations::read(&at("classifier")).unwrap().unwrap();
    assert_eq!((few.images, few.layers.len()), (2, 13));
    assert_eq!(ask(&[]).0, Some(0));
    let all = Activations::read(&at("classifier")).unwrap().unwrap();
    assert_eq!(all.images, names.len());
    for precision in [Precision::Int8, Precision::Int4, Precision::Int4Int8] {
        let (report, card, warnings) = bundle(precision, false);
        assert!(report.contains(" DequantizeLinear") && card.contains("image encoder: 7 bits"), "{report}{card}");
        assert_eq!(warnings, "");
    }
    assert!(bundle(Precision::Int8, true).0.contains(" DequantizeLinear"), "in operators of the standard too");

    fs::write(
        at("classifier/activations.json"),
        String::from_utf8(all.to_bytes()).unwrap().replace("features.28", "features.30"),
    )
    .unwrap();
    let recipe = Recipe { precision: Precision::Int8, ..of_classifier(&at("other"), &at("classifier")) };
    let told = export_bundle(&recipe, &|_| ()).unwrap_err().to_string();
    assert!(told.contains("missing: image.features.28; surplus: image.features.30"), "{told}");
    assert!(!at("other").exists());
}
