//! A classifier's folder with random weights: VGG16, BERT, PRMF and both heads in the project's layout.

use super::{
    Fill, Tensor, make_folder,
    random::{self, Type},
    tokenizer, write_json,
};
use anyhow::{Context, Result, ensure};
use mmlnb_models::{
    hash::sha256_hex,
    provenance::{TRAINING_DATA, TrainingData},
};
use serde_json::json;
use std::{fs, path::PathBuf};

/// What `cargo xtask classifier` writes.
#[derive(Debug, clap::Args)]
pub struct ClassifierOptions {
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Channels of VGG16's five stages; the real ones are 64,128,256,512,512
    #[arg(long, value_delimiter = ',', default_values_t = [16, 32, 48, 64, 64])]
    pub channels: Vec<usize>,
    /// The text encoder's sizes
    #[arg(long, value_enum, default_value_t = Text::Small)]
    pub text: Text,
    /// Width and height that images are resized to
    #[arg(long, value_delimiter = ',', num_args = 1, default_values_t = [224, 224])]
    pub image_size: Vec<usize>,
    /// Names of the classes
    #[arg(long, value_delimiter = ',', default_values_t = ["A", "B", "C"].map(String::from))]
    pub classes: Vec<String>,
    /// Another seed gives other weights
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Let the vocabulary hold the words of this text too
    #[arg(long, value_name = "FILE")]
    pub corpus: Option<PathBuf>,
}

/// A text encoder's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Text {
    /// 2 layers, 64 wide, for tests.
    Small,
    /// 12 layers, 768 wide: BERT-base.
    Base,
}

struct TextSizes {
    hidden: usize,
    layers: usize,
    heads: usize,
    inner: usize,
}

impl Text {
    fn sizes(self) -> TextSizes {
        match self {
            Text::Small => TextSizes { hidden: 64, layers: 2, heads: 4, inner: 128 },
            Text::Base => TextSizes { hidden: 768, layers: 12, heads: 12, inner: 3072 },
        }
    }
}

impl ClassifierOptions {
    /// What the command's defaults give.
    pub fn small(output: PathBuf) -> Self {
        let classes = ["A", "B", "C"].map(String::from).to_vec();
        let channels = vec![16, 32, 48, 64, 64];
        Self { output, channels, text: Text::Small, image_size: vec![224, 224], classes, seed: 0, corpus: None }
    }

    /// VGG16 and BERT-base as they are published.
    pub fn full(output: PathBuf) -> Self {
        Self { channels: vec![64, 128, 256, 512, 512], text: Text::Base, ..Self::small(output) }
    }
}

const MAX_LENGTH: usize = 128;

/// Convolutions in each of VGG16's five stages.
const STAGES: [usize; 5] = [2, 2, 3, 3, 3];

/// Writes the folder: configuration, BERT's tokenizer and weights in f32.
pub fn write_classifier(options: &ClassifierOptions) -> Result<()> {
    ensure!(options.channels.len() == STAGES.len(), "--channels takes the channels of five stages, like 16,32,48,64,64");
    ensure!(options.image_size.len() == 2, "--image-size takes a width and a height, like 224,224");
    make_folder(&options.output)?;
    let vocabulary = tokenizer::bert_vocabulary(&tokenizer::corpus(options.corpus.as_deref())?);
    tokenizer::write_bert(&options.output, &vocabulary, MAX_LENGTH)?;
    let sizes = options.text.sizes();
    let config = json!({
        "model_type": "mmlnb_classifier",
        "classes": options.classes,
        "image_encoder": {
            "architecture": "vgg16", "channels": options.channels, "feature_size": options.channels[4], "image_size": options.image_size,
            "resample": "bilinear", "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        },
        "text_encoder": {
            "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
            "hidden_size": sizes.hidden, "initializer_range": 0.02, "intermediate_size": sizes.inner, "layer_norm_eps": 1e-12,
            "max_position_embeddings": MAX_LENGTH, "model_type": "bert", "num_attention_heads": sizes.heads, "num_hidden_layers": sizes.layers,
            "pad_token_id": 0, "position_embedding_type": "absolute", "type_vocab_size": 2, "use_cache": true,
            "vocab_size": vocabulary.len(), "max_length": MAX_LENGTH,
        },
        "confidence_hidden": null,
        "image_head": true,
    });
    write_json(&options.output, "config.json", &config)?;
    random::write(&options.output, &tensors(options, vocabulary.len()), Type::F32, options.seed)?;
    // Random weights have seen nothing; without a record nobody could know that, and a training that starts here would be of unknown descent.
    let salt = sha256_hex(&options.seed.to_le_bytes())[..32].to_string();
    let record = options.output.join(TRAINING_DATA);
    fs::write(&record, TrainingData::new(salt, None).to_bytes())
        .with_context(|| format!("{} cannot be written", record.display()))?;
    eprintln!(
        "{} holds a classifier of random weights, without activations: at int8 its convolutions stay f32 until mmlnb-train calibrate --classifier has looked at images",
        options.output.display()
    );
    Ok(())
}

fn tensors(options: &ClassifierOptions, vocabulary: usize) -> Vec<Tensor> {
    let classes = options.classes.len();
    let TextSizes { hidden, .. } = options.text.sizes();
    let image = options.channels[4];
    let mut tensors = vgg16(&options.channels);
    tensors.extend(bert(&options.text.sizes(), vocabulary));
    tensors.extend(linear("prmf.confidence", 1, image + hidden, 1.0));
    tensors.extend(linear("prmf.projection", hidden, image, 1.0));
    tensors.extend(linear("classifier", classes, hidden, 2.0));
    tensors.extend(linear("image_head", classes, image, 2.0));
    tensors
}

/// torchvision's `features`: each convolution is followed by a ReLU, each stage by a pooling.
fn vgg16(channels: &[usize]) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    let (mut index, mut input) = (0, 3);
    for (stage, convolutions) in STAGES.into_iter().enumerate() {
        for _ in 0..convolutions {
            let output = channels[stage];
            let deviation = (2.0 / (input * 9) as f32).sqrt();
            tensors.push(Tensor::new(format!("image.features.{index}.weight"), [output, input, 3, 3], Fill::Normal(deviation)));
            tensors.push(Tensor::new(format!("image.features.{index}.bias"), [output], Fill::Normal(0.05)));
            index += 2;
            input = output;
        }
        index += 1;
    }
    tensors
}

