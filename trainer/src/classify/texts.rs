//! The texts of a data set as the classifier reads them: whose words, cut into tokens, each distinct text once.

use crate::{
    data::{Part, Table},
    error::TrainError,
};
use mmlnb_models::{
    prepare::bert_tokenizer::{BertText, BertTokenizer},
    random::Draw,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tch::Tensor;

/// Distinct texts as tokens, and which of them belongs to which row.
#[derive(Debug)]
pub(super) struct Written {
    tokens: Vec<BertText>,
    /// What validation, test and serving read.
    served: Vec<usize>,
    /// What training may read instead.
    other: Option<Mixture>,
    padding: i64,
}

/// Training texts that change from epoch to epoch.
#[derive(Debug)]
struct Mixture {
    rows: Vec<usize>,
    /// Share of the served ones.
    share: f64,
    seed: u64,
}

/// How many texts lose their ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Texts that are longer than the encoder reads.
    pub texts: usize,
    /// Of so many.
    pub of: usize,
    /// Tokens lost in all.
    pub tokens: usize,
}

impl Written {
    /// Texts of the rows; `others` are those that training reads too, with the share of the first ones.
    ///
    /// # Errors
    /// A text that cannot be cut into tokens.
    pub fn new(
        served: &[String],
        others: Option<(&[String], f64)>,
        tokenizer: &BertTokenizer,
        longest: usize,
        seed: u64,
    ) -> Result<Written, TrainError> {
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut words: Vec<String> = Vec::new();
        let mut number = |text: &String| {
            *known.entry(text.clone()).or_insert_with(|| {
                words.push(text.clone());
                words.len() - 1
            })
        };
        let served: Vec<usize> = served.iter().map(&mut number).collect();
        let other = others.map(|(texts, share)| Mixture { rows: texts.iter().map(&mut number).collect(), share, seed });
        let cut = |text: &String| {
            let failed = |error| TrainError::Failed(format!("the text {text:?} cannot be read: {error}"));
            tokenizer.encode(text, longest).map_err(failed)
        };
        let tokens = words.iter().map(cut).collect::<Result<Vec<_>, _>>()?;
        Ok(Written { tokens, served, other, padding: tokenizer.padding() })
    }

    /// The text of a row in validation, test and serving.
    pub fn served(&self, row: usize) -> usize {
        self.served[row]
    }

    /// The text of a row in a training epoch.
    pub fn trained(&self, row: usize, epoch: u64) -> usize {
        match &self.other {
            Some(Mixture { rows, share, seed }) if Draw::new(*seed, "mixture", &[epoch, row as u64]).uniform() >= *share => {
                rows[row]
            }
            _ => self.served[row],
        }
    }

    /// Number of distinct texts.
    pub fn count(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens of a text that are read.
    pub fn length(&self, text: usize) -> usize {
        self.tokens[text].ids.len()
    }

    /// Ids and mask `[texts, tokens]`, as long as the longest of them.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn tensors(&self, texts: &[usize]) -> Result<(Tensor, Tensor), TrainError> {
        let longest = texts.iter().map(|text| self.tokens[*text].ids.len()).max().unwrap_or(1);
        let mut ids = Vec::with_capacity(texts.len() * longest);
        let mut mask = Vec::with_capacity(texts.len() * longest);
        for text in texts.iter().map(|text| &self.tokens[*text]) {
            let missing = longest - text.ids.len();
            ids.extend(text.ids.iter().copied().chain(std::iter::repeat_n(self.padding, missing)));
            mask.extend(text.mask.iter().copied().chain(std::iter::repeat_n(0, missing)));
        }
        let shape = [texts.len() as i64, longest as i64];
        Ok((Tensor::f_from_slice(&ids)?.f_reshape(shape)?, Tensor::f_from_slice(&mask)?.f_reshape(shape)?))
    }

    /// Tokens of a row's text that are not read.
    pub fn lost(&self, row: usize) -> usize {
        let text = &self.tokens[self.served[row]];
        text.tokens_untruncated - text.tokens_read
    }

    /// How many of the rows' texts lose their ends.
    pub fn cut(&self) -> Cut {
        let mut cut = Cut { of: self.served.len(), ..Cut::default() };
        for text in self.served.iter().map(|text| &self.tokens[*text]) {
            let lost = text.tokens_untruncated - text.tokens_read;
            cut.texts += usize::from(lost > 0);
            cut.tokens += lost;
        }
        cut
    }
}

/// Texts of other patients: within each part every row gets the text of a row of another group, as far as there is one.
pub(super) fn shuffled(texts: &[String], table: &Table, parts: &[Part], seed: u64) -> Vec<String> {
    let mut given = texts.to_vec();
    for part in [Part::Train, Part::Validation, Part::Test] {
        let mut rows: Vec<usize> = (0..texts.len()).filter(|row| parts[*row] == part).collect();
        Draw::new(seed, "null text", &[part as u64]).shuffle(&mut rows);
        let group = |row: &usize| table.rows[*row].group.clone().unwrap_or_else(|| format!("{row}"));
        rows.sort_by_key(group);
        // Rows of a group stand together: a shift by the largest group's size leaves no row its own group, unless that is more than half of all.
        let largest = rows.chunk_by(|a, b| group(a) == group(b)).map(<[usize]>::len).max().unwrap_or(0);
        for (place, row) in rows.iter().enumerate() {
            given[*row] = texts[rows[(place + largest) % rows.len()]].clone();
        }
    }
    given
}
