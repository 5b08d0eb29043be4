//! The sizes of every network, read from the checkpoint's `config.json` and from nowhere else.

use std::path::Path;

use serde_json::{Value, json};

use crate::json::{self, ConfigError, Section};
use crate::prepare::stain::StainNormalisation;
use crate::weights::told_quantised;

/// The `model_type` of a classifier's folder.
pub const CLASSIFIER_MODEL_TYPE: &str = "mmlnb_classifier";

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

/// Widths of a VGG16 encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Vgg16Config {
    /// Channels of the five stages.
    pub channels: Vec<i64>,
}

/// Sizes of a Swin encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct SwinConfig {
    /// Channels of the first stage; each further stage doubles them.
    pub embed: i64,
    /// Blocks of each stage.
    pub depths: Vec<i64>,
    /// Attention heads of each stage.
    pub heads: Vec<i64>,
    /// Side of an attention window in positions.
    pub window: i64,
    /// Side of a patch in pixels.
    pub patch: i64,
    /// Width of the MLP over the width of the stage.
    pub mlp_ratio: f64,
    /// Epsilon of every layer norm.
    pub eps: f64,
}

/// The classifier's image encoder.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageEncoder {
    /// VGG16's convolutions, averaged over positions.
    Vgg16(Vgg16Config),
    /// A Swin transformer, averaged over positions after the last norm.
    Swin(SwinConfig),
}

/// A resampling filter, as Pillow defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// Triangle filter, support 1.
    Bilinear,
    /// Cubic convolution with a = -0.5, support 2.
    Bicubic,
}

/// How the classifier's image is prepared.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageInput {
    /// Width in pixels.
    pub width: i64,
    /// Height in pixels.
    pub height: i64,
    /// Filter of the resize, which ignores the aspect.
    pub resample: Resample,
    /// Mean of each channel, on values from 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel, on values from 0 to 1.
    pub std: [f32; 3],
    /// Stain normalisation before the resize; a classifier's config holds it as `stain_normalisation`.
    pub stain: Option<StainNormalisation>,
}

/// How image and text become one vector F.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fusion {
    /// PRMF: `alpha T + (1 - alpha) I'` with a confidence network that gives alpha.
    Prmf,
    /// `[I; T]`, one after the other.
    Concat,
    /// `alpha T + (1 - alpha) I'` with this alpha for every item.
    Fixed(f64),
}

/// A classifier: encoders, fusion and heads.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassifierConfig {
    /// Names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// The image encoder and its input; `None` in a text-only classifier.
    pub image: Option<(ImageEncoder, ImageInput)>,
    /// The text encoder; `None` in an image-only classifier.
    pub text: Option<BertConfig>,
    /// How they are fused; only used when both encoders are there.
    pub fusion: Fusion,
    /// Hidden width of a two-layer confidence network; `None`: one linear layer.
    pub confidence_hidden: Option<i64>,
    /// Whether a head on the image features alone exists.
    pub image_head: bool,
    /// Dropout before the classifier while training.
    pub dropout: f64,
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