fn bert(sizes: &TextSizes, vocabulary: usize) -> Vec<Tensor> {
    let TextSizes { hidden, layers, inner, .. } = *sizes;
    let norm = |key: String| {
        [
            Tensor::new(format!("{key}.weight"), [hidden], Fill::Constant(1.0)),
            Tensor::new(format!("{key}.bias"), [hidden], Fill::Constant(0.0)),
        ]
    };
    let embedding =
        |name: &str, rows: usize| Tensor::new(format!("text.embeddings.{name}.weight"), [rows, hidden], Fill::Normal(1.0));
    let mut tensors = vec![
        embedding("word_embeddings", vocabulary),
        embedding("position_embeddings", MAX_LENGTH),
        embedding("token_type_embeddings", 2),
    ];
    tensors.extend(norm("text.embeddings.LayerNorm".to_owned()));
    for layer in 0..layers {
        let at = format!("text.encoder.layer.{layer}");
        for part in ["query", "key", "value"] {
            tensors.extend(linear(&format!("{at}.attention.self.{part}"), hidden, hidden, 1.0));
        }
        tensors.extend(linear(&format!("{at}.attention.output.dense"), hidden, hidden, 1.0));
        tensors.extend(norm(format!("{at}.attention.output.LayerNorm")));
        tensors.extend(linear(&format!("{at}.intermediate.dense"), inner, hidden, 1.0));
        tensors.extend(linear(&format!("{at}.output.dense"), hidden, inner, 1.0));
        tensors.extend(norm(format!("{at}.output.LayerNorm")));
    }
    tensors.extend(linear("text.pooler.dense", hidden, hidden, 1.0));
    tensors
}

/// Weight and bias; the weight's deviation is `gain` over the root of the inputs, which keeps the scale of what goes through.
fn linear(key: &str, output: usize, input: usize, gain: f32) -> [Tensor; 2] {
    let deviation = gain / (input as f32).sqrt();
    [
        Tensor::new(format!("{key}.weight"), [output, input], Fill::Normal(deviation)),
        Tensor::new(format!("{key}.bias"), [output], Fill::Normal(0.05)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_weights_say_that_they_have_seen_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("classifier");
        write_classifier(&ClassifierOptions { image_size: vec![32; 2], ..ClassifierOptions::small(output.clone()) }).unwrap();
        let record = TrainingData::read(&output).unwrap().expect("a record");
        assert!(record.is_complete());
        assert_eq!(record.seen("ab", Some("patient")), None);
    }

    #[test]
    fn convolutions_have_the_indices_of_torchvision() {
        let weights: Vec<String> =
            vgg16(&[1, 2, 3, 4, 5]).into_iter().map(|tensor| tensor.key).filter(|key| key.ends_with("weight")).collect();
        let indices = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
        assert_eq!(weights, indices.map(|index| format!("image.features.{index}.weight")));
    }
}
