//! Folders that networks come from: a checkpoint or a classifier, opened and checked as a whole.

use crate::error::ExportError;
use mmlnb_models::{
    config::{BertConfig, CLASSIFIER_MODEL_TYPE, ClassifierConfig, ImageEncoder, ImageInput, QwenConfig},
    graph::Graph,
    json, networks,
    weights::{Adapter, Checkpoint, Naming, Weights},
};
use std::path::{Path, PathBuf};

/// A network that can be exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Network {
    /// The VGG16 image encoder.
    Vgg16,
    /// The Swin image encoder.
    Swin,
    /// The BERT text encoder.
    Bert,
    /// Fusion and heads of a classifier.
    Prmf,
    /// Qwen2.5-VL's vision tower.
    Vision,
    /// Qwen2.5-VL's token embedding.
    Embedding,
    /// Qwen2.5-VL's language model on a key-value cache.
    Decoder,
}

impl Network {
    /// As `--network` and the files name it.
    pub fn name(self) -> &'static str {
        match self {
            Network::Vgg16 => "vgg16",
            Network::Swin => "swin",
            Network::Bert => "bert",
            Network::Prmf => "prmf",
            Network::Vision => "vision",
            Network::Embedding => "embedding",
            Network::Decoder => "decoder",
        }
    }
}

/// What kind of folder it is, with its sizes.
#[derive(Clone, PartialEq, Debug)]
pub enum Sizes {
    /// A Qwen2.5-VL checkpoint.
    Qwen(QwenConfig),
    /// A classifier.
    Classifier(ClassifierConfig),
    /// An image encoder alone.
    Image(ImageEncoder),
    /// A BERT alone.
    Bert(BertConfig),
}

/// An opened folder whose tensors are exactly those of its networks.
#[derive(Debug)]
pub struct Source {
    dir: PathBuf,
    sizes: Sizes,
    checkpoint: Checkpoint,
    adapter: Option<Adapter>,
}

impl Source {
    /// Opens a checkpoint or classifier folder, with an adapter to be merged.
    ///
    /// # Errors
    /// Everything that is wrong with the folder, its tensors and the adapter.
    pub fn open(dir: &Path, adapter: Option<&Path>) -> Result<Source, ExportError> {
        Source::open_allowing(dir, adapter, false)
    }

    /// As [`Source::open`]; `allow_partial` accepts an adapter that lacks modules that its configuration names.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open_allowing(dir: &Path, adapter: Option<&Path>, allow_partial: bool) -> Result<Source, ExportError> {
        let sizes = sizes(dir)?;
        let naming = match &sizes {
            Sizes::Qwen(_) => Naming::Qwen,
            Sizes::Classifier(_) => Naming::Classifier,
            Sizes::Image(ImageEncoder::Vgg16(_)) => Naming::Vgg16,
            Sizes::Image(ImageEncoder::Swin(_)) => Naming::Swin,
            Sizes::Bert(_) => Naming::Bert,
        };
        if adapter.is_some() && naming != Naming::Qwen {
            return Err(ExportError::Asked(format!("--adapter is for a Qwen2.5-VL checkpoint, but {} is none", dir.display())));
        }
        let checkpoint = Checkpoint::open(dir, naming)?;
        let adapter = adapter.map(Adapter::open).transpose()?.map(|adapter| adapter.allowing_partial(allow_partial));
        let source = Source { dir: dir.to_path_buf(), sizes, checkpoint, adapter };
        source.check()?;
        Ok(source)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its kind and sizes.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Its tensors.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The adapter to be merged.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// What the user should know of an adapter that is accepted though it is not whole.
    pub fn told_partial(&self) -> Option<String> {
        self.adapter.as_ref().and_then(|adapter| adapter.told_partial(&self.checkpoint))
    }

