//! Recipes: small TOML files, compiled in; `--config` changes keys of one.

use super::schedule::{Curriculum, LambdaSchedule};
use crate::{
    error::TrainError,
    optimiser::OptimiserOptions,
    recipe::{Compiled, changes_of, near},
};
use mmlnb_models::config::{ClassifierConfig, Fusion, ImageEncoder, SwinConfig, Vgg16Config};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    collections::BTreeSet,
    num::NonZeroU16,
    path::{Path, PathBuf},
};

/// Every recipe by its name. The first one gives all keys that the others do not name.
const RECIPES: [(&str, &str); 15] = [
    ("paper", include_str!("../../recipes/paper.toml")),
    ("released", include_str!("../../recipes/released.toml")),
    ("no-prmf-concat", include_str!("../../recipes/no-prmf-concat.toml")),
    ("no-prmf-fixed-0.3", include_str!("../../recipes/no-prmf-fixed-0.3.toml")),
    ("no-prmf-fixed-0.5", include_str!("../../recipes/no-prmf-fixed-0.5.toml")),
    ("no-prmf-fixed-0.7", include_str!("../../recipes/no-prmf-fixed-0.7.toml")),
    ("no-curriculum", include_str!("../../recipes/no-curriculum.toml")),
    ("slow", include_str!("../../recipes/slow.toml")),
    ("image-only", include_str!("../../recipes/image-only.toml")),
    ("text-only", include_str!("../../recipes/text-only.toml")),
    ("swin", include_str!("../../recipes/swin.toml")),
    ("swin-image-only", include_str!("../../recipes/swin-image-only.toml")),
    ("base-vlm", include_str!("../../recipes/base-vlm.toml")),
    ("human-text", include_str!("../../recipes/human-text.toml")),
    ("robust", include_str!("../../recipes/robust.toml")),
];

/// Keys that no recipe needs to set.
const OPTIONAL: [&str; 12] = [
    "threads",
    "start",
    "image_weights",
    "text_weights",
    "descriptions",
    "alpha_text",
    "text_unfrozen_from_epoch",
    "encoders_frozen_from_epoch",
    "embed_dim",
    "depths",
    "num_heads",
    "window_size",
];

/// What the classifier reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inputs {
    /// Image and text.
    Fused,
    /// The image.
    ImageOnly,
    /// The text.
    TextOnly,
}

/// Where an encoder's weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// A file or folder that the recipe names.
    Pretrained,
    /// The seed.
    Random,
}

/// The kind of image encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EncoderKind {
    /// VGG16's convolutions.
    Vgg16,
    /// Swin.
    Swin,
}

/// How image and text are fused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FusionKind {
    /// With a confidence network.
    Prmf,
    /// One after the other.
    Concat,
    /// With the number `alpha_text`.
    Fixed,
}

/// What dropout does in frozen encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrozenMode {
    /// It drops, as in PyTorch's train mode.
    Train,
    /// It is off.
    Eval,
}

/// The optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// Decay added to the gradient.
    Adam,
    /// Decay on the weights.
    Adamw,
}

/// Which items an epoch shows, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampling {
    /// Each once.
    Shuffled,
    /// Each class as often as the others.
    Balanced,
    /// Each once, as the file has them.
    InOrder,
}

/// Weights of the classes in the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassWeights {
    /// All 1.
    None,
    /// Items / (classes * items of the class).
    Balanced,
}

/// Whose words the texts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Descriptions {
    /// Those of the CSV file.
    Csv,
    /// The tuned describer's.
    Generated,
    /// The describer's without its adapter.
    Base,
    /// While training sometimes those of the file, sometimes the describer's; the describer's in validation and test.
    Mixed,
}

/// How stains are brought to a common look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StainNormalisation {
    /// Not at all.
    None,
    /// Macenko et al. 2009.
    Macenko,
    /// Reinhard et al. 2001.
    Reinhard,
}

/// What stands in the place of the texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NullText {
    /// Nothing: they are what they are.
    None,
    /// The text of another patient.
    Shuffled,
    /// Their own, with the words that name a class masked.
    Masked,
}

/// What stands in the place of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NullImage {
    /// Nothing: they are what they are.
    None,
    /// White.
    Blank,
}

