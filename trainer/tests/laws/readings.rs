//! tch and ONNX Runtime agree, for every network, at several batches and lengths.

use crate::{
    onnx::{Both, Onnx, TOLERANCE},
    random::{Draw, for_seeds},
    shared::{
        compare::close_to_largest,
        describer::{Describer, Prompt, vision_inputs},
    },
};
use mmlnb_exporter::cache_head_size;
use mmlnb_models::{
    config::ClassifierConfig,
    config::{ImageEncoder, QwenConfig, TextConfig},
    networks,
    weights::{Naming, Weights},
};
use mmlnb_trainer::torch::PlanOptions;
use tch::{Device, IndexOp, Kind, Tensor};

pub const BATCHES: [i64; 3] = [1, 2, 5];

#[test]
fn vgg16_reads_alike() {
    for_seeds(4, |draw| images_read_alike(draw, ImageEncoder::Vgg16, Draw::vgg16, Naming::Vgg16, 32));
}

#[test]
fn swin_reads_alike() {
    for_seeds(8, |draw| images_read_alike(draw, ImageEncoder::Swin, Draw::swin, Naming::Swin, 9));
}

fn images_read_alike<C>(
    draw: &mut Draw,
    encoder: fn(C) -> ImageEncoder,
    config: fn(&mut Draw) -> C,
    naming: Naming,
    smallest: i64,
) {
    let graph = networks::image_encoder(&encoder(config(draw)), "");
    let (_files, checkpoint) = draw.checkpoint(&[&graph], naming);
    let both = Both::new(&graph, Weights::new(&checkpoint));
    for batch in BATCHES {
        let (height, width) = (draw.size(smallest, 70), draw.size(smallest, 70));
        let pixels = draw.tensor(&[batch, 3, height, width]);
        both.agree(&[("pixel_values", pixels)], &format!("{batch} images of {width} x {height}"));
    }
}

#[test]
fn bert_reads_alike() {
    for_seeds(6, |draw| {
        let config = draw.bert();
        let graph = networks::bert(&config, "");
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Bert);
        let both = Both::new(&graph, Weights::new(&checkpoint));
        for batch in BATCHES {
            let tokens = draw.size(1, config.positions);
            let ids = draw.ids(&[batch, tokens], config.vocabulary);
            both.agree(
                &[("input_ids", ids), ("attention_mask", ragged(draw, batch, tokens))],
                &format!("{batch} texts of {tokens} tokens"),
            );
        }
    });
}

/// 1 for the tokens of each row, of different lengths, 0 after.
pub fn ragged(draw: &mut Draw, batch: i64, tokens: i64) -> Tensor {
    let lengths: Vec<i64> = (0..batch).map(|_| draw.size(1, tokens)).collect();
    let place = Tensor::arange(tokens, (Kind::Int64, Device::Cpu));
    place.lt_tensor(&Tensor::from_slice(&lengths).unsqueeze(1)).to_kind(Kind::Int64)
}

#[test]
fn prmf_reads_alike() {
    for_seeds(6, |draw| {
        let config = draw.classifier();
        let graph = networks::prmf(&config);
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Classifier);
        let both = Both::new(&graph, Weights::new(&checkpoint));
        let (image, text) = (config.image.unwrap().0.features(), config.text.unwrap().hidden);
        for batch in BATCHES {
            let inputs = [("image_features", draw.tensor(&[batch, image])), ("text_features", draw.tensor(&[batch, text]))];
            both.agree(&inputs, &format!("batch {batch}"));
        }
    });
}

#[test]
fn a_text_classifier_reads_alike() {
    for_seeds(3, |draw| {
        let config = ClassifierConfig { image: None, ..draw.classifier() };
        let graph = networks::heads(&config);
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Classifier);
        let both = Both::new(&graph, Weights::new(&checkpoint));
        let hidden = config.text.unwrap().hidden;
        for batch in BATCHES {
            both.agree(&[("text_features", draw.tensor(&[batch, hidden]))], &format!("batch {batch}"));
        }
    });
}

#[test]
fn vision_reads_alike() {
    for_seeds(6, |draw| {
        let config = draw.qwen();
        let graph = networks::vision(&config.vision);
        let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Qwen);
        let both = Both::new(&graph, Weights::new(&checkpoint));
        for _ in 0..3 {
            let grid = [1, 2 * draw.size(1, 6), 2 * draw.size(1, 6)];
            let pixels = draw.tensor(&[grid[1] * grid[2], 1176]);
            both.agree(&vision_inputs(&config, &pixels, grid), &format!("grid {grid:?}"));
        }
    });
}

