//! What the engine does when things go wrong, are given up, or are drawn at random. The bundle is that of the reference checkpoint.
#![allow(clippy::disallowed_methods, reason = "tests prepare files by paths")]

mod engine_support;
#[path = "../../models/tests/golden_files/mod.rs"]
mod golden_files;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use engine_support::{Exported, describe, describer, engine, export, export_portable, floats, integers, patch, together, traced};
use golden_files::{family, json};
use mmlnb_appliance::engine::{Assessment, EngineError, Mode, OnToken, PatchImage, ProviderChoice, Request};
use mmlnb_models::bundle::Precision;
use mmlnb_models::prepare::decode::Rgb8Image;

/// The describer of the reference data; `None`, and said, where it is absent.
fn exported() -> Option<Exported> {
    family("qwen2_5_vl").map(|checkpoint| export(Some(&checkpoint), None, Precision::F32))
}

/// A picture whose pixels depend on `seed`.
fn noise(width: usize, height: usize, seed: u32) -> Rgb8Image {
    let value = |index: u32| (index.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 24) as u8;
    Rgb8Image { width, height, pixels: (0..(width * height * 3) as u32).map(value).collect() }
}

fn tokens(assessment: &Assessment) -> Vec<i64> {
    integers(assessment.trace.as_ref().unwrap(), "token_ids").1
}

#[test]
fn a_request_that_is_given_up_leaves_and_the_others_stay_right() {
    let Some(exported) = exported() else { return };
    let bundle = exported.with(|generation| {
        generation.max_new_tokens = 40;
        generation.end_tokens = vec![-1];
    });
    let engine = describer(&bundle, 3);
    let images: Vec<PatchImage> = (0..3).map(|seed| patch(&noise(112, 84, seed), seed as u8)).collect();
    let alone: Vec<Vec<i64>> = images.iter().map(|image| tokens(&describe(&engine, image.clone()))).collect();
    let cancel = Arc::new(AtomicBool::new(false));
    let beats = Arc::new(AtomicUsize::new(0));
    let beat = {
        let (cancel, beats) = (cancel.clone(), beats.clone());
        // Given up at the tenth sign of progress, in the midst of the description.
        Arc::new(move || cancel.store(beats.fetch_add(1, Ordering::SeqCst) + 1 >= 10, Ordering::SeqCst))
    };
    let given_up = Request { cancel: cancel.clone(), beat, ..Request::new(Mode::Describe) };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| engine.assess(images[0].clone(), &given_up));
        let others = together(&engine, &images[1..], |_| traced(Mode::Describe));
        assert_eq!(first.join().unwrap().unwrap_err(), EngineError::Cancelled);
        assert_eq!(others.iter().map(tokens).collect::<Vec<_>>(), alone[1..]);
    });
    assert_eq!(beats.load(Ordering::SeqCst), 10, "no token is written after that");
    assert_eq!(tokens(&describe(&engine, images[0].clone())), alone[0], "the slot is clean afterwards");
}

#[test]
fn every_token_is_a_sign_of_progress() {
    let Some(exported) = exported() else { return };
    let bundle = exported.with(|generation| {
        generation.max_new_tokens = 9;
        generation.end_tokens = vec![-1];
    });
    let beats = Arc::new(AtomicUsize::new(0));
    let counted = beats.clone();
    let beat = Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let request = Request { beat, ..Request::new(Mode::Describe) };
    describer(&bundle, 1).assess(patch(&noise(84, 84, 1), 1), &request).unwrap();
    assert_eq!(beats.load(Ordering::SeqCst), 1 + 9, "one for the image, one a token");
}

#[test]
fn numbers_that_are_none_are_an_error_with_the_network_that_gave_them() {
    let Some(exported) = exported() else { return };
    exported.spoil("describer/decoder");
    let error = engine(&exported.bundle, |options| options.load = Mode::Describe).err().expect("warm-up finds it");
    assert!(
        matches!(&error, EngineError::Numbers(text) if text.contains("the language model") && text.contains("after the prompt")),
        "{error}"
    );
    exported.spoil("describer/vision");
    let error = engine(&exported.bundle, |options| options.load = Mode::Describe).err().expect("warm-up finds it");
    assert!(matches!(&error, EngineError::Numbers(text) if text.contains("the vision tower")), "{error}");
}

