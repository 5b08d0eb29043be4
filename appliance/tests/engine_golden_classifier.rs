//! The classifier against PyTorch's numbers, alone and in company, and both halves together.
#![allow(clippy::disallowed_methods, reason = "tests prepare files by paths")]

mod engine_support;
#[path = "../../models/tests/golden_files/mod.rs"]
mod golden_files;

use std::path::Path;

use engine_support::{Exported, engine, export, export_portable, floats, integers, patch, together, traced};
use golden_files::{Tensors, distance, family, json, list, picture, text};
use mmlnb_appliance::engine::{Assessment, EngineError, Mode, PatchImage, Request};
use mmlnb_models::bundle::Precision;

/// Tensors of a trace and the tolerance that the case file names for each.
const TENSORS: [(&str, &str); 10] = [
    ("classifier_pixel_values", "classifier_pixel_values"),
    ("image_features", "features"),
    ("text_features", "features"),
    ("projected_features", "features"),
    ("fused_features", "features"),
    ("alpha_text", "alpha_text"),
    ("logits", "logits"),
    ("image_logits", "logits"),
    ("probabilities", "logits"),
    ("image_probabilities", "logits"),
];

#[test]
fn golden_curriculum_classifies_as_the_reference() {
    classifies_as_the_reference(export);
}

#[test]
fn golden_curriculum_classifies_as_the_reference_with_operators_of_the_standard() {
    classifies_as_the_reference(export_portable);
}

fn classifies_as_the_reference(export: fn(Option<&Path>, Option<&Path>, Precision) -> Exported) {
    let Some(family) = family("curriculum") else { return };
    let cases = json(&family.join("cases.json"));
    let classify = &cases["classify"];
    let expected = Tensors::read(family.join(text(classify, "tensors")));
    let exported = export(None, Some(&family.join(text(classify, "checkpoint"))), Precision::F32);
    let engine = engine(&exported.bundle, |options| options.load = Mode::Classify).unwrap();
    for (row, image) in list(classify, "images").iter().enumerate() {
        let picture = picture(&family.join(text(image, "file")));
        let request = Request { description: Some(text(image, "description").to_string()), ..traced(Mode::Classify) };
        let assessment = engine.assess(patch(&picture, row as u8), &request).unwrap();
        let trace = assessment.trace.as_ref().unwrap();
        for (name, tolerance) in TENSORS {
            let (shape, values) = floats(trace, name);
            let (expected_shape, all) = expected.f32(name);
            assert_eq!((shape[0], &shape[1..]), (1, &expected_shape[1..]), "{name}");
            let worst = distance(&values, &all[row * values.len()..(row + 1) * values.len()]);
            let most = cases["tolerance"][tolerance].as_f64().unwrap() as f32;
            assert!(worst <= most, "row {row}: {name} differs by {worst}");
        }
        for name in ["text_input_ids", "text_attention_mask"] {
            let (shape, values) = integers(trace, name);
            let (expected_shape, all) = expected.i64(name);
            assert_eq!((shape[0], shape[1]), (1, expected_shape[1]), "{name}");
            assert_eq!(values, all[row * values.len()..(row + 1) * values.len()], "{name}");
        }
        check_opinion(&assessment, text(image, "description"));
    }
}

