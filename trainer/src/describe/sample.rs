//! Samples as token ids with a label for each, and several of them as one batch.

use mmlnb_models::{
    config::QwenConfig,
    prepare::positions::{PositionError, text_positions},
};
use tch::Tensor;

/// The label of a token that is not learnt, PyTorch's value.
pub const UNLABELLED: i64 = -100;

/// One image with its prompt and answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// All tokens, the image's among them.
    pub ids: Vec<i64>,
    /// For each token itself, or [`UNLABELLED`]; the first has none, since nothing predicts it.
    pub labels: Vec<i64>,
    /// Frames, patch rows and patch columns of the image.
    pub grid: [i64; 3],
}

impl Sample {
    /// Tokens that are learnt.
    pub fn labelled(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != UNLABELLED).count()
    }
}

/// An image on its way into the language model.
#[derive(Debug)]
pub enum Image {
    /// Pixels `[patches, ..]` for the vision tower.
    Pixels(Tensor),
    /// Rows `[tokens, hidden]` that a frozen vision tower made of them.
    Embeds(Tensor),
}

impl Image {
    /// The same numbers in the same memory.
    pub fn shared(&self) -> Image {
        match self {
            Image::Pixels(pixels) => Image::Pixels(pixels.shallow_clone()),
            Image::Embeds(embeds) => Image::Embeds(embeds.shallow_clone()),
        }
    }
}

/// Samples padded on the right to one length.
#[derive(Debug)]
pub struct Batch {
    /// Samples.
    pub rows: usize,
    /// Tokens of the longest.
    pub tokens: usize,
    /// `[rows * tokens]`.
    pub ids: Vec<i64>,
    /// Temporal, row and column position of every token.
    pub positions: [Vec<i64>; 3],
    /// Numbers, counted through rows and tokens, of the tokens that predict a labelled one.
    pub places: Vec<i64>,
    /// What they predict.
    pub targets: Vec<i64>,
    /// One a row, with its grid.
    pub images: Vec<(Image, [i64; 3])>,
    seen: usize,
}

impl Batch {
    /// Joins samples with their images. `pad` fills up; what stands there is never seen, since attention looks back only.
    ///
    /// # Errors
    /// A run of image tokens that does not fit its image.
    pub fn new(samples: Vec<(Sample, Image)>, pad: i64, config: &QwenConfig) -> Result<Batch, PositionError> {
        let tokens = samples.iter().map(|(sample, _)| sample.ids.len()).max().unwrap_or(0);
        let mut batch = Batch {
            rows: samples.len(),
            tokens,
            ids: Vec::with_capacity(samples.len() * tokens),
            positions: Default::default(),
            places: Vec::new(),
            targets: Vec::new(),
            images: Vec::with_capacity(samples.len()),
            seen: samples.iter().map(|(sample, _)| sample.ids.len()).sum(),
        };
        for (row, (sample, image)) in samples.into_iter().enumerate() {
            let start = row * tokens;
            let labelled = sample.labels.iter().enumerate().skip(1).filter(|(_, label)| **label != UNLABELLED);
            for (at, label) in labelled {
                batch.places.push((start + at - 1) as i64);
                batch.targets.push(*label);
            }
            let positions = text_positions(&sample.ids, &[sample.grid], config)?;
            for (all, own) in batch.positions.iter_mut().zip(positions.ids) {
                all.extend(own);
                all.resize(start + tokens, 0);
            }
            batch.ids.extend(sample.ids);
            batch.ids.resize(start + tokens, pad);
            batch.images.push((image, sample.grid));
        }
        Ok(batch)
    }

    /// One sequence and the place of its last token, whatever its labels say.
    ///
    /// # Errors
    /// As [`Batch::new`].
    pub fn ending(sample: &Sample, image: &Image, config: &QwenConfig) -> Result<Batch, PositionError> {
        let mut batch = Batch::new(vec![(sample.clone(), image.shared())], 0, config)?;
        batch.places = vec![sample.ids.len() as i64 - 1];
        batch.targets.clear();
        Ok(batch)
    }

    /// Tokens without the padding.
    pub fn seen(&self) -> usize {
        self.seen
    }
}