#[test]
fn embedding_and_decoder_without_a_cache_read_alike() {
    for_seeds(6, |draw| {
        let config = draw.qwen();
        let graphs = [networks::embedding(&config.text), networks::decoder(&config.text, false)];
        let (_files, checkpoint) = draw.checkpoint(&[&graphs[0], &graphs[1]], Naming::Qwen);
        let [embedding, decoder] = graphs.map(|graph| Both::of_several(&graph, Weights::new(&checkpoint)));
        for batch in BATCHES {
            let tokens = draw.size(1, 20);
            let what = format!("{batch} rows of {tokens} tokens");
            embedding.agree(&[("input_ids", draw.ids(&[batch, tokens], config.text.vocabulary))], &what);
            decoder.agree(&whole(draw, &config.text, batch, tokens), &what);
        }
    });
}

/// Inputs of a decoder without a cache: random angles, positions that jump.
pub fn whole(draw: &mut Draw, config: &TextConfig, batch: i64, tokens: i64) -> [(&'static str, Tensor); 5] {
    let angles = draw.tensor(&[2 * tokens, config.head_size / 2]);
    [
        ("inputs_embeds", draw.tensor(&[batch, tokens, config.hidden])),
        ("position_ids", draw.ids(&[batch, tokens], 2 * tokens)),
        ("cos", angles.cos()),
        ("sin", angles.sin()),
        ("logits_rows", draw.ids(&[3], batch * tokens)),
    ]
}

/// ONNX Runtime's cache of one layer after another: key, value, key, ...
struct OnnxCache(Vec<Tensor>);

impl OnnxCache {
    fn empty(config: &TextConfig, room: i64) -> OnnxCache {
        let shape = [1, config.kv_heads, room, cache_head_size(config.head_size)];
        OnnxCache((0..2 * config.layers).map(|_| Tensor::zeros(shape, (Kind::Float, Device::Cpu))).collect())
    }

    /// Runs and keeps the new cache: logits.
    fn run(&mut self, onnx: &Onnx, inputs: Vec<(&str, Tensor)>) -> Tensor {
        let parts = ["key", "value"];
        let names: Vec<String> = (0..self.0.len()).map(|i| format!("past.{}.{}", i / 2, parts[i % 2])).collect();
        let past = names.iter().map(String::as_str).zip(self.0.iter().map(Tensor::shallow_clone));
        let inputs: Vec<(&str, Tensor)> = inputs.into_iter().chain(past).collect();
        let outputs = onnx.run(&inputs);
        let output = |name: &str| outputs.iter().find(|(known, _)| known == name).unwrap().1.shallow_clone();
        self.0 = names.iter().map(|name| output(&name.replace("past", "present"))).collect();
        output("logits")
    }
}

/// A prompt of random embeddings whose positions jump as those of images do.
pub fn prompt(draw: &mut Draw, config: &QwenConfig, tokens: i64) -> Prompt {
    let mut place = 0;
    let mut positions: [Vec<i64>; 3] = Default::default();
    for _ in 0..tokens {
        positions.iter_mut().for_each(|axis| axis.push(place + draw.size(0, 3)));
        place += draw.size(0, 2);
    }
    Prompt { embeds: draw.tensor(&[1, tokens, config.text.hidden]), positions, delta: draw.size(-2, 9) }
}

#[test]
fn decoder_on_a_cache_reads_alike_with_ragged_rows() {
    for_seeds(6, |draw| {
        let config = draw.qwen();
        let graphs = [networks::vision(&config.vision), networks::embedding(&config.text), networks::decoder(&config.text, true)];
        let (_files, checkpoint) = draw.checkpoint(&[&graphs[0], &graphs[1], &graphs[2]], Naming::Qwen);
        let weights = Weights::new(&checkpoint);
        let describer = Describer::new(&config, &weights, &PlanOptions::inference(Device::Cpu), true);
        let onnx = Onnx::new(&graphs[2], &weights);
        for batch in BATCHES {
            agree_on_a_cache(draw, &config, &describer, &onnx, batch);
        }
    });
}

/// Each row is prefilled alone; then all are decoded together.
fn agree_on_a_cache(draw: &mut Draw, config: &QwenConfig, describer: &Describer, onnx: &Onnx, batch: i64) {
    let (steps, lengths) = (3, (0..batch).map(|_| draw.size(1, 12)).collect::<Vec<i64>>());
    let room = lengths.iter().max().unwrap() + steps;
    let mut caches = Vec::new();
    let mut sequences = Vec::new();
    let mut tables = (Vec::new(), Vec::new());
    for length in &lengths {
        let prompt = prompt(draw, config, *length);
        let (sequence, expected) = describer.prefill(&prompt, room - length);
        let mut positions = prompt.positions.clone();
        positions.iter_mut().for_each(|axis| axis.extend((*length..room).map(|n| n + prompt.delta)));
        let (cos, sin) = describer.table(&positions);
        let mut cache = OnnxCache::empty(&config.text, room);
        let place = Tensor::arange(*length, (Kind::Int64, Device::Cpu)).unsqueeze(0);
        let found = cache.run(onnx, inputs(&prompt.embeds, place, (&cos, &sin), &[*length]));
        close_to_largest(&found, &expected, TOLERANCE, &format!("prefill of {length}"));
        caches.push(cache);
        sequences.push(sequence);
        tables.0.push(cos);
        tables.1.push(sin);
    }
    let mut sequences = crate::shared::describer::Sequences::together(sequences);
    let layer = |i: usize| Tensor::cat(&caches.iter().map(|cache| &cache.0[i]).collect::<Vec<_>>(), 0);
    let mut cache = OnnxCache((0..caches[0].0.len()).map(layer).collect());
    let table = (Tensor::cat(&tables.0, 0), Tensor::cat(&tables.1, 0));
    for step in 1..=steps {
        let embeds = draw.tensor(&[batch, 1, config.text.hidden]);
        let expected = describer.extend(&mut sequences, &embeds);
        let place: Vec<i64> = lengths.iter().enumerate().map(|(row, n)| row as i64 * room + n + step - 1).collect();
        let lengths: Vec<i64> = lengths.iter().map(|n| n + step).collect();
        let place = Tensor::from_slice(&place).unsqueeze(1);
        let found = cache.run(onnx, inputs(&embeds, place, (&table.0, &table.1), &lengths));
        close_to_largest(&found, &expected, TOLERANCE, &format!("step {step} of {batch} rows, lengths {lengths:?}"));
    }
}

fn inputs(embeds: &Tensor, place: Tensor, table: (&Tensor, &Tensor), lengths: &[i64]) -> Vec<(&'static str, Tensor)> {
    let (rows, tokens) = (embeds.size()[0], embeds.size()[1]);
    let last: Vec<i64> = lengths.iter().map(|n| n - 1).collect();
    vec![
        ("inputs_embeds", embeds.shallow_clone()),
        ("position_ids", place),
        ("cos", table.0.shallow_clone()),
        ("sin", table.1.shallow_clone()),
        ("logits_rows", Tensor::arange(rows, (Kind::Int64, Device::Cpu)) * tokens + tokens - 1),
        ("seqlens_k", Tensor::from_slice(&last)),
        ("total_sequence_length", Tensor::from(*lengths.iter().max().unwrap())),
    ]
}

#[test]
fn prefill_and_decode_equal_one_prefill() {
    for_seeds(6, |draw| {
        let config = draw.qwen();
        let graphs = [networks::vision(&config.vision), networks::embedding(&config.text), networks::decoder(&config.text, true)];
        let (_files, checkpoint) = draw.checkpoint(&[&graphs[0], &graphs[1], &graphs[2]], Naming::Qwen);
        let weights = Weights::new(&checkpoint);
        let cached = Describer::new(&config, &weights, &PlanOptions::inference(Device::Cpu), true);
        let plain = Describer::new(&config, &weights, &PlanOptions::inference(Device::Cpu), false);
        let tokens = draw.size(2, 15);
        let whole = prompt(draw, &config, tokens);
        let first = draw.size(1, tokens - 1);
        let cut = |from: i64, to: i64| whole.embeds.i((.., from..to, ..));
        let beginning = Prompt {
            embeds: cut(0, first),
            positions: [0, 1, 2].map(|axis| whole.positions[axis][..first as usize].to_vec()),
            delta: 0,
        };
        let (mut sequence, logits) = cached.prefill(&beginning, tokens - first);
        let expected = plain.logits(&whole, &(0..tokens).collect::<Vec<_>>());
        close_to_largest(&logits, &expected.i(first - 1..first), 1e-5, "the beginning");
        sequence.positioned(&cached, &whole.positions);
        // A chunk of several tokens on a filled cache, then single ones.
        let chunk = draw.size(1, tokens - first);
        let logits = cached.extend(&mut sequence, &cut(first, first + chunk));
        let last = first + chunk;
        close_to_largest(&logits, &expected.i(last - 1..last), 1e-5, &format!("a chunk of {chunk}"));
        for n in last..tokens {
            let logits = cached.extend(&mut sequence, &cut(n, n + 1));
            close_to_largest(&logits, &expected.i(n..n + 1), 1e-5, &format!("token {n}"));
        }
    });
}
