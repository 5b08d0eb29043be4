//! The generator: the reference's greedy tokens, whatever is described together.

use crate::{
    files::{Tensors, family, integers, json, list, number, picture, text},
    shared::device,
};
use mmlnb_models::{
    prepare::settings::GenerationSettings,
    weights::{Adapter, Checkpoint, Naming, Weights},
};
use mmlnb_trainer::{
    generate::{Generated, Generator, Picture, Prompter, StopReason, graphs},
    torch::{Plan, PlanOptions},
};
use serde_json::Value;
use std::path::Path;

fn live() -> PlanOptions {
    PlanOptions::inference(device())
}

/// Greedy, with an end token that no model gives.
fn greedy(penalty: f64, most: usize) -> GenerationSettings {
    GenerationSettings {
        max_new_tokens: most,
        do_sample: false,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: penalty,
        seed: 0,
        end_tokens: vec![i64::MAX],
    }
}

fn prompter(base: &Path, generation: GenerationSettings) -> Prompter {
    let mut prompter = Prompter::open(base, None, None, None).unwrap_or_else(|error| panic!("{error}"));
    prompter.settings.generation = generation;
    prompter
}

fn image(dir: &Path, cases: &Value, number: i64) -> Picture {
    let file = dir.join(text(&list(cases, "images")[number as usize], "file"));
    Picture { sha256: [number as u8; 32], rgb: picture(&file) }
}

fn describe(generator: &Generator, pictures: &[Picture]) -> Vec<Generated> {
    generator.describe_batch(pictures).unwrap_or_else(|error| panic!("{error}"))
}

/// Cases of one image and the product's prompt.
fn single_cases(cases: &Value) -> Vec<&Value> {
    let product = |case: &&Value| {
        case["system"].is_null()
            && integers(&case["images"]).len() == 1
            && text(case, "text") == mmlnb_models::prepare::settings::PROMPT
    };
    list(cases, "cases").iter().filter(product).collect()
}

fn tokens_of_all_runs(name: &str, folder: &str) {
    let Some(dir) = family(name) else { return };
    let base = dir.join(folder);
    let cases = json(&dir.join("cases.json"));
    let singles = single_cases(&cases);
    let pictures: Vec<Picture> = singles.iter().map(|case| image(&dir, &cases, integers(&case["images"])[0])).collect();
    for (n, run) in list(singles[0], "runs").iter().enumerate() {
        let expected: Vec<(Vec<i64>, &str)> = singles
            .iter()
            .map(|case| (integers(&list(case, "runs")[n]["token_ids"]), text(&list(case, "runs")[n], "text")))
            .collect();
        let settings = greedy(number(run, "repetition_penalty"), expected[0].0.len());
        for batch in [1, 2, pictures.len()] {
            let generator = Generator::new(prompter(&base, settings.clone()), &base, None, device()).unwrap();
            let found = describe(&generator.with_batch(batch), &pictures);
            for (found, (tokens, text)) in found.iter().zip(&expected) {
                assert_eq!((&found.token_ids, found.text.as_str()), (tokens, *text), "run {n}, {batch} together");
                assert_eq!(found.stop_reason, StopReason::MaxTokens);
            }
        }
    }
}

/// Rows end at different steps and others take their places.
fn rows_leave_and_join(name: &str) {
    let Some(dir) = family(name) else { return };
    let cases = json(&dir.join("cases.json"));
    let ends = integers(&cases["stop"]["eos_token_id"]);
    let stopped = integers(&cases["stop"]["token_ids"]);
    let settings = GenerationSettings { end_tokens: ends, ..greedy(1.0, 12) };
    let numbers = [1, 0, 2, 0, 1, 2, 0];
    let pictures: Vec<Picture> = numbers.iter().map(|number| image(&dir, &cases, *number)).collect();
    let alone: Vec<Generated> = {
        let generator = Generator::new(prompter(&dir, settings.clone()), &dir, None, device()).unwrap();
        pictures.iter().flat_map(|picture| describe(&generator, std::slice::from_ref(picture))).collect()
    };
    assert_eq!((&alone[1].token_ids, alone[1].stop_reason), (&stopped, StopReason::EndToken));
    for batch in [2, 3, 8] {
        let generator = Generator::new(prompter(&dir, settings.clone()), &dir, None, device()).unwrap();
        for (together, alone) in describe(&generator.with_batch(batch), &pictures).iter().zip(&alone) {
            assert_eq!((&together.token_ids, together.stop_reason), (&alone.token_ids, alone.stop_reason));
            assert!((together.mean_logprob - alone.mean_logprob).abs() < 1e-4);
        }
    }
}

