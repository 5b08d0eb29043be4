//! A classifier's config.json is written as it is read.

use mmlnb_models::config::{BertConfig, ClassifierConfig, Fusion, ImageEncoder, ImageInput, Resample, SwinConfig, Vgg16Config};
use mmlnb_models::prepare::stain::StainNormalisation;
use std::path::Path;

fn text() -> BertConfig {
    BertConfig {
        vocabulary: 90,
        hidden: 16,
        layers: 2,
        heads: 4,
        inner: 32,
        positions: 64,
        types: 2,
        eps: 1e-12,
        dropout: 0.1,
        attention_dropout: 0.1,
        max_length: Some(48),
    }
}

fn image(encoder: ImageEncoder, stain: Option<StainNormalisation>) -> Option<(ImageEncoder, ImageInput)> {
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    Some((encoder, ImageInput { width: 224, height: 96, resample: Resample::Bilinear, mean, std, stain }))
}

#[test]
fn what_is_written_is_read_back() {
    let vgg = || ImageEncoder::Vgg16(Vgg16Config { channels: vec![4, 8, 8, 16, 16] });
    let swin = SwinConfig { embed: 8, depths: vec![1, 2], heads: vec![1, 2], window: 7, patch: 4, mlp_ratio: 4.0, eps: 1e-5 };
    let whole = ClassifierConfig {
        classes: ["UD", "PD", "D"].map(String::from).to_vec(),
        image: image(vgg(), None),
        text: Some(text()),
        fusion: Fusion::Prmf,
        confidence_hidden: Some(16),
        image_head: true,
        dropout: 0.25,
    };
    let stain = StainNormalisation::Reinhard { mean: [60.0, 20.0, -10.0], std: [10.0, 5.0, 5.5] };
    for config in [
        ClassifierConfig { fusion: Fusion::Fixed(0.3), confidence_hidden: None, ..whole.clone() },
        ClassifierConfig { fusion: Fusion::Concat, image_head: false, ..whole.clone() },
        ClassifierConfig { image: image(ImageEncoder::Swin(swin), Some(stain)), text: None, ..whole.clone() },
        ClassifierConfig { image: None, ..whole.clone() },
        whole,
    ] {
        let text = serde_json::to_string(&config.to_json()).unwrap();
        let read = ClassifierConfig::from_json(Path::new("config.json"), &serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(read, config, "{text}");
    }
}
