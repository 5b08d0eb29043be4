//! The sizes of every network, read from the checkpoint's `config.json` and from nowhere else.

mod bert;
mod classifier;
mod encoders;
mod qwen;

pub use bert::BertConfig;
pub use classifier::{ClassifierConfig, Fusion};
pub(crate) use encoders::channels3;
pub use encoders::{ImageEncoder, ImageInput, Resample, SwinConfig, Vgg16Config};
pub use qwen::{QwenConfig, TextConfig, VisionConfig};

use crate::json::{ConfigError, Section};
use crate::weights::told_quantised;

/// The `model_type` of a classifier's folder.
pub const CLASSIFIER_MODEL_TYPE: &str = "mmlnb_classifier";

/// Refuses a `key` that is present with another text than the one that the networks implement.
fn expect_text(section: &Section, key: &str, expected: &str) -> Result<(), ConfigError> {
    match section.optional_text(key)? {
        Some(text) if text != expected => {
            Err(section.error(key, &format!("`{text}` is not supported here; expected {expected}")))
        }
        _ => Ok(()),
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

fn divided(section: &Section, key: &str, value: i64, by_key: &str, by: i64) -> Result<i64, ConfigError> {
    if value % by == 0 {
        return Ok(value / by);
    }
    Err(section.error(key, &format!("{value} does not divide by {by_key}, {by}")))
}