#[test]
fn golden_qwen2_5_vl_generator_tokens() {
    tokens_of_all_runs("qwen2_5_vl", "");
}

#[test]
fn golden_qwen2_5_vl_b_generator_tokens() {
    tokens_of_all_runs("qwen2_5_vl_b", "");
}

#[test]
fn golden_qwen2_5_vl_generator_rows_leave_and_join() {
    rows_leave_and_join("qwen2_5_vl");
}

#[test]
fn golden_qwen2_5_vl_b_generator_rows_leave_and_join() {
    rows_leave_and_join("qwen2_5_vl_b");
}

#[test]
fn golden_lora_generator_tokens() {
    let Some(dir) = family("lora") else { return };
    let cases = json(&dir.join("cases.json"));
    let Some(base) = family(text(&cases, "base")) else { return };
    let base_cases = json(&base.join("cases.json"));
    let single = single_cases(&base_cases)[0];
    let pictures = [image(&base, &base_cases, integers(&single["images"])[0])];
    for case in list(&cases, "cases") {
        let expected = Tensors::read(dir.join(text(case, "tensors"))).integers("token_ids");
        let settings = greedy(1.0, expected.len());
        let folder = dir.join(text(case, "adapter"));
        let merged = Generator::new(prompter(&base, settings.clone()), &base, Some(&folder), device()).unwrap();
        assert_eq!(describe(&merged, &pictures)[0].token_ids, expected, "{}, merged", text(case, "name"));

        // As while training: on the weights that other plans hold.
        let checkpoint = Checkpoint::open(&base, Naming::Qwen).unwrap();
        let adapter = Adapter::open(&folder).unwrap();
        let weights = Weights::with_adapter(&checkpoint, &adapter).unwrap();
        let prompter = prompter(&base, settings);
        let trained = graphs(&prompter.config, &weights, false).map(|graph| Plan::new(&graph, &weights, &live()).unwrap());
        let others = trained.each_ref();
        let live = Generator::sharing(prompter, &weights, &live(), &others).unwrap();
        assert_eq!(describe(&live, &pictures)[0].token_ids, expected, "{}, live", text(case, "name"));
        let moved = trained[2].leaves().iter().find(|leaf| leaf.name.ends_with("lora_B")).unwrap();
        let _constant = tch::no_grad_guard();
        let mut values = moved.tensor.shallow_clone();
        let _ = values.fill_(40.0);
        assert_ne!(
            describe(&live, &pictures)[0].token_ids,
            expected,
            "{}: the trained tensors are not shared",
            text(case, "name")
        );
    }
}

#[test]
fn golden_qwen2_5_vl_sampled_descriptions_depend_on_the_image_alone() {
    let Some(dir) = family("qwen2_5_vl") else { return };
    let cases = json(&dir.join("cases.json"));
    let settings = GenerationSettings { do_sample: true, temperature: 1.5, seed: 7, ..greedy(1.05, 10) };
    let mut pictures: Vec<Picture> = (0..3).map(|number| image(&dir, &cases, number)).collect();
    let generator = Generator::new(prompter(&dir, settings), &dir, None, device()).unwrap();
    let forwards = describe(&generator, &pictures);
    pictures.reverse();
    let mut backwards = describe(&generator, &pictures);
    backwards.reverse();
    let tokens = |all: &[Generated]| all.iter().map(|one| one.token_ids.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&forwards), tokens(&backwards));
    pictures.iter_mut().for_each(|picture| picture.sha256 = [9; 32]);
    let mut others = describe(&generator, &pictures);
    others.reverse();
    assert_ne!(tokens(&forwards), tokens(&others));
}
