//! The describer's three graphs together: image to embeddings, prompt to logits, tokens over the cache.

use crate::session::{Data, Given, Onnx, Read, Results};
use mmlnb_exporter::{Network, Source, cache_head_size};
use mmlnb_models::{
    bundle::Precision,
    config::{QwenConfig, TextConfig},
    prepare::{positions::vision_positions, rotary::rotary_table},
};

pub struct Describer {
    pub config: QwenConfig,
    vision: Onnx,
    embedding: Onnx,
    pub language: Language,
}

/// The decoder with its sizes.
pub struct Language {
    pub config: TextConfig,
    decoder: Onnx,
    precision: Precision,
}

/// Rows that are decoded together: each with its cache, its part of the rotary table and its length.
#[derive(Clone)]
pub struct Batch {
    past: Vec<(String, Given)>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    pub lengths: Vec<usize>,
    capacity: usize,
}

/// What stands before the first new token.
pub struct Prompt {
    /// `[tokens, hidden]`.
    pub embeds: Vec<f32>,
    /// Temporal, row and column position of each token.
    pub positions: [Vec<i64>; 3],
    /// Position of token n is n + delta after the prompt.
    pub delta: i64,
}

impl Describer {
    pub fn new(source: &Source, config: QwenConfig, precision: Precision) -> Describer {
        Describer::read(source, config, precision, Onnx::of)
    }

    pub fn read(source: &Source, config: QwenConfig, precision: Precision, read: Read) -> Describer {
        let weights = source.weights().unwrap();
        let load = |network| read(&source.graph(network).unwrap(), &weights, precision);
        let language = Language { config: config.text.clone(), decoder: load(Network::Decoder), precision };
        Describer { vision: load(Network::Vision), embedding: load(Network::Embedding), language, config }
    }

    /// `[tokens, hidden]` of one image.
    pub fn image_embeds(&mut self, pixels: Vec<f32>, grid: [i64; 3]) -> Vec<f32> {
        let mut results = self.vision.run(vision_inputs(pixels, grid, &self.config));
        results.remove("image_embeds").unwrap().1
    }

    /// Rows of the table.
    fn rows(&mut self, ids: &[i64]) -> Vec<f32> {
        let mut results = self.embedding.run(vec![("input_ids", Given::i64(&[1, ids.len()], ids.to_vec()))]);
        results.remove("inputs_embeds").unwrap().1
    }

    /// Rows of the table, with those of image tokens replaced.
    pub fn embeds(&mut self, ids: &[i64], image: &[f32]) -> Vec<f32> {
        let mut embeds = self.rows(ids);
        let hidden = self.config.text.hidden as usize;
        let mut rows = image.chunks_exact(hidden);
        for (id, row) in ids.iter().zip(embeds.chunks_exact_mut(hidden)) {
            if *id == self.config.image_token {
                row.copy_from_slice(rows.next().expect("an image row for each image token"));
            }
        }
        assert!(rows.next().is_none(), "an image token for each image row");
        embeds
    }

    /// Next tokens' logits after one more token a row.
    pub fn step(&mut self, batch: &mut Batch, tokens: &[i64]) -> Vec<Vec<f32>> {
        // A token that was written is text, whatever its id.
        let embeds = self.rows(tokens);
        self.language.step(batch, embeds)
    }
}

/// Inputs of the vision graph for one image.
pub fn vision_inputs(pixels: Vec<f32>, grid: [i64; 3], config: &QwenConfig) -> Vec<(&'static str, Given)> {
    let at = vision_positions(&[grid], &config.vision);
    let patches = at.patch_positions.len();
    vec![
        ("pixel_values", Given::f32(&[patches, pixels.len() / patches], pixels)),
        ("patch_positions_hw", Given::i64(&[patches, 2], at.patch_positions.concat())),
        ("window_index", Given::i64(&[at.window_index.len()], at.window_index)),
        ("cu_window_seqlens", Given::i64(&[at.cu_window_seqlens.len()], at.cu_window_seqlens)),
    ]
}

impl Language {
    /// The graph, for further prompts.
    pub fn into_decoder(self) -> Onnx {
        self.decoder
    }

    pub fn new(config: TextConfig, decoder: Onnx, precision: Precision) -> Language {
        Language { config, decoder, precision }
    }

