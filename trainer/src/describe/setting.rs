//! Everything that a run is made of.

use super::{items::Item, recipe::Recipe};
use crate::{data::TrainingData, generate::Prompter};
use mmlnb_models::{record::Record, weights::Checkpoint};
use std::path::Path;
use tch::Device;

/// Everything that a run is made of.
#[derive(Debug)]
pub struct Training<'t> {
    /// Its settings.
    pub recipe: &'t Recipe,
    /// Prompt, tokenizer and image processor.
    pub prompter: &'t Prompter,
    /// The base.
    pub base: &'t Checkpoint,
    /// The image folder.
    pub images: &'t Path,
    /// What is learnt.
    pub train: &'t [Item],
    /// What the best epoch is chosen on.
    pub validation: &'t [Item],
    /// What fills up shorter rows.
    pub pad: i64,
    /// Where it computes.
    pub device: Device,
    /// What is said of the training beside what is saved.
    pub record: &'t Record,
    /// Hashes of what weights are fitted and chosen on.
    pub training_data: &'t TrainingData,
}