/// Everything that a recipe says; the keys are explained in `recipes/paper.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "recipes/paper.toml explains each key beside its value")]
pub struct Recipe {
    pub inputs: Inputs,
    pub image_encoder: EncoderKind,
    pub channels: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed_dim: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depths: Option<Vec<i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_heads: Option<Vec<i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_size: Option<i64>,
    pub image_init: Init,
    pub text_init: Init,
    pub image_size: [i64; 2],
    pub max_length: i64,
    pub fusion: FusionKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_text: Option<f64>,
    pub confidence_hidden: i64,
    pub image_head: bool,
    pub dropout: f64,
    pub epochs: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_unfrozen_from_epoch: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoders_frozen_from_epoch: Option<usize>,
    pub lambda_start: f64,
    pub lambda_end: f64,
    pub lambda_schedule: LambdaSchedule,
    pub frozen_mode: FrozenMode,
    pub optimizer: OptimizerKind,
    pub learning_rate: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    pub batch_size: usize,
    pub sampling: Sampling,
    pub class_weights: ClassWeights,
    pub label_smoothing: f64,
    pub flips: bool,
    pub rotations: bool,
    pub stain_jitter: f64,
    pub stain_normalisation: StainNormalisation,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptions: Option<Descriptions>,
    pub mixed_share: f64,
    pub null_text: NullText,
    pub null_image: NullImage,
    pub patience: usize,
    pub accepted_error: f64,
    pub accepted_confidence: f64,
    pub false_alarm: f64,
    pub recompute: bool,
    pub seed: u64,
    /// Of libtorch; `run.toml` holds what was chosen, a classifier's folder does not.
    #[serde(skip_serializing)]
    pub threads: Option<NonZeroU16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_weights: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_weights: Option<PathBuf>,
    /// Keys that were given and are not the recipe's own.
    #[serde(skip)]
    pub given: BTreeSet<String>,
}

/// Names of all recipes.
pub fn recipe_names() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().map(|(name, _)| *name)
}

impl Recipe {
    /// The recipe `name` with the keys of `config` changed.
    ///
    /// # Errors
    /// A recipe that does not exist, a file that cannot be read, a key that no recipe has (with those that look like it), a value that makes no sense.
    pub fn load(name: &str, config: Option<&Path>) -> Result<Recipe, TrainError> {
        match config {
            None => Recipe::with_changes(name, toml::Table::new()),
            Some(file) => changes_of(file, |changes| Recipe::with_changes(name, changes)),
        }
    }

    /// As [`Recipe::load`], the changes given as a table.
    ///
    /// # Errors
    /// As there.
    pub fn with_changes(name: &str, changes: toml::Table) -> Result<Recipe, TrainError> {
        let given = changes.keys().cloned().collect();
        let recipe: Recipe = compiled(&texts(name)?).with(changes, Recipe::problems)?;
        Ok(Recipe { given, ..recipe })
    }

    /// The recipe with the sizes that its networks have: those of `start` and of the folder of text_weights go before a recipe's own.
    ///
    /// # Errors
    /// A size that was given and is another.
    pub fn settled(&self, used: &ClassifierConfig) -> Result<Recipe, TrainError> {
        let mut settled = self.clone();
        if let Some((encoder, input)) = &used.image {
            settled.image_size = [input.width, input.height];
            match encoder {
                ImageEncoder::Vgg16(vgg) => settled.channels = vgg.channels.clone(),
                ImageEncoder::Swin(swin) => {
                    settled.embed_dim = Some(swin.embed);
                    settled.depths = Some(swin.depths.clone());
                    settled.num_heads = Some(swin.heads.clone());
                    settled.window_size = Some(swin.window);
                }
            }
        }
        if let Some(text) = &used.text {
            settled.max_length = text.longest_text();
        }
        let (asked, used) = (self.decided()?, settled.decided()?);
        let other = self.given.iter().filter_map(|key| match (asked.get(key), used.get(key)) {
            (Some(asked), Some(used)) if asked != used => Some(format!(
                "`{key}` is {asked}, but the weights that training begins with have {used}; leave the key out, or begin with other weights"
            )),
            _ => None,
        });
        let other: Vec<String> = other.collect();
        if other.is_empty() { Ok(settled) } else { Err(TrainError::Asked(other.join("\n"))) }
    }

    /// The recipe as a table, with the boundaries of the stages written out.
    ///
    /// # Errors
    /// None that a recipe which was loaded can cause.
    pub fn decided(&self) -> Result<toml::Table, TrainError> {
        let curriculum = self.curriculum();
        let mut recipe = self.clone();
        recipe.text_unfrozen_from_epoch = Some(curriculum.text_from);
        recipe.encoders_frozen_from_epoch = Some(curriculum.encoders_until);
        toml::Table::try_from(recipe).map_err(|error| TrainError::Failed(error.to_string()))
    }

