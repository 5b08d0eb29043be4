//! Networks of random sizes with random weights.

use mmlnb_models::{
    config::{BertConfig, TextConfig, VisionConfig},
    graph::{Graph, Parameter},
};
use std::path::Path;

/// The numbers of an xorshift generator, evenly from -1 to 1.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Writes `model.safetensors` with every parameter of a network.
pub fn write_checkpoint(dir: &Path, graph: &Graph, values: impl Fn(&Parameter) -> Vec<f32>) {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = graph
        .parameters()
        .iter()
        .map(|p| {
            let shape = p.shape.iter().map(|size| *size as usize).collect();
            (p.key.clone(), shape, values(p).iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let views = tensors.iter().map(|(key, shape, bytes)| {
        (key.as_str(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}

/// Random weights: matrices scaled by their width, gains around 1.
pub fn write_random(dir: &Path, graph: &Graph, seed: u64) {
    write_checkpoint(dir, graph, |p| {
        let count = p.shape.iter().product::<i64>() as usize;
        let seed = p.key.bytes().fold(seed, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let width = p.shape[1..].iter().product::<i64>() as f32;
        let gain = p.shape.len() == 1 && p.key.contains("norm") && p.key.ends_with("weight");
        let scale = if p.shape.len() == 1 { 0.3 } else { 1.7 / width.sqrt() };
        numbers(seed, count).into_iter().map(|v| v * scale + if gain { 1.0 } else { 0.0 }).collect()
    });
}

pub fn bert_config() -> BertConfig {
    BertConfig {
        vocabulary: 30,
        hidden: 24,
        layers: 2,
        heads: 3,
        inner: 40,
        positions: 20,
        types: 2,
        eps: 1e-12,
        dropout: 0.1,
        attention_dropout: 0.1,
        max_length: None,
    }
}

/// A small vision tower, whose blocks of these numbers see everything.
pub fn vision_config(depth: i64, full_attention: &[i64]) -> VisionConfig {
    VisionConfig {
        hidden: 24,
        depth,
        heads: 3,
        inner: 36,
        output: 16,
        patch: 14,
        merge: 2,
        temporal: 2,
        window: 56,
        channels: 3,
        full_attention: full_attention.to_vec(),
        eps: 1e-6,
        rope_theta: 1e4,
    }
}

/// A small language model: heads of this size, `shared` query heads on each of `kv_heads`.
pub fn text_config(head_size: i64, kv_heads: i64, shared: i64, layers: i64) -> TextConfig {
    TextConfig {
        hidden: 32,
        layers,
        heads: kv_heads * shared,
        kv_heads,
        head_size,
        inner: 48,
        vocabulary: 50,
        eps: 1e-6,
        rope_theta: 1e4,
        mrope_section: vec![head_size / 2, 0, 0],
        tied: layers % 2 == 0,
    }
}