/// A decoder of the standard's operators reads, and then weighs with zero, what stands behind a request's own tokens.
#[test]
fn numbers_that_were_none_spoil_nobody_after_them() {
    let Some(checkpoint) = family("qwen2_5_vl") else { return };
    let exported = export_portable(Some(&checkpoint), None, Precision::F32);
    let bundle = exported.with(|generation| {
        generation.max_new_tokens = 30;
        generation.end_tokens = vec![-1];
    });
    const DAMAGED: i64 = 7;
    let table = &bundle.manifest.describer.as_ref().unwrap().table.file;
    let width = json(&bundle.path("describer/config.json"))["hidden_size"].as_u64().unwrap() as usize;
    let mut bytes = std::fs::read(bundle.path(table)).unwrap();
    bytes[DAMAGED as usize * width * 4..][..width * 4].fill(0xff);
    std::fs::write(bundle.path(table), bytes).unwrap();
    let engine = describer(&bundle, 2);
    let (small, large) = (patch(&noise(56, 56, 1), 1), patch(&noise(140, 112, 2), 2));
    let alone = [&small, &large].map(|image| tokens(&describe(&engine, image.clone())));
    assert!(alone.iter().flatten().all(|token| *token != DAMAGED), "another token has to be damaged");
    let follow = Request { follow: Some([DAMAGED, 1, 1].into()), ..Request::new(Mode::Describe) };
    let error = engine.assess(large.clone(), &follow).unwrap_err();
    assert!(matches!(error, EngineError::Numbers(_)), "{error}");
    // The small one first: the place of the damaged token lies behind its own, and before the large one's end.
    let (begun, begins) = std::sync::mpsc::channel();
    let on_token: OnToken = Arc::new(move |_, _| {
        let _ = begun.send(());
    });
    let first = Request { on_token: Some(on_token), ..traced(Mode::Describe) };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| engine.assess(small.clone(), &first));
        begins.recv().unwrap();
        let other = describe(&engine, large.clone());
        assert_eq!(tokens(&one.join().unwrap().unwrap()), alone[0]);
        assert_eq!(tokens(&other), alone[1]);
    });
}

#[test]
fn an_image_without_room_is_refused_and_others_are_not() {
    let Some(exported) = exported() else { return };
    let bundle = exported.with(|generation| generation.max_new_tokens = 4);
    let engine = engine(&bundle, |options| {
        options.load = Mode::Describe;
        options.max_tokens = Some(140);
    })
    .unwrap();
    let error = engine.assess(patch(&noise(504, 504, 1), 1), &Request::new(Mode::Describe)).unwrap_err();
    assert!(matches!(&error, EngineError::Image(text) if text.contains("504 x 504") && text.contains("room for 140")), "{error}");
    engine.assess(patch(&noise(112, 112, 1), 1), &Request::new(Mode::Describe)).unwrap();
    let elongated = engine.assess(patch(&noise(2010, 10, 1), 1), &Request::new(Mode::Describe)).unwrap_err();
    assert!(matches!(&elongated, EngineError::Image(text) if text.contains("200 times")), "{elongated}");
}

#[test]
fn a_plan_larger_than_the_memory_is_refused_before_anything_is_loaded() {
    let Some(exported) = exported() else { return };
    let error = engine(&exported.bundle, |options| {
        options.load = Mode::Describe;
        options.memory_limit = Some(1 << 20);
    });
    let error = error.err().expect("one MiB is too little");
    assert!(matches!(&error, EngineError::TooLarge(text) if text.contains("1 MiB in all")), "{error}");
}

#[test]
fn a_bundle_in_bf16_is_refused_on_a_processor() {
    let Some(folder) = family("qwen2_5_vl") else { return };
    let exported = export(Some(&folder), None, Precision::Bf16);
    let error = engine(&exported.bundle, |options| {
        options.load = Mode::Describe;
        options.provider = ProviderChoice::Cpu;
    });
    let error = error.err().expect("processors have no kernels for bf16");
    assert!(matches!(&error, EngineError::Bundle(text) if text.contains("only GPUs run") && text.contains("f32")), "{error}");
}

