//! How fast a bundle is: every figure is there, a rate of too few tokens is refused, and what cannot be asked for is told.

use std::fs;
use std::path::{Path, PathBuf};

use mmlnb_tests::{Ran, appliance_binary, binary, bundle, command, golden, patches, run};
use serde_json::Value;

fn bench(bundle: &Path, more: &[&str]) -> Ran {
    let mut bench = command(&appliance_binary());
    bench.arg("bench").arg("--bundle").arg(bundle).args(["--provider", "cpu", "--threads", "1"]);
    run(bench.args(more))
}

/// A bundle of the golden networks whose descriptions may have 64 tokens.
fn export(folder: &Path, parts: &[&str]) -> PathBuf {
    let (settings, output) = (folder.join("settings.toml"), folder.join("bundle"));
    let mut export = command(&binary("mmlnb-export"));
    export.arg("bundle").arg("--output").arg(&output);
    if parts.contains(&"describer") {
        fs::write(&settings, "max_new_tokens = 64\n").expect("the folder is writable");
        export.arg("--vlm").arg(golden("qwen2_5_vl")).arg("--settings").arg(&settings).args(["--image-size", "112x84"]);
    }
    if parts.contains(&"classifier") {
        export.arg("--classifier").arg(golden("curriculum/checkpoint"));
    }
    run(&mut export).expect(0);
    output
}

#[track_caller]
fn assert_figure(found: &Value) {
    let [least, median, most] = ["least", "median", "most"].map(|key| found[key].as_f64().unwrap_or(f64::NAN));
    assert!(0.0 < least && least <= median && median <= most, "{found}");
}

#[test]
fn every_figure_is_measured_and_told() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let bundle = export(folder.path(), &["describer", "classifier"]);
    let image = folder.path().join("patch");
    fs::write(&image, &patches(1)[0].bytes).expect("the folder is writable");
    let image = image.to_str().expect("a temporary path is text");
    let more = ["--rows", "1,2", "--slots", "2", "--runs", "2", "--image", image];
    let found = bench(&bundle, &[&more[..], &["--json"]].concat()).expect(0).json_lines().remove(0);
    let describer = &found["describer"];
    for figure in ["prepare_s", "vision_s", "prompt_tokens_per_s", "first_token_s"] {
        assert_figure(&describer[figure]);
    }
    for (place, rows) in [1, 2].into_iter().enumerate() {
        assert_eq!(describer["decode"][place]["rows"], rows);
        assert_figure(&describer["decode"][place]["tokens_per_s"]);
    }
    for figure in [&found["decode_image_s"], &found["images_per_hour"]] {
        assert_figure(figure);
    }
    for figure in ["prepare_s", "images_per_s"] {
        assert_figure(&found["classifier"][figure]);
    }
    assert_eq!((&found["tokens"], &found["slots"], &found["warnings"]), (&64.into(), &2.into(), &Value::Array(vec![])));
    assert!(found["startup_s"].as_f64() > Some(0.0) && found["peak_memory_bytes"].as_u64() > Some(1 << 20), "{found}");
    let tokens = ["prompt_tokens_read", "prompt_tokens"].map(|key| describer[key].as_u64().expect("tokens are counted"));
    assert!(12 < tokens[0] && tokens[0] < tokens[1], "an image of 12 tokens, and an opening that was read before: {tokens:?}");

    let told = bench(&bundle, &more).expect(0).out;
    for part in
        ["start-up", "image file", "vision", "first token", "1 row ", "2 rows", "images an hour", "images a second", "GiB"]
    {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

#[test]
fn a_rate_of_too_few_tokens_is_no_figure() {
    let ran = bench(bundle(), &["--rows", "1", "--slots", "1", "--runs", "1", "--tokens", "4", "--json"]).expect(1);
    let found = ran.json_lines().remove(0);
    assert_eq!(found["describer"]["decode"][0]["tokens_per_s"], Value::Null);
    assert_figure(&found["describer"]["first_token_s"]);
    assert!(ran.err.contains("--rows 1") && ran.err.contains("give more --tokens"), "{}", ran.err);
}

#[test]
fn a_half_alone_is_measured_alone() {
    for (part, other) in [("describer", "classifier"), ("classifier", "describer")] {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let bundle = export(folder.path(), &[part]);
        let found = bench(&bundle, &["--rows", "1", "--slots", "1", "--runs", "1", "--json"]).expect(0).json_lines().remove(0);
        assert_figure(&found["images_per_hour"]);
        assert!(found[part].is_object() && found[other].is_null() && found["decode_image_s"].is_null(), "{found}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let ran = bench(bundle(), &["--tokens", "13"]).expect(2);
    assert!(ran.err.contains("at most 12 tokens") && ran.err.contains("max_new_tokens") && ran.out.is_empty(), "{}", ran.err);
    let ran = bench(bundle(), &["--image", "no-such.png"]).expect(2);
    assert!(ran.err.contains("no-such.png") && ran.out.is_empty(), "{}", ran.err);
    bench(bundle(), &["--rows", "0"]).expect(2);
    bench(Path::new("no-such-bundle"), &[]).expect(78);
}
