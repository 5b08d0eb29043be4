//! BERT's WordPiece tokenizer, with truncation that tells what was not read.

use std::path::{Path, PathBuf};

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::qwen_tokenizer::{TokenizerError, check_size, disable_limits, failed, load};
use crate::json::{self, Section};

/// What BERT reads as control tokens wherever it stands in a text.
pub const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// A text as the encoder reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BertText {
    /// Ids, `[CLS]` first and `[SEP]` last, then padding if asked for.
    pub ids: Vec<i64>,
    /// 1 for ids of the text, 0 for padding.
    pub mask: Vec<i64>,
    /// Ids that are read, `[CLS]` and `[SEP]` included.
    pub tokens_read: usize,
    /// Ids that the whole text has, `[CLS]` and `[SEP]` included.
    pub tokens_untruncated: usize,
    /// Bytes of the text up to the end of the last token that is read; the text's length when all of it is.
    pub bytes_read: usize,
}

/// A WordPiece tokenizer with the ids that frame a text.
#[derive(Clone, Debug)]
pub struct BertTokenizer {
    file: PathBuf,
    tokenizer: Tokenizer,
    separator: i64,
    padding: i64,
}

impl BertTokenizer {
    /// Reads `tokenizer.json` or, where it is absent, `vocab.txt`; `tokenizer_config.json` decides about capitals, accents and Chinese characters.
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        let file = dir.join("tokenizer.json");
        let vocabulary = dir.join("vocab.txt");
        let (file, mut tokenizer) = if file.exists() || !vocabulary.exists() {
            let mut tokenizer = load(&file)?;
            as_transformers(&mut tokenizer, dir)?;
            (file, tokenizer)
        } else {
            let tokenizer = from_vocabulary(&vocabulary, dir)?;
            (vocabulary, tokenizer)
        };
        disable_limits(&mut tokenizer);
        let id = |token: &str| {
            tokenizer.token_to_id(token).map(i64::from).ok_or_else(|| TokenizerError::Load {
                file: file.clone(),
                problem: format!("it has no {token} token, so it is no BERT tokenizer"),
            })
        };
        id("[CLS]")?;
        let (separator, padding) = (id("[SEP]")?, id("[PAD]")?);
        Ok(BertTokenizer { file, tokenizer, separator, padding })
    }

    /// The same tokenizer, if an embedding of so many rows has one for each of its ids.
    ///
    /// # Errors
    /// [`TokenizerError::TooLarge`] with both numbers.
    pub fn within(self, rows: i64) -> Result<Self, TokenizerError> {
        check_size(&self.file, &self.tokenizer, rows)?;
        Ok(self)
    }

    /// Ids of a text, cut to `max_length` ids with `[CLS]` and `[SEP]` kept; not padded. `max_length` is at least 2.
    pub fn encode(&self, text: &str, max_length: usize) -> Result<BertText, TokenizerError> {
        let encoding = self.tokenizer.encode(text, true).map_err(failed)?;
        let mut ids: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
        let tokens_untruncated = ids.len();
        let mut bytes_read = text.len();
        if ids.len() > max_length {
            ids.truncate(max_length.max(2) - 1);
            bytes_read = encoding.get_offsets()[..ids.len()].last().map_or(0, |&(_, end)| end);
            ids.push(self.separator);
        }
        let tokens_read = ids.len();
        Ok(BertText { mask: vec![1; ids.len()], ids, tokens_read, tokens_untruncated, bytes_read })
    }

    /// The same, padded to exactly `max_length` ids.
    pub fn encode_padded(&self, text: &str, max_length: usize) -> Result<BertText, TokenizerError> {
        let mut encoded = self.encode(text, max_length)?;
        encoded.ids.resize(max_length, self.padding);
        encoded.mask.resize(max_length, 0);
        Ok(encoded)
    }

    /// The id that fills a batch's shorter rows.
    pub fn padding(&self) -> i64 {
        self.padding
    }
}

fn from_vocabulary(vocabulary: &Path, dir: &Path) -> Result<Tokenizer, TokenizerError> {
    let error = |problem: String| TokenizerError::Load { file: vocabulary.to_path_buf(), problem };
    let path = vocabulary.to_str().ok_or_else(|| error("its path is not UTF-8".to_string()))?;
    let model =
        WordPiece::from_file(path).unk_token("[UNK]".to_string()).build().map_err(|problem| error(problem.to_string()))?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normaliser(dir)?)).map_err(failed)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let id =
        |tokenizer: &Tokenizer, token: &str| tokenizer.token_to_id(token).ok_or_else(|| error(format!("it has no line {token}")));
    let (class, separator) = (id(&tokenizer, "[CLS]")?, id(&tokenizer, "[SEP]")?);
    tokenizer.with_post_processor(Some(BertProcessing::new(("[SEP]".to_string(), separator), ("[CLS]".to_string(), class))));
    let known = SPECIAL_TOKENS.into_iter().filter(|token| tokenizer.token_to_id(token).is_some());
    let known: Vec<AddedToken> = known.map(|token| AddedToken::from(token, true)).collect();
    tokenizer.add_special_tokens(known).map_err(failed)?;
    Ok(tokenizer)
}

/// Puts the normaliser of `tokenizer_config.json` in the place of the one in `tokenizer.json`, as transformers (5.24, and 4 before) does for its
/// BERT classes: what the settings leave out has the class's defaults, whatever `tokenizer.json` says. Settings of another class, and a folder
/// without settings, leave it as it is.
fn as_transformers(tokenizer: &mut Tokenizer, dir: &Path) -> Result<(), TokenizerError> {
    let file = dir.join("tokenizer_config.json");
    if !file.exists() {
        return Ok(());
    }
    let class = || {
        let value = json::read(&file)?;
        Ok(Section::top(&file, &value)?.optional_text("tokenizer_class")?.map(str::to_string))
    };
    let class = class()
        .map_err(|problem: json::ConfigError| TokenizerError::Load { file: file.clone(), problem: problem.to_string() })?;
    if class.is_some_and(|class| !class.contains("Bert")) {
        return Ok(());
    }
    tokenizer.with_normalizer(Some(normaliser(dir)?)).map_err(failed)?;
    Ok(())
}

/// Lower-casing and accents as `tokenizer_config.json` has them; without that file as bert-base-uncased.
fn normaliser(dir: &Path) -> Result<BertNormalizer, TokenizerError> {
    let file = dir.join("tokenizer_config.json");
    if !file.exists() {
        return Ok(BertNormalizer::new(true, true, None, true));
    }
    let settings = || {
        let value = json::read(&file)?;
        let top = Section::top(&file, &value)?;
        let lower = top.optional_bool("do_lower_case")?.unwrap_or(true);
        let chinese = top.optional_bool("tokenize_chinese_chars")?.unwrap_or(true);
        Ok((lower, chinese, top.optional_bool("strip_accents")?))
    };
    let (lower, chinese, accents) = settings()
        .map_err(|problem: json::ConfigError| TokenizerError::Load { file: file.clone(), problem: problem.to_string() })?;
    Ok(BertNormalizer::new(true, chinese, accents, lower))
}
