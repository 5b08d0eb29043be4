//! Qwen2.5-VL: vision tower, language model, generation on the cache, batches.

use crate::{
    files::{Tensors, family, integers, json, list, number, picture, text, tolerance},
    shared::{
        compare::{close, close_to_largest},
        describer::{Describer, Prompt, graphs, three_lists, vision_inputs},
        device,
    },
};
use mmlnb_models::{
    config::QwenConfig,
    prepare::{positions::text_positions, qwen_image::QwenImageProcessor, sampling::Sampler, settings::GenerationSettings},
    weights::{Checkpoint, Naming, Weights},
};
use mmlnb_trainer::torch::{Plan, PlanOptions};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tch::{Device, IndexOp, Kind, Tensor};

/// A family's case files, and a folder with its checkpoint.
pub struct Family {
    pub dir: PathBuf,
    pub cases: Value,
    pub config: QwenConfig,
    processor: QwenImageProcessor,
}

impl Family {
    pub fn open(dir: PathBuf, checkpoint: &Path) -> Family {
        let cases = json(&dir.join("cases.json"));
        let config = QwenConfig::from_dir(checkpoint).unwrap_or_else(|error| panic!("{error}"));
        let processor = QwenImageProcessor::from_dir(checkpoint, &config.vision).unwrap_or_else(|error| panic!("{error}"));
        Family { dir, cases, config, processor }
    }

    /// Pixels `[patches, ..]` and grid of an image.
    pub fn image(&self, number: usize) -> (Tensor, [i64; 3]) {
        let file = self.dir.join(text(&list(&self.cases, "images")[number], "file"));
        let patches = self.processor.patches(&picture(&file)).unwrap();
        let rows: i64 = patches.grid.iter().product();
        (Tensor::from_slice(&patches.pixel_values).reshape([rows, -1]), patches.grid)
    }

    fn tensors(&self, case: &Value) -> Tensors {
        Tensors::read(self.dir.join(text(case, "tensors")))
    }

    pub fn case(&self, name: &str) -> &Value {
        list(&self.cases, "cases").iter().find(|case| text(case, "name") == name).unwrap_or_else(|| panic!("no case {name}"))
    }

    /// A case's prompt, positions made by our own rules, image tokens by our own vision tower.
    pub fn prompt(&self, describer: &Describer, ids: &[i64], images: &[i64]) -> Prompt {
        let images: Vec<(Tensor, [i64; 3])> = images.iter().map(|n| self.image(*n as usize)).collect();
        let grids: Vec<[i64; 3]> = images.iter().map(|(_, grid)| *grid).collect();
        let positions = text_positions(ids, &grids, &self.config).unwrap();
        let embeds: Vec<Tensor> = images.iter().map(|(pixels, grid)| describer.image_embeds(pixels, *grid)).collect();
        Prompt {
            embeds: describer.embeds(&Tensor::from_slice(ids).unsqueeze(0), &embeds),
            positions: positions.ids,
            delta: positions.delta,
        }
    }
}

/// Greedy, with this repetition penalty.
pub fn greedy(penalty: f64, prompt: &[i64]) -> Sampler {
    let settings = GenerationSettings {
        max_new_tokens: 1,
        do_sample: false,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: penalty,
        seed: 0,
        end_tokens: vec![],
    };
    Sampler::new(&settings, [0; 32], prompt)
}

/// Greedy tokens of one sequence and the logits before each.
pub fn generate(describer: &Describer, prompt: &Prompt, mut sampler: Sampler, steps: usize) -> (Vec<i64>, Tensor) {
    let (mut sequences, mut logits) = describer.prefill(prompt, steps as i64);
    let (mut tokens, mut all) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        let row = Vec::<f32>::try_from(logits.i(0)).unwrap();
        tokens.push(sampler.next(&row).unwrap().id);
        all.push(logits.shallow_clone());
        if tokens.len() < steps {
            logits = describer.step(&mut sequences, &[tokens[tokens.len() - 1]]);
        }
    }
    (tokens, Tensor::cat(&all, 0))
}

