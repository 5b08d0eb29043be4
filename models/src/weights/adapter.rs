//! PEFT's adapter folder: LoRA, rsLoRA and DoRA beside linear layers.
//!
//! Format: `adapter_config.json` and `adapter_model.safetensors` with keys `base_model.model.MODULE.lora_A.weight` `[rank, inputs]`,
//! `.lora_B.weight` `[outputs, rank]` and for DoRA `.lora_magnitude_vector` `[outputs]`, as PEFT 0.21 writes them.

use super::{
    AdapterConfig, Checkpoint, DType, KeyStyle, Stored, WeightError, Weights, adapter_config::MERGE_FIRST,
    adapter_targets::Selector, foreign, keys::hub_key, mapped::Mapped,
};
use crate::{
    graph::{Adaption, Graph, Weight},
    hash,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const TENSORS: &str = "adapter_model.safetensors";
pub(super) const PREFIX: &str = "base_model.model.";
pub(super) const A: &str = ".lora_A.weight";
pub(super) const B: &str = ".lora_B.weight";
pub(super) const MAGNITUDE: &str = ".lora_magnitude_vector";

/// An adapter in memory-mapped files.
#[derive(Debug)]
pub struct Adapter {
    path: PathBuf,
    config: AdapterConfig,
    selector: Selector,
    style: KeyStyle,
    file: Mapped,
    modules: Vec<String>,
    held: BTreeMap<String, Held>,
    partial: bool,
    hash: OnceLock<String>,
}

/// Entries of the file for one module.
#[derive(Clone, Copy, Debug)]
struct Held {
    a: usize,
    b: usize,
    magnitude: Option<usize>,
    adaption: Adaption,
}

/// The tensors of one module in f32, row-major.
#[derive(Clone, PartialEq, Debug)]
pub struct AdapterTensors {
    /// Rank.
    pub rank: usize,
    /// Inputs of the linear layer.
    pub inputs: usize,
    /// Outputs of the linear layer.
    pub outputs: usize,
    /// A `[rank, inputs]`.
    pub a: Vec<f32>,
    /// B `[outputs, rank]`.
    pub b: Vec<f32>,
    /// DoRA: lengths of rows `[outputs]`.
    pub magnitude: Option<Vec<f32>>,
}

impl Adapter {
    /// Opens PEFT's folder.
    ///
    /// # Errors
    /// Files that cannot be read; settings that are not supported; keys that stand for nothing known; tensors that do not fit the settings, or
    /// that hold NaN or an infinity.
    pub fn open(folder: &Path) -> Result<Adapter, WeightError> {
        let settings = folder.join(CONFIG);
        let text = fs::read(&settings).map_err(|source| WeightError::Unreadable { path: settings.clone(), source })?;
        let json = serde_json::from_slice(&text)
            .map_err(|error| WeightError::Malformed { path: settings.clone(), problem: format!("not valid JSON: {error}") })?;
        let unusable = |problems| WeightError::Adapter { path: settings.clone(), problems };
        let config = AdapterConfig::from_json(&json).map_err(unusable)?;
        let selector = Selector::new(&config).map_err(unusable)?;
        let file = folder.join(TENSORS);
        if let (false, Some(problem)) = (file.exists(), foreign::other_adapter(folder)) {
            return Err(WeightError::Foreign { path: folder.to_path_buf(), problem });
        }
        let file = Mapped::open(&file)?;
        let (style, held) = gather(&file, &selector, config.dora)
            .map_err(|problems| WeightError::Adapter { path: file.path.clone(), problems })?;
        check_numbers(&file)?;
        let modules = held.keys().cloned().collect();
        let path = folder.to_path_buf();
        Ok(Adapter { path, config, selector, style, file, modules, held, partial: false, hash: OnceLock::new() })
    }

    /// The same adapter, accepted (`true`) or not though it lacks modules that its configuration names.
    pub fn allowing_partial(self, partial: bool) -> Adapter {
        Adapter { partial, ..self }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its settings.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// How its files name modules.
    pub fn style(&self) -> KeyStyle {
        self.style
    }

    /// Paths of the modules that it changes, as the hub names them (`model.layers.N..`, `visual..`), without `.weight`, sorted.
    pub fn modules(&self) -> &[String] {
        &self.modules
    }

    /// What it does to a module; `None` when it leaves it alone.
    pub fn adaption(&self, module: &str) -> Option<Adaption> {
        self.held.get(module).map(|held| held.adaption)
    }

    /// A module's tensors; `None` when the adapter leaves it alone.
    pub fn tensors(&self, module: &str) -> Option<AdapterTensors> {
        let [a, b] = [self.a(module)?, self.b(module)?];
        let all = |stored: &Stored<'_>| stored.decode(0..stored.rows());
        Some(AdapterTensors {
            rank: a.rows(),
            inputs: a.row_len(),
            outputs: b.rows(),
            a: all(&a),
            b: all(&b),
            magnitude: self.magnitude(module).map(|m| all(&m)),
        })
    }

    /// Whether every module is a linear layer of the base, in its sizes, and none that the configuration names is missing.
    /// [`Weights::with_adapter`] asks this.
    ///
    /// # Errors
    /// [`WeightError::Unmatched`] with every module that the base does not have, that is no linear layer or has other sizes;
    /// [`WeightError::Partial`] with every module that is missing, unless [`Adapter::allowing_partial`].
    pub fn check(&self, base: &Checkpoint) -> Result<(), WeightError> {
        let mut problems = Vec::new();
        for (module, held) in &self.held {
            let inputs = self.file.entries[held.a].shape[1];
            let outputs = self.file.entries[held.b].shape[0];
            match base.tensor(&format!("{module}.weight")) {
                None => problems.push(format!("{module}: the base has no such module")),
                Some(weight) if weight.shape == [outputs, inputs] => {}
                Some(weight) if weight.shape.len() > 2 => {
                    problems.push(format!("{module}: a convolution; adapters stand beside linear layers only"));
                }
                Some(weight) => {
                    problems.push(format!("{module}: the adapter is for [{outputs}, {inputs}], the base has {:?}", weight.shape))
                }
            }
        }
        if !problems.is_empty() {
            return Err(WeightError::Unmatched { adapter: self.path.clone(), base: base.path().to_path_buf(), problems });
        }
        match self.absent(base) {
            modules if modules.is_empty() || self.partial => Ok(()),
            modules => Err(WeightError::Partial { adapter: self.path.clone(), modules }),
        }
    }

    /// Linear layers of the base that `target_modules` names and for which the adapter has no tensors: they stay as they are, as with PEFT.
    pub fn absent(&self, base: &Checkpoint) -> Vec<String> {
        let linear = |key: &&str| base.tensor(key).is_some_and(|t| t.shape.len() == 2) && !key.ends_with("embed_tokens.weight");
        let modules = base.keys().filter(linear).filter_map(|key| key.strip_suffix(".weight"));
        // The names of the file may have been changed to the other style since its settings were written.
        let names_held = |style: &KeyStyle| self.modules.iter().any(|module| self.selector.targets(&style.path(module)));
        let style = [self.style, KeyStyle::Old, KeyStyle::Later].into_iter().find(names_held).unwrap_or(self.style);
        let targeted = modules.filter(|module| !self.held.contains_key(*module) && self.selector.targets(&style.path(module)));
        targeted.map(str::to_string).collect()
    }

    /// A sentence for the user about modules that the configuration names and the adapter lacks; `None` when it lacks none.
    pub fn told_partial(&self, base: &Checkpoint) -> Option<String> {
        let absent = self.absent(base);
        let first = absent.first()?;
        Some(format!(
            "the adapter {} has no tensors for {} of the modules that its configuration names (the first is {first}); they stay as in the base",
            self.path.display(),
            absent.len()
        ))
    }

    /// Whether evaluating the adapted weights of these graphs gives other numbers than the base has, row by row until the first that differs.
    /// Modules whose B is zero (and that have no DoRA lengths) cannot change anything; they are given back.
    ///
    /// # Errors
    /// [`WeightError::Unchanged`] with the modules that should have changed and did not, or that no graph uses.
    pub fn verify_changes(&self, weights: &Weights<'_>, graphs: &[&Graph]) -> Result<Vec<String>, WeightError> {
        let mut open: BTreeSet<&str> = self.modules.iter().map(String::as_str).collect();
        let mut untouched = BTreeSet::new();
        for weight in graphs.iter().flat_map(|graph| &graph.nodes).flat_map(|node| node.op.weights()).flat_map(adapted) {
            let Weight::Adapted { base, module, .. } = weight else { unreachable!("adapted() gives these alone") };
            if untouched.contains(module) || !open.contains(module.as_str()) {
                continue;
            }
            if weights.differ(weight, base)? {
                open.remove(module.as_str());
            } else if self.is_zero(module) {
                open.remove(module.as_str());
                untouched.insert(module.clone());
            }
        }
        if open.is_empty() && untouched.len() < self.modules.len() {
            return Ok(untouched.into_iter().collect());
        }
        let modules = open.into_iter().map(str::to_string).chain(untouched).collect();
        Err(WeightError::Unchanged { adapter: self.path.clone(), modules })
    }

    /// SHA-256 in hex over the hashes of its two files. Computed once.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn sha256(&self) -> Result<&str, WeightError> {
        if let Some(hash) = self.hash.get() {
            return Ok(hash);
        }
        let mut hashes = String::new();
        for name in [CONFIG, TENSORS] {
            let path = self.path.join(name);
            let (_, hash) = hash::sha256_file(&path).map_err(|source| WeightError::Unreadable { path, source })?;
            hashes.push_str(&hash);
        }
        Ok(self.hash.get_or_init(|| hash::sha256_hex(hashes.as_bytes())))
    }

    /// A `[rank, inputs]`.
    pub(super) fn a(&self, module: &str) -> Option<Stored<'_>> {
        self.held.get(module).map(|held| self.stored(held.a))
    }

    /// B `[outputs, rank]`.
    pub(super) fn b(&self, module: &str) -> Option<Stored<'_>> {
        self.held.get(module).map(|held| self.stored(held.b))
    }

    /// DoRA's lengths `[outputs]`.
    pub(super) fn magnitude(&self, module: &str) -> Option<Stored<'_>> {
        self.held.get(module)?.magnitude.map(|entry| self.stored(entry))
    }

    fn is_zero(&self, module: &str) -> bool {
        self.magnitude(module).is_none()
            && self.b(module).is_some_and(|b| b.decode(0..b.rows()).iter().all(|value| *value == 0.0))
    }

    fn stored(&self, entry: usize) -> Stored<'_> {
        let entry = &self.file.entries[entry];
        let dtype = DType::from_name(&entry.dtype).expect("the types were checked when the file was opened");
        Stored { dtype, shape: entry.shape.clone(), parts: vec![self.file.bytes(entry)] }
    }
}

