//! The bundle: a folder with `manifest.json`, graphs, tokenizers and a model card.
//!
//! ```text
//! manifest.json  MODEL_CARD.md  manifest.json.minisig where it is signed
//! qualification.json  QUALIFICATION.md  qualification.json.minisig where it was qualified, and that signed
//! describer/   vision.onnx embedding.onnx decoder.onnx [prompts.onnx], each with .data; tokenizer.json; config.json,
//!              generation_config.json and preprocessor_config.json (or processor_config.json) of the checkpoint
//! classifier/  image.onnx bert.onnx prmf.onnx, each with .data; tokenizer.json (or vocab.txt); config.json;
//!              novelty.safetensors, features of training images
//! known_answers/  images
//! ```

mod calibration;
mod known_answers;
mod qualification;
mod stamps;
mod trust;

pub use calibration::{Calibration, ColourLimit, Guarantee, NoveltyLimit, Ranges};
pub use known_answers::{ANSWERS, KNOWN_ANSWERS, KnownAnswer, KnownProbabilities, KnownTokens};
pub use qualification::{QUALIFICATION, Qualification, Qualified};
pub use trust::{Distrust, KeyId, PublicKey, SIGNATURE, Signature, Standing, Standings, Trust};

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::hash;
use crate::prepare::settings::GenerationSettings;
use qualification::QUALIFICATION_SIGNATURE;
use stamps::Stamps;

/// The format that this version writes.
pub const FORMAT: u32 = 2;
/// The oldest that it reads: there what `qualify` finds stands in the manifest, and no file beside it.
const OLDEST: u32 = 1;
/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";
/// The manifest's signature.
pub const MANIFEST_SIGNATURE: &str = "manifest.json.minisig";
/// The describer's folder in the bundle, itself readable as a checkpoint's folder without weights.
pub const DESCRIBER: &str = "describer";
/// Features of training images, for the novelty of an image: beside a classifier's config.json, in its folder and in a bundle.
pub const NOVELTY: &str = "novelty.safetensors";
/// How the names of files end that hold nothing but a graph's weights.
const WEIGHTS: &str = ".data";
/// The classifier's folder in the bundle, itself readable as a classifier's folder without weights.
pub const CLASSIFIER: &str = "classifier";

/// Everything that decides a bundle's answers.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`], or 1.
    pub format: u32,
    /// Program and version that wrote the bundle.
    pub producer: String,
    /// Type of weights and activations of all graphs.
    pub precision: Precision,
    /// All graphs are made of operators of the ONNX standard alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub portable: bool,
    /// The describer; absent in a bundle that only classifies.
    pub describer: Option<Describer>,
    /// The classifier; absent in a bundle that only describes.
    pub classifier: Option<Classifier>,
    /// What the bundle was made from.
    pub provenance: Provenance,
    /// Answers that this bundle must give, for a check on the machine that serves it.
    pub known_answers: Vec<KnownAnswer>,
    /// In format 1, what `mmlnb-appliance qualify` measured; absent before. Now [`Qualification`] has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qualification: Option<serde_json::Value>,
    /// Every file that the maker put in, but the manifest and its signature, by its path in the bundle with `/` between folders.
    pub files: BTreeMap<String, FileEntry>,
}

/// Size and hash of one file.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// Type of weights and activations; norms, softmax and rotary tables stay f32 in each but bf16. In few bits only the matrices of language model, vision
/// tower, BERT and Swin are; tables are f16, the rest is f32.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// The upper halves of 32-bit floats, for GPUs alone; the classifier's networks as f16.
    Bf16,
    /// Weights of 7 bits a channel in bytes, activations of 8 bits a token.
    Int8,
    /// The language model's weights of 4 bits in blocks; the other networks as int8.
    Int4,
    /// Prompts as int8, steps as int4, on one cache.
    #[serde(rename = "int4+int8")]
    Int4Int8,
}

/// The vision-language model.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Describer {
    /// The question put after the image.
    pub prompt: String,
    /// The system turn; null: the chat template's own.
    pub system: Option<String>,
    /// How tokens are chosen.
    pub generation: GenerationSettings,
    /// `[width, height]` that every image is resized to, aspect ignored; null: smart_resize with the checkpoint's limits.
    pub image_size: Option<[i64; 2]>,
    /// The vision tower: image to image tokens.
    pub vision: Graph,
    /// The embedding: token ids to rows.
    pub embedding: Graph,
    /// The same rows, to be read without the graph.
    pub table: Table,
    /// The language model with its cache.
    pub decoder: Decoder,
}

