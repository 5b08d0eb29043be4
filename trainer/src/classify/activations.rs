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
    activations::{ACTIVATIONS, Activations, rectified},
    config::ClassifierConfig,
    graph::{Op, Value},
    networks,
    weights::{Checkpoint, Naming},
};
use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU16,
    path::{Path, PathBuf},
};
use tch::{Device, Tensor};

/// Images that are looked at unless another number is asked for.
pub const IMAGES: usize = 128;
/// Images of a batch.
const BATCH: usize = 16;

/// The largest results of the ReLUs behind the convolutions of the image encoder, of so many images.
pub(super) struct Largest {
    images: usize,
    /// By the convolution's module.
    by_module: BTreeMap<String, f32>,
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
        let largest = largest(&self.network, &corpus, &spread(&rows, most))?;
        write(&self.folder, &largest, table.sha256())
    }
}

/// The convolutions whose ReLUs are looked at, by what goes into the ReLU.
fn modules(config: &ClassifierConfig) -> HashMap<Value, String> {
    let graph = config.image.as_ref().map(|(encoder, _)| networks::image_encoder(encoder, "image"));
    graph.iter().flat_map(rectified).map(|(module, value)| (value, module.to_string())).collect()
}

/// At most so many rows, the first one and others at equal distances.
pub(super) fn spread(rows: &[usize], most: usize) -> Vec<usize> {
    let count = rows.len().min(most);
    (0..count).map(|number| rows[number * rows.len() / count]).collect()
}

/// Shows the image encoder the images of rows as they are served. Nothing is found where it has no convolutions before ReLUs.
///
/// # Errors
/// An image that cannot be read, activations that are no numbers, what libtorch refuses, a wish to stop.
pub(super) fn largest(network: &Network, corpus: &Corpus, rows: &[usize]) -> Result<Largest, TrainError> {
    let modules = modules(network.config());
    let mut found = Largest { images: 0, by_module: BTreeMap::new() };
    if modules.is_empty() {
        return Ok(found);
    }
    let mut tops: HashMap<Value, Tensor> = HashMap::new();
    corpus.each_batch_of_images(network, rows, |pixels| {
        if stop_requested() {
            return Err(TrainError::Interrupted);
        }
        found.images += pixels.size()[0] as usize;
        Ok(network.watch_images(pixels, &mut |node, inputs| {
            if node.op == Op::Relu && modules.contains_key(&node.inputs[0]) {
                let top = in_rows(inputs[0].shallow_clone())?.f_max()?;
                let top = tops.remove(&node.inputs[0]).map_or(Ok(top.shallow_clone()), |before| before.f_maximum(&top))?;
                tops.insert(node.inputs[0], top);
            }
            Ok(())
        })?)
    })?;
    for (value, top) in tops {
        let (module, top) = (&modules[&value], f64::try_from(top.f_to_device(Device::Cpu)?)? as f32);
        if !top.is_finite() {
            return Err(TrainError::Failed(format!("what the layer {module} gives is not finite: the weights are damaged")));
        }
        found.by_module.insert(module.clone(), top.max(0.0));
    }
    Ok(found)
}

/// Writes what was found beside the weights that it belongs to.
///
/// # Errors
/// Weights that cannot be read, a folder that cannot be written.
pub(super) fn write(folder: &Path, largest: &Largest, data_sha256: String) -> Result<Activations, TrainError> {
    let weights = Checkpoint::open(folder, Naming::Classifier)?.sha256()?.to_string();
    let producer = format!("mmlnb-train {}", env!("CARGO_PKG_VERSION"));
    let activations = Activations::new(producer, weights, data_sha256, largest.images, largest.by_module.clone());
    replace_file(&folder.join(ACTIVATIONS), &activations.to_bytes())?;
    Ok(activations)
}

impl Largest {
    /// Whether there was nothing to find.
    pub fn is_empty(&self) -> bool {
        self.by_module.is_empty()
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
