//! BERT's tokenizer and the classifier's inputs, against the reference data.

mod golden_files;

use std::path::Path;

use golden_files::{Tensors, distance, family, integer, integers, json, list, picture, text};
use mmlnb_models::config::{BertConfig, ClassifierConfig, ImageEncoder};
use mmlnb_models::prepare::bert_tokenizer::BertTokenizer;
use mmlnb_models::prepare::classifier_image::pixel_values;

fn check(folder: &Path, cases: &serde_json::Value) {
    let tokenizer = BertTokenizer::from_dir(folder).unwrap();
    let length = integer(cases, "max_length") as usize;
    for case in list(cases, "cases") {
        let encoded = tokenizer.encode_padded(text(case, "text"), length).unwrap();
        assert_eq!(encoded.ids, integers(case, "input_ids"), "{case}");
        assert_eq!(encoded.tokens_untruncated as i64, integer(case, "tokens_untruncated"), "{case}");
        assert_eq!(encoded.tokens_read as i64, integer(case, "tokens_read"), "{case}");
        assert_eq!(encoded.mask.iter().sum::<i64>(), integer(case, "tokens_read"), "{case}");
        let all_read = encoded.tokens_read == encoded.tokens_untruncated;
        assert_eq!(encoded.bytes_read == text(case, "text").len(), all_read, "{case}");
        assert!(text(case, "text").is_char_boundary(encoded.bytes_read), "{case}");
    }
}

#[test]
fn golden_bert_tokenizer() {
    let Some(folder) = family("bert") else { return };
    check(&folder, &json(&folder.join("tokenizer_cases.json")));
    BertConfig::from_dir(&folder).unwrap();
}

/// The same from vocab.txt alone, as old checkpoints have it.
#[test]
fn golden_bert_vocabulary_without_tokenizer_json() {
    let Some(folder) = family("bert") else { return };
    let copy = tempfile::tempdir().unwrap();
    for name in ["vocab.txt", "tokenizer_config.json"] {
        std::fs::copy(folder.join(name), copy.path().join(name)).unwrap();
    }
    check(copy.path(), &json(&folder.join("tokenizer_cases.json")));
}

#[test]
fn golden_curriculum_classifier_inputs() {
    let Some(folder) = family("curriculum") else { return };
    let cases = json(&folder.join("cases.json"));
    let classify = &cases["classify"];
    let checkpoint = folder.join(text(classify, "checkpoint"));
    let config = ClassifierConfig::from_dir(&checkpoint).unwrap();
    let (_, input) = config.image.expect("an image encoder");
    let tokenizer = BertTokenizer::from_dir(&checkpoint).unwrap();
    let length = config.text.expect("a text encoder").longest_text() as usize;
    let expected = Tensors::read(folder.join(text(classify, "tensors")));
    let (mut pixels, mut ids, mut mask) = (Vec::new(), Vec::new(), Vec::new());
    for image in list(classify, "images") {
        pixels.extend(pixel_values(&picture(&folder.join(text(image, "file"))), &input));
        let encoded = tokenizer.encode_padded(text(image, "description"), length).unwrap();
        ids.extend(encoded.ids);
        mask.extend(encoded.mask);
    }
    let tolerance = cases["tolerance"]["classifier_pixel_values"].as_f64().unwrap() as f32;
    let difference = distance(&pixels, &expected.f32("classifier_pixel_values").1);
    assert!(difference <= tolerance, "{difference}");
    assert_eq!(ids, expected.i64("text_input_ids").1);
    assert_eq!(mask, expected.i64("text_attention_mask").1);
}

#[test]
fn golden_vgg16_and_golden_swin_configs() {
    for name in ["vgg16", "swin", "swin/hub_keys"] {
        let Some(folder) = family(name) else { continue };
        let encoder = ImageEncoder::from_dir(&folder).unwrap();
        let file = if name == "vgg16" { "vgg16" } else { "swin" };
        let expected = Tensors::read(family(file).unwrap().join("expected.safetensors"));
        let features = if file == "vgg16" { "small.image_features" } else { "square.image_features" };
        assert_eq!(expected.f32(features).0[1] as i64, encoder.features(), "{name}");
    }
}