/// The classifier's graphs; sizes and classes also stand in `classifier/config.json`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Classifier {
    /// Names in the order of the logits.
    pub classes: Vec<String>,
    /// `[width, height]` of the image encoder's input; null without an image encoder.
    pub image_size: Option<[i64; 2]>,
    /// Longest text in tokens; null without a text encoder.
    pub max_length: Option<i64>,
    /// The image encoder.
    pub image: Option<Graph>,
    /// The text encoder.
    pub text: Option<Graph>,
    /// Fusion and heads.
    pub prmf: Graph,
    /// Temperature and threshold; null: verdicts are `not_assessed`.
    pub calibration: Option<Calibration>,
}

/// One ONNX graph.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    /// Path in the bundle.
    pub file: String,
    /// Inputs in the graph's order.
    pub inputs: Vec<Port>,
    /// Outputs in the graph's order.
    pub outputs: Vec<Port>,
    /// Elements of the checkpoint tensors used.
    pub parameters: u64,
}

/// A matrix that fills a file row by row.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Path in the bundle.
    pub file: String,
    /// f32, f16 or bf16, little-endian.
    pub dtype: String,
}

/// An input or output of a graph.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// f32, f16, i32 or i64.
    pub dtype: String,
    /// Dimensions: numbers, or names of free dimensions.
    pub shape: Vec<String>,
}

/// The language model's graph and the shape of its key/value cache, `[batch, kv_heads, tokens, cache_head_size]` a layer.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Decoder {
    /// The graph itself.
    pub graph: Graph,
    /// The graph that reads prompts, on the same cache; absent: `graph` reads them too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Graph>,
    /// Number of layers, each with one key and one value tensor.
    pub layers: i64,
    /// Key/value heads.
    pub kv_heads: i64,
    /// Width of a head in the network.
    pub head_size: i64,
    /// Width of a head in the cache; larger than `head_size` where a kernel wants padding.
    pub cache_head_size: i64,
    /// f32 or f16.
    pub cache_dtype: String,
}

/// What a bundle was made from.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The vision-language checkpoint.
    pub checkpoint: Option<Source>,
    /// The adapter merged into it.
    pub adapter: Option<Source>,
    /// Statistics by which the describer's weights were brought to few bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Source>,
    /// The classifier's folder.
    pub classifier: Option<Source>,
    /// SHA-256 of the training data by the runs' own records, describer then classifier, where recorded.
    pub data: Vec<String>,
}

/// A folder that a bundle was made from.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The folder's name, without the path to it.
    pub name: String,
    /// SHA-256 over the names and hashes of its weight and configuration files.
    pub sha256: String,
}

/// What is wrong with a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be read or written.
    #[error("bundle file {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The manifest is not what this version reads.
    #[error("{}: {problem}; export the bundle again with this version of mmlnb-export", file.display())]
    Manifest {
        /// The manifest.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// What a training run left beside its weights is not readable.
    #[error("{}: {problem}; train again, or remove the file", file.display())]
    Record {
        /// `answers.json`.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Files lie in the bundle that the manifest does not list, and that could change its answers.
    #[error(
        "{}: {} that the manifest does not list: {}; remove what was added, or copy or export the bundle again",
        dir.display(), if files.len() == 1 { "there is a file" } else { "there are files" }, shortened(files)
    )]
    Unlisted {
        /// The bundle's folder.
        dir: PathBuf,
        /// Their paths in the bundle, sorted.
        files: Vec<String>,
    },
    /// A file's content is not the one that the manifest names.
    #[error("bundle file {} does not match the manifest: {problem}; copy or export the bundle again", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
        /// Sizes or hashes.
        problem: String,
    },
    /// The qualification is not what this version reads, or not of this bundle.
    #[error("{}: {problem}; qualify the bundle again with this version of mmlnb-appliance", file.display())]
    Qualification {
        /// `qualification.json`.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file is not signed as it has to be.
    #[error("{} {reason}", file.display())]
    Untrusted {
        /// The file that was signed, or should have been.
        file: PathBuf,
        /// Why it is not taken.
        reason: Distrust,
    },
    /// A file or folder was written, replaced or moved after its hash was taken.
    #[error("{} was changed while the bundle was being loaded", file.display())]
    Touched {
        /// The file or folder.
        file: PathBuf,
    },
}

/// An opened bundle whose files are those that its manifest lists, each with its size and hash.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The folder.
    pub dir: PathBuf,
    /// The manifest.
    pub manifest: Manifest,
    /// SHA-256 of `manifest.json`, which stands for the whole bundle.
    pub sha256: String,
    /// Who signed the manifest.
    pub standing: Standing,
    /// What was found about it where it is served, if anything was.
    pub qualification: Option<Qualified>,
    stamps: Stamps,
}

