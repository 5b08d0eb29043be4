//! A checkpoint: one or more mapped safetensors files behind canonical keys.

use super::{
    DType, Mismatch, Naming, Stored, WeightError, foreign,
    keys::Role,
    mapped::{Entry, Mapped},
};
use crate::{graph::Parameter, hash};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Where a language model's output head stands when it is not tied.
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Weights in safetensors files, memory-mapped and read-only. Can be shared by threads.
///
/// The files must not be changed or truncated while a checkpoint is open.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    naming: Naming,
    files: Vec<Mapped>,
    tensors: BTreeMap<String, Tensor>,
    hash: OnceLock<String>,
}

/// A tensor under its canonical key: its pieces in the files, stacked along the first axis.
#[derive(Debug)]
struct Tensor {
    dtype: String,
    shape: Vec<usize>,
    /// File and entry.
    pieces: Vec<(usize, usize)>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, or a folder with `model.safetensors`, with a sharded checkpoint and its index, or with one other `.safetensors` file.
    ///
    /// # Errors
    /// Files that cannot be read or are damaged or of another form (quantised, of torch.save), a folder without weights, an index that contradicts its files, two tensors of one name.
    pub fn open(path: &Path, naming: Naming) -> Result<Checkpoint, WeightError> {
        let is_folder =
            fs::metadata(path).map_err(|source| WeightError::Unreadable { path: path.to_path_buf(), source })?.is_dir();
        let files = if is_folder { open_folder(path, naming)? } else { vec![Mapped::open(path)?] };
        if let Some(problem) = foreign::not_a_checkpoint(&files) {
            return Err(WeightError::Foreign { path: path.to_path_buf(), problem });
        }
        let tensors = gather(&files, naming)
            .map_err(|problems| WeightError::Folder { path: path.to_path_buf(), problem: problems.join("; ") })?;
        Ok(Checkpoint { path: path.to_path_buf(), naming, files, tensors, hash: OnceLock::new() })
    }

