//! A trained classifier, asked about images with texts of our choice.

use crate::{classify::Network, error::TrainError};
use mmlnb_models::{
    config::{ClassifierConfig, Fusion, ImageInput},
    prepare::{
        bert_tokenizer::BertTokenizer,
        classifier_image::pixel_values,
        decode::{Limits, decode},
    },
    weights::{Checkpoint, Naming},
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

/// Images or texts at a time.
const BATCH: usize = 16;

/// A classifier with PRMF, ready to be asked.
pub(super) struct Asked {
    network: Network,
    tokenizer: BertTokenizer,
    input: ImageInput,
    longest: usize,
    device: Device,
}

/// What it says about one image with one text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub leading: usize,
    pub alpha: f64,
}

impl Asked {
    /// Opens a classifier's folder; nothing when it weighs no text against an image.
    pub fn open(folder: &Path, device: Device) -> Result<Option<Asked>, TrainError> {
        let config = ClassifierConfig::from_dir(folder)?;
        let (Some((_, input)), Some(text), Fusion::Prmf) = (&config.image, &config.text, &config.fusion) else { return Ok(None) };
        let tokenizer = BertTokenizer::from_dir(folder)
            .and_then(|tokenizer| tokenizer.within(text.vocabulary))
            .map_err(|error| TrainError::file(folder, format!("no tokenizer of BERT: {error}")))?;
        let checkpoint = Checkpoint::open(folder, Naming::Classifier)?;
        let network = Network::new(&config, &checkpoint, device, false)?;
        Ok(Some(Asked { network, tokenizer, input: input.clone(), longest: text.longest_text() as usize, device }))
    }

    /// `[images, features]`.
    pub fn image_features(&self, files: &[PathBuf]) -> Result<Tensor, TrainError> {
        let mut parts = Vec::new();
        for files in files.chunks(BATCH) {
            let mut pixels = Vec::new();
            for file in files {
                let bytes = fs::read(file).map_err(TrainError::io("read", file))?;
                let image = decode(&bytes, &Limits { min_side: 1, ..Limits::default() })
                    .map_err(|error| TrainError::file(file, error))?;
                pixels.extend(pixel_values(&image, &self.input));
            }
            let shape = [files.len() as i64, 3, self.input.height, self.input.width];
            let pixels = Tensor::f_from_slice(&pixels)?.f_reshape(shape)?.f_to_device(self.device)?;
            parts.push(self.network.image_features(&pixels)?);
        }
        Ok(Tensor::f_cat(&parts, 0)?)
    }

    /// The answers to images, given by their features, with a text each.
    pub fn answers(&self, images: &Tensor, texts: &[&str]) -> Result<Vec<Answer>, TrainError> {
        let mut answers = Vec::with_capacity(texts.len());
        for (number, texts) in texts.chunks(BATCH).enumerate() {
            let images = images.f_narrow(0, (number * BATCH) as i64, texts.len() as i64)?;
            let (ids, mask) = self.tokens(texts)?;
            let features = self.network.text_features(&ids, &mask)?;
            let outputs = self.network.judge(Some(&images), Some(&features))?;
            let leading = Vec::<i64>::try_from(outputs.get("logits")?.f_argmax(1, false)?)?;
            let alphas = Vec::<f64>::try_from(outputs.get("alpha_text")?.f_reshape([-1])?.f_to_kind(Kind::Double)?)?;
            answers.extend(leading.into_iter().zip(alphas).map(|(leading, alpha)| Answer { leading: leading as usize, alpha }));
        }
        Ok(answers)
    }

    /// Ids and mask `[texts, tokens]`, as long as the longest of them.
    fn tokens(&self, texts: &[&str]) -> Result<(Tensor, Tensor), TrainError> {
        let cut = |text: &&str| {
            let failed = |error| TrainError::Failed(format!("the text {text:?} cannot be read: {error}"));
            self.tokenizer.encode(text, self.longest).map_err(failed)
        };
        let cut = texts.iter().map(cut).collect::<Result<Vec<_>, _>>()?;
        let longest = cut.iter().map(|text| text.ids.len()).max().unwrap_or(1);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for text in &cut {
            let missing = longest - text.ids.len();
            ids.extend(text.ids.iter().copied().chain(std::iter::repeat_n(self.tokenizer.padding(), missing)));
            mask.extend(text.mask.iter().copied().chain(std::iter::repeat_n(0, missing)));
        }
        let shape = [texts.len() as i64, longest as i64];
        let tensor = |values: &[i64]| Tensor::f_from_slice(values)?.f_reshape(shape)?.f_to_device(self.device);
        Ok((tensor(&ids)?, tensor(&mask)?))
    }
}