/// The weights of a bundle that was begun: their sizes are checked, their hashes are not yet.
#[must_use = "what is not checked may be damaged"]
#[derive(Debug)]
pub struct Unchecked {
    dir: PathBuf,
    files: Vec<(String, FileEntry)>,
}

impl Unchecked {
    /// Compares the hashes, several files at a time.
    ///
    /// # Errors
    /// A file that cannot be read or was changed.
    pub fn check(self) -> Result<(), BundleError> {
        in_parallel(&self.files, |(name, entry)| check_hash(&self.dir.join(name), entry)).map(|_| ())
    }
}

impl Bundle {
    /// [`Bundle::open_trusting`], whoever signed it; a signature that cannot be read is refused.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        Bundle::open_trusting(dir, &Trust::unjudged())
    }

    /// Reads the manifest, refuses one that is not signed as it has to be and files that it does not list, and checks every listed file's size and
    /// hash, several files at a time.
    pub fn open_trusting(dir: &Path, trust: &Trust) -> Result<Self, BundleError> {
        let (bundle, unchecked) = Bundle::begin(dir, trust)?;
        unchecked.check().map(|()| bundle)
    }

    /// As [`Bundle::open_trusting`], but the hashes of weights, which nobody parses, are left for the time in which they are loaded.
    pub fn begin(dir: &Path, trust: &Trust) -> Result<(Self, Unchecked), BundleError> {
        let file = dir.join(MANIFEST);
        let bytes = std::fs::read(&file).map_err(|source| BundleError::Io { file: file.clone(), source })?;
        let standing = trust.judge(dir, MANIFEST, &bytes)?;
        let manifest = Manifest::parse(&file, &bytes)?;
        let sha256 = hash::sha256_hex(&bytes);
        let qualification = if manifest.format > OLDEST { Qualified::read(dir, &manifest, &sha256, trust)? } else { None };
        let mut listed = manifest.files.clone();
        listed.extend(qualification.iter().flat_map(|qualified| qualified.found.files.clone()));
        let beside: &[&str] = if qualification.is_some() { &BESIDE } else { &BESIDE[..2] };
        let mut files = Vec::new();
        unlisted(dir, "", (&listed, beside), &mut files)?;
        if !files.is_empty() {
            files.sort();
            return Err(BundleError::Unlisted { dir: dir.to_path_buf(), files });
        }
        let stamps = Stamps::take(dir, listed.keys())?;
        listed.iter().try_for_each(|(name, entry)| check_size(&dir.join(name), entry))?;
        let (weights, parsed): (Vec<_>, Vec<_>) = listed.into_iter().partition(|(name, _)| name.ends_with(WEIGHTS));
        in_parallel(&parsed, |(name, entry)| check_hash(&dir.join(name), entry))?;
        let unchecked = Unchecked { dir: dir.to_path_buf(), files: weights };
        Ok((Bundle { dir: dir.to_path_buf(), manifest, sha256, standing, qualification, stamps }, unchecked))
    }

    /// Temperature and thresholds by which it is served: what was found where it is served, else the trainer's.
    pub fn calibration(&self) -> Option<&Calibration> {
        match &self.qualification {
            Some(qualified) => qualified.found.calibration.as_ref(),
            None => self.manifest.classifier.as_ref().and_then(|part| part.calibration.as_ref()),
        }
    }

    /// All answers that it must give, the maker's before those recorded where it is served.
    pub fn known_answers(&self) -> impl Iterator<Item = &KnownAnswer> {
        let recorded = self.qualification.iter().flat_map(|qualified| &qualified.found.known_answers);
        self.manifest.known_answers.iter().chain(recorded)
    }

    /// SHA-256 of `qualification.json`, if there is one.
    pub fn qualification_sha256(&self) -> Option<&str> {
        self.qualification.as_ref().map(|qualified| qualified.sha256.as_str())
    }

    /// Who signed what.
    pub fn standings(&self) -> Standings {
        let qualification = self.qualification.as_ref().map(|qualified| qualified.standing.clone());
        Standings { bundle: self.standing.clone(), qualification }
    }

    /// Whether all files are still those that were there when the bundle was opened, so that what was loaded since is what was hashed.
    ///
    /// # Errors
    /// The file or folder that is another one, or was written to.
    pub fn check_untouched(&self) -> Result<(), BundleError> {
        self.stamps.check()
    }

    /// The full path of a file of the bundle.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Manifest {
    /// Parses and checks `bytes`; `file` is named in errors.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, BundleError> {
        let error = |problem: String| BundleError::Manifest { file: file.to_path_buf(), problem };
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|cause| error(format!("not valid JSON: {cause}")))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if (u64::from(OLDEST)..=u64::from(FORMAT)).contains(&format) => {}
            Some(format) => return Err(error(format!("format {format}, but this version reads {OLDEST} to {FORMAT}"))),
            None => return Err(error("has no `format`".to_string())),
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|cause| error(cause.to_string()))?;
        manifest.check().map_err(error)?;
        Ok(manifest)
    }

    /// Writes `manifest.json` into `dir`: a temporary file, synchronised, then renamed. Returns `bundle_sha256`.
    pub fn write(&self, dir: &Path) -> Result<String, BundleError> {
        let file = dir.join(MANIFEST);
        self.check().map_err(|problem| BundleError::Manifest { file: file.clone(), problem })?;
        put_json(dir, MANIFEST, self, |problem| BundleError::Manifest { file: file.clone(), problem })
    }

    /// Every graph with its path.
    pub fn graphs(&self) -> Vec<&Graph> {
        let describer = self.describer.iter().flat_map(Describer::graphs);
        let classifier =
            self.classifier.iter().flat_map(|part| part.image.iter().chain(&part.text).chain(std::iter::once(&part.prmf)));
        describer.chain(classifier).collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.describer.is_none() && self.classifier.is_none() {
            return Err("holds neither a describer nor a classifier".to_string());
        }
        for name in self.files.keys() {
            if !inside(name) {
                return Err(format!("`{name}` is not a path inside the bundle"));
            }
        }
        let images = self.known_answers.iter().map(|answer| &answer.image);
        let tables = self.describer.iter().map(|part| &part.table.file);
        for name in self.graphs().into_iter().map(|graph| &graph.file).chain(tables).chain(images) {
            if !self.files.contains_key(name) {
                return Err(format!("`{name}` is used but not listed in `files`"));
            }
        }
        if self.format > OLDEST && self.qualification.is_some() {
            return Err(format!("`qualification` stands in {QUALIFICATION} since format 2"));
        }
        if let Some(part) = &self.describer {
            part.generation.check(Path::new(MANIFEST)).map_err(|error| error.to_string())?;
        }
        match &self.classifier {
            Some(part) if part.classes.len() < 2 => Err("the classifier has fewer than two classes".to_string()),
            Some(Classifier { calibration: Some(calibration), .. }) => {
                calibration.problem().map_or(Ok(()), |problem| Err(format!("calibration: {problem}")))
            }
            _ => Ok(()),
        }
    }
}

