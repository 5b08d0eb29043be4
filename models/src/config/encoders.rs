//! Image encoders and what they are given.

use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::{CLASSIFIER_MODEL_TYPE, expect_text};
use crate::json::{self, ConfigError, Section};
use crate::prepare::stain::StainNormalisation;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resample {
    /// Triangle filter, support 1.
    Bilinear,
    /// Cubic convolution with a = -0.5, support 2.
    Bicubic,
}

/// How the classifier's image is prepared.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

    pub(super) fn read(section: &Section) -> Result<Self, ConfigError> {
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

    pub(super) fn read(section: &Section) -> Result<Self, ConfigError> {
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

pub(super) fn encoder_json(encoder: &ImageEncoder, input: &ImageInput) -> Value {
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
