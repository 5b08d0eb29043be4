//! The describer against PyTorch's numbers: tokens, logits, image tokens, positions; alone and in company.
#![allow(clippy::disallowed_methods, reason = "tests prepare files by paths")]

mod engine_support;
#[path = "../../models/tests/golden_files/mod.rs"]
mod golden_files;

use std::collections::BTreeSet;
use std::path::Path;

use engine_support::{
    Exported, describe, describer, export, export_portable, flipped, floats, integers, patch, together, traced,
};
use golden_files::{Tensors, distance, family, json, list, picture, text};
use mmlnb_appliance::engine::{Assessment, Mode, PatchImage, StopReason};
use mmlnb_models::bundle::Precision;
use mmlnb_models::prepare::decode::Rgb8Image;
use serde_json::Value;

macro_rules! tests_of {
    ($module:ident, $family:literal, $folder:literal) => {
        mod $module {
            use mmlnb_models::bundle::Precision;

            #[test]
            fn writes_the_reference_tokens() {
                super::writes_the_reference_tokens($family, $folder);
            }

            #[test]
            fn writes_the_reference_tokens_with_operators_of_the_standard() {
                super::writes_the_reference_tokens_in(super::opened_portable($family, $folder, Precision::F32));
            }

            #[test]
            fn writes_the_same_in_company_with_operators_of_the_standard() {
                super::writes_the_same_in_company_of(super::opened_portable($family, $folder, Precision::F32));
            }

            #[test]
            fn stops_at_the_end_token() {
                super::stops_at_the_end_token($family, $folder);
            }

            #[test]
            fn writes_the_same_in_company() {
                super::writes_the_same_in_company($family, $folder, Precision::F32);
            }

            #[test]
            fn writes_the_same_in_company_at_int8() {
                super::writes_the_same_in_company($family, $folder, Precision::Int8);
            }

            #[test]
            fn writes_the_same_in_company_at_int4() {
                super::writes_the_same_in_company($family, $folder, Precision::Int4);
            }

            #[test]
            fn writes_the_same_in_company_at_int4_after_int8() {
                super::writes_the_same_in_company($family, $folder, Precision::Int4Int8);
            }

            #[test]
            fn stays_close_in_half_precision() {
                super::stays_close_in_half_precision($family, $folder);
            }
        }
    };
}

tests_of!(golden_qwen2_5_vl, "qwen2_5_vl", "");
tests_of!(golden_qwen2_5_vl_b, "qwen2_5_vl_b", "");
tests_of!(golden_qwen2_5_vl_b_new_style, "qwen2_5_vl_b", "new_style");

/// No token of this id exists, so nothing ends early.
const NEVER: i64 = -1;

/// A family's folder, its case file and its bundle.
type Opened = Option<(std::path::PathBuf, Value, Exported)>;

/// Nothing if the family is absent.
fn opened(name: &str, folder: &str, precision: Precision) -> Opened {
    opened_as(name, folder, &|checkpoint| export(Some(checkpoint), None, precision))
}

fn opened_portable(name: &str, folder: &str, precision: Precision) -> Opened {
    opened_as(name, folder, &|checkpoint| export_portable(Some(checkpoint), None, precision))
}

fn opened_as(name: &str, folder: &str, export: &dyn Fn(&Path) -> Exported) -> Opened {
    let family = family(name)?;
    let checkpoint = family.join(folder);
    if !checkpoint.is_dir() {
        eprintln!("skipped: {} is absent", checkpoint.display());
        return None;
    }
    let cases = json(&family.join("cases.json"));
    let exported = export(&checkpoint);
    Some((family, cases, exported))
}

/// The cases with exactly one image, which are those that the product asks.
fn single(cases: &Value) -> Vec<&Value> {
    let single: Vec<&Value> = list(cases, "cases").iter().filter(|case| case["images"].as_array().unwrap().len() == 1).collect();
    assert!(!single.is_empty(), "no case has one image");
    single
}