/// [Puts](put) `value` into the file `name`, as people read it too. Returns the file's SHA-256.
fn put_json(
    dir: &Path,
    name: &str,
    value: &impl Serialize,
    error: impl Fn(String) -> BundleError,
) -> Result<String, BundleError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|cause| error(cause.to_string()))?;
    bytes.push(b'\n');
    put(dir, name, &bytes)?;
    Ok(hash::sha256_hex(&bytes))
}

/// Writes the file `name` in `dir`: a temporary file, synchronised, then renamed.
pub fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
    let file = dir.join(name);
    let io = |source| BundleError::Io { file: file.clone(), source };
    let temporary = dir.join(format!(".{name}.part"));
    let mut output = File::create(&temporary).map_err(io)?;
    output.write_all(bytes).and_then(|()| output.sync_all()).map_err(io)?;
    std::fs::rename(&temporary, &file).map_err(io)?;
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(io)
}

/// Files of the bundle's top folder that stand for others, or vouch for one that does: nothing lists them.
const BESIDE: [&str; 4] = [MANIFEST, MANIFEST_SIGNATURE, QUALIFICATION, QUALIFICATION_SIGNATURE];

/// Whether a path may be listed.
fn inside(name: &str) -> bool {
    let plain = !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    plain && !BESIDE.contains(&name)
}

/// Size and hash of every file below `dir` that a manifest lists: all but hidden ones, itself and what stands beside it.
pub fn list_files(dir: &Path) -> Result<BTreeMap<String, FileEntry>, BundleError> {
    let mut names = Vec::new();
    collect(dir, "", &mut names)?;
    let entries = in_parallel(&names, |name| {
        let path = dir.join(name);
        let (size, sha256) = hash::sha256_file(&path).map_err(|source| BundleError::Io { file: path, source })?;
        Ok(FileEntry { size, sha256 })
    })?;
    Ok(names.into_iter().zip(entries).collect())
}

