//! How the describer is asked and how it writes: prompt and generation settings.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    json::{self, ConfigError, Section},
    record::Record,
};

/// The authors' prompt, kept byte for byte so that their adapters work.
pub const PROMPT: &str = "You are a specialized pathologist, please describe what you see microscopically on the \
                          neuroblastoma pathology image.";
/// Tokens that end a description unless settings or `generation_config.json` name others.
pub const END_TOKENS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];
/// Most tokens of a description, the authors' value.
pub const MAX_NEW_TOKENS: usize = 256;
/// Used when the checkpoint's `generation_config.json` has no penalty; the value that Qwen publishes.
pub const REPETITION_PENALTY: f64 = 1.05;

/// What is wrong with a settings file.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("settings file {}: {source}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The parser's reason with line and column.
        source: Box<toml::de::Error>,
    },
    /// A value that makes no sense.
    #[error("{}, key `{key}`: {problem}", file.display())]
    Value {
        /// The file: settings or `generation_config.json`.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The checkpoint's `generation_config.json` is damaged.
    #[error(transparent)]
    Checkpoint(#[from] ConfigError),
}

/// A settings file: every key may be absent. Unknown keys are errors.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SettingsFile {
    /// The question put after the image; default [`PROMPT`].
    pub prompt: Option<String>,
    /// The system turn; default: the chat template's own.
    pub system: Option<String>,
    /// Most tokens of a description; default [`MAX_NEW_TOKENS`].
    pub max_new_tokens: Option<usize>,
    /// true: draw tokens at random; default false: always the likeliest.
    pub do_sample: Option<bool>,
    /// Divides the logits before drawing; default 1.
    pub temperature: Option<f64>,
    /// Draw among this many likeliest tokens only; 0, the default: among all.
    pub top_k: Option<usize>,
    /// Draw among the fewest tokens whose probability reaches this; default 1: among all.
    pub top_p: Option<f64>,
    /// Divides (or multiplies, below zero) the logits of tokens already seen; default: the checkpoint's, else
    /// [`REPETITION_PENALTY`].
    pub repetition_penalty: Option<f64>,
    /// Start of the random stream; default 0.
    pub seed: Option<u64>,
    /// Tokens that end a description, as text; default: the checkpoint's, else [`END_TOKENS`].
    pub end_tokens: Option<Vec<String>>,
}

/// Settings with every default filled in; they stand in the bundle's manifest.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct GenerationSettings {
    /// Most tokens of a description, the end token included.
    pub max_new_tokens: usize,
    /// false: greedy.
    pub do_sample: bool,
    /// Divides the logits before drawing.
    pub temperature: f64,
    /// Draw among this many likeliest tokens only; 0: all.
    pub top_k: usize,
    /// Draw among the fewest tokens whose probability reaches this; 1: all.
    pub top_p: f64,
    /// Penalty on every id seen so far, prompt included; 1: none.
    pub repetition_penalty: f64,
    /// Start of the random stream.
    pub seed: u64,
    /// Ids that end a description.
    pub end_tokens: Vec<i64>,
}

/// Prompt and settings with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The question put after the image.
    pub prompt: String,
    /// The system turn; `None`: the chat template's own.
    pub system: Option<String>,
    /// How tokens are chosen.
    pub generation: GenerationSettings,
}

impl SettingsFile {
    /// Reads a TOML file.
    pub fn read(file: &Path) -> Result<Self, SettingsError> {
        let text = super::source::text(file).map_err(|source| SettingsError::Unreadable { file: file.to_path_buf(), source })?;
        toml::from_str(&text).map_err(|source| SettingsError::Syntax { file: file.to_path_buf(), source: Box::new(source) })
    }
}

impl Settings {
    /// Settings of `file`, where it is silent those of the checkpoint's `generation_config.json`, then the defaults.
    ///
    /// Of `generation_config.json` only the repetition penalty and the end tokens count: decoding is greedy unless
    /// the settings file asks for sampling. `id_of` gives the id of a token's text.
    pub fn resolve(file: Option<&Path>, checkpoint: &Path, id_of: impl Fn(&str) -> Option<i64>) -> Result<Self, SettingsError> {
        Self::resolve_trained(file, checkpoint, None, id_of)
    }

