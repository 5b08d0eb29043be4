//! Sizes of Qwen2.5-VL, in the hub's and the newer style of its config.

use std::path::Path;

use serde_json::Value;

use super::{divided, expect_text, refuse_quantised};
use crate::json::{self, ConfigError, Section};

/// Sizes of Qwen2.5-VL's language model.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Width of the residual stream.
    pub hidden: i64,
    /// Number of decoder layers.
    pub layers: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_size: i64,
    /// Width of the gated MLP.
    pub inner: i64,
    /// Rows of the embedding, more than the tokenizer has tokens.
    pub vocabulary: i64,
    /// Epsilon of every RMS norm.
    pub eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How many of the head's `head_size / 2` frequencies take the temporal, the row and the column position.
    pub mrope_section: Vec<i64>,
    /// Whether the output head is the embedding.
    pub tied: bool,
}

/// Sizes of Qwen2.5-VL's vision tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Width of the residual stream.
    pub hidden: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads.
    pub heads: i64,
    /// Width of the gated MLP.
    pub inner: i64,
    /// Width of an image token, that of the language model.
    pub output: i64,
    /// Side of a patch in pixels.
    pub patch: i64,
    /// Patches a side that are merged into one image token.
    pub merge: i64,
    /// Frames in one patch.
    pub temporal: i64,
    /// Side of an attention window in pixels.
    pub window: i64,
    /// Colour channels.
    pub channels: i64,
    /// Blocks that attend to the whole image instead of a window.
    pub full_attention: Vec<i64>,
    /// Epsilon of every RMS norm; stands in no config.
    pub eps: f64,
    /// Base of the rotary frequencies; stands in no config of the hub.
    pub rope_theta: f64,
}

/// A Qwen2.5-VL checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct QwenConfig {
    /// The language model.
    pub text: TextConfig,
    /// The vision tower.
    pub vision: VisionConfig,
    /// Id of `<|image_pad|>`, which stands for one image token.
    pub image_token: i64,
    /// Id of `<|video_pad|>`.
    pub video_token: i64,
    /// Id of `<|vision_start|>`.
    pub vision_start: i64,
    /// Id of `<|vision_end|>`.
    pub vision_end: i64,
    /// The type of the weights as the config names it, for example `bfloat16`.
    pub dtype: String,
}

impl QwenConfig {
    /// Reads `config.json` of a checkpoint's folder; both the hub's and the newer style.
    pub fn from_dir(dir: &Path) -> Result<Self, ConfigError> {
        let file = dir.join("config.json");
        Self::from_json(&file, &json::read(&file)?)
    }

    /// Reads a parsed config; `file` is named in errors.
    pub fn from_json(file: &Path, value: &Value) -> Result<Self, ConfigError> {
        let top = Section::top(file, value)?;
        expect_text(&top, "model_type", "qwen2_5_vl")?;
        let text = top.section("text_config")?.unwrap_or(top);
        refuse_quantised(&top)?;
        refuse_quantised(&text)?;
        let vision = top.required("vision_config", top.section("vision_config")?)?;
        let config = QwenConfig {
            text: text_config(&top, &text)?,
            vision: vision_config(&vision)?,
            image_token: token(&top, "image_token_id")?,
            video_token: token(&top, "video_token_id")?,
            vision_start: token(&top, "vision_start_token_id")?,
            vision_end: token(&top, "vision_end_token_id")?,
            dtype: dtype(&top, &text)?,
        };
        if config.vision.output != config.text.hidden {
            let problem =
                format!("{} differs from the language model's hidden_size {}", config.vision.output, config.text.hidden);
            return Err(vision.error("out_hidden_size", &problem));
        }
        Ok(config)
    }
}

