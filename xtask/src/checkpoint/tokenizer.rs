//! Tokenizers made on the spot from a page of pathologists' English: Qwen's byte-level BPE and BERT's WordPiece.

use super::{bytes, write_json, write_text};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
};

const CORPUS: &str = include_str!("corpus.txt");

/// The built-in page, with the text of `file` after it if there is one.
pub fn corpus(file: Option<&Path>) -> Result<String> {
    let Some(file) = file else { return Ok(CORPUS.to_owned()) };
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(format!("{CORPUS}\n{text}"))
}

/// The template that Qwen2.5-VL checkpoints carry.
const CHAT_TEMPLATE: &str = include_str!("chat_template.jinja");

/// Qwen2's way of cutting text into words before byte pairs are merged.
const SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen's added tokens in the order of their ids; true: special, left out of decoded text.
const ADDED: [(&str, bool); 22] = [
    ("<|endoftext|>", true),
    ("<|im_start|>", true),
    ("<|im_end|>", true),
    ("<|object_ref_start|>", true),
    ("<|object_ref_end|>", true),
    ("<|box_start|>", true),
    ("<|box_end|>", true),
    ("<|quad_start|>", true),
    ("<|quad_end|>", true),
    ("<|vision_start|>", true),
    ("<|vision_end|>", true),
    ("<|vision_pad|>", true),
    ("<|image_pad|>", true),
    ("<|video_pad|>", true),
    ("<tool_call>", false),
    ("</tool_call>", false),
    ("<|fim_prefix|>", false),
    ("<|fim_middle|>", false),
    ("<|fim_suffix|>", false),
    ("<|fim_pad|>", false),
    ("<|repo_name|>", false),
    ("<|file_sep|>", false),
];

/// A byte-level vocabulary with Qwen's added tokens at its end.
pub struct QwenTokenizer {
    tokens: Vec<String>,
    merges: Vec<(String, String)>,
}

impl QwenTokenizer {
    /// Learns merges from the corpus; `size` ordinary tokens exactly, the rest being made-up words, or as many as the corpus gives.
    pub fn learn(corpus: &str, size: Option<usize>) -> Self {
        let mut words = corpus_words(corpus);
        let mut merges = Vec::new();
        let mut tokens: Vec<String> = bytes::sorted().into_iter().map(String::from).collect();
        while let Some(pair) = most_frequent_pair(&words) {
            merge(&mut words, &pair);
            tokens.push(format!("{}{}", pair.0, pair.1));
            merges.push(pair);
        }
        if let Some(size) = size {
            let known: HashSet<String> = tokens.iter().cloned().collect();
            let missing = size - tokens.len();
            tokens.extend((0..).map(made_up_word).filter(|word| !known.contains(word)).take(missing));
        }
        Self { tokens, merges }
    }

    /// The id of an added token.
    pub fn id(&self, added: &str) -> usize {
        let place = ADDED.iter().position(|(token, _)| *token == added).expect("callers name one of Qwen's added tokens");
        self.tokens.len() + place
    }

    /// Ordinary and added tokens together.
    pub fn len(&self) -> usize {
        self.tokens.len() + ADDED.len()
    }

    /// Writes `tokenizer.json`, `vocab.json`, `merges.txt`, `tokenizer_config.json` and `chat_template.json`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let vocabulary: Map<String, Value> =
            self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
        write_text(folder, "vocab.json", &json!(vocabulary).to_string())?;
        let lines: String = self.merges.iter().map(|(left, right)| format!("{left} {right}\n")).collect();
        write_text(folder, "merges.txt", &format!("#version: 0.2\n{lines}"))?;
        write_text(folder, "tokenizer.json", &self.tokenizer_json(vocabulary).to_string())?;
        write_json(folder, "tokenizer_config.json", &self.tokenizer_config())?;
        write_json(folder, "chat_template.json", &json!({"chat_template": CHAT_TEMPLATE}))
    }

    fn tokenizer_json(&self, vocabulary: Map<String, Value>) -> Value {
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let added: Vec<Value> = ADDED.iter().map(|(token, special)| {
            json!({"id": self.id(token), "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special})
        }).collect();
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false}, byte_level.clone()]},
            "post_processor": byte_level.clone(),
            "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": self.merges,
            },
        })
    }

    fn tokenizer_config(&self) -> Value {
        let decoder: Map<String, Value> = ADDED
            .iter()
            .map(|(token, special)| {
                let entry = json!({"content": token, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": special});
                (self.id(token).to_string(), entry)
            })
            .collect();
        let special: Vec<&str> = ADDED[1..].iter().filter(|(_, special)| *special).map(|(token, _)| *token).collect();
        json!({
            "add_bos_token": false, "add_prefix_space": false, "added_tokens_decoder": decoder, "additional_special_tokens": special,
            "bos_token": null, "clean_up_tokenization_spaces": false, "eos_token": "<|im_end|>", "errors": "replace",
            "model_max_length": 131_072, "pad_token": "<|endoftext|>", "split_special_tokens": false,
            "tokenizer_class": "Qwen2Tokenizer", "unk_token": null, "chat_template": CHAT_TEMPLATE,
        })
    }
}

/// The corpus's words as lists of byte characters, a blank belonging to the word after it, with their counts.
fn corpus_words(corpus: &str) -> BTreeMap<Vec<String>, usize> {
    let alphabet = bytes::alphabet();
    let mut counts = BTreeMap::new();
    for word in corpus.lines().flat_map(|line| line.split_inclusive(|c: char| !c.is_alphabetic()).flat_map(split_tail)) {
        // Each word is learned both with the blank before it and as a line's first.
        for form in [word.to_owned(), format!(" {word}")] {
            let characters = form.bytes().map(|byte| alphabet[byte as usize].to_string()).collect();
            *counts.entry(characters).or_default() += 1;
        }
    }
    counts
}

/// Letters and the one sign after them, apart; signs alone are no words to learn.
fn split_tail(piece: &str) -> Option<&str> {
    let word = piece.trim_end_matches(|c: char| !c.is_alphabetic());
    (!word.is_empty()).then_some(word)
}

fn most_frequent_pair(words: &BTreeMap<Vec<String>, usize>) -> Option<(String, String)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (word, count) in words {
        for pair in word.windows(2) {
            *counts.entry((&pair[0], &pair[1])).or_default() += count;
        }
    }
    // Among equals the first in alphabetical order, so that the vocabulary is always the same.
    let best = counts.into_iter().rev().max_by_key(|(_, count)| *count)?;
    Some((best.0.0.to_owned(), best.0.1.to_owned()))
}

