//! The settings of a run: every key of the file that `--config` names; `describe.toml`, which is compiled in, has the defaults.

use super::schedule::Shape;
use crate::{error::TrainError, recipe::Compiled};
use mmlnb_models::{prepare::settings::SettingsFile, weights::KeyStyle};
use serde::{Deserialize, Serialize};
use std::{num::NonZeroU16, path::Path};

/// The defaults, and the keys that have none.
const COMPILED: Compiled<'static> = Compiled {
    texts: &[include_str!("../../describe.toml")],
    optional: &["image_size", "prompt", "max_new_tokens", "memory_gib", "threads"],
};

/// How the describer is tuned. The defaults are those of the paper's authors where they are known (rank 64, alpha 16, dropout 0.05, learning rate 1e-4, 5
/// epochs, 4 x 4 images a step).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is learnt beside or instead of the base's weights.
    pub method: Method,
    /// Rank of the adapter.
    pub rank: i64,
    /// The adapter's scale is `alpha / rank`, with rsLoRA `alpha / sqrt(rank)`.
    pub alpha: f64,
    /// Dropout before the adapter's A.
    pub dropout: f64,
    /// Linear layers that get an adapter: names, or `all-linear`.
    pub targets: Targets,
    /// Whether the language model learns.
    pub language: bool,
    /// Whether the vision tower's blocks learn.
    pub vision_blocks: bool,
    /// Whether the merger between both learns.
    pub merger: bool,
    /// How the adapter's files name modules: transformers from 4.52 on, or before.
    pub adapter_keys: AdapterKeys,
    /// The type in which the base computes and is kept.
    pub base_dtype: BaseDtype,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// AdamW's decay of what is trained.
    pub weight_decay: f64,
    /// Share of the steps in which the learning rate rises.
    pub warmup: f64,
    /// How it falls afterwards.
    pub schedule: Shape,
    /// Longest gradient, 0: any.
    pub clip: f64,
    /// Times that every image is seen.
    pub epochs: u64,
    /// Images computed together.
    pub batch_size: usize,
    /// Micro-batches of one step.
    pub accumulation: usize,
    /// Computes each block again when its gradients are due: least memory. Else all is kept, which saves a quarter of the time where it fits.
    pub recompute: bool,
    /// Start of all random streams but the split's.
    pub seed: u64,
    /// Another one, another split; both stages must have the same.
    pub split_seed: u64,
    /// Width and height of every image, multiples of 28, aspect ignored; without: smart_resize within the checkpoint's limits.
    pub image_size: Option<[i64; 2]>,
    /// The question after the image; without: the appliance's.
    pub prompt: Option<String>,
    /// false: the question is left out of the training turn, as the authors' code does.
    pub prompt_in_training: bool,
    /// The token that ends an answer.
    pub end_token: EndToken,
    /// Longest sequence in tokens; longer ones are refused before the start, never cut.
    pub max_tokens: usize,
    /// Descriptions that are written and measured after each epoch.
    pub validation_texts: usize,
    /// Longest of these in tokens.
    pub max_new_tokens: Option<usize>,
    /// Epochs without a better validation loss after which training stops; 0: never.
    pub patience: u64,
    /// Steps after which the state is saved, beside the end of each epoch; 0: only there.
    pub save_steps: u64,
    /// Shares of train, validation and test where the data has no `split` column.
    pub fractions: [f64; 3],
    /// GiB that may be used; without: what the device has free.
    pub memory_gib: Option<f64>,
    /// Threads of libtorch; without: one for small networks, else the physical cores.
    pub threads: Option<NonZeroU16>,
}

/// What is learnt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// `W + alpha / rank * B A`.
    Lora,
    /// `W + alpha / sqrt(rank) * B A`.
    Rslora,
    /// Rows of `W + alpha / rank * B A` brought to learnt lengths.
    Dora,
    /// The base's own weights.
    Full,
}

/// Names of linear layers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// `all-linear`.
    All(AllLinear),
    /// The last part of the modules' paths, for instance `q_proj`.
    Names(Vec<String>),
}

/// The word `all-linear`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AllLinear {
    /// Every linear layer of the parts that learn.
    #[serde(rename = "all-linear")]
    AllLinear,
}

/// Names of modules in an adapter's files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKeys {
    /// transformers from 4.52 on.
    New,
    /// transformers before 4.52.
    Old,
}

impl AdapterKeys {
    /// As the weights' reader has it.
    pub fn style(self) -> KeyStyle {
        match self {
            AdapterKeys::New => KeyStyle::Later,
            AdapterKeys::Old => KeyStyle::Old,
        }
    }
}

/// The base's type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseDtype {
    /// That of the checkpoint's weights; bf16 where they are f16.
    Checkpoint,
    /// 32-bit.
    F32,
    /// 16-bit, 5 bits of exponent: known, and refused, since gradients underflow in it.
    F16,
    /// 16-bit, 8 bits of exponent.
    Bf16,
}

/// What ends an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EndToken {
    /// `<|im_end|>`, as the chat template has it.
    #[serde(rename = "im_end")]
    ImEnd,
    /// `<|endoftext|>`, as the authors' code has it.
    #[serde(rename = "endoftext")]
    EndOfText,
}

impl EndToken {
    /// The token's text.
    pub fn text(self) -> &'static str {
        match self {
            EndToken::ImEnd => "<|im_end|>",
            EndToken::EndOfText => "<|endoftext|>",
        }
    }
}

impl Default for Recipe {
    fn default() -> Recipe {
        COMPILED.with(toml::Table::new(), Recipe::problems).expect("it is compiled in, and a test reads it")
    }
}

