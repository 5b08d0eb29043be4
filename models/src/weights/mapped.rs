//! One safetensors file, memory-mapped, its header checked against its size.

use super::{DType, WeightError, foreign, stored::non_finite};
use memmap2::{Mmap, UncheckedAdvice};
use serde::Deserialize;
use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

/// Longer headers are refused, as the format's own library does.
const LONGEST_HEADER: u64 = 100_000_000;

/// A read-only mapping and where its tensors lie.
#[derive(Debug)]
pub(super) struct Mapped {
    pub path: PathBuf,
    map: Mmap,
    /// In order of the file's bytes.
    pub entries: Vec<Entry>,
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    bytes: Range<usize>,
}

#[derive(Deserialize)]
struct Described {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Mapped {
    /// Maps a file; its header must account for every byte.
    pub fn open(path: &Path) -> Result<Mapped, WeightError> {
        let unreadable = |source| WeightError::Unreadable { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(unreadable(std::io::Error::other("it is not a regular file")));
        }
        // SAFETY: the mapping is private and only read; checkpoints are not changed while in use, which is the contract of every reader of this format.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let entries = header(&map).map_err(|problem| match foreign::not_safetensors(&map) {
            Some(problem) => WeightError::Foreign { path: path.to_path_buf(), problem },
            None => WeightError::Malformed { path: path.to_path_buf(), problem },
        })?;
        Ok(Mapped { path: path.to_path_buf(), map, entries })
    }

    /// Everything before the first tensor: names, types, sizes and places.
    pub fn header(&self) -> &[u8] {
        &self.map[..self.entries.first().map_or(self.map.len(), |entry| entry.bytes.start)]
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.map.len() as u64
    }

    /// The first number of one of its tensors that is NaN or an infinity, as an error with the tensor's name; `None` when all are finite, or whole
    /// numbers.
    pub fn not_finite(&self, entry: &Entry) -> Option<WeightError> {
        let (place, value) = non_finite(DType::from_name(&entry.dtype)?, self.bytes(entry))?;
        Some(WeightError::NotFinite { path: self.path.clone(), tensor: entry.name.clone(), value, place })
    }

    /// The bytes of one of its tensors.
    pub fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.map[entry.bytes.clone()]
    }

    /// Takes a tensor's pages out of this process's memory; read again, they come from the file.
    pub fn give_back(&self, entry: &Entry) {
        // Where the kernel refuses, the pages stay: nothing else depends on it.
        // SAFETY: the mapping is shared with the file and never written to, so every page of it reads the same afterwards.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, entry.bytes.start, entry.bytes.len()) };
    }
}

fn header(file: &[u8]) -> Result<Vec<Entry>, String> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(format!("the file has only {} bytes and is no safetensors file", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > LONGEST_HEADER || length > rest.len() as u64 {
        return Err(format!("the header claims {length} bytes, the file has {} after its length", rest.len()));
    }
    let (header, data) = rest.split_at(length as usize);
    let described: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(|error| format!("the header is not valid JSON: {error}"))?;
    let mut entries = Vec::with_capacity(described.len());
    for (name, value) in described.into_iter().filter(|(name, _)| name != "__metadata__") {
        entries.push(entry(name, value)?);
    }
    entries.sort_by_key(|entry| (entry.bytes.start, entry.bytes.end));
    contiguous(&entries, data.len())?;
    let start = 8 + header.len();
    entries.iter_mut().for_each(|e| e.bytes = e.bytes.start + start..e.bytes.end + start);
    Ok(entries)
}

fn entry(name: String, value: serde_json::Value) -> Result<Entry, String> {
    let Described { dtype, shape, data_offsets: (start, end) } =
        serde_json::from_value(value).map_err(|error| format!("the header's entry `{name}` is not valid: {error}"))?;
    let bits = bits(&dtype).ok_or_else(|| format!("the tensor `{name}` has the unknown type {dtype}"))?;
    let size = shape.iter().try_fold(bits, |product, size| product.checked_mul(*size)).map(|bits| bits.div_ceil(8));
    match end.checked_sub(start) {
        Some(found) if Some(found) == size => Ok(Entry { name, dtype, shape, bytes: start..end }),
        _ => Err(format!("the tensor `{name}` of shape {shape:?} and type {dtype} does not fill its bytes {start}..{end}")),
    }
}

fn contiguous(entries: &[Entry], length: usize) -> Result<(), String> {
    let mut reached = 0;
    for entry in entries {
        if entry.bytes.start != reached {
            return Err(format!("the tensor `{}` begins at byte {}, expected {reached}", entry.name, entry.bytes.start));
        }
        reached = entry.bytes.end;
    }
    if reached == length {
        Ok(())
    } else {
        Err(format!("the tensors need {reached} bytes, the file holds {length}: it is truncated or damaged"))
    }
}

/// Width of one number of a type that safetensors knows.
fn bits(dtype: &str) -> Option<usize> {
    match dtype {
        "F4" => Some(4),
        "F6_E2M3" | "F6_E3M2" => Some(6),
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => Some(8),
        "I16" | "U16" | "F16" | "BF16" => Some(16),
        "I32" | "U32" | "F32" => Some(32),
        "I64" | "U64" | "F64" | "C64" => Some(64),
        _ => None,
    }
}