#[test]
fn a_gpu_that_is_not_there_is_said_and_the_processor_works() {
    let Some(exported) = exported() else { return };
    let engine = engine(&exported.bundle, |options| {
        options.load = Mode::Describe;
        options.provider = ProviderChoice::Cuda;
    })
    .unwrap();
    // This bundle is in f32, which the GPU's attention does not run; so this holds on every machine.
    assert_eq!(engine.provider().name, "cpu");
    let note = engine.provider().note.as_deref().unwrap();
    assert!(note.contains("GPU was asked for") && note.contains("--precision f16"), "{note}");
}

#[test]
fn random_descriptions_depend_on_seed_and_image_alone() {
    let Some(exported) = exported() else { return };
    let bundle = exported.with(|generation| {
        generation.do_sample = true;
        generation.temperature = 2.0;
        generation.max_new_tokens = 16;
        generation.end_tokens = vec![-1];
    });
    let picture = noise(112, 112, 3);
    let images: Vec<PatchImage> = (0..6).map(|number| patch(&picture, number)).collect();
    let engine = describer(&bundle, 4);
    let alone: Vec<Vec<i64>> = images.iter().map(|image| tokens(&describe(&engine, image.clone()))).collect();
    let company = together(&engine, &images, |_| traced(Mode::Describe));
    assert_eq!(company.iter().map(tokens).collect::<Vec<_>>(), alone);
    assert_ne!(alone[0], alone[1], "another file, another stream");
    let mut other = bundle.clone();
    other.sha256 = "another bundle".to_string();
    assert_eq!(tokens(&describe(&describer(&other, 1), images[0].clone())), alone[0], "the same networks under another name");
    let reseeded = exported.with(|generation| {
        *generation = bundle.manifest.describer.as_ref().map(|part| part.generation.clone()).expect("it describes");
        generation.seed += 1;
    });
    assert_ne!(tokens(&describe(&describer(&reseeded, 1), images[0].clone())), alone[0], "another seed, another stream");
    assert_eq!(floats(company[0].trace.as_ref().unwrap(), "logits").0[0], 16);
}

#[test]
fn a_given_way_is_followed_and_every_token_is_shown_with_its_logits() {
    let Some(exported) = exported() else { return };
    let bundle = exported.with(|generation| {
        generation.do_sample = true;
        generation.temperature = 2.0;
        generation.max_new_tokens = 8;
        generation.end_tokens = vec![-1];
    });
    let engine = describer(&bundle, 1);
    let image = patch(&noise(112, 84, 5), 5);
    let drawn = describe(&engine, image.clone());
    let trace = drawn.trace.as_ref().unwrap();
    let (way, logits) = (integers(trace, "token_ids").1, floats(trace, "logits").1);
    let seen: Arc<Mutex<(Vec<i64>, Vec<f32>)>> = Arc::default();
    let shown = seen.clone();
    let on_token: OnToken = Arc::new(move |token, logits| {
        let mut seen = shown.lock().unwrap();
        seen.0.push(token);
        seen.1.extend_from_slice(logits);
    });
    // Another image's stream would draw other tokens; the logits after the same tokens are the same.
    let other = PatchImage { sha256: [6; 32], ..image };
    let request = Request { follow: Some(way.clone().into()), on_token: Some(on_token), ..Request::new(Mode::Describe) };
    let followed = engine.assess(other.clone(), &request).unwrap().description.unwrap();
    assert_eq!(*seen.lock().unwrap(), (way.clone(), logits));
    assert_eq!(Some(&followed), drawn.description.as_ref());
    assert_ne!(tokens(&describe(&engine, other.clone())), way);
    let beyond = Request { follow: Some([way[0], i64::MAX].into()), ..Request::new(Mode::Describe) };
    let error = engine.assess(other, &beyond).unwrap_err();
    assert!(matches!(&error, EngineError::Numbers(text) if text.contains("no token to follow at step 1")), "{error}");
}

