//! Adapters beside the describer: live and merged, and the gradients that they are trained with.

use crate::{
    files::{Tensors, family, integers, json, list, number, text, tolerance},
    qwen::{Family, generate, greedy},
    shared::{
        compare::{close, close_to_largest},
        describer::{Describer, vision_inputs},
        device,
    },
};
use mmlnb_models::weights::{Adapter, Checkpoint, Naming, Weights};
use mmlnb_trainer::torch::{Adapters, Plan, PlanOptions, Randomness, Trainable};
use serde_json::Value;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

/// The family, its base, and the batch that all cases share.
struct Lora {
    dir: PathBuf,
    cases: Value,
    base: Family,
    checkpoint: Checkpoint,
    batch: Tensors,
}

impl Lora {
    fn open() -> Option<Lora> {
        let dir = family("lora")?;
        let cases = json(&dir.join("cases.json"));
        let folder = family(text(&cases, "base"))?;
        let base = Family::open(folder.clone(), &folder);
        let checkpoint = Checkpoint::open(&folder, Naming::Qwen).unwrap_or_else(|error| panic!("{error}"));
        let batch = Tensors::read(dir.join(text(&cases, "batch_tensors")));
        Some(Lora { dir, cases, base, checkpoint, batch })
    }

    /// Every case's name, expected tensors and adapter; then the same adapter under other names.
    fn adapters(&self) -> Vec<(String, Tensors, Adapter, &Value)> {
        let open = |folder: &str| Adapter::open(&self.dir.join(folder)).unwrap_or_else(|error| panic!("{error}"));
        let expected = |case: &Value| Tensors::read(self.dir.join(text(case, "tensors")));
        let cases = list(&self.cases, "cases");
        let mut all: Vec<(String, Tensors, Adapter, &Value)> = cases
            .iter()
            .map(|case| (text(case, "name").to_string(), expected(case), open(text(case, "adapter")), case))
            .collect();
        if let Some([known, other]) = self.cases["same_adapter_with_old_names"].as_array().map(Vec::as_slice) {
            let case = cases.iter().find(|case| case["adapter"] == *known).unwrap();
            let other = other.as_str().unwrap();
            all.push((other.to_string(), expected(case), open(other), case));
        }
        all
    }

    fn describer(&self, adapter: Option<&Adapter>, options: PlanOptions, cached: bool) -> Describer {
        let weights = match adapter {
            Some(adapter) => Weights::with_adapter(&self.checkpoint, adapter).unwrap_or_else(|error| panic!("{error}")),
            None => Weights::new(&self.checkpoint),
        };
        Describer::new(&self.base.config, &weights, &options, cached)
    }

    /// Image numbers of batch 0.
    fn images(&self) -> Vec<usize> {
        let examples = list(&self.cases, "examples");
        let image = |example: &i64| examples[*example as usize]["image"].as_i64().unwrap() as usize;
        integers(&list(&self.cases, "batches")[0]).iter().map(image).collect()
    }

