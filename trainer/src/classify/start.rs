//! What training begins with: sizes, tokenizer, and every tensor, from files or from the seed.

use super::recipe::{EncoderKind, Init, Inputs, Recipe};
use crate::{error::TrainError, torch::first_line};
use mmlnb_models::{
    config::{BertConfig, ClassifierConfig, ImageEncoder, ImageInput, Resample},
    graph::{Graph, Parameter},
    networks,
    prepare::bert_tokenizer::BertTokenizer,
    random::Draw,
    weights::{Checkpoint, Naming, Stored},
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tch::Tensor;

/// ImageNet's mean and deviation of each channel, with which VGG16 and Swin were trained.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];
/// Files that a tokenizer may consist of.
pub(super) const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "vocab.txt"];

/// Everything that training begins with, found and checked, nothing read yet.
#[derive(Debug)]
pub struct Start {
    /// Sizes and classes.
    pub config: ClassifierConfig,
    /// The folder whose tokenizer texts are cut with; none without a text encoder.
    pub tokenizer: Option<PathBuf>,
    seed: u64,
    folder: Option<Checkpoint>,
    /// For each class its place in the folder's heads; none when those belong to other classes.
    rows: Option<Vec<usize>>,
    image: Source,
    text: Source,
}

/// Where an encoder's tensors come from.
#[derive(Debug)]
enum Source {
    Absent,
    Folder,
    File(Checkpoint),
    Random,
}

impl Start {
    /// Finds what the recipe names, for these classes.
    ///
    /// # Errors
    /// Weights that the recipe wants and does not name, files that do not fit it.
    pub fn new(recipe: &Recipe, classes: &[String]) -> Result<Start, TrainError> {
        let folder_config = recipe.start.as_deref().map(ClassifierConfig::from_dir).transpose()?;
        let image = image(recipe, folder_config.as_ref())?;
        let (text, tokenizer) = text(recipe, folder_config.as_ref())?;
        let config = ClassifierConfig {
            classes: classes.to_vec(),
            image,
            text,
            fusion: recipe.fusion(),
            confidence_hidden: (recipe.confidence_hidden > 0).then_some(recipe.confidence_hidden),
            image_head: recipe.image_head,
            dropout: recipe.dropout,
        };
        let before_image = folder_config.as_ref().and_then(|config| config.image.as_ref()).map(|(encoder, _)| kind(encoder));
        let before = folder_config.map(|config| config.classes).unwrap_or_default();
        let rows: Option<Vec<usize>> = classes.iter().map(|name| before.iter().position(|other| other == name)).collect();
        let start = Start {
            seed: recipe.seed,
            rows: rows.filter(|rows| rows.len() == before.len()),
            folder: recipe.start.as_ref().map(|start| Checkpoint::open(start, Naming::Classifier)).transpose()?,
            image: image_source(recipe, before_image)?,
            text: text_source(recipe)?,
            tokenizer,
            config,
        };
        start.check()?;
        Ok(start)
    }

