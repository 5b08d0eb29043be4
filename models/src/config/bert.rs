//! Sizes of BERT.

use std::path::Path;

use serde_json::{Value, json};

use super::{CLASSIFIER_MODEL_TYPE, divided, expect_text, refuse_quantised};
use crate::json::{self, ConfigError, Section};

/// Sizes of a BERT encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// Rows of the word embedding.
    pub vocabulary: i64,
    /// Width.
    pub hidden: i64,
    /// Number of layers.
    pub layers: i64,
    /// Attention heads.
    pub heads: i64,
    /// Width of the MLP.
    pub inner: i64,
    /// Rows of the position embedding.
    pub positions: i64,
    /// Rows of the token type embedding.
    pub types: i64,
    /// Epsilon of every layer norm.
    pub eps: f64,
    /// Dropout after embeddings, attention and MLP while training.
    pub dropout: f64,
    /// Dropout on attention weights while training.
    pub attention_dropout: f64,
    /// Longest text in tokens that the classifier reads; `None` in a plain BERT checkpoint.
    pub max_length: Option<i64>,
}

impl BertConfig {
    /// Reads `config.json` of a BERT checkpoint or, in a classifier's folder, its `text_encoder`.
    pub fn from_dir(dir: &Path) -> Result<Self, ConfigError> {
        let file = dir.join("config.json");
        Self::from_json(&file, &json::read(&file)?)
    }

    /// Reads a parsed config; `file` is named in errors.
    pub fn from_json(file: &Path, value: &Value) -> Result<Self, ConfigError> {
        let top = Section::top(file, value)?;
        if top.optional_text("model_type")? == Some(CLASSIFIER_MODEL_TYPE) {
            return Self::read(&top.required("text_encoder", top.section("text_encoder")?)?);
        }
        Self::read(&top)
    }

    pub(super) fn read(section: &Section) -> Result<Self, ConfigError> {
        expect_text(section, "model_type", "bert")?;
        refuse_quantised(section)?;
        expect_text(section, "hidden_act", "gelu")?;
        expect_text(section, "position_embedding_type", "absolute")?;
        let config = BertConfig {
            vocabulary: section.size("vocab_size")?,
            hidden: section.size("hidden_size")?,
            layers: section.size("num_hidden_layers")?,
            heads: section.size("num_attention_heads")?,
            inner: section.size("intermediate_size")?,
            positions: section.size("max_position_embeddings")?,
            types: section.size("type_vocab_size")?,
            eps: section.number("layer_norm_eps")?,
            dropout: section.number("hidden_dropout_prob")?,
            attention_dropout: section.number("attention_probs_dropout_prob")?,
            max_length: section.optional_integer("max_length")?,
        };
        divided(section, "hidden_size", config.hidden, "num_attention_heads", config.heads)?;
        match config.max_length {
            Some(length) if length < 2 || length > config.positions => {
                let problem = format!("{length} must lie between 2 and max_position_embeddings, {}", config.positions);
                Err(section.error("max_length", &problem))
            }
            _ => Ok(config),
        }
    }

    /// Tokens, ``[CLS]`` and ``[SEP]`` included, after which a text is cut: `max_length`, or every position there is.
    pub fn longest_text(&self) -> i64 {
        self.max_length.unwrap_or(self.positions)
    }
}

pub(super) fn bert_json(config: &BertConfig) -> Value {
    json!({
        "model_type": "bert",
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.inner,
        "hidden_act": "gelu",
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.types,
        "layer_norm_eps": config.eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "position_embedding_type": "absolute",
        "max_length": config.max_length,
    })
}