fn merge(words: &mut BTreeMap<Vec<String>, usize>, (left, right): &(String, String)) {
    *words = std::mem::take(words)
        .into_iter()
        .map(|(word, count)| {
            let mut merged: Vec<String> = Vec::with_capacity(word.len());
            for part in word {
                match merged.last_mut() {
                    Some(last) if last == left && part == *right => last.push_str(&part),
                    _ => merged.push(part),
                }
            }
            (merged, count)
        })
        .collect();
}

/// A pronounceable word for a number, a blank before it: every number has another.
fn made_up_word(number: usize) -> String {
    const ONSETS: [&str; 14] = ["b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v"];
    const VOWELS: [&str; 5] = ["a", "e", "i", "o", "u"];
    let mut word = "Ġ".to_owned();
    let mut rest = number + 1;
    while rest > 0 {
        word += ONSETS[rest % 14];
        word += VOWELS[rest / 14 % 5];
        rest /= 70;
    }
    word
}

/// BERT's special tokens, at ids 0 to 4.
const BERT_SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// A WordPiece vocabulary: special tokens, signs, the corpus's words, and single characters for all the rest.
pub fn bert_vocabulary(corpus: &str) -> Vec<String> {
    let characters: Vec<String> = ('a'..='z').chain('0'..='9').map(String::from).collect();
    let signs = ".,:;()%-'\"/?!<>=+".chars().map(String::from);
    let lower = corpus.to_lowercase();
    let words: std::collections::BTreeSet<&str> =
        lower.split(|c: char| !c.is_alphabetic()).filter(|word| word.len() > 1).collect();
    let specials = BERT_SPECIAL.map(String::from).into_iter();
    let continued: Vec<String> = characters.iter().map(|character| format!("##{character}")).collect();
    specials.chain(characters).chain(signs).chain(continued).chain(words.into_iter().map(str::to_owned)).collect()
}

/// Writes `tokenizer.json`, `vocab.txt` and `tokenizer_config.json` of an uncased BERT.
pub fn write_bert(folder: &Path, vocabulary: &[String], max_length: usize) -> Result<()> {
    let ids: Map<String, Value> = vocabulary.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added: Vec<Value> = BERT_SPECIAL.iter().enumerate().map(|(id, token)| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
    }).collect();
    let special = |token: &str, kind: usize| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let sequence = |name: &str, kind: usize| json!({"Sequence": {"id": name, "type_id": kind}});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0)],
            "pair": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0), sequence("B", 1), special("[SEP]", 1)],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": ids},
    });
    write_text(folder, "tokenizer.json", &tokenizer.to_string())?;
    write_text(folder, "vocab.txt", &vocabulary.iter().map(|token| format!("{token}\n")).collect::<String>())?;
    let config = json!({
        "do_lower_case": true, "model_max_length": max_length, "tokenizer_class": "BertTokenizer", "unk_token": "[UNK]",
        "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]",
    });
    write_json(folder, "tokenizer_config.json", &config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_shapes_have_the_real_ids() {
        let tokenizer = QwenTokenizer::learn(CORPUS, Some(151_643));
        let ids = [
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|image_pad|>",
            "<|video_pad|>",
        ]
        .map(|token| tokenizer.id(token));
        assert_eq!(ids, [151_643, 151_644, 151_645, 151_652, 151_653, 151_655, 151_656]);
        let distinct: HashSet<&String> = tokenizer.tokens.iter().collect();
        assert_eq!(distinct.len(), 151_643);
    }

    #[test]
    fn merges_build_whole_words_of_the_corpus() {
        let tokenizer = QwenTokenizer::learn(CORPUS, None);
        for word in ["Ġneuroblastoma", "Ġneuropil", "describe", "ĠSchwann"] {
            assert!(tokenizer.tokens.iter().any(|token| token == word), "{word}");
        }
        assert_eq!(tokenizer.tokens.len(), 256 + tokenizer.merges.len());
    }

    #[test]
    fn bert_entries_are_distinct() {
        let vocabulary = bert_vocabulary(CORPUS);
        assert_eq!(vocabulary.iter().collect::<HashSet<_>>().len(), vocabulary.len());
        assert_eq!(vocabulary[2], "[CLS]");
    }
}