fn text_config(top: &Section, text: &Section) -> Result<TextConfig, ConfigError> {
    expect_text(text, "hidden_act", "silu")?;
    if text.optional_bool("use_sliding_window")?.unwrap_or(false) {
        return Err(text.error("use_sliding_window", "true is not supported; Qwen2.5-VL is published with false"));
    }
    let (hidden, heads) = (text.size("hidden_size")?, text.size("num_attention_heads")?);
    let (rope_theta, mrope_section) = rope(text)?;
    let tied = match top.optional_bool("tie_word_embeddings")? {
        Some(tied) => tied,
        None => text.optional_bool("tie_word_embeddings")?.unwrap_or(false),
    };
    let config = TextConfig {
        hidden,
        layers: text.size("num_hidden_layers")?,
        heads,
        kv_heads: text.size("num_key_value_heads")?,
        head_size: match text.get("head_dim") {
            Some(_) => text.size("head_dim")?,
            None => divided(text, "hidden_size", hidden, "num_attention_heads", heads)?,
        },
        inner: text.size("intermediate_size")?,
        vocabulary: text.size("vocab_size")?,
        eps: text.number("rms_norm_eps")?,
        rope_theta,
        mrope_section,
        tied,
    };
    divided(text, "num_attention_heads", heads, "num_key_value_heads", config.kv_heads)?;
    check_sections(text, &config)?;
    Ok(config)
}

fn check_sections(text: &Section, config: &TextConfig) -> Result<(), ConfigError> {
    let sections = &config.mrope_section;
    let fits = sections.len() == 3
        && sections.iter().all(|&section| section >= 0)
        && sections.iter().sum::<i64>() * 2 == config.head_size;
    if fits {
        return Ok(());
    }
    let problem = format!("{sections:?} must be three numbers whose sum is half the head size {}", config.head_size);
    Err(text.error("mrope_section", &problem))
}

/// theta and the three sections: flat beside `rope_scaling`, or inside `rope_parameters`.
fn rope(text: &Section) -> Result<(f64, Vec<i64>), ConfigError> {
    let (outer, inner) = match text.section("rope_parameters")? {
        Some(parameters) => (parameters, parameters),
        None => (*text, text.required("rope_scaling", text.section("rope_scaling")?)?),
    };
    for key in ["rope_type", "type"] {
        if let Some(kind) = inner.optional_text(key)?
            && kind != "default"
            && kind != "mrope"
        {
            return Err(inner.error(key, &format!("`{kind}` is not supported; expected default or mrope")));
        }
    }
    Ok((outer.number("rope_theta")?, inner.integers("mrope_section")?))
}

fn vision_config(vision: &Section) -> Result<VisionConfig, ConfigError> {
    expect_text(vision, "hidden_act", "silu")?;
    let channels = if vision.get("in_channels").is_some() { "in_channels" } else { "in_chans" };
    let theta = match vision.section("rope_parameters")? {
        Some(parameters) => parameters.optional_number("rope_theta")?,
        None => None,
    };
    let config = VisionConfig {
        hidden: vision.size("hidden_size")?,
        depth: vision.size("depth")?,
        heads: vision.size("num_heads")?,
        inner: vision.size("intermediate_size")?,
        output: vision.size("out_hidden_size")?,
        patch: vision.size("patch_size")?,
        merge: vision.size("spatial_merge_size")?,
        temporal: vision.size("temporal_patch_size")?,
        window: vision.size("window_size")?,
        channels: vision.size(channels)?,
        full_attention: vision.integers("fullatt_block_indexes")?,
        eps: 1e-6,
        rope_theta: theta.unwrap_or(1e4),
    };
    let head = divided(vision, "hidden_size", config.hidden, "num_heads", config.heads)?;
    if head % 4 != 0 {
        return Err(vision.error("num_heads", &format!("the head size {head} must be a multiple of 4")));
    }
    divided(vision, "window_size", config.window, "patch_size * spatial_merge_size", config.patch * config.merge)?;
    if let Some(index) = config.full_attention.iter().find(|&&index| index < 0 || index >= config.depth) {
        let problem = format!("block {index} does not exist, depth is {}", config.depth);
        return Err(vision.error("fullatt_block_indexes", &problem));
    }
    Ok(config)
}

fn dtype(top: &Section, text: &Section) -> Result<String, ConfigError> {
    for section in [top, text] {
        for key in ["dtype", "torch_dtype"] {
            if let Some(dtype) = section.optional_text(key)? {
                return Ok(dtype.to_string());
            }
        }
    }
    Err(top.error("torch_dtype", "missing (newer checkpoints call it dtype)"))
}

fn token(top: &Section, key: &str) -> Result<i64, ConfigError> {
    let id = top.required(key, top.optional_integer(key)?)?;
    if id >= 0 { Ok(id) } else { Err(top.error(key, "a token id cannot be negative")) }
}