/// Drafts change when a text is there, and not a bit of it: greedy texts of random weights go in circles, so that drafts are kept; some texts end within one.
#[test]
fn drafts_change_no_bit_of_an_answer() {
    let Some(folder) = family("qwen2_5_vl") else { return };
    for precision in [Precision::Int8, Precision::Int4, Precision::Int4Int8] {
        let exported = export(Some(&folder), None, precision);
        let mut end = -1;
        for (temperature, penalty) in [(0.0, 1.0), (0.0, 1.0), (0.0, 1.3), (2.0, 1.0)] {
            let bundle = exported.with(|generation| {
                generation.do_sample = temperature > 0.0;
                generation.temperature = temperature;
                generation.repetition_penalty = penalty;
                generation.max_new_tokens = 30;
                generation.end_tokens = vec![end];
            });
            let answers = |drafts: bool| -> Vec<Assessment> {
                let engine = engine(&bundle, |options| {
                    options.load = Mode::Describe;
                    options.drafts = drafts;
                });
                let engine = engine.unwrap();
                (0..4).map(|number| describe(&engine, patch(&noise(112, 84, number % 2), number as u8))).collect()
            };
            let [with, without] = [true, false].map(answers);
            for (with, without) in with.iter().zip(&without) {
                let logits = |of: &Assessment| -> Vec<u32> {
                    floats(of.trace.as_ref().unwrap(), "logits").1.into_iter().map(f32::to_bits).collect()
                };
                assert!(
                    tokens(with) == tokens(without) && logits(with) == logits(without),
                    "{precision:?}: {temperature}, {penalty}"
                );
                assert_eq!(with.description, without.description, "{precision:?}: {temperature}, {penalty}");
            }
            let accepted = |of: &[Assessment]| of.iter().map(|one| one.accepted).sum::<usize>();
            assert_eq!(accepted(&without), 0);
            if (temperature, penalty, end) == (0.0, 1.0, -1) {
                assert!(accepted(&with) >= 30, "{precision:?}: {} of 120 tokens were kept of drafts", accepted(&with));
                // The next texts end in the midst of the circle.
                end = tokens(&with[1])[25];
            }
        }
    }
}

/// In f32 a token beside others has other last bits, and portable graphs have ONNX Runtime's attention: there every token stays by itself.
#[test]
fn nothing_is_drafted_where_a_bit_could_change() {
    let Some(folder) = family("qwen2_5_vl") else { return };
    for exported in [export(Some(&folder), None, Precision::F32), export_portable(Some(&folder), None, Precision::Int8)] {
        let bundle = exported.with(|generation| {
            generation.max_new_tokens = 30;
            generation.end_tokens = vec![-1];
        });
        let engine = describer(&bundle, 1);
        let image = patch(&noise(112, 84, 1), 1);
        assert_eq!([(); 2].map(|()| describe(&engine, image.clone()).accepted), [0, 0]);
    }
}

/// Within a draft, too, a request that is given up writes no further token.
#[test]
fn a_request_that_is_given_up_within_a_draft_writes_no_more() {
    let Some(folder) = family("qwen2_5_vl") else { return };
    let exported = export(Some(&folder), None, Precision::Int4);
    let bundle = exported.with(|generation| {
        generation.do_sample = false;
        generation.repetition_penalty = 1.0;
        generation.max_new_tokens = 40;
        generation.end_tokens = vec![-1];
    });
    let engine = describer(&bundle, 1);
    let image = patch(&noise(112, 84, 1), 1);
    // The second time the text is known.
    assert!([(); 2].map(|()| describe(&engine, image.clone()).accepted)[1] > 20);
    // The prompt's parts beat too; what is counted are tokens.
    for most in 3..12 {
        let (cancel, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let on_token: OnToken = {
            let (cancel, written) = (cancel.clone(), written.clone());
            Arc::new(move |_, _| cancel.store(written.fetch_add(1, Ordering::SeqCst) + 1 >= most, Ordering::SeqCst))
        };
        let request = Request { cancel, on_token: Some(on_token), ..Request::new(Mode::Describe) };
        assert_eq!(engine.assess(image.clone(), &request).unwrap_err(), EngineError::Cancelled);
        assert_eq!(written.load(Ordering::SeqCst), most, "no token is written after that");
    }
}
