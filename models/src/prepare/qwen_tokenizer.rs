//! Qwen's byte-level tokenizer: text to ids and back.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

/// What is wrong with a tokenizer or its input.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file is absent or not a tokenizer.
    #[error("cannot load the tokenizer {}: {problem}", file.display())]
    Load {
        /// The file.
        file: PathBuf,
        /// The library's reason.
        problem: String,
    },
    /// The tokenizer has ids for which the network has no row.
    #[error(
        "the tokenizer {} goes up to id {last} (`{token}`), but the embedding has {rows} rows (vocab_size), for ids up to {}: tokens were \
         added without enlarging the embedding, or it belongs to another checkpoint; give the tokenizer that these weights were trained with",
        file.display(), rows - 1
    )]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its largest id.
        last: i64,
        /// That id's token.
        token: String,
        /// Rows of the embedding.
        rows: i64,
    },
    /// The library refused a text or ids.
    #[error("the tokenizer failed: {0}")]
    Failed(String),
    /// An id that no tokenizer has.
    #[error("{0} is not a token id")]
    BadId(i64),
}

/// A `tokenizer.json`.
#[derive(Clone, Debug)]
pub struct QwenTokenizer {
    file: PathBuf,
    tokenizer: Tokenizer,
}

impl QwenTokenizer {
    /// Reads `tokenizer.json` of a checkpoint's folder.
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        let file = dir.join("tokenizer.json");
        let mut tokenizer = load(&file)?;
        disable_limits(&mut tokenizer);
        Ok(QwenTokenizer { file, tokenizer })
    }

    /// The same tokenizer, if an embedding of so many rows has one for each of its ids.
    ///
    /// # Errors
    /// [`TokenizerError::TooLarge`] with both numbers.
    pub fn within(self, rows: i64) -> Result<Self, TokenizerError> {
        check_size(&self.file, &self.tokenizer, rows)?;
        Ok(self)
    }

    /// Ids of a text; special tokens written in it become their ids, none is added.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, TokenizerError> {
        let encoding = self.tokenizer.encode(text, false).map_err(failed)?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// Text of ids. Ids beyond the vocabulary give nothing; broken UTF-8 gives U+FFFD.
    pub fn decode(&self, ids: &[i64], skip_special: bool) -> Result<String, TokenizerError> {
        let ids: Result<Vec<u32>, _> = ids.iter().map(|&id| u32::try_from(id).map_err(|_| TokenizerError::BadId(id))).collect();
        self.tokenizer.decode(&ids?, skip_special).map_err(failed)
    }

    /// The id of one token by its text.
    pub fn id(&self, token: &str) -> Option<i64> {
        self.tokenizer.token_to_id(token).map(i64::from)
    }

    /// What the tokenizer reads as control tokens wherever it stands in a text, in the order of the ids.
    pub fn special_tokens(&self) -> Vec<String> {
        let mut special: Vec<(u32, String)> = self
            .tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        special.sort();
        special.into_iter().map(|(_, text)| text).collect()
    }

    /// Decodes ids one by one, without special tokens.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, ids: Vec::new(), given: 0 }
    }
}

/// Text that grows token by token and never ends inside a character.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a QwenTokenizer,
    ids: Vec<i64>,
    given: usize,
}

impl TextStream<'_> {
    /// Adds a token; returns the text that is certain now and was not given before.
    pub fn push(&mut self, id: i64) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids, true)?;
        Ok(self.give(text.trim_end_matches(char::REPLACEMENT_CHARACTER)))
    }

    /// What is left, with U+FFFD for bytes that make no character.
    pub fn finish(mut self) -> Result<String, TokenizerError> {
        let text = self.tokenizer.decode(&self.ids, true)?;
        Ok(self.give(&text))
    }

    fn give(&mut self, text: &str) -> String {
        let new = text.get(self.given..).unwrap_or_default().to_string();
        self.given += new.len();
        new
    }
}

pub(super) fn load(file: &Path) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_file(file).map_err(|problem| TokenizerError::Load { file: file.to_path_buf(), problem: problem.to_string() })
}

/// Refuses a tokenizer with ids beyond the rows of the embedding; added tokens count.
pub(super) fn check_size(file: &Path, tokenizer: &Tokenizer, rows: i64) -> Result<(), TokenizerError> {
    let last = tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
    match last.map(|(token, id)| (token, i64::from(id))) {
        Some((token, last)) if last >= rows => Err(TokenizerError::TooLarge { file: file.to_path_buf(), last, token, rows }),
        _ => Ok(()),
    }
}

/// Files may carry the padding and truncation of whoever saved them.
pub(super) fn disable_limits(tokenizer: &mut Tokenizer) {
    tokenizer.with_padding(None);
    // Only a truncation longer than its stride can be refused.
    let _ = tokenizer.with_truncation(None);
}

pub(super) fn failed(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Failed(error.to_string())
}