/// Refuses quantised weights before their tensors are looked at.
fn refuse_quantised(section: &Section) -> Result<(), ConfigError> {
    let Some(found) = section.section("quantization_config")? else { return Ok(()) };
    // What bitsandbytes leaves in the configuration of weights that were brought back.
    let off = |key| Ok::<_, ConfigError>(found.optional_bool(key)? == Some(false));
    if off("load_in_4bit")? && off("load_in_8bit")? {
        return Ok(());
    }
    let method = found.optional_text("quant_method")?.unwrap_or("method not named");
    Err(section.error("quantization_config", &told_quantised(method, "settings in config.json")))
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

    fn read(section: &Section) -> Result<Self, ConfigError> {
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

impl ImageEncoder {
    /// Reads `config.json` of an encoder's folder or, in a classifier's folder, its `image_encoder`.
    pub fn from_dir(dir: &Path) -> Result<Self, ConfigError> {
        let file = dir.join("config.json");
        Self::from_json(&file, &json::read(&file)?)
    }

    /// Reads a parsed config; `file` is named in errors.
    pub fn from_json(file: &Path, value: &Value) -> Result<Self, ConfigError> {
        let top = Section::top(file, value)?;
        Self::read(&encoder_section(&top)?)
    }

    fn read(section: &Section) -> Result<Self, ConfigError> {
        let key = if section.get("architecture").is_some() { "architecture" } else { "model_type" };
        let encoder = match section.text(key)? {
            "vgg16" => ImageEncoder::Vgg16(vgg16_config(section)?),
            "swin" => ImageEncoder::Swin(swin_config(section)?),
            other => return Err(section.error(key, &format!("`{other}` is not known; expected vgg16 or swin"))),
        };
        match section.optional_integer("feature_size")? {
            Some(size) if size != encoder.features() => {
                let problem = format!("{size} contradicts the sizes beside it, which give {}", encoder.features());
                Err(section.error("feature_size", &problem))
            }
            _ => Ok(encoder),
        }
    }

    /// Number of image features.
    pub fn features(&self) -> i64 {
        match self {
            ImageEncoder::Vgg16(config) => config.channels[4],
            ImageEncoder::Swin(config) => config.embed << (config.depths.len() - 1),
        }
    }
}

fn encoder_section<'a>(top: &Section<'a>) -> Result<Section<'a>, ConfigError> {
    if top.optional_text("model_type")? == Some(CLASSIFIER_MODEL_TYPE) {
        return top.required("image_encoder", top.section("image_encoder")?);
    }
    Ok(*top)
}

fn vgg16_config(section: &Section) -> Result<Vgg16Config, ConfigError> {
    let channels = section.integers("channels")?;
    if channels.len() != 5 || channels.iter().any(|&width| width <= 0 || width > i64::from(i32::MAX)) {
        return Err(section.error("channels", &format!("{channels:?} must be five widths above zero")));
    }
    Ok(Vgg16Config { channels })
}

fn swin_config(section: &Section) -> Result<SwinConfig, ConfigError> {
    expect_text(section, "hidden_act", "gelu")?;
    let config = SwinConfig {
        embed: section.size("embed_dim")?,
        depths: section.integers("depths")?,
        heads: section.integers("num_heads")?,
        window: section.size("window_size")?,
        patch: section.size("patch_size")?,
        mlp_ratio: section.number("mlp_ratio")?,
        eps: section.number("layer_norm_eps")?,
    };
    if config.depths.is_empty() || config.depths.len() > 8 || config.depths.iter().any(|&depth| depth <= 0) {
        return Err(section.error("depths", &format!("{:?} must be one to eight numbers above zero", config.depths)));
    }
    if config.heads.len() != config.depths.len() {
        return Err(section.error("num_heads", "must have as many entries as `depths`"));
    }
    for (stage, &heads) in config.heads.iter().enumerate() {
        if heads <= 0 || (config.embed << stage) % heads != 0 {
            let problem = format!("{heads} heads do not divide the {} channels of stage {stage}", config.embed << stage);
            return Err(section.error("num_heads", &problem));
        }
    }
    Ok(config)
}

impl ImageInput {
    /// Reads `image_size`, `resample`, `image_mean` and `image_std` of an encoder's section.
    pub fn from_json(file: &Path, value: &Value) -> Result<Self, ConfigError> {
        let top = Section::top(file, value)?;
        Self::read(&encoder_section(&top)?)
    }