    /// As [`Recipe::decided`], for `config.json`.
    ///
    /// # Errors
    /// As [`Recipe::decided`].
    pub fn as_json(&self) -> Result<Map<String, Value>, TrainError> {
        let json = serde_json::to_value(self.decided()?).map_err(|error| TrainError::Failed(error.to_string()))?;
        Ok(json.as_object().cloned().unwrap_or_default())
    }

    /// Its stages and lambdas.
    pub fn curriculum(&self) -> Curriculum {
        Curriculum {
            epochs: self.epochs,
            text_from: self.text_unfrozen_from_epoch.unwrap_or(self.epochs / 3),
            encoders_until: self.encoders_frozen_from_epoch.unwrap_or(2 * self.epochs / 3),
            start: self.lambda_start,
            end: self.lambda_end,
            schedule: self.lambda_schedule,
        }
    }

    /// The optimiser's settings.
    pub fn optimiser(&self) -> OptimiserOptions {
        OptimiserOptions {
            betas: (self.betas[0], self.betas[1]),
            eps: self.eps,
            weight_decay: self.weight_decay,
            decoupled: self.optimizer == OptimizerKind::Adamw,
        }
    }

    /// Whether there is an image encoder.
    pub fn reads_images(&self) -> bool {
        self.inputs != Inputs::TextOnly
    }

    /// Whether there is a text encoder.
    pub fn reads_texts(&self) -> bool {
        self.inputs != Inputs::ImageOnly
    }

    /// Whether training images differ from epoch to epoch.
    pub fn augments(&self) -> bool {
        self.flips || self.rotations || self.stain_jitter > 0.0
    }

    /// The fusion as networks want it.
    pub fn fusion(&self) -> Fusion {
        match (self.fusion, self.alpha_text) {
            (FusionKind::Prmf, _) => Fusion::Prmf,
            (FusionKind::Concat, _) => Fusion::Concat,
            (FusionKind::Fixed, alpha) => Fusion::Fixed(alpha.unwrap_or(0.5)),
        }
    }

    /// Sizes of the image encoder where no start gives them.
    ///
    /// # Errors
    /// Keys of Swin that are missing.
    pub fn encoder(&self) -> Result<ImageEncoder, TrainError> {
        if self.image_encoder == EncoderKind::Vgg16 {
            return Ok(ImageEncoder::Vgg16(Vgg16Config { channels: self.channels.clone() }));
        }
        match (self.embed_dim, self.depths.clone(), self.num_heads.clone(), self.window_size) {
            (Some(embed), Some(depths), Some(heads), Some(window)) => {
                Ok(ImageEncoder::Swin(SwinConfig { embed, depths, heads, window, patch: 4, mlp_ratio: 4.0, eps: 1e-5 }))
            }
            _ => Err(TrainError::Asked("image_encoder = \"swin\" needs embed_dim, depths, num_heads and window_size".into())),
        }
    }

    /// All values that make no sense.
    fn problems(&self) -> Vec<String> {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let inside = |x: f64| x > 0.0 && x < 1.0;
        let rows = [
            (self.epochs > 0, "epochs must be at least 1"),
            (self.batch_size > 0, "batch_size must be at least 1"),
            (self.learning_rate > 0.0 && self.learning_rate.is_finite(), "learning_rate must be above 0"),
            (self.betas.iter().all(|beta| (0.0..1.0).contains(beta)), "betas must lie in 0 .. 1"),
            (self.eps > 0.0, "eps must be above 0"),
            (self.weight_decay >= 0.0, "weight_decay must not be negative"),
            (share(self.lambda_start) && share(self.lambda_end), "lambda_start and lambda_end must lie in 0 ..= 1"),
            ((0.0..1.0).contains(&self.dropout), "dropout must lie in 0 .. 1"),
            ((0.0..1.0).contains(&self.label_smoothing), "label_smoothing must lie in 0 .. 1"),
            (self.stain_jitter >= 0.0, "stain_jitter must not be negative"),
            (share(self.mixed_share), "mixed_share must lie in 0 ..= 1"),
            (inside(self.accepted_error), "accepted_error must lie between 0 and 1"),
            (inside(self.accepted_confidence), "accepted_confidence must lie between 0 and 1"),
            (inside(self.false_alarm), "false_alarm must lie between 0 and 1"),
            (self.channels.len() == 5 && self.channels.iter().all(|c| *c > 0), "channels must be five widths above 0"),
            (self.image_size.iter().all(|side| (32..=2048).contains(side)), "both sides of image_size must lie in 32 ..= 2048"),
            (self.max_length >= 8, "max_length must be at least 8"),
            (self.confidence_hidden >= 0, "confidence_hidden must be 0 for one layer, or a width"),
            (
                self.fusion != FusionKind::Fixed || self.alpha_text.is_some_and(share),
                "fusion = \"fixed\" needs alpha_text in 0 ..= 1",
            ),
            (
                self.curriculum().text_from <= self.curriculum().encoders_until,
                "text_unfrozen_from_epoch must not come after encoders_frozen_from_epoch",
            ),
            (self.seed <= i64::MAX as u64, "seed is too large"),
        ];
        rows.into_iter().filter(|(right, _)| !right).map(|(_, problem)| problem.to_string()).collect()
    }
}