    /// Hashes of the files that weights are read from.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn hashes(&self) -> Result<toml::Table, TrainError> {
        let mut table = toml::Table::new();
        let mut keep = |name: &str, checkpoint: &Checkpoint| -> Result<(), TrainError> {
            table.insert(format!("{name}_sha256"), checkpoint.sha256()?.into());
            Ok(())
        };
        if let Some(folder) = &self.folder {
            keep("start", folder)?;
        }
        for (name, source) in [("image_weights", &self.image), ("text_weights", &self.text)] {
            if let Source::File(checkpoint) = source {
                keep(name, checkpoint)?;
            }
        }
        Ok(table)
    }

    /// Writes all tensors as one checkpoint into an empty folder, from which [`super::Network::new`] reads them. Says which heads begin at random though a
    /// start folder was given.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Vec<String>, TrainError> {
        let mut tensors = Vec::new();
        let mut drawn = Vec::new();
        for parameter in self.graphs().iter().flat_map(|graph| graph.parameters()) {
            let tensor = match self.stored(parameter) {
                Some(stored) => {
                    let values = self.values(parameter, &stored);
                    Tensor::f_from_slice(&values)?.f_reshape(&parameter.shape)?
                }
                None => {
                    if self.folder.is_some() && is_head(&parameter.key) {
                        drawn.push(parameter.key.clone());
                    }
                    let values = random(&self.config, parameter, self.seed);
                    Tensor::f_from_slice(&values)?.f_reshape(&parameter.shape)?
                }
            };
            tensors.push((parameter.key.clone(), tensor));
        }
        let file = folder.join("model.safetensors");
        Tensor::write_safetensors(&tensors, &file).map_err(|error| TrainError::file(file, first_line(&error)))?;
        Ok(drawn)
    }

    /// The networks.
    pub(super) fn graphs(&self) -> Vec<Graph> {
        let image = self.config.image.as_ref().map(|(encoder, _)| networks::image_encoder(encoder, "image"));
        let text = self.config.text.as_ref().map(|text| networks::bert(text, "text"));
        image.into_iter().chain(text).chain([networks::heads(&self.config)]).collect()
    }

    /// The tensor of a file; none when it is drawn.
    fn stored(&self, parameter: &Parameter) -> Option<Stored<'_>> {
        let found = match parameter.key.split_once('.') {
            Some(("image", rest)) => self.image.tensor(&parameter.key, rest, self.folder.as_ref()),
            Some(("text", rest)) => self.text.tensor(&parameter.key, rest, self.folder.as_ref()),
            _ if belongs_to_classes(&parameter.key) && self.rows.is_none() => None,
            _ => self.folder.as_ref()?.tensor(&parameter.key),
        };
        found.filter(|stored| stored.shape.iter().map(|size| *size as i64).eq(parameter.shape.iter().copied()))
    }

    /// The numbers of a stored tensor; those of the heads in the order of the classes.
    fn values(&self, parameter: &Parameter, stored: &Stored<'_>) -> Vec<f32> {
        match &self.rows {
            Some(rows) if belongs_to_classes(&parameter.key) => {
                rows.iter().flat_map(|row| stored.decode(*row..row + 1)).collect()
            }
            _ => stored.decode(0..stored.rows()),
        }
    }

    /// Whether the files hold every tensor of the encoders.
    fn check(&self) -> Result<(), TrainError> {
        let encoders = [
            (&self.image, self.config.image.as_ref().map(|(encoder, _)| networks::image_encoder(encoder, ""))),
            (&self.text, self.config.text.as_ref().map(|text| networks::bert(text, ""))),
        ];
        for (source, graph) in encoders {
            if let (Source::File(checkpoint), Some(graph)) = (source, graph) {
                checkpoint.check(graph.parameters())?;
                checkpoint.check_finite()?;
            }
        }
        if let Some(folder) = &self.folder {
            folder.check_finite()?;
        }
        if let (Some(folder), Some(text)) = (&self.tokenizer, &self.config.text) {
            tokenizer(folder, text)?;
        }
        let lost: Vec<String> = self
            .graphs()
            .iter()
            .flat_map(|graph| graph.parameters())
            .filter(|parameter| {
                let source = match parameter.key.split_once('.') {
                    Some(("image", _)) => &self.image,
                    Some(("text", _)) => &self.text,
                    _ => return false,
                };
                matches!(source, Source::Folder) && self.stored(parameter).is_none()
            })
            .map(|parameter| format!("{} {:?}", parameter.key, parameter.shape))
            .collect();
        match (&self.folder, lost.is_empty()) {
            (Some(folder), false) => {
                let problem = format!("it lacks, or has in another shape: {}", lost.join(", "));
                Err(TrainError::file(folder.path(), problem))
            }
            _ => Ok(()),
        }
    }
}

impl Source {
    fn tensor<'s>(&'s self, key: &str, own: &str, folder: Option<&'s Checkpoint>) -> Option<Stored<'s>> {
        match self {
            Source::Folder => folder?.tensor(key),
            Source::File(checkpoint) => checkpoint.tensor(own),
            Source::Random | Source::Absent => None,
        }
    }
}

fn image(recipe: &Recipe, start: Option<&ClassifierConfig>) -> Result<Option<(ImageEncoder, ImageInput)>, TrainError> {
    if !recipe.reads_images() {
        return Ok(None);
    }
    let Some(start) = start else {
        let [width, height] = recipe.image_size;
        let input = ImageInput { width, height, resample: Resample::Bilinear, mean: MEAN, std: STD, stain: None };
        return Ok(Some((recipe.encoder()?, input)));
    };
    match &start.image {
        Some((encoder, input)) if kind(encoder) == recipe.image_encoder => Ok(Some((encoder.clone(), input.clone()))),
        // Another encoder than the start's: its sizes are the recipe's own, the input's size is the start's.
        Some((_, input)) => Ok(Some((recipe.encoder()?, input.clone()))),
        None => {
            Err(TrainError::Asked(format!("the classifier of `start` has no image encoder, but inputs is {:?}", recipe.inputs)))
        }
    }
}

fn text(recipe: &Recipe, start: Option<&ClassifierConfig>) -> Result<(Option<BertConfig>, Option<PathBuf>), TrainError> {
    if !recipe.reads_texts() {
        return Ok((None, None));
    }
    if let (None, Some(start), Some(folder)) = (&recipe.text_weights, start, &recipe.start) {
        let text = start.text.clone();
        let text =
            text.ok_or_else(|| TrainError::Asked("the classifier of `start` has no text encoder; give text_weights".into()))?;
        return Ok((Some(text), Some(folder.clone())));
    }
    let folder = recipe.text_weights.clone().ok_or_else(|| {
        TrainError::Asked(
            "the text encoder has no source: set text_weights to the folder of a BERT checkpoint (bert-base-uncased from huggingface.co, say: \
             config.json, model.safetensors, tokenizer.json), or start to a classifier's folder; with text_init = \"random\" only the folder's sizes and \
             tokenizer are used"
                .into(),
        )
    })?;
    let mut config = BertConfig::from_dir(&folder)?;
    config.max_length = Some(recipe.max_length.min(config.positions));
    Ok((Some(config), Some(folder)))
}