fn image(family: &Path, cases: &Value, case: &Value) -> (usize, Rgb8Image) {
    let index = case["images"][0].as_u64().unwrap() as usize;
    (index, picture(&family.join(text(&list(cases, "images")[index], "file"))))
}

fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

fn tokens(assessment: &Assessment) -> Vec<i64> {
    integers(assessment.trace.as_ref().unwrap(), "token_ids").1
}

fn writes_the_reference_tokens(name: &str, folder: &str) {
    writes_the_reference_tokens_in(opened(name, folder, Precision::F32));
}

fn writes_the_reference_tokens_in(opened: Opened) {
    let Some((family, cases, exported)) = opened else { return };
    for case in single(&cases) {
        let (index, rgb) = image(&family, &cases, case);
        let asked = exported.asking(text(case, "text"), case["system"].as_str());
        for run in list(case, "runs") {
            let penalty = run["repetition_penalty"].as_f64().unwrap();
            let expected = ids(&run["token_ids"]);
            let bundle = asked.with(|generation| {
                generation.repetition_penalty = penalty;
                generation.max_new_tokens = expected.len();
                generation.end_tokens = vec![NEVER];
            });
            let assessment = describe(&describer(&bundle, 1), patch(&rgb, 0));
            let description = assessment.description.as_ref().unwrap();
            assert_eq!(tokens(&assessment), expected, "{} at penalty {penalty}", text(case, "name"));
            assert_eq!(description.text, text(run, "text"), "{} at penalty {penalty}", text(case, "name"));
            assert_eq!((description.tokens, description.stop_reason), (expected.len(), StopReason::MaxTokens));
            assert!(description.mean_token_logprob < 0.0 && description.mean_token_logprob.is_finite());
            if penalty == 1.0 {
                check_tensors(&assessment, &family, &cases, case, index);
            }
        }
    }
}

fn check_tensors(assessment: &Assessment, family: &Path, cases: &Value, case: &Value, image: usize) {
    let trace = assessment.trace.as_ref().unwrap();
    let tolerance = |key: &str| cases["tolerance"][key].as_f64().unwrap() as f32;
    let expected = Tensors::read(family.join(text(case, "tensors")));
    let (shape, logits) = floats(trace, "logits");
    let (expected_shape, expected_logits) = expected.f32("penalty_1.0.logits");
    assert_eq!(shape, expected_shape);
    let worst = distance(&logits, &expected_logits);
    assert!(worst <= tolerance("logits"), "logits differ by {worst}");
    for name in ["input_ids", "position_ids"] {
        assert_eq!(integers(trace, name), expected.i64(name), "{name}");
    }
    let of_image = Tensors::read(family.join(text(&list(cases, "images")[image], "tensors")));
    assert_eq!(integers(trace, "image_grid_thw"), of_image.i64("image_grid_thw"));
    let (shape, embeds) = floats(trace, "image_embeds");
    let (expected_shape, expected_embeds) = of_image.f32("image_embeds");
    assert_eq!(shape, expected_shape);
    let worst = distance(&embeds, &expected_embeds);
    assert!(worst <= tolerance("image_embeds"), "image_embeds differ by {worst}");
    let (shape, pixels) = floats(trace, "pixel_values");
    let sum: f64 = pixels.iter().map(|value| f64::from(*value)).sum();
    let expected_sum = list(cases, "images")[image]["pixel_values_sum"].as_f64().unwrap();
    assert!((sum - expected_sum).abs() <= 1e-5 * expected_sum.abs(), "the pixel values sum to {sum}, not {expected_sum}");
    assert_eq!(shape[0], 4 * expected_shape[0]);
}

