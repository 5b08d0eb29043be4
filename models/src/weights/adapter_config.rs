//! `adapter_config.json`: which settings of PEFT are honoured, and which are refused.

use super::adapter_targets::Selector;
use serde_json::{Map, Value, json};

/// Settings of a LoRA adapter, as PEFT 0.21 understands them.
#[derive(Clone, PartialEq, Debug)]
pub struct AdapterConfig {
    /// Rank of modules that no pattern names.
    pub rank: i64,
    /// Alpha of modules that no pattern names; the scale is `alpha / rank`.
    pub alpha: f64,
    /// Dropout before A in training.
    pub dropout: f64,
    /// rsLoRA: the scale is `alpha / sqrt(rank)`.
    pub rslora: bool,
    /// DoRA: rows are brought to stored lengths.
    pub dora: bool,
    /// Modules that carry the adapter.
    pub targets: Targets,
    /// Modules that do not, although `targets` names them.
    pub exclude: Option<Targets>,
    /// Restricts a list of names to some layers.
    pub layers: Option<Layers>,
    /// Ranks of single modules: patterns on the end of the module's path, the first that fits counts.
    pub rank_pattern: Vec<(String, i64)>,
    /// Alphas of single modules, likewise.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Name of the base, for people.
    pub base_model: Option<String>,
}

/// Which modules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Targets {
    /// Whole paths or their ends.
    Names(Vec<String>),
    /// A regular expression that the whole path must match.
    Pattern(String),
    /// Every linear layer except the output head.
    AllLinear,
}

/// Which layers: those whose number, found by a pattern of the scope before it, is listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layers {
    /// Numbers.
    pub numbers: Vec<i64>,
    /// Names of the scope before the number; empty: any.
    pub patterns: Vec<String>,
}

/// What to do with an adapter of which a part is not read here.
pub(super) const MERGE_FIRST: &str =
    "merge with PEFT first (model.merge_and_unload(), then save_pretrained) and give that folder without the adapter";

/// Ways to begin that leave the base as it is; the others have changed the base that the adapter belongs to.
const BEGINNINGS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Settings that matter only for starting a training, or not at all.
const WITHOUT_EFFECT: [&str; 16] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    // ms-swift's additions to PEFT.
    "lora_dtype",
    "lorap_lr_ratio",
];

/// Settings that [`AdapterConfig`] holds, or that [`AdapterConfig::from_json`] checks by name.
const HONOURED: [&str; 16] = [
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
    "lora_bias",
];

impl AdapterConfig {
    /// Reads PEFT's JSON.
    ///
    /// # Errors
    /// Every setting that is absent, wrong or not supported, a sentence each.
    pub fn from_json(value: &Value) -> Result<AdapterConfig, Vec<String>> {
        let Value::Object(fields) = value else { return Err(vec!["expected a JSON object at the top of the file".into()]) };
        let mut reading = Reading { fields, problems: unsupported(fields) };
        let names = "a list of names or a regular expression";
        let rank = reading.required("r", Value::as_i64, "a whole number");
        let alpha = reading.required("lora_alpha", Value::as_f64, "a number");
        let targets = reading.required("target_modules", read_targets, names);
        let dropout = reading.optional("lora_dropout", Value::as_f64, "a number").unwrap_or(0.0);
        let rslora = reading.optional("use_rslora", Value::as_bool, "true or false").unwrap_or(false);
        let dora = reading.optional("use_dora", Value::as_bool, "true or false").unwrap_or(false);
        let exclude = reading.optional("exclude_modules", read_targets, names);
        let numbers = reading.optional("layers_to_transform", read_numbers, "a number or a list of numbers");
        let patterns = reading.optional("layers_pattern", read_names, "a name or a list of names").unwrap_or_default();
        let rank_pattern =
            reading.optional("rank_pattern", |v| read_pairs(v, Value::as_i64), "an object of whole numbers").unwrap_or_default();
        let alpha_pattern =
            reading.optional("alpha_pattern", |v| read_pairs(v, Value::as_f64), "an object of numbers").unwrap_or_default();
        let base_model = fields.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_string);
        let mut problems = reading.problems;
        let (Some(rank), Some(alpha), Some(targets)) = (rank, alpha, targets) else { return Err(problems) };
        // To PEFT an empty list is no restriction.
        let layers = numbers.filter(|numbers| !numbers.is_empty()).map(|numbers| Layers { numbers, patterns });
        let config = AdapterConfig {
            rank,
            alpha,
            dropout,
            rslora,
            dora,
            targets,
            exclude,
            layers,
            rank_pattern,
            alpha_pattern,
            base_model,
        };
        problems.extend(config.problems());
        problems.extend(Selector::new(&config).err().unwrap_or_default());
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// The JSON that PEFT reads.
    pub fn to_json(&self) -> Value {
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_model,
            "inference_mode": true,
            "r": self.rank,
            "lora_alpha": whole(self.alpha),
            "lora_dropout": self.dropout,
            "use_rslora": self.rslora,
            "use_dora": self.dora,
            "target_modules": self.targets.to_json(),
            "exclude_modules": self.exclude.as_ref().map(Targets::to_json),
            "layers_to_transform": self.layers.as_ref().map(|layers| &layers.numbers),
            "layers_pattern": self.layers.as_ref().map(|layers| &layers.patterns).filter(|patterns| !patterns.is_empty()),
            "rank_pattern": self.rank_pattern.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>(),
            "alpha_pattern": self.alpha_pattern.iter().map(|(k, v)| (k.clone(), whole(*v))).collect::<Map<_, _>>(),
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "modules_to_save": null,
        })
    }

    /// Contradictions in values, a sentence each.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let ranks = self.rank_pattern.iter().map(|(_, rank)| *rank).chain([self.rank]);
        problems.extend(
            ranks.filter(|rank| !(1..=1 << 20).contains(rank)).map(|rank| format!("the rank {rank} is not a number from 1")),
        );
        if !(0.0..1.0).contains(&self.dropout) {
            problems.push(format!("`lora_dropout` {} is not from 0 to below 1", self.dropout));
        }
        if self.layers.is_some() && !matches!(self.targets, Targets::Names(_)) {
            problems.push("`layers_to_transform` needs a list in `target_modules`".into());
        }
        problems
    }
}