    /// As [`Settings::resolve`], for a describer with a record of its training: its question goes before the default.
    pub fn resolve_trained(
        file: Option<&Path>,
        checkpoint: &Path,
        record: Option<&Record>,
        id_of: impl Fn(&str) -> Option<i64>,
    ) -> Result<Self, SettingsError> {
        let given = match file {
            Some(file) => SettingsFile::read(file)?,
            None => SettingsFile::default(),
        };
        Settings::complete(given, file, checkpoint, record, id_of)
    }

    /// As [`Settings::resolve_trained`], for settings that are read already; `file` is named in errors about them.
    pub fn complete(
        given: SettingsFile,
        file: Option<&Path>,
        checkpoint: &Path,
        record: Option<&Record>,
        id_of: impl Fn(&str) -> Option<i64>,
    ) -> Result<Self, SettingsError> {
        let config = checkpoint.join("generation_config.json");
        let published = if config.exists() { Published::read(&config)? } else { Published::default() };
        let named = file.unwrap_or(&config);
        let end_tokens = match (&given.end_tokens, published.end_tokens) {
            (Some(texts), _) => ids(named, texts, &id_of)?,
            (None, Some(ids)) => ids,
            (None, None) => ids(named, &END_TOKENS, &id_of)?,
        };
        let generation = GenerationSettings {
            max_new_tokens: given.max_new_tokens.unwrap_or(MAX_NEW_TOKENS),
            do_sample: given.do_sample.unwrap_or(false),
            temperature: given.temperature.unwrap_or(1.0),
            top_k: given.top_k.unwrap_or(0),
            top_p: given.top_p.unwrap_or(1.0),
            repetition_penalty: given.repetition_penalty.or(published.repetition_penalty).unwrap_or(REPETITION_PENALTY),
            seed: given.seed.unwrap_or(0),
            end_tokens,
        };
        generation.check(named)?;
        let trained = record.and_then(|record| record.prompt.clone());
        let prompt = given.prompt.or(trained).unwrap_or_else(|| PROMPT.to_string());
        if prompt.trim().is_empty() {
            return Err(value_error(named, "prompt", "is empty".to_string()));
        }
        Ok(Settings { prompt, system: given.system, generation })
    }
}

impl GenerationSettings {
    /// Refuses values outside their range; `file` is named in the error.
    pub fn check(&self, file: &Path) -> Result<(), SettingsError> {
        let range = |key, value: f64, fits: bool, expected: &str| {
            if fits { Ok(()) } else { Err(value_error(file, key, format!("{value}; expected {expected}"))) }
        };
        let tokens = self.max_new_tokens;
        range("max_new_tokens", tokens as f64, (1..=8192).contains(&tokens), "1 to 8192")?;
        let temperature = self.temperature;
        range("temperature", temperature, (0.0..=100.0).contains(&temperature), "0 to 100")?;
        range("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1")?;
        let penalty = self.repetition_penalty;
        range("repetition_penalty", penalty, penalty > 0.0 && penalty <= 100.0, "above 0, at most 100")?;
        if self.end_tokens.is_empty() {
            return Err(value_error(file, "end_tokens", "is empty; a description could not end".to_string()));
        }
        Ok(())
    }
}

/// What the checkpoint's `generation_config.json` says.
#[derive(Default)]
struct Published {
    repetition_penalty: Option<f64>,
    end_tokens: Option<Vec<i64>>,
}

impl Published {
    fn read(file: &Path) -> Result<Self, ConfigError> {
        let value = json::read(file)?;
        let top = Section::top(file, &value)?;
        let end_tokens = match top.get("eos_token_id") {
            None => None,
            Some(value) if value.is_array() => Some(top.integers("eos_token_id")?),
            Some(_) => top.optional_integer("eos_token_id")?.map(|id| vec![id]),
        };
        Ok(Published { repetition_penalty: top.optional_number("repetition_penalty")?, end_tokens })
    }
}

fn ids<T: AsRef<str>>(file: &Path, texts: &[T], id_of: impl Fn(&str) -> Option<i64>) -> Result<Vec<i64>, SettingsError> {
    texts
        .iter()
        .map(|text| {
            let text = text.as_ref();
            id_of(text).ok_or_else(|| value_error(file, "end_tokens", format!("`{text}` is no token of this tokenizer")))
        })
        .collect()
}

fn value_error(file: &Path, key: &'static str, problem: String) -> SettingsError {
    SettingsError::Value { file: file.to_path_buf(), key, problem }
}