fn check_opinion(assessment: &Assessment, text: &str) {
    let opinion = assessment.classification.as_ref().unwrap();
    assert_eq!(opinion.classes.len(), opinion.probabilities.len());
    assert!((opinion.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(opinion.logits_without_text.as_ref().map(Vec::len), Some(opinion.classes.len()));
    assert_ne!(opinion.logits_without_text.as_ref(), Some(&opinion.logits), "the text has an effect");
    let read = opinion.description_read_until.unwrap();
    assert!(text.is_char_boundary(read) && read <= text.len());
    let mask = integers(assessment.trace.as_ref().unwrap(), "text_attention_mask").1;
    assert_eq!(opinion.description_tokens_read, Some(mask.iter().sum::<i64>() as usize - 2));
}

#[test]
fn golden_curriculum_classifies_the_same_in_company() {
    let Some(family) = family("curriculum") else { return };
    let cases = json(&family.join("cases.json"));
    let classify = &cases["classify"];
    let exported = export(None, Some(&family.join(text(classify, "checkpoint"))), Precision::F32);
    let engine = engine(&exported.bundle, |options| options.load = Mode::Classify).unwrap();
    let listed = list(classify, "images");
    let images: Vec<PatchImage> =
        (0..24).map(|index| patch(&picture(&family.join(text(&listed[index % listed.len()], "file"))), index as u8)).collect();
    let request = |index: usize| {
        let description = text(&listed[(index / 2) % listed.len()], "description");
        Request { description: Some(description[..description.len() - index].to_string()), ..Request::new(Mode::Classify) }
    };
    let alone: Vec<Assessment> =
        images.iter().enumerate().map(|(index, image)| engine.assess(image.clone(), &request(index)).unwrap()).collect();
    for (one, other) in alone.iter().zip(together(&engine, &images, request)) {
        assert_eq!(one.classification, other.classification);
    }
}

#[test]
fn golden_curriculum_reads_what_golden_qwen2_5_vl_wrote() {
    let (Some(curriculum), Some(qwen)) = (family("curriculum"), family("qwen2_5_vl")) else { return };
    let exported = export(Some(&qwen), Some(&curriculum.join("checkpoint")), Precision::F32);
    let bundle = exported.with(|generation| generation.max_new_tokens = 40);
    let engine = engine(&bundle, |_| ()).unwrap();
    let cases = json(&qwen.join("cases.json"));
    let picture = picture(&qwen.join(text(&list(&cases, "images")[0], "file")));
    let both = engine.assess(patch(&picture, 1), &traced(Mode::Both)).unwrap();
    let description = both.description.as_ref().unwrap();
    let told = Request { description: Some(description.text.clone()), ..traced(Mode::Both) };
    let told = engine.assess(patch(&picture, 1), &told).unwrap();
    assert_eq!(told.description, None, "a given text is not written again");
    assert_eq!(told.classification, both.classification);
    let trace = both.trace.as_ref().unwrap();
    let names: Vec<&str> = trace.names().collect();
    for name in ["pixel_values", "image_grid_thw", "input_ids", "position_ids", "image_embeds", "token_ids", "logits"] {
        assert!(names.contains(&format!("describe.{name}").as_str()), "{name} is missing from {names:?}");
    }
    assert_eq!(names.len(), 7 + TENSORS.len() + 2, "{names:?}");
    let file = exported.folder.path().join("trace.safetensors");
    trace.write(&file).unwrap();
    let read = Tensors::read(file);
    assert_eq!(read.f32("logits"), floats(trace, "logits"));
    assert_eq!(read.i64("describe.token_ids"), integers(trace, "describe.token_ids"));
    let parts: Vec<&str> = both.elapsed.iter().map(|(name, _)| *name).collect();
    assert_eq!(parts, ["prepare", "queue", "vision", "prefill", "decode", "classify"]);
}

#[test]
fn golden_curriculum_alone_cannot_describe() {
    let Some(family) = family("curriculum") else { return };
    let classify = json(&family.join("cases.json"))["classify"].clone();
    let exported = export(None, Some(&family.join(text(&classify, "checkpoint"))), Precision::F32);
    let error = engine(&exported.bundle, |_| ()).err().expect("a bundle without a describer does not serve both");
    assert!(matches!(&error, EngineError::Bundle(text) if text.contains("has no describer")), "{error}");
    let engine = engine(&exported.bundle, |options| options.load = Mode::Classify).unwrap();
    let picture = picture(&family.join(text(&list(&classify, "images")[0], "file")));
    let without_text = engine.assess(patch(&picture, 0), &Request::new(Mode::Classify)).unwrap_err();
    assert!(matches!(&without_text, EngineError::Image(text) if text.contains("none was given")), "{without_text}");
    assert!(engine.assess(patch(&picture, 0), &Request::new(Mode::Describe)).is_err());
}