    /// Runs a prompt; logits of the rows that are asked for.
    pub fn prefill(&mut self, prompt: &Prompt, capacity: usize, rows: &[i64]) -> (Batch, Results) {
        let length = prompt.positions[0].len();
        let mut positions = prompt.positions.clone();
        positions.iter_mut().for_each(|axis| axis.extend((length..capacity).map(|n| n as i64 + prompt.delta)));
        let table = rotary_table(&positions, &self.config);
        let sizes = [1, self.config.kv_heads as usize, capacity, cache_head_size(self.config.head_size) as usize];
        let count = sizes.iter().product();
        let empty = match self.precision {
            Precision::F32 | Precision::Int8 | Precision::Int4 | Precision::Int4Int8 => Data::F32(vec![0.0; count]),
            Precision::F16 => Data::F16(vec![half::f16::ZERO; count]),
            Precision::Bf16 => panic!("processors have no kernels for bf16"),
        };
        let names = (0..self.config.layers).flat_map(|n| ["key", "value"].map(|side| format!("past.{n}.{side}")));
        let past = names.map(|name| (name, Given { shape: sizes.to_vec(), data: empty.clone() })).collect();
        let mut batch = Batch { past, cos: table.cos, sin: table.sin, lengths: vec![0], capacity };
        let results = self.call(&mut batch, prompt.embeds.clone(), length, rows);
        (batch, results)
    }

    /// Logits after one more token a row.
    pub fn step(&mut self, batch: &mut Batch, embeds: Vec<f32>) -> Vec<Vec<f32>> {
        let rows: Vec<i64> = (0..batch.lengths.len() as i64).collect();
        let mut results = self.call(batch, embeds, 1, &rows);
        let logits = results.remove("logits").unwrap().1;
        logits.chunks_exact(self.config.vocabulary as usize).map(<[f32]>::to_vec).collect()
    }

    fn call(&mut self, batch: &mut Batch, embeds: Vec<f32>, tokens: usize, rows: &[i64]) -> Results {
        let count = batch.lengths.len();
        let half = self.config.head_size as usize / 2;
        let starts = batch.lengths.iter().enumerate().map(|(slot, length)| (slot * batch.capacity + length) as i64);
        let positions = starts.flat_map(|start| start..start + tokens as i64).collect();
        batch.lengths.iter_mut().for_each(|length| *length += tokens);
        let last: Vec<i32> = batch.lengths.iter().map(|length| *length as i32 - 1).collect();
        let total = last.iter().max().unwrap() + 1;
        let table = [count * batch.capacity, half];
        let mut inputs = vec![
            ("inputs_embeds", Given::f32(&[count, tokens, self.config.hidden as usize], embeds)),
            ("position_ids", Given::i64(&[count, tokens], positions)),
            ("cos", Given::f32(&table, batch.cos.clone())),
            ("sin", Given::f32(&table, batch.sin.clone())),
            ("logits_rows", Given::i64(&[rows.len()], rows.to_vec())),
            ("seqlens_k", Given::i32(&[count], last)),
            ("total_sequence_length", Given::i32(&[], vec![total])),
        ];
        inputs.extend(batch.past.iter().map(|(name, past)| (name.as_str(), past.clone())));
        let results = self.decoder.run(inputs);
        for (name, past) in &mut batch.past {
            let (shape, values) = &results[&name.replace("past", "present")];
            let data = match self.precision {
                Precision::F32 | Precision::Int8 | Precision::Int4 | Precision::Int4Int8 => Data::F32(values.clone()),
                Precision::F16 => Data::F16(values.iter().map(|v| half::f16::from_f32(*v)).collect()),
                Precision::Bf16 => panic!("processors have no kernels for bf16"),
            };
            *past = Given { shape: shape.clone(), data };
        }
        results
    }
}

impl Batch {
    /// Several batches of one capacity as one.
    pub fn joined(batches: &[Batch]) -> Batch {
        let mut whole = batches[0].clone();
        for batch in &batches[1..] {
            assert_eq!(batch.capacity, whole.capacity);
            whole.cos.extend(&batch.cos);
            whole.sin.extend(&batch.sin);
            whole.lengths.extend(&batch.lengths);
            for ((_, past), (_, more)) in whole.past.iter_mut().zip(&batch.past) {
                past.shape[0] += more.shape[0];
                match (&mut past.data, &more.data) {
                    (Data::F32(past), Data::F32(more)) => past.extend(more),
                    (Data::F16(past), Data::F16(more)) => past.extend(more),
                    _ => panic!("caches of one type"),
                }
            }
        }
        whole
    }
}
