//! The data of a run as batches of tensors, from pixels and tokens or from features that are known already.

use super::{
    network::{Batch, Images, Network, Texts},
    pictures::{Augmentation, Pictures},
    prefetch::{all, prefetch},
    texts::Written,
};
use crate::error::TrainError;
use std::ops::ControlFlow;
use tch::{Device, Kind, Tensor};

/// Rows with their images, texts and classes.
#[derive(Debug)]
pub(super) struct Corpus {
    pub pictures: Option<Pictures>,
    pub written: Option<Written>,
    /// Class of each row.
    pub labels: Vec<usize>,
    /// Items of one batch.
    pub batch: usize,
    pub device: Device,
}

/// Features of encoders that do not learn at present, computed once.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// `[rows, features]` and the place of each row of the table in it.
    images: Option<(Tensor, Vec<Option<i64>>)>,
    /// `[texts, hidden]`, all distinct texts.
    texts: Option<Tensor>,
}

/// What the next batch needs and another thread makes: pixels of its rows.
pub(super) type Pixels = Option<Vec<f32>>;

impl Corpus {
    /// The pixels of rows; none unless `wanted` by a network that reads images.
    ///
    /// # Errors
    /// An image that cannot be read.
    pub fn pixels(&self, rows: &[usize], augmentation: Option<(&Augmentation, u64)>, wanted: bool) -> Result<Pixels, TrainError> {
        match &self.pictures {
            Some(pictures) if wanted => {
                Ok(Some(all(rows, |row| pictures.pixels(*row, augmentation))?.into_iter().flatten().collect()))
            }
            _ => Ok(None),
        }
    }

    /// A batch of rows; `texts` gives the text of each row.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn batch(
        &self,
        network: &Network,
        rows: &[usize],
        pixels: Pixels,
        text_of: impl Fn(&Written, usize) -> usize,
        known: &Known,
    ) -> Result<Batch, TrainError> {
        let images = match (&known.images, pixels) {
            (Some((features, places)), _) => Some(Images::Features(chosen(features, rows.iter().map(|row| places[*row]))?)),
            (None, Some(pixels)) => Some(Images::Pixels(self.shaped(network, &pixels, rows.len())?)),
            (None, None) => None,
        };
        let texts = match (&self.written, &known.texts) {
            (None, _) => None,
            (Some(written), Some(features)) => {
                Some(Texts::Features(chosen(features, rows.iter().map(|row| Some(text_of(written, *row) as i64)))?))
            }
            (Some(written), None) => {
                let texts: Vec<usize> = rows.iter().map(|row| text_of(written, *row)).collect();
                let (ids, mask) = written.tensors(&texts)?;
                Some(Texts::Tokens(ids.f_to_device(self.device)?, mask.f_to_device(self.device)?))
            }
        };
        let labels: Vec<i64> = rows.iter().map(|row| self.labels[*row] as i64).collect();
        Ok(Batch { images, texts, labels: Tensor::f_from_slice(&labels)?.f_to_device(self.device)? })
    }

    fn shaped(&self, network: &Network, pixels: &[f32], rows: usize) -> Result<Tensor, TrainError> {
        let (_, input) = network.config().image.as_ref().expect("pixels are made only for a network with an image encoder");
        let shape = [rows as i64, 3, input.height, input.width];
        Ok(Tensor::f_from_slice(pixels)?.f_reshape(shape)?.f_to_device(self.device)?)
    }

    /// Features of all distinct texts, `[texts, hidden]`.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn text_features(&self, network: &Network) -> Result<Option<Tensor>, TrainError> {
        let Some(written) = &self.written else { return Ok(None) };
        // Neighbours of one length need no padding.
        let mut order: Vec<usize> = (0..written.count()).collect();
        order.sort_by_key(|text| written.length(*text));
        let mut parts = Vec::new();
        for texts in order.chunks(self.batch) {
            let (ids, mask) = written.tensors(texts)?;
            parts.push(network.text_features(&ids.f_to_device(self.device)?, &mask.f_to_device(self.device)?)?);
        }
        let mut places = vec![0i64; order.len()];
        order.iter().enumerate().for_each(|(place, text)| places[*text] = place as i64);
        let places = Tensor::f_from_slice(&places)?.f_to_device(self.device)?;
        Ok(Some(Tensor::f_cat(&parts, 0)?.f_index_select(0, &places)?))
    }

    /// Features of the images of rows, `[rows, features]` in their order.
    ///
    /// # Errors
    /// An image that cannot be read, and what libtorch refuses.
    pub fn image_features(&self, network: &Network, rows: &[usize]) -> Result<Option<Tensor>, TrainError> {
        if self.pictures.is_none() || rows.is_empty() {
            return Ok(None);
        }
        let mut parts = Vec::new();
        self.each_batch_of_images(network, rows, |pixels| {
            parts.push(network.image_features(pixels)?);
            Ok(())
        })?;
        Ok(Some(Tensor::f_cat(&parts, 0)?))
    }

    /// Shows `see` the images of rows as they are served, `[batch, 3, height, width]`, in their order.
    ///
    /// # Errors
    /// An image that cannot be read, what libtorch refuses, and those of `see`.
    pub fn each_batch_of_images(
        &self,
        network: &Network,
        rows: &[usize],
        mut see: impl FnMut(&Tensor) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let batches: Vec<&[usize]> = rows.chunks(self.batch).collect();
        prefetch(
            &batches,
            |rows| self.pixels(rows, None, true),
            |rows, pixels| {
                let pixels = pixels.ok_or_else(|| TrainError::Failed("there are no images to look at".into()))?;
                see(&self.shaped(network, &pixels, rows.len())?)?;
                Ok(ControlFlow::Continue(()))
            },
        )
    }
}