    /// Inputs of the decoder for batch 0 around these embeddings, with logits for the tokens that predict an answer.
    fn decoder_inputs(&self, describer: &Describer, embeds: Tensor) -> ([(&'static str, Tensor); 5], Tensor) {
        let labels = self.batch.get("0.labels");
        let (rows, tokens) = labels.size2().unwrap();
        let positions = self.batch.get("0.position_ids").reshape([3, -1]);
        let positions = [0, 1, 2].map(|axis| Vec::<i64>::try_from(positions.get(axis)).unwrap());
        let (cos, sin) = describer.table(&positions);
        let answered = labels.slice(1, 1, None, 1).ne(-100).constant_pad_nd([0, 1]);
        let targets = labels.slice(1, 1, None, 1).constant_pad_nd([0, 1]).masked_select(&answered);
        let places = answered.flatten(0, 1).nonzero().squeeze_dim(1);
        let inputs = [
            ("inputs_embeds", embeds),
            ("position_ids", Tensor::arange(rows * tokens, (Kind::Int64, Device::Cpu)).reshape([rows, tokens])),
            ("cos", cos),
            ("sin", sin),
            ("logits_rows", places),
        ];
        (inputs, targets)
    }

    fn answer_logits(&self, describer: &Describer) -> Tensor {
        let images: Vec<Tensor> = self
            .images()
            .iter()
            .map(|n| {
                let (pixels, grid) = self.base.image(*n);
                describer.image_embeds(&pixels, grid)
            })
            .collect();
        let embeds = describer.embeds(self.batch.get("0.input_ids"), &images);
        let (inputs, _) = self.decoder_inputs(describer, embeds);
        describer.decoder.forward(&inputs).unwrap().get("logits").unwrap().shallow_clone()
    }

    fn tolerance(&self, key: &str) -> f64 {
        tolerance(&self.cases, key)
    }
}

fn live() -> PlanOptions {
    PlanOptions::inference(device())
}

fn merged() -> PlanOptions {
    PlanOptions { adapters: Adapters::Merged, ..live() }
}

fn trained() -> PlanOptions {
    PlanOptions { trainable: Trainable::Adapters, ..live() }
}

#[test]
fn golden_lora_answer_logits_without_an_adapter() {
    let Some(lora) = Lora::open() else { return };
    let found = lora.answer_logits(&lora.describer(None, live(), false));
    close(&found, lora.batch.get("0.answer_logits_without_adapter"), lora.tolerance("logits"), "without adapter");
}

#[test]
fn golden_lora_answer_logits_live_and_merged() {
    let Some(lora) = Lora::open() else { return };
    for (name, expected, adapter, _) in lora.adapters() {
        let expected = expected.get("answer_logits");
        let live = lora.answer_logits(&lora.describer(Some(&adapter), live(), false));
        close(&live, expected, lora.tolerance("logits"), &format!("{name}, live"));
        let merged = lora.answer_logits(&lora.describer(Some(&adapter), merged(), false));
        close(&merged, expected, lora.tolerance("logits"), &format!("{name}, merged"));
        close_to_largest(&merged, &live, 1e-4, &format!("{name}, merged against live"));
    }
}

#[test]
fn golden_lora_greedy_tokens() {
    let Some(lora) = Lora::open() else { return };
    let case = lora.base.case("single_0");
    let ids = Tensors::read(lora.base.dir.join(text(case, "tensors"))).integers("input_ids");
    for (name, expected, adapter, _) in lora.adapters() {
        let expected = expected.integers("token_ids");
        for options in [live(), merged()] {
            let describer = lora.describer(Some(&adapter), options, true);
            let prompt = lora.base.prompt(&describer, &ids, &integers(&case["images"]));
            let (tokens, _) = generate(&describer, &prompt, greedy(1.0, &ids), expected.len());
            assert_eq!(tokens, expected, "{name}, {:?}", options.adapters);
        }
    }
}

#[test]
fn golden_lora_loss_and_gradients() {
    let Some(lora) = Lora::open() else { return };
    for (name, expected, adapter, case) in lora.adapters() {
        let describer = lora.describer(Some(&adapter), trained(), false);
        let randomness = Randomness { seed: 0, step: 0 };
        let passes: Vec<_> = lora
            .images()
            .iter()
            .map(|n| {
                let (pixels, grid) = lora.base.image(*n);
                let inputs = vision_inputs(&lora.base.config, &pixels, grid);
                describer.vision.forward_for_training(&inputs, randomness).unwrap()
            })
            .collect();
        let images: Vec<Tensor> = passes.iter().map(|pass| pass.outputs().get("image_embeds").unwrap().shallow_clone()).collect();
        let embeds = describer.embeds(lora.batch.get("0.input_ids"), &images);
        drop(images);
        let (inputs, targets) = lora.decoder_inputs(&describer, embeds);
        let pass = describer.decoder.forward_for_training(&inputs, randomness).unwrap();
        let loss = pass.outputs().get("logits").unwrap().cross_entropy_for_logits(&targets.to_device(device()));
        close(&loss, &Tensor::from(number(case, "loss") as f32), lora.tolerance("loss"), &format!("{name}: loss"));
        pass.backward(&loss).unwrap();
        passes.into_iter().for_each(|pass| pass.propagate().unwrap());

        let expected = expected.below("gradient");
        let trained = [&describer.vision, &describer.decoder].map(trained_leaves).concat();
        assert_eq!(expected.len(), trained.len(), "{name}: number of trained tensors");
        for (key, gradient) in expected {
            let (_, found) = trained.iter().find(|(leaf, _)| *leaf == leaf_name(key)).unwrap_or_else(|| panic!("{key}"));
            close_to_largest(found, gradient, lora.tolerance("gradients_relative_to_largest"), &format!("{name}: {key}"));
        }
    }
}

/// PEFT's name of a tensor, as our leaves are called.
fn leaf_name(key: &str) -> String {
    let module = key.strip_prefix("base_model.model.").unwrap().replace(".weight", "");
    module.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
}

/// Names and gradients.
fn trained_leaves(plan: &Plan) -> Vec<(String, std::rc::Rc<Tensor>)> {
    let trained = plan.leaves().iter().filter(|leaf| leaf.tensor.requires_grad());
    trained.map(|leaf| (leaf.name.clone(), std::rc::Rc::new(leaf.tensor.grad()))).collect()
}