impl Targets {
    fn to_json(&self) -> Value {
        match self {
            Targets::Names(names) => json!(names),
            Targets::Pattern(pattern) => json!(pattern),
            Targets::AllLinear => json!("all-linear"),
        }
    }
}

/// Whole numbers are written as PEFT writes them, without a point.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

fn read_targets(value: &Value) -> Option<Targets> {
    match value {
        Value::String(all) if all.eq_ignore_ascii_case("all-linear") => Some(Targets::AllLinear),
        Value::String(pattern) => Some(Targets::Pattern(pattern.clone())),
        _ => read_names(value).map(Targets::Names),
    }
}

fn read_names(value: &Value) -> Option<Vec<String>> {
    let list = std::slice::from_ref(value);
    value.as_array().map_or(list, Vec::as_slice).iter().map(|name| name.as_str().map(str::to_string)).collect()
}

fn read_numbers(value: &Value) -> Option<Vec<i64>> {
    let list = std::slice::from_ref(value);
    value.as_array().map_or(list, Vec::as_slice).iter().map(Value::as_i64).collect()
}

fn read_pairs<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<(String, T)>> {
    value.as_object()?.iter().map(|(key, value)| Some((key.clone(), read(value)?))).collect()
}

/// A setting that is null, false, or an empty list, object or text.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// Settings with an effect that this reader does not have.
fn unsupported(fields: &Map<String, Value>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut refuse = |key: &str, value: &Value, only: &str| {
        problems.push(format!("`{key}`: {value} is not supported, only {only}; {MERGE_FIRST}"));
    };
    for (key, value) in fields {
        match key.as_str() {
            "peft_type" if value != "LORA" => refuse(key, value, "LORA"),
            "bias" if value != "none" => refuse(key, value, "none"),
            "fan_in_fan_out" | "lora_bias" | "ensure_weight_tying" if !is_off(value) => refuse(key, value, "false"),
            "modules_to_save" if !is_off(value) => refuse(key, value, "null"),
            "init_lora_weights" if !leaves_the_base(value) => refuse(
                key,
                value,
                "true, false, gaussian, eva and orthogonal: the others change the base or the layers, so that the adapter alone does not \
                 belong to the published base",
            ),
            "loftq_config" if !is_off(value) => refuse(key, value, "an empty one"),
            known if WITHOUT_EFFECT.contains(&known) || HONOURED.contains(&known) => {}
            _ if is_off(value) => {}
            _ => refuse(key, value, "null or false"),
        }
    }
    if !fields.contains_key("peft_type") {
        problems.push("`peft_type` is missing, expected LORA".into());
    }
    problems
}

/// Whether an adapter that began so belongs to the base as it was published.
fn leaves_the_base(value: &Value) -> bool {
    value.is_boolean() || value.is_null() || value.as_str().is_some_and(|name| BEGINNINGS.contains(&name.to_lowercase().as_str()))
}

/// Reads settings and collects what is wrong with them.
struct Reading<'a> {
    fields: &'a Map<String, Value>,
    problems: Vec<String>,
}

impl Reading<'_> {
    fn optional<T>(&mut self, key: &str, read: impl Fn(&Value) -> Option<T>, expected: &str) -> Option<T> {
        let value = self.fields.get(key).filter(|value| !value.is_null())?;
        let found = read(value);
        if found.is_none() {
            self.problems.push(format!("`{key}`: {value} is not {expected}"));
        }
        found
    }

    fn required<T>(&mut self, key: &str, read: impl Fn(&Value) -> Option<T>, expected: &str) -> Option<T> {
        if self.fields.get(key).is_none_or(Value::is_null) {
            self.problems.push(format!("`{key}` is missing, expected {expected}"));
        }
        self.optional(key, read, expected)
    }
}