/// The adapted matrices in a weight.
fn adapted(weight: &Weight) -> Vec<&Weight> {
    match weight {
        Weight::Key(_) | Weight::Matrix(_) => vec![],
        Weight::Adapted { .. } => vec![weight],
        Weight::Stack(parts) => parts.iter().flat_map(adapted).collect(),
    }
}

/// What a module has in the file.
#[derive(Default)]
struct Found {
    path: String,
    a: Option<usize>,
    b: Option<usize>,
    magnitude: Option<usize>,
}

/// The file's tensors by module, each checked against the settings.
fn gather(file: &Mapped, selector: &Selector, dora: bool) -> Result<(KeyStyle, BTreeMap<String, Held>), Vec<String>> {
    if let Some(problem) = foreign::empty(file.entries.iter()).or_else(|| foreign::wrapped(file.entries.iter())) {
        return Err(vec![problem]);
    }
    let mut problems = Vec::new();
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let mut styles = BTreeSet::new();
    for (index, entry) in file.entries.iter().enumerate() {
        let Some((path, suffix)) = entry.name.strip_prefix(PREFIX).and_then(split) else {
            problems.push(format!("the tensor `{}` is no LoRA tensor of a linear layer; {MERGE_FIRST}", entry.name));
            continue;
        };
        if DType::from_name(&entry.dtype).is_none() {
            problems.push(format!("the tensor `{}` has the type {}; F32, F16 and BF16 are read: save the adapter again in one of these (in PyTorch `model.float()`)", entry.name, entry.dtype));
        }
        styles.extend(KeyStyle::of(path).map(|style| style == KeyStyle::Later));
        let module = found.entry(hub_key(path)).or_insert_with(|| Found { path: path.to_string(), ..Found::default() });
        let place = match suffix {
            A => &mut module.a,
            B => &mut module.b,
            _ => &mut module.magnitude,
        };
        if place.replace(index).is_some() {
            problems.push(format!("the tensor `{}` is there twice", entry.name));
        }
    }
    if styles.len() > 1 {
        problems.push("module paths of both styles (`model.layers` and `model.language_model.layers`) are mixed".into());
    }
    if found.is_empty() {
        problems.push("there are no tensors in it".into());
    }
    let mut held = BTreeMap::new();
    for (module, found) in found {
        match hold(file, selector, dora, &module, &found) {
            Ok(tensors) => drop(held.insert(module, tensors)),
            Err(problem) => problems.push(format!("{}: {problem}", found.path)),
        }
    }
    let style = if styles.contains(&false) { KeyStyle::Old } else { KeyStyle::Later };
    if problems.is_empty() { Ok((style, held)) } else { Err(problems) }
}

