//! How much memory a run needs, said before it starts.
//!
//! Weights, adapter and optimiser are counted from the graphs; what a step needs beside them is followed through the networks by
//! [`mmlnb_models::cost::learning`].

use super::{
    adapter,
    describer::{CHUNK, Trained},
    items::Item,
    recipe::{Method, Recipe},
    train::trained,
};
use crate::{error::TrainError, torch::is_widened};
use mmlnb_models::{
    config::QwenConfig,
    cost::{self, CostError, Learning, Lesson, cost, learning},
    graph::Graph,
    networks,
    weights::DType,
};
use std::path::Path;
use tch::{Device, Kind};

/// What a CUDA context, its libraries and the gaps between pieces of memory take.
const CUDA: i64 = 1 << 30;

/// Sizes of a run's largest step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Images of a micro-batch.
    pub rows: i64,
    /// Tokens of its longest sample.
    pub tokens: i64,
    /// Tokens that are learnt, all rows together.
    pub answers: i64,
    /// Patches of the largest image.
    pub patches: i64,
}

impl Load {
    /// The largest micro-batch that these items can make.
    pub fn of(items: &[Item], rows: usize) -> Load {
        let most = |value: &dyn Fn(&Item) -> i64| items.iter().map(value).max().unwrap_or(1);
        Load {
            rows: rows.min(items.len()) as i64,
            tokens: most(&|item| item.sample.ids.len() as i64),
            answers: most(&|item| item.sample.labelled() as i64) * rows.min(items.len()) as i64,
            patches: most(&|item| item.sample.grid.iter().product()),
        }
    }
}

/// The plan of a run's memory in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// What is there all the time, by name.
    pub resident: Vec<(String, i64)>,
    /// What stands between blocks from a step's forward to its backward pass.
    pub kept: i64,
    /// What comes on top of it, one after the other: the largest counts.
    pub moments: Vec<(String, i64)>,
    /// While the images of a frozen vision tower are prepared, before all else.
    pub preparation: i64,
}

impl MemoryPlan {
    /// Bytes at the peak.
    pub fn peak(&self) -> i64 {
        let resident: i64 = self.resident.iter().map(|(_, bytes)| bytes).sum();
        let moment = self.moments.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        (resident + self.kept + moment).max(self.preparation)
    }

    /// As a table.
    pub fn lines(&self) -> Vec<String> {
        let line = |name: &str, bytes: i64| format!("  {name:66} {:8.2} GiB", gib(bytes));
        let mut lines: Vec<String> = self.resident.iter().map(|(name, bytes)| line(name, *bytes)).collect();
        lines.push(line("between blocks, from the forward to the backward pass", self.kept));
        let largest = self.moments.iter().map(|(_, bytes)| *bytes).max();
        for (name, bytes) in &self.moments {
            let name = if Some(*bytes) == largest { name.clone() } else { format!("({name}: at another time)") };
            lines.push(line(&name, *bytes));
        }
        if self.preparation > 0 {
            lines.push(line("(before: the vision tower, while images are prepared)", self.preparation));
        }
        lines.push(line("at the peak", self.peak()));
        lines
    }
}

