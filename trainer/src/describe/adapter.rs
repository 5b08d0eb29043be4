//! The adapter at its start: which modules carry it, and its first numbers.

use super::recipe::{Method, Recipe, Targets};
use crate::{error::TrainError, spelling::hint};
use mmlnb_models::{
    config::QwenConfig,
    graph::{Adaption, Op, Weight},
    networks,
    random::Draw,
    weights::{Adapter, AdapterConfig, AdapterTensors, Checkpoint, Targets as Modules},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// A linear layer that can carry an adapter.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Linear {
    module: String,
    shape: [usize; 2],
}

/// Parts of the describer, by the setting that switches them on.
const PARTS: [&str; 3] = ["language", "vision_blocks", "merger"];

impl Linear {
    fn part(&self) -> &'static str {
        match self.module.as_str() {
            module if module.starts_with("visual.merger.") => "merger",
            module if module.starts_with("visual.") => "vision_blocks",
            _ => "language",
        }
    }

    /// The name by which `targets` knows it: the last part of its path, in the merger the last two.
    fn name(&self) -> &str {
        let at = self.module.rfind('.').map_or(0, |dot| dot + 1);
        let name = &self.module[at..];
        if name.bytes().all(|byte| byte.is_ascii_digit()) { self.module.trim_start_matches("visual.merger.") } else { name }
    }
}

/// Every linear layer but the output head. The patch embedding is a convolution.
fn linears(config: &QwenConfig) -> Vec<Linear> {
    let graphs = [networks::vision(&config.vision), networks::decoder_states(&config.text)];
    let mut all = Vec::new();
    for graph in &graphs {
        for node in &graph.nodes {
            let Op::Linear { weight: Weight::Key(key), .. } = &node.op else { continue };
            let parameter = graph.parameters().iter().find(|parameter| parameter.key == *key);
            let shape = parameter.expect("a graph lists every key that its nodes use").shape.iter().map(|size| *size as usize);
            if let [outputs, inputs] = shape.collect::<Vec<_>>()[..] {
                all.push(Linear { module: key.trim_end_matches(".weight").into(), shape: [outputs, inputs] });
            }
        }
    }
    all
}

/// The modules that a recipe adapts.
fn chosen(recipe: &Recipe, config: &QwenConfig) -> Result<Vec<Linear>, TrainError> {
    let all = linears(config);
    let on = |part: &str| match part {
        "language" => recipe.language,
        "vision_blocks" => recipe.vision_blocks,
        _ => recipe.merger,
    };
    let Targets::Names(names) = &recipe.targets else {
        return Ok(all.into_iter().filter(|linear| on(linear.part())).collect());
    };
    let known: BTreeSet<&str> = all.iter().map(Linear::name).collect();
    let mut problems = Vec::new();
    for name in names {
        let parts: BTreeSet<&str> = all.iter().filter(|linear| linear.name() == name).map(Linear::part).collect();
        if parts.is_empty() {
            problems.push(format!(
                "`targets` names `{name}`, which the describer does not have{}",
                hint(name, known.iter().copied())
            ));
        } else if !parts.iter().any(|part| on(part)) {
            let parts = parts.into_iter().collect::<Vec<_>>().join(" = true` or `");
            problems.push(format!("`targets` names `{name}`, which stands in a part that does not learn; set `{parts} = true`"));
        }
    }
    for part in PARTS.into_iter().filter(|part| on(part)) {
        if !all.iter().any(|linear| linear.part() == part && names.iter().any(|name| name == linear.name())) {
            problems.push(format!("`{part}` is true, but `targets` names none of its layers"));
        }
    }
    if !problems.is_empty() {
        return Err(TrainError::Asked(problems.join("; ")));
    }
    Ok(all.into_iter().filter(|linear| on(linear.part()) && names.iter().any(|name| name == linear.name())).collect())
}

/// PEFT's settings: one regular expression that names just the modules, in both styles of paths.
fn config(recipe: &Recipe, modules: &[Linear], base: &Path) -> AdapterConfig {
    let mut expressions = Vec::new();
    for (part, path) in [
        ("language", r"model\.(language_model\.)?layers\.\d+\."),
        ("vision_blocks", r"(model\.)?visual\.blocks\.\d+\."),
        ("merger", r"(model\.)?visual\.merger\."),
    ] {
        let own = modules.iter().filter(|linear| linear.part() == part);
        let ends: BTreeSet<&str> = own.map(|linear| after_number(&linear.module, part)).collect();
        if !ends.is_empty() {
            let ends = ends.into_iter().collect::<Vec<_>>().join("|").replace('.', r"\.");
            expressions.push(format!("{path}({ends})"));
        }
    }
    let name = base.file_name().map_or_else(|| base.display().to_string(), |name| name.to_string_lossy().into_owned());
    AdapterConfig {
        rank: recipe.rank,
        alpha: recipe.alpha,
        dropout: recipe.dropout,
        rslora: recipe.method == Method::Rslora,
        dora: recipe.method == Method::Dora,
        targets: Modules::Pattern(expressions.join("|")),
        exclude: None,
        layers: None,
        rank_pattern: Vec::new(),
        alpha_pattern: Vec::new(),
        base_model: Some(name),
    }
}

