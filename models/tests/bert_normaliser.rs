//! Capitals, accents and Chinese characters: `tokenizer_config.json` against `tokenizer.json`, as transformers decides.
//!
//! The expected ids are those of transformers 5.24.0, `AutoTokenizer` on the same files.

use mmlnb_models::prepare::bert_tokenizer::BertTokenizer;
use mmlnb_models::prepare::qwen_tokenizer::TokenizerError;
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

const WORDS: [&str; 15] =
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cells", "Cells", "Café", "café", "cafe", "Cafe", "細", "胞", "細胞", "CELLS"];

/// A tokenizer's folder with this normaliser in `tokenizer.json` and these settings beside it.
fn folder(lowercase: bool, strip_accents: Value, settings: Option<Value>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let special = WORDS[..5].iter().enumerate().map(|(id, word)| {
        json!({"id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
    });
    let vocabulary = WORDS.iter().enumerate().map(|(id, word)| (word.to_string(), json!(id))).collect::<serde_json::Map<_, _>>();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special.collect::<Vec<_>>(),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": strip_accents,
            "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": vocabulary},
    });
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.path().join("vocab.txt"), WORDS.join("\n") + "\n").unwrap();
    if let Some(settings) = settings {
        fs::write(folder.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    }
    folder
}

fn ids(folder: &TempDir) -> Vec<i64> {
    BertTokenizer::from_dir(folder.path()).unwrap().encode("Cells Café 細胞 CELLS", 20).unwrap().ids
}

#[test]
fn settings_decide_as_in_transformers() {
    let bert = |more: Value| {
        let mut settings = json!({"tokenizer_class": "BertTokenizer"});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        settings
    };
    let (lowered, kept) = ([2, 5, 9, 11, 12, 5, 3].as_slice(), [2, 6, 7, 11, 12, 14, 3].as_slice());
    for (lowercase, accents, settings, expected) in [
        (true, Value::Null, bert(json!({"do_lower_case": true})), lowered),
        (true, Value::Null, bert(json!({"do_lower_case": false})), kept),
        (false, Value::Null, bert(json!({"do_lower_case": true})), lowered),
        (false, Value::Null, bert(json!({})), lowered),
        (true, Value::Null, json!({"tokenizer_class": "BertTokenizerFast", "do_lower_case": false}), kept),
        (true, Value::Null, json!({"do_lower_case": false}), kept),
        (true, Value::Null, bert(json!({"strip_accents": false})), &[2, 5, 8, 11, 12, 5, 3]),
        (false, Value::Null, bert(json!({"do_lower_case": false, "strip_accents": true})), &[2, 6, 10, 11, 12, 14, 3]),
        (true, Value::Null, bert(json!({"tokenize_chinese_chars": false})), &[2, 5, 9, 13, 5, 3]),
        (true, json!(false), bert(json!({})), lowered),
        (false, Value::Null, json!({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": true}), kept),
    ] {
        let folder = folder(lowercase, accents.clone(), Some(settings.clone()));
        assert_eq!(ids(&folder), expected, "lowercase {lowercase}, accents {accents}, {settings}");
    }
}

#[test]
fn without_settings_tokenizer_json_stands() {
    assert_eq!(ids(&folder(false, Value::Null, None)), [2, 6, 7, 11, 12, 14, 3]);
    assert_eq!(ids(&folder(true, json!(false), None)), [2, 5, 8, 11, 12, 5, 3]);
}

#[test]
fn an_embedding_needs_a_row_for_every_id() {
    let folder = folder(true, Value::Null, None);
    let tokenizer = || BertTokenizer::from_dir(folder.path()).unwrap();
    assert!(tokenizer().within(15).is_ok() && tokenizer().within(30_522).is_ok());
    let error = tokenizer().within(14).unwrap_err();
    assert!(matches!(error, TokenizerError::TooLarge { last: 14, rows: 14, .. }));
    let text = error.to_string();
    assert!(text.contains("id 14 (`CELLS`)") && text.contains("14 rows"), "{text}");
}
