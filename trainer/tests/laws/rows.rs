//! What a row becomes does not depend on its neighbours in the batch.

use crate::{
    random::for_seeds,
    readings::{prompt, ragged, whole},
    shared::{
        compare::close_to_largest,
        describer::{Describer, Sequences},
    },
};
use mmlnb_models::{
    graph::Graph,
    networks,
    weights::{Naming, Weights},
};
use mmlnb_trainer::torch::{Plan, PlanOptions};
use tch::{Device, IndexOp, Tensor};

/// Rounding differs with the shape of a product, nothing else may.
const TOLERANCE: f64 = 1e-5;

fn plan(graph: &Graph, weights: &Weights<'_>) -> Plan {
    Plan::new(graph, weights, &PlanOptions::inference(Device::Cpu)).unwrap()
}

/// Every output of the batch, row by row, equals that of the row alone.
fn rows_stand_alone(plan: &Plan, inputs: &[(&str, Tensor)]) {
    let together = plan.forward(inputs).unwrap();
    for row in 0..inputs[0].1.size()[0] {
        let alone: Vec<(&str, Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor.i(row..row + 1))).collect();
        for (name, alone) in plan.forward(&alone).unwrap().iter() {
            close_to_largest(&together.get(name).unwrap().i(row..row + 1), alone, TOLERANCE, &format!("{name}, row {row}"));
        }
    }
}

#[test]
fn images_stand_alone() {
    for_seeds(4, |draw| {
        let encoders = [(networks::vgg16(&draw.vgg16(), ""), Naming::Vgg16), (networks::swin(&draw.swin(), ""), Naming::Swin)];
        for (graph, naming) in encoders {
            let (_files, checkpoint) = draw.checkpoint(&[&graph], naming);
            let pixels = draw.tensor(&[3, 3, 45, 38]);
            rows_stand_alone(&plan(&graph, &Weights::new(&checkpoint)), &[("pixel_values", pixels)]);
        }
    });
}

#[test]
fn texts_stand_alone() {
    for_seeds(4, |draw| {
        let config = draw.bert();
        let graph = networks::bert(&config, "");
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Bert);
        let inputs = [("input_ids", draw.ids(&[4, 17], config.vocabulary)), ("attention_mask", ragged(draw, 4, 17))];
        rows_stand_alone(&plan(&graph, &Weights::new(&checkpoint)), &inputs);
    });
}

#[test]
fn fused_features_stand_alone() {
    for_seeds(4, |draw| {
        let config = draw.classifier();
        let graph = networks::prmf(&config);
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Classifier);
        let (image, text) = (config.image.unwrap().0.features(), config.text.unwrap().hidden);
        let inputs = [("image_features", draw.tensor(&[4, image])), ("text_features", draw.tensor(&[4, text]))];
        rows_stand_alone(&plan(&graph, &Weights::new(&checkpoint)), &inputs);
    });
}

#[test]
fn sequences_stand_alone_without_a_cache() {
    for_seeds(4, |draw| {
        let config = draw.qwen().text;
        let graph = networks::decoder(&config, false);
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Qwen);
        let plan = plan(&graph, &Weights::new(&checkpoint));
        let (batch, tokens) = (3, draw.size(2, 12));
        let mut inputs = whole(draw, &config, batch, tokens);
        inputs[4].1 = Tensor::arange(batch * tokens, (tch::Kind::Int64, Device::Cpu));
        let together = plan.forward(&inputs).unwrap();
        for row in 0..batch {
            let mut alone = inputs.each_ref().map(|(name, tensor)| (*name, tensor.shallow_clone()));
            alone[0].1 = alone[0].1.i(row..row + 1);
            alone[1].1 = alone[1].1.i(row..row + 1);
            alone[4].1 = Tensor::arange(tokens, (tch::Kind::Int64, Device::Cpu));
            let alone = plan.forward(&alone).unwrap();
            let expected = together.get("logits").unwrap().i(row * tokens..(row + 1) * tokens);
            close_to_largest(alone.get("logits").unwrap(), &expected, TOLERANCE, &format!("row {row}"));
        }
    });
}

#[test]
fn sequences_stand_alone_on_a_cache() {
    for_seeds(4, |draw| {
        let config = draw.qwen();
        let graphs = [networks::vision(&config.vision), networks::embedding(&config.text), networks::decoder(&config.text, true)];
        let (_files, checkpoint) = draw.checkpoint(&[&graphs[0], &graphs[1], &graphs[2]], Naming::Qwen);
        let options = PlanOptions::inference(Device::Cpu);
        let describer = Describer::new(&config, &Weights::new(&checkpoint), &options, true);
        let steps = 4;
        let prompts: Vec<_> = (0..3)
            .map(|_| {
                let tokens = draw.size(1, 10);
                prompt(draw, &config, tokens)
            })
            .collect();
        let start = || prompts.iter().map(|prompt| describer.prefill(prompt, steps).0).collect::<Vec<Sequences>>();
        let mut alone = start();
        let mut together = Sequences::together(start());
        for step in 0..steps {
            let embeds = draw.tensor(&[3, 1, config.text.hidden]);
            let logits = describer.extend(&mut together, &embeds);
            for (row, sequence) in alone.iter_mut().enumerate() {
                let row = row as i64;
                let expected = describer.extend(sequence, &embeds.i(row..row + 1));
                close_to_largest(&logits.i(row..row + 1), &expected, TOLERANCE, &format!("row {row}, step {step}"));
            }
        }
    });
}