/// Refuses NaN and infinities: they would spread over everything that the adapter changes.
fn check_numbers(file: &Mapped) -> Result<(), WeightError> {
    file.entries.iter().find_map(|entry| file.not_finite(entry)).map_or(Ok(()), Err)
}

/// Module path and kind of tensor.
fn split(key: &str) -> Option<(&str, &'static str)> {
    let bare = key.strip_suffix(".weight").filter(|bare| bare.ends_with(MAGNITUDE)).unwrap_or(key);
    [A, B, MAGNITUDE].into_iter().find_map(|suffix| bare.strip_suffix(suffix).map(|path| (path, suffix)))
}

/// One module's tensors, if they are whole and fit the settings.
fn hold(file: &Mapped, selector: &Selector, dora: bool, module: &str, found: &Found) -> Result<Held, String> {
    if ![KeyStyle::Old, KeyStyle::Later].iter().any(|style| selector.targets(&style.path(module))) {
        return Err("it has tensors, but `target_modules` in adapter_config.json does not name it".into());
    }
    let (Some(a), Some(b)) = (found.a, found.b) else { return Err("lora_A or lora_B is missing".into()) };
    let (rank, scale) = selector.rank_and_scale(&found.path);
    let shapes = (file.entries[a].shape.as_slice(), file.entries[b].shape.as_slice());
    let outputs = match shapes {
        ([r, inputs], [outputs, s]) if r == s && *r as i64 == rank && *inputs > 0 && *outputs > 0 => *outputs,
        ([_, _], [_, _]) => {
            return Err(format!(
                "lora_A {:?} and lora_B {:?} do not have the rank {rank} of adapter_config.json",
                shapes.0, shapes.1
            ));
        }
        _ => {
            return Err(format!(
                "lora_A {:?} and lora_B {:?} belong to a convolution; adapters stand beside linear layers only",
                shapes.0, shapes.1
            ));
        }
    };
    match (dora, found.magnitude) {
        (true, None) => return Err("lora_magnitude_vector is missing, but `use_dora` is true".into()),
        (false, Some(_)) => return Err("it has a lora_magnitude_vector, but `use_dora` is false".into()),
        (true, Some(m)) if file.entries[m].shape != [outputs] => {
            return Err(format!("lora_magnitude_vector has the shape {:?}, expected [{outputs}]", file.entries[m].shape));
        }
        (true, Some(_)) | (false, None) => {}
    }
    Ok(Held { a, b, magnitude: found.magnitude, adaption: Adaption { rank, scale, magnitude: dora } })
}
