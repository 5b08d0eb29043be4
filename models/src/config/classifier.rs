//! A classifier's folder: encoders, fusion and heads.

use std::path::Path;

use serde_json::{Value, json};

use super::CLASSIFIER_MODEL_TYPE;
use super::bert::{BertConfig, bert_json};
use super::encoders::{ImageEncoder, ImageInput, encoder_json};
use crate::json::{self, ConfigError, Section};
use crate::prepare::stain::StainNormalisation;

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