/// Plans a run of a recipe on a base that computes in `kind`.
///
/// # Errors
/// Targets that the describer does not have.
pub fn plan(recipe: &Recipe, config: &QwenConfig, (device, kind): (Device, Kind), load: Load) -> Result<MemoryPlan, TrainError> {
    let float = dtype(kind);
    let parts = trained(recipe);
    let with = adapter::adaption(recipe, config)?;
    let adapted = |graph: Graph| {
        let adapted = graph.adapt(&|module| with(module), &[]);
        let graph = adapted.expect("adapting fails only for modules that are expected and not found");
        // One block: all of it is kept.
        if recipe.recompute { graph } else { graph.in_one_block(Some(0)) }
    };
    let text = &config.text;
    let [embedding, head] = [networks::embedding(text), networks::head(text)];
    let [vision, decoder] = [networks::vision(&config.vision), networks::decoder_states(text)].map(adapted);
    let language = [&embedding, &decoder, &head];
    let mut resident = Vec::new();
    let learns = parts.language && !parts.adapters;
    let base = |graphs: &[&Graph], learns: bool| cost::weight_bytes(graphs, if learns { DType::F32 } else { float });
    resident.push(("language model".to_string(), base(&language, learns)));
    if !parts.vision_is_frozen() {
        resident.push(("vision tower".to_string(), base(&[&vision], !parts.adapters)));
    }
    let numbers = if parts.adapters { cost::adapter_parameters(&[&vision, &decoder]) } else { own(parts, &vision, &language) };
    let (what, each) =
        if parts.adapters { ("adapter, gradients and AdamW in f32", 16) } else { ("gradients and AdamW in f32", 12) };
    resident.push((format!("{what}: {numbers} numbers"), each * numbers));
    if let Device::Cuda(_) = device {
        resident.push(("CUDA, its libraries and gaps".to_string(), CUDA));
    }
    let widened = is_widened(device, kind);
    let lesson = Lesson { float, all: !parts.adapters, dropout: recipe.dropout > 0.0 && recipe.method != Method::Full, widened };
    let step = learning(&decoder, &|name| size(name, load), lesson).map_err(unknown)?;
    let block = |learning: &Learning| match recipe.recompute {
        true => (format!("{} again, with its gradients", learning.block), learning.block_bytes),
        false => ("all that is kept, with its gradients".to_string(), learning.block_bytes),
    };
    let mut moments = vec![block(&step)];
    let mut kept = step.kept_bytes;
    if !parts.vision_is_frozen() {
        let vision = learning(&vision, &|name| size(name, load), lesson).map_err(unknown)?;
        kept += load.rows * vision.kept_bytes;
        match recipe.recompute {
            true => moments.push(block(&vision)),
            // Every image's pass stands until its gradients are due, also while the language model works.
            false => kept += load.rows * vision.block_bytes,
        }
    }
    let head_copy = if widened { 4 * text.vocabulary * text.hidden } else { 0 };
    moments.push((format!("logits of {} positions", CHUNK.min(load.answers)), logits(text.vocabulary, load, float) + head_copy));
    let largest = largest_leaf(&decoder, &language, parts);
    moments.push(("AdamW's step on the largest tensor".to_string(), 3 * 4 * largest));
    let preparation = match parts.vision_is_frozen() {
        false => 0,
        true => base(&[&vision], false) + cost(&vision, &|name| size(name, load), float).map_err(unknown)?.peak_bytes,
    };
    Ok(MemoryPlan { resident, kept, moments, preparation })
}

/// Logits, in f32 their logarithms, and the gradients of both, of one piece.
fn logits(vocabulary: i64, load: Load, float: DType) -> i64 {
    let each = 12 + float.size() as i64;
    CHUNK.min(load.answers) * vocabulary * each
}

/// Numbers of the base's own tensors that are trained.
fn own(parts: Trained, vision: &Graph, language: &[&Graph]) -> i64 {
    let of_vision = vision.parameters().iter().filter(|parameter| match parameter.key.starts_with("visual.merger.") {
        true => parts.merger,
        false => parts.vision_blocks,
    });
    let of_vision: i64 = of_vision.map(|parameter| parameter.shape.iter().product::<i64>()).sum();
    of_vision + if parts.language { cost::parameters(language) } else { 0 }
}

fn largest_leaf(decoder: &Graph, language: &[&Graph], parts: Trained) -> i64 {
    match (parts.adapters, parts.language) {
        (true, _) => cost::adapter_parameters(&[decoder]) / 14,
        (false, true) => {
            let all = language.iter().flat_map(|graph| graph.parameters());
            all.map(|parameter| parameter.shape.iter().product()).max().unwrap_or(0)
        }
        (false, false) => 0,
    }
}