    /// The file or folder that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Canonical keys of all tensors less the known extras, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of a canonical key; `None` when there is none, or when its numbers are neither F32, F16 nor BF16.
    pub fn tensor(&self, key: &str) -> Option<Stored<'_>> {
        let Tensor { dtype, shape, pieces } = self.tensors.get(key)?;
        let parts = pieces.iter().map(|(file, entry)| self.files[*file].bytes(&self.files[*file].entries[*entry])).collect();
        Some(Stored { dtype: DType::from_name(dtype)?, shape: shape.clone(), parts })
    }

    /// Whether these are exactly the tensors of a network, in its shapes. See [`Checkpoint::check_all`].
    ///
    /// # Errors
    /// [`WeightError::Mismatch`] with all that does not fit.
    pub fn check(&self, parameters: &[Parameter]) -> Result<(), WeightError> {
        self.check_all([parameters])
    }

    /// Whether these are exactly the tensors of several networks together, in their shapes. A tensor is surplus when none of them uses it;
    /// an output head beside tied embeddings is accepted when both are equal.
    ///
    /// # Errors
    /// [`WeightError::Mismatch`] with all that does not fit.
    pub fn check_all<'p>(&self, networks: impl IntoIterator<Item = &'p [Parameter]>) -> Result<(), WeightError> {
        let expected: BTreeMap<&str, &[i64]> =
            networks.into_iter().flatten().map(|p| (p.key.as_str(), p.shape.as_slice())).collect();
        let mut mismatch = Mismatch::default();
        for (key, shape) in &expected {
            match self.tensors.get(*key) {
                None => mismatch.missing.push(format!("{key} {shape:?}")),
                Some(tensor) if !same_shape(&tensor.shape, shape) => {
                    mismatch.misshapen.push(format!("{key}: found {:?}, expected {shape:?}", tensor.shape));
                }
                Some(tensor) if DType::from_name(&tensor.dtype).is_none() => {
                    mismatch.untyped.push(format!("{key}: {}", tensor.dtype))
                }
                Some(_) => {}
            }
        }
        for (key, tensor) in self.tensors.iter().filter(|(key, _)| !expected.contains_key(key.as_str())) {
            if key == HEAD && self.naming == Naming::Qwen && expected.contains_key(EMBEDDING) {
                mismatch.others.extend(self.untied_head());
            } else {
                mismatch.surplus.push(format!("{key} {:?}", tensor.shape));
            }
        }
        if mismatch.is_empty() {
            Ok(())
        } else {
            Err(WeightError::Mismatch { path: self.path.clone(), mismatch: Box::new(mismatch) })
        }
    }

    /// Whether every number of every tensor is finite. Reads all files once, on all processors.
    ///
    /// # Errors
    /// [`WeightError::NotFinite`] with the first tensor, by its key, that holds NaN or an infinity.
    pub fn check_finite(&self) -> Result<(), WeightError> {
        let keys: Vec<&str> = self.keys().collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(keys.len().max(1));
        let next = AtomicUsize::new(0);
        let look = || {
            let mut found = Vec::new();
            while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                found.extend(self.not_finite(key).map(|error| (*key, error)));
                self.give_back(key);
            }
            found
        };
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(look)).collect();
            threads
                .into_iter()
                .flat_map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Vec<_>>()
        });
        found.into_iter().min_by_key(|(key, _)| *key).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// The first number of a tensor that is NaN or an infinity, as an error with the tensor's name in its file.
    pub(super) fn not_finite(&self, key: &str) -> Option<WeightError> {
        let pieces = &self.tensors.get(key)?.pieces;
        pieces.iter().find_map(|(file, entry)| self.files[*file].not_finite(&self.files[*file].entries[*entry]))
    }

    /// Takes a tensor's pages out of this process's memory.
    pub(super) fn give_back(&self, key: &str) {
        let pieces = self.tensors.get(key).map_or(&[][..], |tensor| &tensor.pieces);
        pieces.iter().for_each(|(file, entry)| self.files[*file].give_back(&self.files[*file].entries[*entry]));
    }

    /// SHA-256 of the files' contents in hex: of the one file, or of the files' own hashes in the order of their names. Computed once.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn sha256(&self) -> Result<&str, WeightError> {
        if let Some(hash) = self.hash.get() {
            return Ok(hash);
        }
        let hashes: Vec<Result<String, WeightError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = self.files.iter().map(|file| scope.spawn(|| file_hash(&file.path))).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let hashes = hashes.into_iter().collect::<Result<Vec<String>, WeightError>>()?;
        let hash = match hashes.as_slice() {
            [only] => only.clone(),
            several => hash::sha256_hex(several.concat().as_bytes()),
        };
        Ok(self.hash.get_or_init(|| hash))
    }

    /// The mapped files, sorted by name.
    pub(super) fn files(&self) -> &[Mapped] {
        &self.files
    }

    /// What is wrong with a head beside tied embeddings, if anything; an embedding that cannot be read is reported by itself.
    fn untied_head(&self) -> Option<String> {
        let embedding = self.tensor(EMBEDDING)?;
        let equal = self.tensor(HEAD).is_some_and(|head| {
            head.shape == embedding.shape
                && match head.dtype == embedding.dtype {
                    true => head.parts == embedding.parts,
                    false => (0..head.rows()).all(|row| head.decode(row..row + 1) == embedding.decode(row..row + 1)),
                }
        });
        (!equal)
            .then(|| format!("{HEAD} differs from {EMBEDDING}, but config.json says that they are tied (tie_word_embeddings)"))
    }
}

fn same_shape(found: &[usize], expected: &[i64]) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| i64::try_from(*f) == Ok(*e))
}

fn file_hash(path: &Path) -> Result<String, WeightError> {
    hash::sha256_file(path).map(|(_, hash)| hash).map_err(|source| WeightError::Unreadable { path: path.to_path_buf(), source })
}

/// The files of a folder, sorted by name; `model.safetensors` goes before an index.
fn open_folder(folder: &Path, naming: Naming) -> Result<Vec<Mapped>, WeightError> {
    let mut weights = Vec::new();
    let mut indices = Vec::new();
    let mut others = Vec::new();
    let unreadable = |source| WeightError::Unreadable { path: folder.to_path_buf(), source };
    for item in fs::read_dir(folder).map_err(unreadable)? {
        let path = item.map_err(unreadable)?.path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) if name.ends_with(".safetensors.index.json") => indices.push(path),
            Some(name) if name.ends_with(".safetensors") => weights.push(path),
            Some(name) => others.push(name.to_string()),
            None => {}
        }
    }
    weights.sort();
    others.sort();
    let wrong = |problem: String| WeightError::Folder { path: folder.to_path_buf(), problem };
    if let Some(whole) = weights.iter().find(|path| path.ends_with("model.safetensors")) {
        return Ok(vec![Mapped::open(whole)?]);
    }
    match (indices.as_slice(), weights.as_slice()) {
        ([index], _) => open_shards(folder, index),
        ([], [file]) => Ok(vec![Mapped::open(file)?]),
        ([], []) => Err(match foreign::other_weights(&others, naming) {
            Some(problem) => WeightError::Foreign { path: folder.to_path_buf(), problem },
            None => wrong("no .safetensors file in it; give the folder of a checkpoint in the Hugging Face layout".into()),
        }),
        ([], several) => {
            Err(wrong(format!("{} .safetensors files but no index; add model.safetensors.index.json", several.len())))
        }
        (several, _) => Err(wrong(format!(
            "{} files end in .safetensors.index.json; keep the one that belongs to the weights",
            several.len()
        ))),
    }
}