impl Known {
    /// Nothing.
    pub fn nothing() -> Known {
        Known::default()
    }

    /// Computes what is asked for: features of all texts, features of the images of these rows.
    ///
    /// # Errors
    /// An image that cannot be read, and what libtorch refuses.
    pub fn compute(network: &Network, corpus: &Corpus, texts: bool, image_rows: Option<&[usize]>) -> Result<Known, TrainError> {
        let texts = if texts { corpus.text_features(network)? } else { None };
        let images = match image_rows {
            None => None,
            Some(rows) => corpus.image_features(network, rows)?.map(|features| {
                let mut places = vec![None; corpus.labels.len()];
                rows.iter().enumerate().for_each(|(place, row)| places[*row] = Some(place as i64));
                (features, places)
            }),
        };
        Ok(Known { images, texts })
    }

    /// Whether pixels are needed.
    pub fn lacks_images(&self) -> bool {
        self.images.is_none()
    }

    /// The same without those of texts or of images.
    pub fn only(&self, images: bool, texts: bool) -> Known {
        Known {
            images: self.images.as_ref().filter(|_| images).map(|(features, places)| (features.shallow_clone(), places.clone())),
            texts: self.texts.as_ref().filter(|_| texts).map(Tensor::shallow_clone),
        }
    }
}

fn chosen(features: &Tensor, places: impl Iterator<Item = Option<i64>>) -> Result<Tensor, TrainError> {
    let places: Vec<i64> =
        places.collect::<Option<_>>().ok_or_else(|| TrainError::Failed("a row's features are not known".into()))?;
    let places = Tensor::f_from_slice(&places)?.f_to_device(features.device())?;
    Ok(features.f_index_select(0, &places)?)
}

/// What a network says about one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Opinion {
    /// Fused, or the only ones.
    pub logits: Vec<f64>,
    /// Of the image head.
    pub image_logits: Option<Vec<f64>>,
    /// At alpha = 1.
    pub text_logits: Option<Vec<f64>>,
    /// Weight of the text.
    pub alpha: Option<f64>,
    /// F, or the only encoder's features.
    pub features: Vec<f32>,
}

/// What the network says about rows, without dropout, with the texts that serving reads.
///
/// # Errors
/// An image that cannot be read, and what libtorch refuses.
pub(super) fn judge(network: &Network, corpus: &Corpus, rows: &[usize], known: &Known) -> Result<Vec<Opinion>, TrainError> {
    let mut opinions = Vec::with_capacity(rows.len());
    let batches: Vec<&[usize]> = rows.chunks(corpus.batch).collect();
    let wanted = known.lacks_images();
    prefetch(
        &batches,
        |rows| corpus.pixels(rows, None, wanted),
        |rows, pixels| {
            let batch = corpus.batch(network, rows, pixels, Written::served, known)?;
            opinions.extend(judge_batch(network, &batch)?);
            Ok(ControlFlow::Continue(()))
        },
    )?;
    Ok(opinions)
}

/// What the network says about a batch.
///
/// # Errors
/// What libtorch refuses.
pub(super) fn judge_batch(network: &Network, batch: &Batch) -> Result<Vec<Opinion>, TrainError> {
    let image = match &batch.images {
        None => None,
        Some(Images::Features(features)) => Some(features.shallow_clone()),
        Some(Images::Pixels(pixels)) => Some(network.image_features(pixels)?),
    };
    let text = match &batch.texts {
        None => None,
        Some(Texts::Features(features)) => Some(features.shallow_clone()),
        Some(Texts::Tokens(ids, mask)) => Some(network.text_features(ids, mask)?),
    };
    let outputs = network.judge(image.as_ref(), text.as_ref())?;
    let logits = rows_of(outputs.get("logits")?)?;
    let image_logits = outputs.get("image_logits").ok().map(rows_of).transpose()?;
    let text_logits = match &text {
        Some(text) => network.text_logits(text)?.as_ref().map(rows_of).transpose()?,
        None => None,
    };
    let alpha = outputs.get("alpha_text").ok().map(rows_of).transpose()?;
    let features = outputs.get("fused_features").ok().or(image.as_ref()).or(text.as_ref());
    let features = rows_of(features.ok_or_else(|| TrainError::Failed("a classifier without any features".into()))?)?;
    let opinion = |row: usize| Opinion {
        logits: logits[row].clone(),
        image_logits: image_logits.as_ref().map(|all| all[row].clone()),
        text_logits: text_logits.as_ref().map(|all| all[row].clone()),
        alpha: alpha.as_ref().map(|all| all[row][0]),
        features: features[row].iter().map(|value| *value as f32).collect(),
    };
    Ok((0..logits.len()).map(opinion).collect())
}

fn rows_of(tensor: &Tensor) -> Result<Vec<Vec<f64>>, TrainError> {
    let (_, width) = tensor.size2()?;
    let flat = Vec::<f64>::try_from(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_reshape([-1])?)?;
    Ok(flat.chunks_exact(width.max(1) as usize).map(<[f64]>::to_vec).collect())
}