fn collect(dir: &Path, prefix: &str, names: &mut Vec<String>) -> Result<(), BundleError> {
    let folder = dir.join(prefix);
    let io = |source| BundleError::Io { file: folder.clone(), source };
    for entry in std::fs::read_dir(&folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().into_string().map_err(|name| {
            io(std::io::Error::new(std::io::ErrorKind::InvalidData, format!("the name {name:?} is not UTF-8")))
        })?;
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        if entry.file_type().map_err(io)?.is_dir() {
            collect(dir, &path, names)?;
        } else if !BESIDE.contains(&path.as_str()) && !name.starts_with('.') {
            names.push(path);
        }
    }
    Ok(())
}

/// Every file at or below `prefix` that is neither listed nor one of those beside the manifest; hidden ones too. Only folders that hold something listed are looked into
/// through a symbolic link.
fn unlisted(
    dir: &Path,
    prefix: &str,
    (listed, beside): (&BTreeMap<String, FileEntry>, &[&str]),
    found: &mut Vec<String>,
) -> Result<(), BundleError> {
    let folder = dir.join(prefix);
    let io = |source| BundleError::Io { file: folder.clone(), source };
    for entry in std::fs::read_dir(&folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let holds_listed = || {
            let below = format!("{path}/");
            listed.range(below.clone()..).next().is_some_and(|(name, _)| name.starts_with(&below))
        };
        if beside.contains(&path.as_str()) || listed.contains_key(&path) {
            continue;
        }
        if entry.file_type().map_err(io)?.is_dir() || holds_listed() {
            unlisted(dir, &path, (listed, beside), found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// The first of a long list, and how many more there are.
fn shortened(files: &[String]) -> String {
    const MOST: usize = 20;
    let more = files.len().saturating_sub(MOST);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    files[..files.len() - more].join(", ") + &rest
}

fn check_size(path: &Path, expected: &FileEntry) -> Result<(), BundleError> {
    let size = std::fs::metadata(path).map_err(|source| BundleError::Io { file: path.to_path_buf(), source })?.len();
    if size == expected.size {
        return Ok(());
    }
    Err(BundleError::Changed { file: path.to_path_buf(), problem: format!("{size} bytes instead of {}", expected.size) })
}

fn check_hash(path: &Path, expected: &FileEntry) -> Result<(), BundleError> {
    let (_, sha256) = hash::sha256_file(path).map_err(|source| BundleError::Io { file: path.to_path_buf(), source })?;
    if sha256 == expected.sha256 {
        return Ok(());
    }
    Err(BundleError::Changed { file: path.to_path_buf(), problem: format!("SHA-256 {sha256} instead of {}", expected.sha256) })
}

/// `work` on every item, on up to eight threads; results in the items' order, or the first item's error.
fn in_parallel<I: Sync, T: Send>(items: &[I], work: impl Fn(&I) -> Result<T, BundleError> + Sync) -> Result<Vec<T>, BundleError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8).min(items.len().max(1));
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((index, item)) = take(&next, items) {
                    let result = work(item);
                    results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn take<'a, I>(next: &AtomicUsize, items: &'a [I]) -> Option<(usize, &'a I)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    items.get(index).map(|item| (index, item))
}

impl Describer {
    /// Its graphs.
    pub fn graphs(&self) -> impl Iterator<Item = &Graph> {
        self.served().chain([&self.embedding])
    }

    /// Those that run: the embedding's rows are read from its table.
    pub fn served(&self) -> impl Iterator<Item = &Graph> {
        [&self.vision, &self.decoder.graph].into_iter().chain(&self.decoder.prompts)
    }
}

impl Precision {
    /// Every precision of this version.
    pub const ALL: [Precision; 6] =
        [Precision::F32, Precision::F16, Precision::Bf16, Precision::Int8, Precision::Int4, Precision::Int4Int8];

    /// Its name, as `--precision` and the manifest write it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
            Precision::Int4 => "int4",
            Precision::Int4Int8 => "int4+int8",
        }
    }

    /// Whether weights are stored in whole numbers of few bits.
    pub fn few_bits(self) -> bool {
        match self {
            Precision::F32 | Precision::F16 | Precision::Bf16 => false,
            Precision::Int8 | Precision::Int4 | Precision::Int4Int8 => true,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Precision::ALL.into_iter().find(|precision| precision.name() == text);
        known.ok_or_else(|| {
            format!("`{text}` is not a precision of this version; expected {}", Precision::ALL.map(Precision::name).join(", "))
        })
    }
}
