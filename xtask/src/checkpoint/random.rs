//! Random tensors, written straight to safetensors files: any number of gigabytes in a few megabytes of memory.

use super::{Fill, Tensor};
use crate::progress::Progress;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

/// The type in which values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// 4 bytes.
    F32,
    /// 2 bytes: the upper half of an f32, rounded to nearest even.
    Bf16,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// A value as the upper half of an f32, rounded to nearest even.
fn bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    (rounded as u16).to_le_bytes()
}

/// Files are closed at this size, as the hub's checkpoints are.
const SHARD_BYTES: u64 = 4_000_000_000;

/// Writes `model.safetensors`, or shards with their index when the whole is larger than one file should be.
/// The values depend on the seed and on each tensor's key and shape only.
pub fn write(folder: &Path, tensors: &[Tensor], kind: Type, seed: u64) -> Result<()> {
    let size = |tensor: &Tensor| tensor.elements() * kind.bytes();
    let total: u64 = tensors.iter().map(size).sum();
    let shards = in_shards(tensors, size);
    let mut progress = Progress::start(&format!("writing {} random tensors", tensors.len()), total);
    let mut written = 0;
    let mut places = Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let path = folder.join(&name);
        write_file(&path, shard, kind, seed, &mut |bytes| {
            written += bytes;
            progress.at(written);
        })
        .with_context(|| format!("{} cannot be written", path.display()))?;
        places.extend(shard.iter().map(|tensor| (tensor.key.clone(), json!(name))));
    }
    progress.finish();
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": places});
        super::write_json(folder, "model.safetensors.index.json", &index)?;
    }
    Ok(())
}

fn in_shards(tensors: &[Tensor], size: impl Fn(&Tensor) -> u64) -> Vec<&[Tensor]> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, tensor) in tensors.iter().enumerate() {
        if at > start && bytes + size(tensor) > SHARD_BYTES {
            shards.push(&tensors[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += size(tensor);
    }
    shards.push(&tensors[start..]);
    shards
}

fn write_file(path: &Path, tensors: &[Tensor], kind: Type, seed: u64, done: &mut dyn FnMut(u64)) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let header = header(tensors, kind);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for tensor in tensors {
        write_tensor(&mut file, tensor, kind, seed, done)?;
    }
    file.into_inner()?.sync_all()
}

/// The safetensors header, padded with blanks so that the data begin at a multiple of 8.
fn header(tensors: &[Tensor], kind: Type) -> String {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.elements() * kind.bytes();
        let entry: Value = json!({"dtype": kind.name(), "shape": tensor.shape, "data_offsets": [offset, end]});
        entries.insert(tensor.key.clone(), entry);
        offset = end;
    }
    let mut text = Value::Object(entries).to_string();
    let blanks = text.len().next_multiple_of(8) - text.len();
    text.extend(std::iter::repeat_n(' ', blanks));
    text
}

/// Values generated and written at a time.
const CHUNK: u64 = 1 << 16;

fn write_tensor(file: &mut impl Write, tensor: &Tensor, kind: Type, seed: u64, done: &mut dyn FnMut(u64)) -> std::io::Result<()> {
    let table = match tensor.fill {
        Fill::Normal(deviation) => normal_table(deviation),
        Fill::Constant(value) => vec![value; 1 << 16],
    };
    let state = seed ^ hash(tensor.key.as_bytes());
    match kind {
        Type::F32 => draw(file, &table, f32::to_le_bytes, tensor.elements(), state, done),
        Type::Bf16 => draw(file, &table, bf16, tensor.elements(), state, done),
    }
}

/// Writes `count` values drawn from the table of 65,536, each stored in `N` bytes.
fn draw<const N: usize>(
    file: &mut impl Write,
    table: &[f32],
    store: fn(f32) -> [u8; N],
    count: u64,
    mut state: u64,
    done: &mut dyn FnMut(u64),
) -> std::io::Result<()> {
    let table: Vec<[u8; N]> = table.iter().map(|value| store(*value)).collect();
    let mut buffer = vec![[0; N]; CHUNK as usize];
    let mut left = count;
    while left > 0 {
        for four in buffer.chunks_exact_mut(4) {
            let random = split_mix(&mut state);
            four[0] = table[random as u16 as usize];
            four[1] = table[(random >> 16) as u16 as usize];
            four[2] = table[(random >> 32) as u16 as usize];
            four[3] = table[(random >> 48) as usize];
        }
        let values = left.min(CHUNK);
        file.write_all(buffer[..values as usize].as_flattened())?;
        left -= values;
        done(values * N as u64);
    }
    Ok(())
}

/// 65,536 values, about normal: each is the sum of twelve uniform numbers less 6. A tensor draws from them with 16 bits a value.
fn normal_table(deviation: f32) -> Vec<f32> {
    let mut state = 0;
    let mut uniform = || (split_mix(&mut state) >> 40) as f32 / (1 << 24) as f32;
    (0..1 << 16).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * deviation).collect()
}

/// Vigna's SplitMix64.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a, so that each key has a stream of its own.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let stored = |value: f32| f32::from_bits(u32::from(u16::from_le_bytes(bf16(value))) << 16);
        assert_eq!(stored(1.0), 1.0);
        assert_eq!(stored(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(stored(1.0 + 3.0 / 256.0), 1.0 + 1.0 / 64.0);
        assert_eq!(stored(-0.02), -0.020_019_531);
    }

    #[test]
    fn a_file_has_the_layout_of_safetensors_and_values_of_the_asked_spread() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = [
            Tensor::new("b", [3, 700], Fill::Normal(0.5)),
            Tensor::new("a", [5], Fill::Constant(1.0)),
            Tensor::new("c", [3, 700], Fill::Normal(0.5)),
        ];
        write(folder.path(), &tensors, Type::F32, 7).unwrap();
        let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        assert_eq!(header["a"]["data_offsets"], json!([8400, 8420]));
        let data: Vec<f32> = bytes[8 + length..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(data.len(), 4205);
        assert_eq!(data[2100..2105], [1.0; 5]);
        assert_ne!(data[..2100], data[2105..], "two keys have two streams");
        let mean = data[..2100].iter().sum::<f32>() / 2100.0;
        let deviation = (data[..2100].iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 2100.0).sqrt();
        assert!(mean.abs() < 0.05 && (deviation - 0.5).abs() < 0.05, "{mean} {deviation}");
    }

    #[test]
    fn shards_are_cut_between_tensors() {
        let tensors = ["a", "b", "c"].map(|key| Tensor::new(key, [1], Fill::Constant(0.0)));
        let lengths = |bytes: u64| in_shards(&tensors, |_| bytes).iter().map(|shard| shard.len()).collect::<Vec<_>>();
        assert_eq!(lengths(10), [3]);
        assert_eq!(lengths(SHARD_BYTES / 2), [2, 1]);
        assert_eq!(lengths(SHARD_BYTES + 1), [1, 1, 1]);
    }
}