/// The files of a recipe: the first one gives all keys that the others do not name.
fn texts(name: &str) -> Result<[&'static str; 2], TrainError> {
    let Some((_, text)) = RECIPES.iter().find(|(known, _)| *known == name) else {
        let known = recipe_names().collect::<Vec<_>>().join(", ");
        let near = near(name, recipe_names());
        return Err(TrainError::Asked(format!("there is no recipe `{name}`{near}; there are {known}")));
    };
    Ok([RECIPES[0].1, text])
}

fn compiled<'t>(texts: &'t [&'t str]) -> Compiled<'t> {
    Compiled { texts, optional: &OPTIONAL }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(name: &str, changes: &str) -> Result<Recipe, TrainError> {
        Recipe::with_changes(name, changes.parse().unwrap())
    }

    #[test]
    fn every_recipe_loads_and_differs_from_the_paper() {
        let paper = changed("paper", "").unwrap();
        for name in recipe_names().skip(1) {
            let recipe = changed(name, "").unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_ne!(recipe, paper, "{name}");
            recipe.encoder().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn every_file_of_the_folder_is_compiled_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        let mut names: Vec<&str> = recipe_names().collect();
        names.sort();
        assert_eq!(files, names);
    }

    #[test]
    fn the_paper_stands_at_thirds() {
        let curriculum = changed("paper", "").unwrap().curriculum();
        assert_eq!((curriculum.text_from, curriculum.encoders_until), (50, 100));
        assert_eq!([0, 49, 75, 100].map(|e| curriculum.stage(e)), [1, 1, 2, 3]);
        assert!((curriculum.lambda(75) - 0.65).abs() < 1e-12);
        let slow = changed("slow", "epochs = 11").unwrap().curriculum();
        assert_eq!([0, 5, 10].map(|e| slow.lambda(e)), [0.0, 0.5, 1.0]);
        let flat = changed("no-curriculum", "").unwrap().curriculum();
        assert_eq!([0, 80, 149].map(|e| (flat.lambda(e), flat.stage(e))), [(1.0, 2); 3]);
    }

    #[test]
    fn unknown_keys_come_with_near_names() {
        let text = changed("paper", "learning_rat = 1\nbatchsize = 3\nxyzzy = 1").unwrap_err().to_string();
        for part in ["`learning_rat` is no key", "did you mean `learning_rate`?", "`batch_size`", "`xyzzy` is no key of a recipe"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(changed("robust-er", "").unwrap_err().to_string().contains("did you mean `robust`"));
    }

    #[test]
    fn values_without_sense_are_all_named() {
        let text = changed("paper", "epochs = 0\ndropout = 1.0\nfusion = 'fixed'").unwrap_err().to_string();
        assert!(text.contains("epochs") && text.contains("dropout") && text.contains("alpha_text"), "{text}");
        let text = changed("paper", "optimizer = 'sgd'").unwrap_err().to_string();
        assert!(text.contains("adamw"), "{text}");
    }

    #[test]
    fn what_is_decided_loads_again() {
        for name in recipe_names() {
            let recipe = changed(name, "").unwrap();
            let again = Recipe::with_changes("paper", recipe.decided().unwrap()).unwrap();
            assert_eq!(again.decided().unwrap(), recipe.decided().unwrap(), "{name}");
        }
    }
}