    fn read(section: &Section) -> Result<Self, ConfigError> {
        let size = match section.get("image_size") {
            Some(Value::Number(_)) => vec![section.size("image_size")?; 2],
            _ => section.integers("image_size")?,
        };
        let &[width, height] = size.as_slice() else {
            return Err(section.error("image_size", "expected [width, height]"));
        };
        if !(1..=8192).contains(&width) || !(1..=8192).contains(&height) {
            return Err(section.error("image_size", &format!("{width} x {height} is out of range, 1 to 8192 a side")));
        }
        let resample = match section.text("resample")? {
            "bilinear" => Resample::Bilinear,
            "bicubic" => Resample::Bicubic,
            other => return Err(section.error("resample", &format!("`{other}` is not known; expected bilinear or bicubic"))),
        };
        let (mean, std) = (channels3(section, "image_mean")?, channels3(section, "image_std")?);
        if std.iter().any(|&value| value <= 0.0) {
            return Err(section.error("image_std", "every value must be above zero"));
        }
        Ok(ImageInput { width, height, resample, mean, std, stain: None })
    }
}

/// Three numbers, one a colour channel.
pub(crate) fn channels3(section: &Section, key: &str) -> Result<[f32; 3], ConfigError> {
    match section.numbers(key)?.as_slice() {
        &[red, green, blue] => Ok([red as f32, green as f32, blue as f32]),
        _ => Err(section.error(key, "expected three numbers")),
    }
}

impl ClassifierConfig {
    /// Reads `config.json` of a classifier's folder.
    pub fn from_dir(dir: &Path) -> Result<Self, ConfigError> {
        let file = dir.join("config.json");
        Self::from_json(&file, &json::read(&file)?)
    }

    /// Reads a parsed config; `file` is named in errors.
    pub fn from_json(file: &Path, value: &Value) -> Result<Self, ConfigError> {
        let top = Section::top(file, value)?;
        let kind = top.text("model_type")?;
        if kind != CLASSIFIER_MODEL_TYPE {
            return Err(top.error("model_type", &format!("`{kind}` is not a classifier; expected {CLASSIFIER_MODEL_TYPE}")));
        }
        let image = match top.section("image_encoder")? {
            Some(section) => {
                let input = ImageInput { stain: stain_normalisation(&top)?, ..ImageInput::read(&section)? };
                Some((ImageEncoder::read(&section)?, input))
            }
            None => None,
        };
        let text = match top.section("text_encoder")? {
            Some(section) => Some(BertConfig::read(&section)?),
            None => None,
        };
        if image.is_none() && text.is_none() {
            return Err(top.error("image_encoder", "a classifier needs an image encoder, a text encoder, or both"));
        }
        Ok(ClassifierConfig {
            classes: classes(&top)?,
            image,
            text,
            fusion: fusion(&top)?,
            confidence_hidden: match top.get("confidence_hidden") {
                Some(_) => Some(top.size("confidence_hidden")?),
                None => None,
            },
            image_head: top.optional_bool("image_head")?.unwrap_or(true),
            dropout: dropout(&top)?,
        })
    }
}

impl ClassifierConfig {
    /// As `config.json` of a classifier's folder has it; [`ClassifierConfig::from_json`] gives the same back. The dropout stands below `recipe`, where a
    /// trainer adds the rest of its settings.
    pub fn to_json(&self) -> Value {
        let (fusion, alpha) = match self.fusion {
            Fusion::Prmf => ("prmf", None),
            Fusion::Concat => ("concat", None),
            Fusion::Fixed(alpha) => ("fixed", Some(alpha)),
        };
        let mut config = json!({
            "model_type": CLASSIFIER_MODEL_TYPE,
            "classes": self.classes,
            "image_encoder": self.image.as_ref().map(|(encoder, input)| encoder_json(encoder, input)),
            "text_encoder": self.text.as_ref().map(bert_json),
            "fusion": fusion,
            "confidence_hidden": self.confidence_hidden,
            "image_head": self.image_head,
            "recipe": { "dropout": self.dropout },
        });
        if let Some(alpha) = alpha {
            config["alpha_text"] = alpha.into();
        }
        if let Some(stain) = self.image.as_ref().and_then(|(_, input)| input.stain.as_ref()) {
            config["stain_normalisation"] = json!(stain);
        }
        config
    }
}