fn with_checkpoint(name: &str, folder: &str, test: impl FnOnce(&Family, &Weights<'_>)) {
    let Some(dir) = family(name) else { return };
    let folder = dir.join(folder);
    if !folder.is_dir() {
        eprintln!("skipped: {} is absent", folder.display());
        return;
    }
    let checkpoint = Checkpoint::open(&folder, Naming::Qwen).unwrap_or_else(|error| panic!("{error}"));
    test(&Family::open(dir, &folder), &Weights::new(&checkpoint));
}

fn images(name: &str, folder: &str) {
    with_checkpoint(name, folder, |family, weights| {
        let describer = Describer::new(&family.config, weights, &PlanOptions::inference(device()), true);
        for (n, image) in list(&family.cases, "images").iter().enumerate() {
            let expected = family.tensors(image);
            let (pixels, grid) = family.image(n);
            assert_eq!(grid.to_vec(), expected.integers("image_grid_thw"), "grid of image {n}");
            if let Some(expected) = expected.find("pixel_values") {
                close(&pixels, expected, tolerance(&family.cases, "pixel_values"), &format!("pixels of image {n}"));
            }
            let inputs = vision_inputs(&family.config, &pixels, grid);
            for (key, tensor) in &inputs[1..] {
                assert_eq!(tensor, expected.get(key), "{key} of image {n}");
            }
            let found = describer.image_embeds(&pixels, grid);
            close(&found, expected.get("image_embeds"), tolerance(&family.cases, "image_embeds"), &format!("image {n}"));
        }
    });
}

fn intermediates(name: &str, folder: &str) {
    with_checkpoint(name, folder, |family, weights| {
        let case = list(&family.cases, "cases").iter().find(|case| case["intermediates"].is_string()).unwrap();
        let expected = Tensors::read(family.dir.join(text(case, "intermediates")));
        let relative = tolerance(&family.cases, "intermediates_relative_to_largest");
        let near = |found: &Tensor, key: &str| close_to_largest(found, expected.get(key), relative, key);
        let [vision, _, decoder] = graphs(&family.config, weights, false);
        let options = PlanOptions::inference(device());
        let describer = Describer::new(&family.config, weights, &options, false);

        let mut nodes = vec![
            ("visual.patch_embed.proj".to_string(), "vision.patch_embed".to_string()),
            ("visual.merger.mlp.2".into(), "vision.merger".into()),
        ];
        nodes.extend((0..family.config.vision.depth).map(|k| (format!("visual.blocks.{k}.add_2"), format!("vision.blocks.{k}"))));
        let (pixels, grid) = family.image(integers(&case["images"])[0] as usize);
        let outputs = exposed(&vision, weights, &nodes).forward(&vision_inputs(&family.config, &pixels, grid)).unwrap();
        nodes.iter().for_each(|(node, key)| near(outputs.get(node).unwrap(), key));
        near(outputs.get("image_embeds").unwrap(), "vision.image_embeds");

        let tensors = family.tensors(case);
        let prompt = family.prompt(&describer, &tensors.integers("input_ids"), &integers(&case["images"]));
        near(&prompt.embeds, "text.inputs_embeds");
        let (cos, sin) = describer.table(&prompt.positions);
        near(&Tensor::cat(&[&cos, &cos], 1).unsqueeze(0), "text.rope.cos");
        near(&Tensor::cat(&[&sin, &sin], 1).unsqueeze(0), "text.rope.sin");
        let mut nodes: Vec<(String, String)> =
            (0..family.config.text.layers).map(|k| (format!("model.layers.{k}.add_2"), format!("text.layers.{k}"))).collect();
        nodes.push(("model.norm".into(), "text.norm".into()));
        let tokens = prompt.positions[0].len() as i64;
        let all = Tensor::arange(tokens, (Kind::Int64, Device::Cpu));
        let inputs = [
            ("inputs_embeds", &prompt.embeds),
            ("position_ids", &all.unsqueeze(0)),
            ("cos", &cos),
            ("sin", &sin),
            ("logits_rows", &all),
        ];
        let outputs = exposed(&decoder, weights, &nodes).forward(&inputs).unwrap();
        for (node, key) in nodes.iter().chain([&("logits".to_string(), "text.logits".to_string())]) {
            near(&outputs.get(node).unwrap().reshape(expected.get(key).size()), key);
        }
    });
}

/// A plan whose nodes of these names are outputs too.
fn exposed(graph: &mmlnb_models::graph::Graph, weights: &Weights<'_>, nodes: &[(String, String)]) -> Plan {
    let names: Vec<&str> = nodes.iter().map(|(node, _)| node.as_str()).collect();
    Plan::new(&graph.expose(&names).unwrap(), weights, &PlanOptions::inference(device())).unwrap()
}

fn generation(name: &str, folder: &str) {
    with_checkpoint(name, folder, |family, weights| {
        let describer = Describer::new(&family.config, weights, &PlanOptions::inference(device()), true);
        let whole = Describer::new(&family.config, weights, &PlanOptions::inference(device()), false);
        let allowed = tolerance(&family.cases, "logits");
        for case in list(&family.cases, "cases") {
            let (name, tensors) = (text(case, "name"), family.tensors(case));
            let ids = tensors.integers("input_ids");
            let prompt = family.prompt(&describer, &ids, &integers(&case["images"]));
            assert_eq!(prompt.positions, three_lists(tensors.get("position_ids")), "{name}: positions");
            let last = whole.logits(&prompt, &[ids.len() as i64 - 1]);
            close(&last, tensors.get("prefill_logits"), allowed, &format!("{name}: without a cache"));
            for run in list(case, "runs") {
                let penalty = number(run, "repetition_penalty");
                let expected = integers(&run["token_ids"]);
                let (tokens, logits) = generate(&describer, &prompt, greedy(penalty, &ids), expected.len());
                assert_eq!(tokens, expected, "{name}, penalty {penalty}");
                if let Some(expected) = tensors.find(&format!("penalty_{penalty:?}.logits")) {
                    close(&logits, expected, allowed, &format!("{name}, penalty {penalty}: logits"));
                }
            }
        }
    });
}

fn batch(name: &str, folder: &str) {
    with_checkpoint(name, folder, |family, weights| {
        let describer = Describer::new(&family.config, weights, &PlanOptions::inference(device()), true);
        let case = &family.cases["batch"];
        let tensors = family.tensors(case);
        let expected = tensors.get("token_ids");
        let (rows, steps) = (expected.size()[0], expected.size()[1]);
        // The file pads at the left; a row of ours is its unpadded tokens in a cache of its own.
        let prompts: Vec<Vec<i64>> = (0..rows)
            .map(|row| {
                let seen = tensors.get("attention_mask").i(row).to_kind(Kind::Bool);
                Vec::<i64>::try_from(tensors.get("input_ids").i(row).masked_select(&seen)).unwrap()
            })
            .collect();
        for (penalty, key) in [(1.0, "token_ids"), (1.05, "penalty_1.05.token_ids")] {
            let mut samplers: Vec<Sampler> = prompts.iter().map(|ids| greedy(penalty, ids)).collect();
            let started = prompts
                .iter()
                .zip(integers(&case["images"]))
                .map(|(ids, image)| describer.prefill(&family.prompt(&describer, ids, &[image]), steps));
            let (sequences, first): (Vec<_>, Vec<_>) = started.unzip();
            let mut logits = Tensor::cat(&first, 0);
            close(&logits, tensors.get("prefill_logits"), tolerance(&family.cases, "logits"), "prefill");
            let mut sequences = crate::shared::describer::Sequences::together(sequences);
            let (mut tokens, mut all) = (Vec::new(), Vec::new());
            for step in 0..steps {
                let chosen: Vec<i64> = samplers
                    .iter_mut()
                    .enumerate()
                    .map(|(row, sampler)| sampler.next(&Vec::<f32>::try_from(logits.i(row as i64)).unwrap()).unwrap().id)
                    .collect();
                all.push(logits.shallow_clone());
                if step + 1 < steps {
                    logits = describer.step(&mut sequences, &chosen);
                }
                tokens.push(Tensor::from_slice(&chosen));
            }
            assert_eq!(&Tensor::stack(&tokens, 1), tensors.get(key), "{key}");
            if penalty == 1.0 {
                let found = Tensor::stack(&all, 1);
                close(&found, tensors.get("logits"), tolerance(&family.cases, "logits"), "logits of the batch");
            }
        }
    });
}

macro_rules! family_tests {
    ($($module:ident: $family:literal, $folder:literal;)*) => {
        $(mod $module {
            #[test]
            fn images() {
                super::images($family, $folder);
            }

            #[test]
            fn intermediates() {
                super::intermediates($family, $folder);
            }

            #[test]
            fn generation() {
                super::generation($family, $folder);
            }

            #[test]
            fn batch() {
                super::batch($family, $folder);
            }
        })*
    };
}

family_tests! {
    golden_qwen2_5_vl: "qwen2_5_vl", "";
    golden_qwen2_5_vl_b: "qwen2_5_vl_b", "";
    golden_qwen2_5_vl_b_new_style: "qwen2_5_vl_b", "new_style";
}