fn kind(encoder: &ImageEncoder) -> EncoderKind {
    match encoder {
        ImageEncoder::Vgg16(_) => EncoderKind::Vgg16,
        ImageEncoder::Swin(_) => EncoderKind::Swin,
    }
}

/// `before`: the kind of image encoder in the start's folder.
fn image_source(recipe: &Recipe, before: Option<EncoderKind>) -> Result<Source, TrainError> {
    if recipe.inputs == Inputs::TextOnly {
        return Ok(Source::Absent);
    }
    let naming = match recipe.image_encoder {
        EncoderKind::Vgg16 => Naming::Vgg16,
        EncoderKind::Swin => Naming::Swin,
    };
    match (recipe.image_init, &recipe.image_weights, before.filter(|before| *before == recipe.image_encoder)) {
        (Init::Random, _, _) => Ok(Source::Random),
        (Init::Pretrained, Some(file), _) => Ok(Source::File(Checkpoint::open(file, naming)?)),
        (Init::Pretrained, None, Some(_)) => Ok(Source::Folder),
        (Init::Pretrained, None, None) => Err(TrainError::Asked(format!(
            "the image encoder has no pretrained weights. They are usually taken from torchvision ({}): `mmlnb-train import FILE.pth --output \
             FILE.safetensors` makes a file for image_weights of it. Or ask for image_init = \"random\"; figures are then lower than the paper's",
            match recipe.image_encoder {
                EncoderKind::Vgg16 => "vgg16-397923af.pth at download.pytorch.org/models, trained on ImageNet",
                EncoderKind::Swin => "swin_b-68c6b09e.pth at download.pytorch.org/models, trained on ImageNet",
            }
        ))),
    }
}

fn text_source(recipe: &Recipe) -> Result<Source, TrainError> {
    match (recipe.inputs, recipe.text_init, &recipe.text_weights) {
        (Inputs::ImageOnly, _, _) => Ok(Source::Absent),
        (_, Init::Random, _) => Ok(Source::Random),
        (_, Init::Pretrained, Some(folder)) => Ok(Source::File(Checkpoint::open(folder, Naming::Bert)?)),
        (_, Init::Pretrained, None) => Ok(Source::Folder),
    }
}

/// Whether a tensor has one row a class.
fn belongs_to_classes(key: &str) -> bool {
    key.starts_with("classifier.") || key.starts_with("image_head.")
}

fn is_head(key: &str) -> bool {
    !key.starts_with("image.") && !key.starts_with("text.")
}

/// Numbers from the seed, as PyTorch's modules begin: VGG16's convolutions by He (fan out), BERT's and Swin's tables and matrices with deviation 0.02, the
/// heads as `torch.nn.Linear`.
fn random(config: &ClassifierConfig, parameter: &Parameter, seed: u64) -> Vec<f32> {
    let Parameter { key, shape } = parameter;
    let count = shape.iter().product::<i64>() as usize;
    let mut draw = Draw::new(seed, key, &[]);
    let bias = key.ends_with(".bias");
    if is_head(key) {
        let weight = if bias { format!("{}weight", key.trim_end_matches("bias")) } else { key.clone() };
        let bound = 1.0 / (inputs_of(config, &weight) as f64).sqrt();
        return (0..count).map(|_| ((2.0 * draw.uniform() - 1.0) * bound) as f32).collect();
    }
    match shape.as_slice() {
        [_] => vec![if bias { 0.0 } else { 1.0 }; count],
        [outputs, _, height, width] => {
            let deviation = (2.0 / (outputs * height * width) as f64).sqrt();
            (0..count).map(|_| (draw.normal() * deviation) as f32).collect()
        }
        _ => (0..count).map(|_| (draw.normal() * 0.02) as f32).collect(),
    }
}

/// Columns of a head's matrix.
fn inputs_of(config: &ClassifierConfig, weight: &str) -> i64 {
    let heads = networks::heads(config);
    let found = heads.parameters().iter().find(|parameter| parameter.key == weight);
    found.and_then(|parameter| parameter.shape.get(1).copied()).unwrap_or(1)
}

/// The tokenizer in a folder, for this encoder.
pub(super) fn tokenizer(folder: &Path, text: &BertConfig) -> Result<BertTokenizer, TrainError> {
    BertTokenizer::from_dir(folder)
        .and_then(|tokenizer| tokenizer.within(text.vocabulary))
        .map_err(|error| TrainError::file(folder, format!("no tokenizer of BERT: {error}")))
}

/// Copies the files of a tokenizer.
///
/// # Errors
/// What cannot be read or written.
pub(super) fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), TrainError> {
    for name in TOKENIZER_FILES {
        let file = from.join(name);
        if file.is_file() {
            let bytes = fs::read(&file).map_err(TrainError::io("read", &file))?;
            fs::write(to.join(name), bytes).map_err(TrainError::io("write", &to.join(name)))?;
        }
    }
    Ok(())
}
