//! The model card: what a bundle is, for people.

use crate::{classifier::ClassifierInput, few_bits::Kept};
use mmlnb_models::bundle::{Classifier, Describer, Manifest, Provenance, Source};
use mmlnb_models::measures::intervals::{Estimate, Estimates};

/// The text of `MODEL_CARD.md`, with the matrices that stayed at 8 bits, how the classifier's convolutions are stored, and what the trainer measured of it.
pub(crate) fn model_card(manifest: &Manifest, kept: &[Kept], input: Option<&ClassifierInput>) -> String {
    let mut card = String::from(
        "# MMLNB bundle\n\nFor research use only; not a medical device. A model of neuroblastoma histology patches after MMLNB \
         (arXiv 2503.12927).\n\n",
    );
    card += &format!("- written by {}\n- precision: {}\n", manifest.producer, manifest.precision);
    if manifest.portable {
        card += "- portable: operators of the ONNX standard alone\n";
    }
    match &manifest.describer {
        Some(describer) => card += &(describer_section(describer) + &kept_lines(kept)),
        None => card += "\n## Describer\n\nNone: this bundle classifies only.\n",
    }
    match &manifest.classifier {
        Some(classifier) => card += &classifier_section(classifier),
        None => card += "\n## Classifier\n\nNone: this bundle describes only.\n",
    }
    if let Some(told) = input.and_then(|input| input.convolutions.told()) {
        card += &format!("- convolutions of the image encoder: {told}\n");
    }
    if let Some(measures) = input.and_then(|input| input.measures.as_ref()) {
        card += &measures_section(measures);
    }
    card += &provenance_section(&manifest.provenance);
    card
}

/// The trainer's figures with their intervals.
fn measures_section(estimates: &Estimates) -> String {
    let draws = &estimates.draws;
    let mut text = format!("\n## Measured by the trainer\n\nOver {} {}.\n\n", draws.units, draws.unit);
    text += "| measure | value | 95 % interval |\n|---|---|---|\n";
    for (name, Estimate { value, interval }) in &estimates.measures {
        let value = value.map_or("undefined".to_string(), |value| format!("{value:.4}"));
        let interval = interval.as_ref().map_or("-".to_string(), |found| format!("{:.4} to {:.4}", found.low, found.high));
        text += &format!("| {name} | {value} | {interval} |\n");
    }
    let notes = draws.no_interval.iter().chain(&draws.warning);
    text + &notes.map(|note| format!("\n{note}\n")).collect::<String>()
}

fn describer_section(describer: &Describer) -> String {
    let size =
        describer.image_size.map_or("by smart_resize within the checkpoint's limits".to_string(), |[w, h]| format!("{w} x {h}"));
    let g = &describer.generation;
    let way = if g.do_sample {
        format!("sampled, temperature {}, top-k {}, top-p {}, seed {}", g.temperature, g.top_k, g.top_p, g.seed)
    } else {
        "greedy".to_string()
    };
    let parameters = describer.vision.parameters + describer.decoder.graph.parameters;
    format!(
        "\n## Describer\n\nQwen2.5-VL, {parameters} parameters in the vision tower and the language model.\n\n- prompt: {}\n- image size: {size}\n\
         - generation: {way}, repetition penalty {}, at most {} tokens\n",
        describer.prompt, g.repetition_penalty, g.max_new_tokens
    )
}

/// What 4 bits are too coarse for.
fn kept_lines(kept: &[Kept]) -> String {
    let lines: String = kept.iter().map(|one| format!("  - {one}\n")).collect();
    if kept.is_empty() { lines } else { format!("- in 8 bits, by the error of their outputs:\n{lines}") }
}

fn classifier_section(classifier: &Classifier) -> String {
    let calibrated = match &classifier.calibration {
        Some(calibration) => {
            let lines = calibration.lines().into_iter().map(|line| format!("\n  - {line}"));
            format!("calibration by the trainer:{}", lines.collect::<String>())
        }
        None => "not calibrated by the trainer: verdicts are `not_assessed`".to_string(),
    };
    let encoders = [(classifier.image.is_some(), "image encoder"), (classifier.text.is_some(), "text encoder")];
    let held: Vec<&str> = encoders.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect();
    format!(
        "\n## Classifier\n\n- classes: {}\n- made of: {}, heads\n- {calibrated}\n",
        classifier.classes.join(", "),
        held.join(", ")
    )
}

fn provenance_section(provenance: &Provenance) -> String {
    let mut text = String::from("\n## Provenance\n\n");
    let folders = [
        ("checkpoint", &provenance.checkpoint),
        ("adapter", &provenance.adapter),
        ("calibration", &provenance.calibration),
        ("classifier", &provenance.classifier),
    ];
    for (what, source) in folders {
        if let Some(Source { name, sha256 }) = source {
            text += &format!("- {what}: {name}, SHA-256 {sha256}\n");
        }
    }
    match provenance.data.is_empty() {
        true => text += "- training data: no record\n",
        false => provenance.data.iter().for_each(|data| text += &format!("- training data: SHA-256 {data}\n")),
    }
    text
}