/// The files that an index names; each must hold just the tensors that the index says.
fn open_shards(folder: &Path, index: &Path) -> Result<Vec<Mapped>, WeightError> {
    let malformed = |problem: String| WeightError::Malformed { path: index.to_path_buf(), problem };
    let text = fs::read(index).map_err(|source| WeightError::Unreadable { path: index.to_path_buf(), source })?;
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|error| malformed(format!("not valid JSON: {error}")))?;
    let map = json
        .get("weight_map")
        .and_then(|map| map.as_object())
        .ok_or_else(|| malformed("the object `weight_map` is missing".into()))?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, file) in map {
        let file = file.as_str().filter(|name| Path::new(name).file_name() == Some(name.as_ref()));
        let file = file.ok_or_else(|| malformed(format!("the file of `{key}` is not the name of a file in this folder")))?;
        shards.entry(file).or_default().push(key);
    }
    let mut files = Vec::new();
    let mut problems = Vec::new();
    for (name, keys) in shards {
        let file = Mapped::open(&folder.join(name))?;
        let held: HashMap<&str, ()> = file.entries.iter().map(|entry| (entry.name.as_str(), ())).collect();
        let listed: HashMap<&str, ()> = keys.iter().map(|key| (*key, ())).collect();
        problems.extend(keys.iter().filter(|key| !held.contains_key(*key)).map(|key| format!("{name} lacks `{key}`")));
        let unlisted = file.entries.iter().filter(|entry| !listed.contains_key(entry.name.as_str()));
        problems.extend(unlisted.map(|entry| format!("{name} holds `{}`, which the index does not list there", entry.name)));
        files.push(file);
    }
    if problems.is_empty() {
        Ok(files)
    } else {
        Err(malformed(format!("the index and its files differ: {}", problems.join("; "))))
    }
}

/// All tensors under their canonical keys.
fn gather(files: &[Mapped], naming: Naming) -> Result<BTreeMap<String, Tensor>, Vec<String>> {
    let mut tensors = BTreeMap::new();
    let mut thirds: BTreeMap<String, [Option<(usize, usize)>; 3]> = BTreeMap::new();
    let mut problems = Vec::new();
    for (f, file) in files.iter().enumerate() {
        for (e, entry) in file.entries.iter().enumerate() {
            let doubled = match naming.role(&entry.name) {
                Role::Extra => false,
                Role::Tensor(key) => {
                    let tensor = Tensor { dtype: entry.dtype.clone(), shape: entry.shape.clone(), pieces: vec![(f, e)] };
                    tensors.insert(key, tensor).is_some()
                }
                Role::Third(key, third) => thirds.entry(key).or_default()[third].replace((f, e)).is_some(),
            };
            if doubled {
                problems.push(format!("two tensors stand for `{}`; keep one", entry.name));
            }
        }
    }
    for (key, pieces) in thirds {
        match stacked(files, pieces) {
            Ok(tensor) if !tensors.contains_key(&key) => drop(tensors.insert(key, tensor)),
            Ok(_) => problems.push(format!("`{key}` is there as a whole and in three pieces; keep one")),
            Err(problem) => problems.push(format!("`{key}` {problem}")),
        }
    }
    if problems.is_empty() { Ok(tensors) } else { Err(problems) }
}

fn stacked(files: &[Mapped], pieces: [Option<(usize, usize)>; 3]) -> Result<Tensor, String> {
    let [Some(q), Some(k), Some(v)] = pieces else { return Err("lacks one of query, key and value".into()) };
    let entry = |(f, e): (usize, usize)| -> &Entry { &files[f].entries[e] };
    let first = entry(q);
    if first.shape.is_empty()
        || [k, v].iter().any(|piece| entry(*piece).shape != first.shape || entry(*piece).dtype != first.dtype)
    {
        return Err("has a query, key and value of different shapes or types".into());
    }
    let mut shape = first.shape.clone();
    shape[0] = shape[0].checked_mul(3).ok_or("is too large")?;
    Ok(Tensor { dtype: first.dtype.clone(), shape, pieces: vec![q, k, v] })
}