    /// Where the networks take their numbers from.
    ///
    /// # Errors
    /// An adapter that does not fit the checkpoint.
    pub fn weights(&self) -> Result<Weights<'_>, ExportError> {
        Ok(match &self.adapter {
            Some(adapter) => Weights::with_adapter(&self.checkpoint, adapter)?,
            None => Weights::new(&self.checkpoint),
        })
    }

    /// One of the folder's networks, with the adapter beside its layers.
    ///
    /// # Errors
    /// [`ExportError::Asked`] for a network that the folder does not hold.
    pub fn graph(&self, network: Network) -> Result<Graph, ExportError> {
        let graph = plain(&self.sizes, network).ok_or_else(|| {
            let held = networks_of(&self.sizes).iter().map(|n| n.name()).collect::<Vec<_>>().join(", ");
            ExportError::Asked(format!("{} holds no network `{}`; it holds {held}", self.dir.display(), network.name()))
        })?;
        match &self.adapter {
            None => Ok(graph),
            // No module is expected here, so none can be missing; `check` has seen that each belongs to one of the networks.
            Some(adapter) => Ok(graph
                .adapt(&|module| adapter.adaption(module), &[])
                .expect("adapting fails only for modules that are expected and not found")),
        }
    }

    /// The networks that it holds.
    pub fn networks(&self) -> Vec<Network> {
        networks_of(&self.sizes)
    }

    fn check(&self) -> Result<(), ExportError> {
        let graphs = self.networks().into_iter().map(|network| self.graph(network)).collect::<Result<Vec<Graph>, _>>()?;
        self.checkpoint.check_all(graphs.iter().map(Graph::parameters))?;
        if let Some(adapter) = &self.adapter {
            adapter.verify_changes(&self.weights()?, &graphs.iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

fn sizes(dir: &Path) -> Result<Sizes, ExportError> {
    let file = dir.join("config.json");
    let config = json::read(&file)?;
    let text = |key: &str| config.get(key).and_then(|value| value.as_str());
    match (text("model_type"), text("architecture")) {
        (Some(CLASSIFIER_MODEL_TYPE), _) => Ok(Sizes::Classifier(ClassifierConfig::from_json(&file, &config)?)),
        (Some("qwen2_5_vl"), _) => Ok(Sizes::Qwen(QwenConfig::from_json(&file, &config)?)),
        (Some("bert"), _) => Ok(Sizes::Bert(BertConfig::from_json(&file, &config)?)),
        (Some("vgg16" | "swin"), _) | (_, Some("vgg16" | "swin")) => Ok(Sizes::Image(ImageEncoder::from_json(&file, &config)?)),
        (found, _) => {
            let found = found.map_or("no `model_type`".to_string(), |found| format!("`model_type` {found}"));
            let known = format!("qwen2_5_vl, {CLASSIFIER_MODEL_TYPE}, bert, vgg16 and swin");
            Err(ExportError::Checkpoint { path: file, problem: format!("{found}; known are {known}") })
        }
    }
}

fn networks_of(sizes: &Sizes) -> Vec<Network> {
    let image = |encoder: &ImageEncoder| match encoder {
        ImageEncoder::Vgg16(_) => Network::Vgg16,
        ImageEncoder::Swin(_) => Network::Swin,
    };
    match sizes {
        Sizes::Qwen(_) => vec![Network::Vision, Network::Embedding, Network::Decoder],
        Sizes::Image(encoder) => vec![image(encoder)],
        Sizes::Bert(_) => vec![Network::Bert],
        Sizes::Classifier(config) => {
            let encoders = config.image.iter().map(|(encoder, _)| image(encoder));
            encoders.chain(config.text.iter().map(|_| Network::Bert)).chain([Network::Prmf]).collect()
        }
    }
}

/// The network without an adapter; `None` when the folder does not hold it.
fn plain(sizes: &Sizes, network: Network) -> Option<Graph> {
    if !networks_of(sizes).contains(&network) {
        return None;
    }
    match (sizes, network) {
        (Sizes::Qwen(config), Network::Vision) => Some(networks::vision(&config.vision)),
        (Sizes::Qwen(config), Network::Embedding) => Some(networks::embedding(&config.text)),
        (Sizes::Qwen(config), Network::Decoder) => Some(networks::decoder(&config.text, true)),
        (Sizes::Image(encoder), _) => Some(networks::image_encoder(encoder, "")),
        (Sizes::Bert(config), _) => Some(networks::bert(config, "")),
        (Sizes::Classifier(config), Network::Vgg16 | Network::Swin) => {
            config.image.as_ref().map(|(encoder, input)| image_encoder(encoder, input))
        }
        (Sizes::Classifier(config), Network::Bert) => config.text.as_ref().map(|config| networks::bert(config, "text")),
        (Sizes::Classifier(config), Network::Prmf) => Some(networks::heads(config)),
        (Sizes::Qwen(_), _) | (Sizes::Classifier(_), _) => None,
    }
}

/// A classifier's image encoder. Swin is written for the one size that the classifier takes: then its windows are constants.
fn image_encoder(encoder: &ImageEncoder, input: &ImageInput) -> Graph {
    let graph = networks::image_encoder(encoder, "image");
    match encoder {
        ImageEncoder::Vgg16(_) => graph,
        ImageEncoder::Swin(_) => graph.at_sizes(&|name| match name {
            "height" => Some(input.height),
            "width" => Some(input.width),
            _ => None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mmlnb_models::config::{Resample, SwinConfig, Vgg16Config};

    #[test]
    fn a_classifiers_swin_is_written_for_its_size_and_its_vgg_for_any() {
        let input = ImageInput { width: 96, height: 64, resample: Resample::Bicubic, mean: [0.5; 3], std: [0.5; 3], stain: None };
        let swin = SwinConfig { embed: 4, depths: vec![2], heads: vec![1], window: 7, patch: 4, mlp_ratio: 2.0, eps: 1e-5 };
        let sides = |encoder: &ImageEncoder| {
            let graph = image_encoder(encoder, &input);
            let (_, _, pixels) = graph.inputs().next().expect("an encoder takes pixels");
            [2, 3].map(|axis| pixels.dims[axis].known())
        };
        assert_eq!(sides(&ImageEncoder::Swin(swin)), [Some(64), Some(96)]);
        assert_eq!(sides(&ImageEncoder::Vgg16(Vgg16Config { channels: vec![4; 5] })), [None, None]);
    }
}
