//! Times the training step of stage 2 in its three phases, for `cargo xtask bench classify`: VGG16 and BERT-base with random weights.
//!
//! `classify_steps FOLDER BATCH STEPS THREADS PHASE..`: weights go into FOLDER and stay there; one JSON line a phase (all, text_frozen, last) with the
//! seconds and the processor seconds (of all threads) of each step.

use mmlnb_models::{
    config::{BertConfig, ClassifierConfig, Fusion, ImageEncoder, ImageInput, Resample, Vgg16Config},
    graph::Graph,
    networks,
    weights::{Checkpoint, Naming},
};
use mmlnb_trainer::{
    classify::{Batch, Frozen, Images, Mode, Network, StepOptions, Texts, train_step},
    error::TrainError,
    optimiser::{Optimiser, OptimiserOptions},
    start,
    torch::Randomness,
};
use rustix::time::{ClockId, clock_gettime};
use std::{
    fs,
    num::NonZeroU16,
    path::{Path, PathBuf},
    time::Instant,
};
use tch::{Device, Kind, Tensor};

const TOKENS: i64 = 128;
const SIDE: i64 = 224;
const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn main() -> Result<(), TrainError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, batch, steps, threads, phases @ ..] = arguments.as_slice() else {
        return Err(TrainError::Asked("usage: classify_steps FOLDER BATCH STEPS THREADS PHASE..".into()));
    };
    let number = |text: &String| text.parse::<i64>().map_err(|error| TrainError::Asked(format!("{text}: {error}")));
    let (batch, steps) = (number(batch)?, number(steps)?);
    let threads = u16::try_from(number(threads)?).ok().and_then(NonZeroU16::new);
    start::start()?;
    start::set_threads(threads.ok_or_else(|| TrainError::Asked("threads must be at least 1".into()))?);
    let config = config();
    let file = weights(&config, Path::new(folder))?;
    let checkpoint = Checkpoint::open(&file, Naming::Classifier)?;
    for phase in phases {
        let network = Network::new(&config, &checkpoint, Device::Cpu, false)?;
        let (seconds, processor): (Vec<f64>, Vec<f64>) = time(&network, phase, batch, steps)?.into_iter().unzip();
        println!("{}", serde_json::json!({ "phase": phase, "seconds": seconds, "processor": processor }));
    }
    Ok(())
}

/// VGG16 and BERT-base as the paper has them.
fn config() -> ClassifierConfig {
    let input =
        ImageInput { width: SIDE, height: SIDE, resample: Resample::Bilinear, mean: [0.5; 3], std: [0.2; 3], stain: None };
    let text = BertConfig {
        vocabulary: 30_522,
        hidden: 768,
        layers: 12,
        heads: 12,
        inner: 3072,
        positions: 512,
        types: 2,
        eps: 1e-12,
        dropout: 0.1,
        attention_dropout: 0.1,
        max_length: Some(TOKENS),
    };
    ClassifierConfig {
        classes: ["UD", "PD", "D"].map(String::from).to_vec(),
        image: Some((ImageEncoder::Vgg16(Vgg16Config { channels: vec![64, 128, 256, 512, 512] }), input)),
        text: Some(text),
        fusion: Fusion::Prmf,
        confidence_hidden: None,
        image_head: true,
        dropout: 0.3,
    }
}

/// A checkpoint of random numbers, made once.
fn weights(config: &ClassifierConfig, folder: &Path) -> Result<PathBuf, TrainError> {
    let file = folder.join("model.safetensors");
    if file.exists() {
        return Ok(file);
    }
    fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
    let (encoder, _) = config.image.as_ref().expect("the configuration above has an image encoder");
    let text = config.text.as_ref().expect("the configuration above has a text encoder");
    let graphs = [networks::image_encoder(encoder, "image"), networks::bert(text, "text"), networks::heads(config)];
    tch::manual_seed(1);
    let tensors: Vec<(String, Tensor)> = graphs
        .iter()
        .flat_map(Graph::parameters)
        .map(|parameter| {
            let shape = &parameter.shape;
            let inputs = shape[1..].iter().product::<i64>().max(1) as f64;
            let tensor = match shape.len() {
                1 => Tensor::zeros(shape, FLOAT) + if parameter.key.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 },
                2 => Tensor::randn(shape, FLOAT) * 0.02,
                _ => Tensor::randn(shape, FLOAT) * (2.0 / inputs).sqrt(),
            };
            (parameter.key.clone(), tensor)
        })
        .collect();
    let partial = folder.join("model.partial");
    Tensor::write_safetensors(&tensors, &partial)?;
    fs::rename(&partial, &file).map_err(TrainError::io("rename", &partial))?;
    Ok(file)
}

/// Seconds and processor seconds of each step of a phase.
fn time(network: &Network, phase: &str, batch: i64, steps: i64) -> Result<Vec<(f64, f64)>, TrainError> {
    let (image, text) = match phase {
        "all" => (false, false),
        "text_frozen" => (false, true),
        "last" => (true, true),
        other => return Err(TrainError::Asked(format!("no phase {other}"))),
    };
    let frozen = Frozen { image, text };
    network.freeze(frozen);
    tch::manual_seed(2);
    let pixels = Tensor::randn([batch, 3, SIDE, SIDE], FLOAT);
    let ids = Tensor::randint(30_000, [batch, TOKENS], (Kind::Int64, Device::Cpu));
    let mask = Tensor::ones([batch, TOKENS], (Kind::Int64, Device::Cpu));
    // What is frozen is computed once for the whole phase, as training does.
    let texts = if text { Texts::Features(network.text_features(&ids, &mask)?) } else { Texts::Tokens(ids, mask) };
    let images = if image { Images::Features(network.image_features(&pixels)?) } else { Images::Pixels(pixels) };
    let labels = Tensor::randint(3, [batch], (Kind::Int64, Device::Cpu));
    let batch = Batch { images: Some(images), texts: Some(texts), labels };
    let adam = OptimiserOptions { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, decoupled: false };
    let mut optimiser = Optimiser::new(adam);
    let mut seconds = Vec::new();
    for step in 0..steps as u64 {
        let options = StepOptions {
            lambda: 0.5,
            learning_rate: 1e-5,
            label_smoothing: 0.0,
            class_weights: None,
            mode: Mode { frozen, frozen_drop: false, randomness: Randomness { seed: 1, step } },
        };
        let (started, processor) = (Instant::now(), processor_seconds());
        train_step(network, &mut optimiser, &batch, &options)?;
        seconds.push((started.elapsed().as_secs_f64(), processor_seconds() - processor));
    }
    Ok(seconds)
}

/// What all threads of this process have used of the processors so far.
fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