fn size(name: &str, load: Load) -> Option<i64> {
    match name {
        "batch" => Some(load.rows),
        "tokens" => Some(load.tokens),
        "table" => Some(load.rows * load.tokens),
        "rows" => Some(load.answers),
        "patches" => Some(load.patches),
        "bounds" => Some(load.patches / 64 + 2),
        _ => None,
    }
}

fn dtype(kind: Kind) -> DType {
    match kind {
        Kind::BFloat16 => DType::BF16,
        Kind::Half => DType::F16,
        _ => DType::F32,
    }
}

fn unknown(error: CostError) -> TrainError {
    TrainError::Failed(error.to_string())
}

/// Bytes in GiB.
pub fn gib(bytes: i64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

/// Bytes that the device has free; `None` when nobody says.
pub fn free(device: Device) -> Option<i64> {
    match device {
        Device::Cuda(number) => {
            let query = ["--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", &number.to_string()].map(String::from);
            let output = std::process::Command::new("nvidia-smi").args(query).output().ok()?;
            let mib: i64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
            Some(mib << 20)
        }
        _ => {
            let text = std::fs::read_to_string("/proc/meminfo").ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
            let available = line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()? << 10;
            Some(group_limit().map_or(available, |limit| limit.min(available)))
        }
    }
}

/// What a container leaves.
fn group_limit() -> Option<i64> {
    let number = |file: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()?.trim().parse::<i64>().ok();
    Some(number("memory.max")? - number("memory.current")?)
}

/// Whether a run fits.
///
/// # Errors
/// [`TrainError::Memory`] with the table and the setting to change.
pub fn check(
    recipe: &Recipe,
    config: &QwenConfig,
    place: (Device, Kind),
    load: Load,
    available: i64,
) -> Result<MemoryPlan, TrainError> {
    let found = plan(recipe, config, place, load)?;
    if found.peak() <= available {
        return Ok(found);
    }
    let fits = |recipe: &Recipe, kind: Kind, load: Load| -> Result<bool, TrainError> {
        Ok(plan(recipe, config, (place.0, kind), load)?.peak() <= available)
    };
    let mut advice = Vec::new();
    for rows in (1..load.rows).rev() {
        let answers = (load.answers / load.rows).max(1) * rows;
        if fits(recipe, place.1, Load { rows, answers, ..load })? {
            let accumulation = (recipe.batch_size * recipe.accumulation).div_ceil(rows as usize);
            advice.push(format!("`batch_size = {rows}` with `accumulation = {accumulation}` fits"));
            break;
        }
    }
    if place.1 == Kind::Float && fits(recipe, Kind::BFloat16, load)? {
        advice.push("`base_dtype = \"bf16\"` fits".into());
    }
    if !recipe.recompute && fits(&Recipe { recompute: true, ..recipe.clone() }, place.1, load)? {
        advice.push("`recompute = true` fits".into());
    }
    let ranks = std::iter::successors(Some(recipe.rank / 2), |rank| Some(rank / 2)).take_while(|rank| *rank >= 1);
    for rank in ranks.filter(|_| recipe.method != Method::Full) {
        if fits(&Recipe { rank, ..recipe.clone() }, place.1, load)? {
            advice.push(format!("`rank = {rank}` fits"));
            break;
        }
    }
    if recipe.method == Method::Full && fits(&Recipe { method: Method::Lora, ..recipe.clone() }, place.1, load)? {
        advice.push("`method = \"lora\"` fits".into());
    }
    if advice.is_empty() {
        advice.push(
            "no single setting makes it fit: take a smaller base, a smaller `image_size`, shorter texts, or a larger device"
                .into(),
        );
    }
    let table = found.lines().join("\n");
    let (need, have) = (gib(found.peak()), gib(available));
    Err(TrainError::Memory(format!(
        "this run needs {need:.2} GiB, and {have:.2} GiB are free:\n{table}\n{}; if the free memory is more, say so with `memory_gib`",
        advice.join("; ")
    )))
}
