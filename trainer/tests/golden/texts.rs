//! BERT.

use crate::{
    files::{Tensors, family, json, tolerance},
    minilm,
    shared::{compare::close, device},
};
use mmlnb_models::{
    config::BertConfig,
    networks,
    weights::{Checkpoint, Naming, Weights},
};
use mmlnb_trainer::torch::{Outputs, Plan, PlanOptions};
use std::path::Path;
use tch::{Kind, Tensor};

fn encoder(dir: &Path) -> (Plan, Vec<String>) {
    let config = BertConfig::from_dir(dir).unwrap_or_else(|error| panic!("{error}"));
    let mut hidden = vec!["embeddings.LayerNorm".to_string()];
    hidden.extend((0..config.layers).map(|n| format!("encoder.layer.{n}.output.LayerNorm")));
    let names: Vec<&str> = hidden.iter().map(String::as_str).collect();
    let graph = networks::bert(&config, "").expose(&names).unwrap();
    let checkpoint = Checkpoint::open(dir, Naming::Bert).unwrap_or_else(|error| panic!("{error}"));
    checkpoint.check(graph.parameters()).unwrap_or_else(|error| panic!("{error}"));
    (Plan::new(&graph, &Weights::new(&checkpoint), &PlanOptions::inference(device())).unwrap(), hidden)
}

fn run(plan: &Plan, ids: &Tensor, mask: &Tensor) -> Outputs {
    plan.forward(&[("input_ids", ids), ("attention_mask", mask)]).unwrap()
}

fn bert(folder: &str) {
    let Some(dir) = family("bert") else { return };
    let cases = json(&dir.join("cases.json"));
    let expected = Tensors::read(dir.join("expected.safetensors"));
    let (states, pooled) = (tolerance(&cases, "last_hidden_state"), tolerance(&cases, "pooler_output"));
    let (plan, hidden) = encoder(&dir.join(folder));
    let (ids, mask) = (expected.get("input_ids"), expected.get("attention_mask"));
    let outputs = run(&plan, ids, mask);
    let seen = mask.unsqueeze(2).to_kind(Kind::Float);
    let named = hidden.iter().enumerate().map(|(k, node)| (node.as_str(), format!("hidden.{k}")));
    for (output, key) in named.chain([("last_hidden_state", "last_hidden_state".to_string())]) {
        close(&(outputs.get(output).unwrap() * &seen), &(expected.get(&key) * &seen), states, &key);
    }
    close(&outputs.get("last_hidden_state").unwrap().select(1, 0), expected.get("cls"), states, "cls");
    close(outputs.get("text_features").unwrap(), expected.get("pooler_output"), pooled, "pooler_output");

    let padded = run(&plan, expected.get("padded.input_ids"), expected.get("padded.attention_mask"));
    close(padded.get("text_features").unwrap(), expected.get("padded.pooler_output"), pooled, "padded");
    let unmasked = run(&plan, ids, &mask.ones_like());
    close(unmasked.get("text_features").unwrap(), expected.get("without_mask.pooler_output"), pooled, "without mask");
}

#[test]
fn golden_bert_states_and_features() {
    bert("");
}

#[test]
fn golden_bert_with_old_keys() {
    bert("prefixed");
}

#[test]
fn golden_minilm_states_and_sentence_embeddings() {
    let Some(dir) = family("minilm") else { return };
    let cases = json(&dir.join("cases.json"));
    let Some((_folder, file)) = minilm::weights(&dir, &cases) else { return };
    let config = BertConfig::from_json(&dir.join("cases.json"), &cases["config"]).unwrap();
    let graph = networks::bert(&config, "");
    let checkpoint = Checkpoint::open(&file, Naming::Bert).unwrap_or_else(|error| panic!("{error}"));
    checkpoint.check(graph.parameters()).unwrap_or_else(|error| panic!("{error}"));
    let plan = Plan::new(&graph, &Weights::new(&checkpoint), &PlanOptions::inference(device())).unwrap();
    let expected = Tensors::read(dir.join("expected.safetensors"));
    let (ids, mask) = (expected.get("input_ids"), expected.get("attention_mask"));
    let outputs = run(&plan, ids, mask);
    let seen = mask.unsqueeze(2).to_kind(Kind::Float);
    let states = outputs.get("last_hidden_state").unwrap() * &seen;
    let allowed = tolerance(&cases, "last_hidden_state");
    close(&states, &(expected.get("last_hidden_state") * &seen), allowed, "last_hidden_state");
    close(outputs.get("text_features").unwrap(), expected.get("pooler_output"), allowed, "pooler_output");
    let mean = states.sum_dim_intlist(1, false, Kind::Float) / seen.sum_dim_intlist(1, false, Kind::Float);
    let sentence = &mean / mean.square().sum_dim_intlist(1, true, Kind::Float).sqrt();
    close(&sentence, expected.get("sentence_embedding"), tolerance(&cases, "sentence_embedding"), "sentence_embedding");
}
