//! Merged adapters, as PEFT computes them.

use crate::{
    describer::{Describer, Prompt},
    golden_files::{Tensors, family, integer, integers, json, list, text},
    golden_qwen2_5_vl::{generate, image_embeds, position_lists},
    session::{assert_within, tolerance},
};
use mmlnb_exporter::{Sizes, Source};
use mmlnb_models::bundle::Precision;
use serde_json::Value;
use std::path::{Path, PathBuf};

struct Golden {
    folder: PathBuf,
    base: PathBuf,
    cases: Value,
    base_cases: Value,
}

fn describer(golden: &Golden, adapter: &str) -> Describer {
    let source = Source::open(&golden.base, Some(&golden.folder.join(adapter))).unwrap();
    let Sizes::Qwen(config) = source.sizes().clone() else { panic!("a Qwen2.5-VL") };
    Describer::new(&source, config, Precision::F32)
}

/// Logits at the positions that predict the labels of batch 0, row by row; each row alone, without its padding.
fn answer_logits(golden: &Golden, describer: &mut Describer) -> Vec<f32> {
    let batches = Tensors::read(golden.folder.join(text(&golden.cases, "batch_tensors")));
    let (shape, ids) = batches.i64("0.input_ids");
    let (labels, mask) = (batches.i64("0.labels").1, batches.i64("0.attention_mask").1);
    let examples = golden.cases["batches"][0].as_array().unwrap();
    let mut logits = Vec::new();
    for (row, example) in examples.iter().enumerate() {
        let example = &golden.cases["examples"][example.as_u64().unwrap() as usize];
        let image = &golden.base_cases["images"][integer(example, "image") as usize];
        let image = image_embeds(&golden.base, image, describer);
        let whole = row * shape[1]..(row + 1) * shape[1];
        let length = mask[whole.clone()].iter().filter(|m| **m == 1).count();
        let (ids, labels) = (&ids[whole.clone()][..length], &labels[whole][..length]);
        let rows: Vec<i64> = (1..length).filter(|t| labels[*t] != -100).map(|t| t as i64 - 1).collect();
        let positions = position_lists(&batches, "0.position_ids", row, 0..length);
        let prompt = Prompt { embeds: describer.embeds(ids, &image), positions, delta: 0 };
        logits.extend(describer.language.prefill(&prompt, length, &rows).1.remove("logits").unwrap().1);
    }
    logits
}

fn tokens(golden: &Golden, describer: &mut Describer, count: usize) -> Vec<i64> {
    let case = list(&golden.base_cases, "cases").iter().find(|case| case["name"] == "single_0").expect("case single_0");
    let tensors = Tensors::read(golden.base.join(text(case, "tensors")));
    let ids = tensors.i64("input_ids").1;
    let image = &golden.base_cases["images"][integers(case, "images")[0] as usize];
    let image = image_embeds(&golden.base, image, describer);
    let positions = position_lists(&tensors, "position_ids", 0, 0..ids.len());
    let prompt = Prompt { embeds: describer.embeds(&ids, &image), positions, delta: tensors.i64("rope_deltas").1[0] };
    generate(describer, &ids, &prompt, 1.0, count).0
}

fn open() -> Option<Golden> {
    let folder = family("lora")?;
    let cases = json(&folder.join("cases.json"));
    let base = family(text(&cases, "base"))?;
    Some(Golden { base_cases: json(&base.join("cases.json")), folder, base, cases })
}

fn check(golden: &Golden, adapter: &str, expected: &Path) {
    let expected = Tensors::read(golden.folder.join(expected));
    let mut describer = describer(golden, adapter);
    let logits = answer_logits(golden, &mut describer);
    assert_within(adapter, &logits, &expected.f32("answer_logits").1, tolerance(&golden.cases, "logits"));
    let wanted = expected.i64("token_ids").1;
    assert_eq!(tokens(golden, &mut describer, wanted.len()), wanted, "{adapter}");
}

#[test]
fn golden_lora_merged_adapters_answer_as_beside_the_base() {
    let Some(golden) = open() else { return };
    for case in list(&golden.cases, "cases") {
        check(&golden, text(case, "adapter"), Path::new(text(case, "tensors")));
    }
}

#[test]
fn golden_lora_of_older_key_style() {
    let Some(golden) = open() else { return };
    let same = names(&golden.cases, "same_adapter_with_old_names");
    let case = list(&golden.cases, "cases").iter().find(|case| text(case, "name") == same[0]).expect("the newer adapter's case");
    check(&golden, &same[1], Path::new(text(case, "tensors")));
}

fn names(cases: &Value, key: &str) -> Vec<String> {
    list(cases, key).iter().map(|name| name.as_str().unwrap().to_string()).collect()
}
