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

fn divided(section: &Section, key: &str, value: i64, by_key: &str, by: i64) -> Result<i64, ConfigError> {
    if value % by == 0 {
        return Ok(value / by);
    }
    Err(section.error(key, &format!("{value} does not divide by {by_key}, {by}")))
}