/// A module's path within its layer, block or merger.
fn after_number<'m>(module: &'m str, part: &str) -> &'m str {
    let start = match part {
        "merger" => "visual.merger.",
        "vision_blocks" => "visual.blocks.",
        _ => "model.layers.",
    };
    let rest = module.trim_start_matches(start);
    match part {
        "merger" => rest,
        _ => rest.split_once('.').map_or(rest, |(_, rest)| rest),
    }
}

/// Writes an adapter that changes nothing yet: A uniform within `1 / sqrt(inputs)` (Kaiming with a = sqrt 5, as PEFT), B zero, DoRA's lengths those of
/// the base's rows. The numbers depend on the seed and the module alone.
///
/// # Errors
/// Targets that the describer does not have, a folder that cannot be written.
pub fn write_start(folder: &Path, recipe: &Recipe, config_: &QwenConfig, base: &Checkpoint) -> Result<(), TrainError> {
    let modules = chosen(recipe, config_)?;
    let settings = config(recipe, &modules, base.path());
    let rank = recipe.rank as usize;
    let mut tensors = BTreeMap::new();
    for Linear { module, shape: [outputs, inputs] } in modules {
        let a = uniform(recipe.seed, &module, rank * inputs, 1.0 / (inputs as f32).sqrt());
        let magnitude = if settings.dora { Some(lengths(base, &module)?) } else { None };
        let b = vec![0.0; outputs * rank];
        tensors.insert(module, AdapterTensors { rank, inputs, outputs, a, b, magnitude });
    }
    Ok(Adapter::write(folder, &settings, recipe.adapter_keys.style(), &tensors)?)
}

/// What a recipe does to each module, for planning; `None` for modules that stay.
///
/// # Errors
/// Targets that the describer does not have.
pub fn adaption(recipe: &Recipe, config: &QwenConfig) -> Result<impl Fn(&str) -> Option<Adaption>, TrainError> {
    let modules: BTreeSet<String> = match recipe.method {
        Method::Full => BTreeSet::new(),
        _ => chosen(recipe, config)?.into_iter().map(|linear| linear.module).collect(),
    };
    let rank = recipe.rank;
    let scale = match recipe.method {
        Method::Rslora => recipe.alpha / (rank as f64).sqrt(),
        _ => recipe.alpha / rank as f64,
    };
    let magnitude = recipe.method == Method::Dora;
    Ok(move |module: &str| modules.contains(module).then_some(Adaption { rank, scale, magnitude }))
}

/// Checks the targets without touching a weight; the number of modules.
///
/// # Errors
/// As [`write_start`].
pub fn check_targets(recipe: &Recipe, config: &QwenConfig) -> Result<usize, TrainError> {
    Ok(chosen(recipe, config)?.len())
}

/// Numbers within `-limit .. limit`.
fn uniform(seed: u64, module: &str, count: usize, limit: f32) -> Vec<f32> {
    let mut draw = Draw::named(&format!("{seed} {module}"));
    (0..count).map(|_| ((draw.half_bits() >> 8) as f32 / (1 << 23) as f32 - 1.0) * limit).collect()
}

/// Lengths of a matrix's rows.
fn lengths(base: &Checkpoint, module: &str) -> Result<Vec<f32>, TrainError> {
    let stored = base
        .tensor(&format!("{module}.weight"))
        .ok_or_else(|| TrainError::Failed(format!("{} has no tensor {module}.weight", base.path().display())))?;
    let length = |row: usize| {
        let values = stored.decode(row..row + 1);
        values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt() as f32
    };
    Ok((0..stored.rows()).map(length).collect())
}

/// What `leaves` have become, as an adapter like `start`.
///
/// # Errors
/// What libtorch refuses, a folder that cannot be written.
pub fn write_trained(
    folder: &Path,
    start: &Adapter,
    style: mmlnb_models::weights::KeyStyle,
    leaves: &[&crate::torch::Leaf],
) -> Result<(), TrainError> {
    let numbers = |module: &str, part: &str| -> Result<Option<Vec<f32>>, TrainError> {
        let name = format!("{module}.{part}");
        let Some(leaf) = leaves.iter().find(|leaf| leaf.name == name) else { return Ok(None) };
        let flat = leaf.tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(tch::Kind::Float)?.f_flatten(0, -1)?;
        Ok(Some(Vec::<f32>::try_from(&flat)?))
    };
    let mut tensors = BTreeMap::new();
    for module in start.modules() {
        let mut own = start.tensors(module).ok_or_else(|| TrainError::Failed(format!("the adapter has lost {module}")))?;
        if let (Some(a), Some(b)) = (numbers(module, "lora_A")?, numbers(module, "lora_B")?) {
            (own.a, own.b) = (a, b);
        }
        if own.magnitude.is_some() {
            own.magnitude = numbers(module, "lora_magnitude_vector")?.or(own.magnitude);
        }
        tensors.insert(module.clone(), own);
    }
    Ok(Adapter::write(folder, start.config(), style, &tensors)?)
}