impl Recipe {
    /// The defaults, and over them the keys of a TOML file.
    ///
    /// # Errors
    /// A file that cannot be read, every unknown key with the names near it, values of the wrong type or out of range.
    pub fn read(file: Option<&Path>) -> Result<Recipe, TrainError> {
        file.map_or_else(|| Ok(Recipe::default()), |file| COMPILED.changed_by(file, Recipe::problems))
    }

    /// Prompt and generation settings, as the appliance's own settings file has them.
    pub fn settings(&self) -> SettingsFile {
        SettingsFile { prompt: self.prompt.clone(), max_new_tokens: self.max_new_tokens, ..SettingsFile::default() }
    }

    /// Everything out of range, a sentence each.
    fn problems(&self) -> Vec<String> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let checks = [
            (
                self.base_dtype != BaseDtype::F16,
                "`base_dtype = \"f16\"` does not train: gradients underflow in f16; set \"bf16\" (the same memory) or \"f32\"",
            ),
            ((1..=1 << 16).contains(&self.rank), "`rank` must be from 1 to 65536"),
            (positive(self.alpha), "`alpha` must be above 0"),
            ((0.0..1.0).contains(&self.dropout), "`dropout` must be from 0 to below 1"),
            (positive(self.learning_rate), "`learning_rate` must be above 0"),
            (self.weight_decay.is_finite() && self.weight_decay >= 0.0, "`weight_decay` must not be below 0"),
            (share(self.warmup), "`warmup` is a share of the steps, from 0 to 1"),
            (self.clip.is_finite() && self.clip >= 0.0, "`clip` must not be below 0"),
            (self.epochs >= 1, "`epochs` must be at least 1"),
            (self.batch_size >= 1, "`batch_size` must be at least 1"),
            (self.accumulation >= 1, "`accumulation` must be at least 1"),
            (self.language || self.vision_blocks || self.merger, "one of `language`, `vision_blocks` and `merger` must be true"),
            (
                self.image_size.is_none_or(|size| size.iter().all(|side| *side > 0 && side % 28 == 0)),
                "both sides of `image_size` must be multiples of 28",
            ),
            (self.fractions.iter().all(|part| share(*part)), "`fractions` are three shares, of train, validation and test"),
            (self.memory_gib.is_none_or(positive), "`memory_gib` must be above 0"),
            (self.seed.max(self.split_seed) <= i64::MAX as u64, "`seed` and `split_seed` must be below 2^63"),
        ];
        checks.into_iter().filter(|(fits, _)| !fits).map(|(_, problem)| problem.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SPLIT_SEED;

    fn changed(text: &str) -> Result<Recipe, String> {
        COMPILED.with(text.parse().unwrap(), Recipe::problems).map_err(|error| error.to_string())
    }

    /// Keys of the annotated file; those without a default stand behind `#`.
    fn keys(optional: bool) -> Vec<&'static str> {
        let lines = COMPILED.texts[0].lines().filter_map(|line| line.split_once(" = "));
        let keys = lines.map(|(key, _)| key).filter(|key| key.starts_with('#') == optional);
        keys.map(|key| key.trim_start_matches('#')).filter(|key| !key.contains(' ')).collect()
    }

    #[test]
    fn an_unknown_key_names_the_near_one() {
        let error = changed("learnig_rate = 1e-3\nepoch = 2").unwrap_err();
        assert!(error.contains("`learnig_rate` is no key of a recipe; did you mean `learning_rate`?"), "{error}");
        assert!(error.contains("`epoch` is no key of a recipe; did you mean `epochs`"), "{error}");
    }

    #[test]
    fn every_key_of_the_struct_is_known_and_no_other() {
        let whole = Recipe {
            image_size: Some([28, 28]),
            prompt: Some("p".into()),
            max_new_tokens: Some(3),
            memory_gib: Some(1.0),
            threads: NonZeroU16::new(2),
            ..Recipe::default()
        };
        let table = toml::Table::try_from(&whole).unwrap();
        let mut found: Vec<&str> = table.keys().map(String::as_str).collect();
        let mut known = [keys(false), keys(true)].concat();
        found.sort();
        known.sort();
        assert_eq!(found, known);
        assert_eq!(changed(&toml::to_string(&whole).unwrap()).unwrap(), whole);
    }

    #[test]
    fn the_annotated_file_names_every_key_without_a_default() {
        let (mut found, mut known) = (keys(true), COMPILED.optional.to_vec());
        found.sort();
        known.sort();
        assert_eq!(found, known);
        let usual = Recipe::default();
        assert_eq!((usual.rank, usual.alpha, usual.dropout, usual.learning_rate), (64, 16.0, 0.05, 1e-4));
        assert_eq!((usual.epochs, usual.batch_size, usual.accumulation, usual.seed), (5, 4, 4, 42));
        assert_eq!((usual.split_seed, usual.image_size, usual.threads), (SPLIT_SEED, None, None));
    }

    #[test]
    fn values_out_of_range_are_all_told() {
        let error = changed("rank = 0\ndropout = 1.5\nimage_size = [100, 56]\nlanguage = false").unwrap_err();
        for key in ["`rank`", "`dropout`", "`image_size`", "`language`"] {
            assert!(error.contains(key), "{error}");
        }
        assert!(changed("targets = \"all\"").is_err());
        assert_eq!(changed("targets = [\"q_proj\"]").unwrap().targets, Targets::Names(vec!["q_proj".into()]));
    }
}