fn stops_at_the_end_token(name: &str, folder: &str) {
    let Some((family, cases, exported)) = opened(name, folder, Precision::F32) else { return };
    let stop = &cases["stop"];
    let case = single(&cases).into_iter().find(|case| case["name"] == stop["case"]).expect("the stop case has one image");
    let (_, rgb) = image(&family, &cases, case);
    let expected = ids(&stop["token_ids"]);
    let bundle = exported.asking(text(case, "text"), case["system"].as_str()).with(|generation| {
        generation.repetition_penalty = 1.0;
        generation.end_tokens = ids(&stop["eos_token_id"]);
    });
    let assessment = describe(&describer(&bundle, 1), patch(&rgb, 0));
    let description = assessment.description.as_ref().unwrap();
    assert_eq!(tokens(&assessment), expected, "the end token is part of the trace");
    assert_eq!((description.tokens, description.stop_reason), (expected.len() - 1, StopReason::EndToken));
}

/// Requests that join and leave while others run: answers of different length, more of them than slots.
fn writes_the_same_in_company(name: &str, folder: &str, precision: Precision) {
    writes_the_same_in_company_of(opened(name, folder, precision));
}

fn writes_the_same_in_company_of(opened: Opened) {
    let Some((family, cases, exported)) = opened else { return };
    let files = list(&cases, "images");
    let pictures: Vec<Rgb8Image> = files.iter().map(|file| picture(&family.join(text(file, "file")))).collect();
    let images: Vec<PatchImage> = pictures
        .iter()
        .flat_map(|picture| [picture.clone(), flipped(picture)])
        .enumerate()
        .map(|(index, picture)| patch(&picture, index as u8))
        .collect();
    let endless = exported.with(|generation| {
        generation.max_new_tokens = 24;
        generation.end_tokens = vec![NEVER];
    });
    let engine = describer(&endless, 4);
    let answers: Vec<Vec<i64>> = images.iter().map(|image| tokens(&describe(&engine, image.clone()))).collect();
    let end = divisive(&answers);
    drop(engine);
    let bundle = exported.with(|generation| {
        generation.max_new_tokens = 24;
        generation.end_tokens = vec![end];
    });
    let engine = describer(&bundle, 4);
    let alone: Vec<Assessment> = images.iter().map(|image| describe(&engine, image.clone())).collect();
    for _ in 0..3 {
        let company = together(&engine, &images, |_| traced(Mode::Describe));
        for (one, other) in alone.iter().zip(&company) {
            assert_eq!(tokens(one), tokens(other));
            assert_eq!(one.description.as_ref().unwrap().text, other.description.as_ref().unwrap().text);
            let [one, other] = [one, other].map(|assessment| floats(assessment.trace.as_ref().unwrap(), "logits").1);
            assert_eq!(one, other, "the logits, to the bit");
        }
    }
    let sole = describer(&bundle, 1);
    for (image, one) in images.iter().zip(&alone) {
        assert_eq!(tokens(&describe(&sole, image.clone())), tokens(one), "one slot or four");
    }
}

/// The token that, as the end token, gives these answers the most different lengths.
fn divisive(answers: &[Vec<i64>]) -> i64 {
    let lengths = |token: &i64| {
        let length = |answer: &Vec<i64>| answer.iter().position(|id| id == token).unwrap_or(answer.len());
        answers.iter().map(length).collect::<BTreeSet<usize>>().len()
    };
    *answers.iter().flatten().max_by_key(|token| lengths(token)).expect("there are answers")
}

/// f16 weights and products: the first logits stay within 1 % of the largest.
fn stays_close_in_half_precision(name: &str, folder: &str) {
    let Some((family, cases, exported)) = opened(name, folder, Precision::F16) else { return };
    let case = single(&cases)[0];
    let (_, rgb) = image(&family, &cases, case);
    let engine = describer(&exported.asking(text(case, "text"), case["system"].as_str()).bundle, 2);
    let assessment = describe(&engine, patch(&rgb, 0));
    let (shape, logits) = floats(assessment.trace.as_ref().unwrap(), "logits");
    let first = &logits[..shape[1]];
    let expected = Tensors::read(family.join(text(case, "tensors"))).f32("prefill_logits").1;
    let largest = expected.iter().fold(0.0f32, |most, logit| most.max(logit.abs()));
    let worst = distance(first, &expected);
    assert!(worst <= 0.01 * largest, "logits differ by {worst}, the largest is {largest}");
}
