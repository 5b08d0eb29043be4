//! Rows of the data as samples: the appliance's prompt, the answer, and a label for each of the answer's tokens.

use super::{
    recipe::Recipe,
    sample::{Sample, UNLABELLED},
};
use crate::{
    data::{Part, Row, Table},
    error::TrainError,
    generate::Prompter,
};
use mmlnb_models::prepare::{chat, positions::expand_images};
use mmlnb_study::error::StudyError;
use std::path::PathBuf;

/// A row that is trained or validated on.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    /// Its number in the table.
    pub row: usize,
    /// The image's file.
    pub image: PathBuf,
    /// SHA-256 of that file.
    pub sha256: String,
    /// The expert's words.
    pub description: String,
    /// As tokens.
    pub sample: Sample,
}

/// Makes samples. The mask is made from the lengths of the two pieces that are put together, never searched for in the text.
#[derive(Debug)]
pub struct Templates<'p> {
    prompter: &'p Prompter,
    prompt: Vec<i64>,
    end: i64,
    most: usize,
}

impl<'p> Templates<'p> {
    /// # Errors
    /// A tokenizer without the end token.
    pub fn new(prompter: &'p Prompter, recipe: &Recipe) -> Result<Templates<'p>, TrainError> {
        let question = if recipe.prompt_in_training { prompter.settings.prompt.as_str() } else { "" };
        let rendered = chat::render(prompter.settings.system.as_deref(), 1, question);
        let failed = |problem: String| TrainError::Failed(problem);
        let prompt = prompter.tokenizer().encode(&rendered).map_err(|error| failed(error.to_string()))?;
        let text = recipe.end_token.text();
        let end = prompter.tokenizer().id(text).ok_or_else(|| failed(format!("the tokenizer has no token {text}")))?;
        Ok(Templates { prompter, prompt, end, most: recipe.max_tokens })
    }

    /// The sample of an answer to an image of these pixels.
    ///
    /// # Errors
    /// In words: an image that is no image for the describer, an answer that is too long. Nothing is ever cut.
    pub fn sample(&self, width: i64, height: i64, answer: &str) -> Result<Sample, String> {
        let sample = self.put_together(width, height, answer)?;
        if sample.ids.len() > self.most {
            return Err(format!(
                "image, prompt and description make {} tokens, more than `max_tokens` = {}; shorten the description or set `image_size`",
                sample.ids.len(),
                self.most
            ));
        }
        Ok(sample)
    }

    fn put_together(&self, width: i64, height: i64, answer: &str) -> Result<Sample, String> {
        let processor = &self.prompter.processor;
        let (wide, high) = processor.resized(width, height).map_err(|error| error.to_string())?;
        let grid = [1, high / processor.patch, wide / processor.patch];
        let mut ids = expand_images(&self.prompt, &[grid], &self.prompter.config).map_err(|error| error.to_string())?;
        let mut labels = vec![UNLABELLED; ids.len()];
        ids.extend(self.prompter.tokenizer().encode(answer).map_err(|error| error.to_string())?);
        ids.push(self.end);
        labels.extend(&ids[labels.len()..]);
        Ok(Sample { ids, labels, grid })
    }

    /// What fills up shorter rows of a batch.
    pub fn pad(&self) -> i64 {
        self.prompter.tokenizer().id("<|endoftext|>").unwrap_or(self.end)
    }

    /// Tokens of a row's sequence; 0 where it has none and is refused for another reason.
    pub fn tokens(&self, row: &Row) -> usize {
        let text = row.description.as_deref().unwrap_or_default().trim();
        self.put_together(i64::from(row.width), i64::from(row.height), text).map_or(0, |sample| sample.ids.len())
    }

    fn item(&self, table: &Table, number: usize, row: &Row) -> Result<Item, String> {
        let description = row.description.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let description = description.ok_or("it has no description to learn")?;
        let sample = self.sample(i64::from(row.width), i64::from(row.height), description)?;
        Ok(Item { row: number, image: table.image(row), sha256: row.sha256.clone(), description: description.into(), sample })
    }

    /// The rows of one part.
    ///
    /// # Errors
    /// [`StudyError::Data`] with every row that cannot be learnt from, by its line.
    pub fn items(&self, table: &Table, parts: &[Part], part: Part) -> Result<Vec<Item>, TrainError> {
        let mut items = Vec::new();
        let mut problems = Vec::new();
        for (number, row) in table.rows.iter().enumerate().filter(|(number, _)| parts[*number] == part) {
            match self.item(table, number, row) {
                Ok(item) => items.push(item),
                Err(problem) => problems.push(format!("line {}: {}: {problem}", row.line, row.file_name)),
            }
        }
        let count = problems.len();
        if count == 0 { Ok(items) } else { Err(StudyError::Data { file: table.file.clone(), problems, count }.into()) }
    }

    /// One sample token by token: number, id, text, and whether it is learnt. Runs of image tokens are one line.
    pub fn shown(&self, sample: &Sample) -> Vec<String> {
        let mut lines = Vec::new();
        let mut at = 0;
        while at < sample.ids.len() {
            let id = sample.ids[at];
            let image = id == self.prompter.config.image_token;
            let run = if image { sample.ids[at..].iter().take_while(|other| **other == id).count() } else { 1 };
            let text = self.prompter.tokenizer().decode(&[id], false).unwrap_or_default();
            let learnt = if sample.labels[at] == UNLABELLED { " " } else { "learnt" };
            let times = if run > 1 { format!(" x {run}") } else { String::new() };
            lines.push(format!("{at:5} {id:7} {learnt:6} {text:?}{times}"));
            at += run;
        }
        lines
    }
}
