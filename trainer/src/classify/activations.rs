//! How large the activations of a classifier's image encoder become, for convolutions in 8 bits: [`mmlnb_models::activations`].

use super::{
    corpus::Corpus,
    folder::{self, Opened},
    network::Network,
    pictures::Pictures,
};
use crate::{
    data::Table,
    error::TrainError,
    run::{files::replace_file, stop_requested},
    threads,
    torch::in_rows,
};
use mmlnb_models::{
    activations::{ACTIVATIONS, Activations, Layer, rectified},
    config::ClassifierConfig,
    graph::Op,
    networks,
    statistics::module,
    weights::{Checkpoint, Naming},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, TchError, Tensor};

/// Images that are looked at unless another number is asked for.
pub const IMAGES: usize = 128;
/// Images of a batch.
const BATCH: usize = 16;

/// What was seen of the image encoder's convolutions, on so many images.
pub(super) struct Seen {
    images: usize,
    layers: BTreeMap<String, Layer>,
}

/// Sums of one convolution so far.
struct Sums {
    /// f32, of what goes into the ReLU behind it.
    largest: Tensor,
    /// f64 `[channels]`, of the images' means of what goes in.
    means: Tensor,
}

/// An opened classifier whose activations can be recorded.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    network: Network,
    device: Device,
}

impl Recorder {
    /// Opens a classifier's folder.
    ///
    /// # Errors
    /// A folder that is no classifier, or one whose image encoder has nothing to record.
    pub fn open(folder: &Path, device: Device) -> Result<Recorder, TrainError> {
        let Opened { network, .. } = folder::open(folder, device)?;
        match modules(network.config()).is_empty() {
            false => Ok(Recorder { folder: folder.to_path_buf(), network, device }),
            true => Err(TrainError::Asked(format!(
                "{} has no image encoder with convolutions before ReLUs (VGG16): there is nothing to record, and few bits need nothing of it",
                folder.display()
            ))),
        }
    }

    /// How many threads libtorch gets.
    ///
    /// # Errors
    /// More threads than there are.
    pub fn threads(&self, asked: Option<NonZeroU16>) -> Result<NonZeroU16, TrainError> {
        threads::chosen(asked, None, threads::of_classifier(self.network.config()))
    }

    /// Writes `activations.json` into the folder, from at most `most` of a table's images, spread evenly over it; one that is there is replaced.
    ///
    /// # Errors
    /// Images that cannot be read, activations that are no numbers, what libtorch refuses, a wish to stop, a folder that cannot be written.
    pub fn record(&self, table: &Table, most: usize) -> Result<Activations, TrainError> {
        let files: Vec<PathBuf> = table.rows.iter().map(|row| table.image(row)).collect();
        let pictures = self.network.config().image.as_ref().map(|(_, input)| Pictures::new(files, input, false));
        let corpus = Corpus { pictures, written: None, labels: vec![0; table.rows.len()], batch: BATCH, device: self.device };
        let rows: Vec<usize> = (0..table.rows.len()).collect();
        let seen = see(&self.network, &corpus, &spread(&rows, most))?;
        write(&self.folder, &seen, table.sha256())
    }
}

/// The modules of the convolutions that are looked at.
fn modules(config: &ClassifierConfig) -> BTreeSet<String> {
    let graph = config.image.as_ref().map(|(encoder, _)| networks::image_encoder(encoder, "image"));
    graph.iter().flat_map(rectified).map(|(module, _)| module.to_string()).collect()
}

/// At most so many rows, the first one and others at equal distances.
pub(super) fn spread(rows: &[usize], most: usize) -> Vec<usize> {
    let count = rows.len().min(most);
    (0..count).map(|number| rows[number * rows.len() / count]).collect()
}

/// Shows the image encoder the images of rows as they are served. Nothing is seen where it has no convolutions before ReLUs.
///
/// # Errors
/// An image that cannot be read, activations that are no numbers, what libtorch refuses, a wish to stop.
pub(super) fn see(network: &Network, corpus: &Corpus, rows: &[usize]) -> Result<Seen, TrainError> {
    let modules = modules(network.config());
    let (mut images, mut sums) = (0, BTreeMap::new());
    if !modules.is_empty() {
        corpus.each_batch_of_images(network, rows, |pixels| {
            if stop_requested() {
                return Err(TrainError::Interrupted);
            }
            images += pixels.size()[0];
            // The ReLU comes right behind its convolution.
            let mut last: Option<(String, Tensor)> = None;
            Ok(network.watch_images(pixels, &mut |node, inputs| {
                match &node.op {
                    Op::Conv2d { weight, .. } if modules.contains(module(weight)) => {
                        let means = in_rows(inputs[0].shallow_clone())?.f_mean_dim([2, 3].as_slice(), false, Kind::Double)?;
                        let means = means.f_sum_dim_intlist([0].as_slice(), false, Kind::Double)?;
                        last = Some((module(weight).to_string(), means));
                    }
                    Op::Relu => {
                        if let Some((module, means)) = last.take() {
                            let largest = in_rows(inputs[0].shallow_clone())?.f_max()?;
                            let sum = Sums { largest, means }.with(sums.remove(&module))?;
                            sums.insert(module, sum);
                        }
                    }
                    _ => {}
                }
                Ok(())
            })?)
        })?;
    }
    let layer = |(module, sums): (String, Sums)| Ok((module.clone(), sums.layer(images, &module)?));
    let layers = sums.into_iter().map(layer).collect::<Result<_, TrainError>>()?;
    Ok(Seen { images: images as usize, layers })
}

impl Sums {
    /// Together with those of earlier images.
    fn with(self, before: Option<Sums>) -> Result<Sums, TchError> {
        match before {
            None => Ok(self),
            Some(before) => {
                Ok(Sums { largest: before.largest.f_maximum(&self.largest)?, means: before.means.f_add(&self.means)? })
            }
        }
    }

    fn layer(&self, images: i64, module: &str) -> Result<Layer, TrainError> {
        let largest = f64::try_from(self.largest.f_to_device(Device::Cpu)?)? as f32;
        let means = Vec::<f64>::try_from(self.means.f_to_device(Device::Cpu)?)?;
        let means: Vec<f32> = means.iter().map(|sum| (sum / images as f64) as f32).collect();
        if !largest.is_finite() || means.iter().any(|mean| !mean.is_finite()) {
            let problem = format!("what the layer {module} gets or gives is not finite: the weights are damaged");
            return Err(TrainError::Failed(problem));
        }
        Ok(Layer { largest: largest.max(0.0), means })
    }
}

/// Writes what was seen beside the weights that it belongs to.
///
/// # Errors
/// Weights that cannot be read, a folder that cannot be written.
pub(super) fn write(folder: &Path, seen: &Seen, data_sha256: String) -> Result<Activations, TrainError> {
    let weights = Checkpoint::open(folder, Naming::Classifier)?.sha256()?.to_string();
    let producer = format!("mmlnb-train {}", env!("CARGO_PKG_VERSION"));
    let activations = Activations::new(producer, weights, data_sha256, seen.images, seen.layers.clone());
    replace_file(&folder.join(ACTIVATIONS), &activations.to_bytes())?;
    Ok(activations)
}

impl Seen {
    /// Whether there was nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_spread_evenly() {
        let rows: Vec<usize> = (10..20).collect();
        assert_eq!(spread(&rows, 128), rows);
        assert_eq!(spread(&rows, 4), [10, 12, 15, 17]);
        assert!(spread(&[], 4).is_empty());
    }
}