fn encoder_json(encoder: &ImageEncoder, input: &ImageInput) -> Value {
    let mut section = match encoder {
        ImageEncoder::Vgg16(config) => json!({ "architecture": "vgg16", "channels": config.channels }),
        ImageEncoder::Swin(config) => json!({
            "architecture": "swin",
            "embed_dim": config.embed,
            "depths": config.depths,
            "num_heads": config.heads,
            "window_size": config.window,
            "patch_size": config.patch,
            "mlp_ratio": config.mlp_ratio,
            "layer_norm_eps": config.eps,
        }),
    };
    section["feature_size"] = encoder.features().into();
    section["image_size"] = json!([input.width, input.height]);
    section["resample"] = match input.resample {
        Resample::Bilinear => "bilinear".into(),
        Resample::Bicubic => "bicubic".into(),
    };
    // Written as decimal numbers of f32: 0.485, not the f64 nearest to it.
    let decimal = |values: [f32; 3]| values.map(|value| value.to_string().parse::<f64>().unwrap_or(f64::from(value)));
    section["image_mean"] = json!(decimal(input.mean));
    section["image_std"] = json!(decimal(input.std));
    section
}

fn bert_json(config: &BertConfig) -> Value {
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

/// `fusion`: prmf where it is absent, concat, or fixed with a number `alpha_text` beside it.
fn fusion(top: &Section) -> Result<Fusion, ConfigError> {
    match top.optional_text("fusion")?.unwrap_or("prmf") {
        "prmf" => Ok(Fusion::Prmf),
        "concat" => Ok(Fusion::Concat),
        "fixed" => match top.number("alpha_text")? {
            alpha if (0.0..=1.0).contains(&alpha) => Ok(Fusion::Fixed(alpha)),
            alpha => Err(top.error("alpha_text", &format!("{alpha} must lie in 0 ..= 1"))),
        },
        other => Err(top.error("fusion", &format!("`{other}` is not known; expected prmf, concat or fixed"))),
    }
}

fn stain_normalisation(top: &Section) -> Result<Option<StainNormalisation>, ConfigError> {
    let Some(value) = top.get("stain_normalisation") else { return Ok(None) };
    let wrong = |problem: &str| top.error("stain_normalisation", problem);
    let stain: StainNormalisation = serde_json::from_value(value.clone()).map_err(|error| wrong(&error.to_string()))?;
    stain.problem().map_or(Ok(Some(stain)), |problem| Err(wrong(&problem)))
}

fn classes(top: &Section) -> Result<Vec<String>, ConfigError> {
    let names: Vec<String> = top.texts("classes")?.into_iter().map(str::to_string).collect();
    if names.len() < 2 || names.iter().any(|name| name.trim().is_empty()) {
        return Err(top.error("classes", "expected at least two names, none of them empty"));
    }
    if let Some(twice) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
        return Err(top.error("classes", &format!("`{}` stands there twice", twice.1)));
    }
    Ok(names)
}

/// The recipe's dropout; 0.3, the paper's, when the config records no recipe.
fn dropout(top: &Section) -> Result<f64, ConfigError> {
    let Some(recipe) = top.section("recipe")? else { return Ok(0.3) };
    let dropout = recipe.optional_number("dropout")?.unwrap_or(0.3);
    if (0.0..1.0).contains(&dropout) { Ok(dropout) } else { Err(recipe.error("dropout", "must lie in 0 .. 1")) }
}

/// Refuses a `key` that is present with another text than the one that the networks implement.
fn expect_text(section: &Section, key: &str, expected: &str) -> Result<(), ConfigError> {
    match section.optional_text(key)? {
        Some(text) if text != expected => {
            Err(section.error(key, &format!("`{text}` is not supported here; expected {expected}")))
        }
        _ => Ok(()),
    }
}

fn divided(section: &Section, key: &str, value: i64, by_key: &str, by: i64) -> Result<i64, ConfigError> {
    if value % by == 0 {
        return Ok(value / by);
    }
    Err(section.error(key, &format!("{value} does not divide by {by_key}, {by}")))
}
