//! What a run leaves behind: an adapter's folder, or a whole checkpoint when everything was trained.

use super::{adapter::write_trained, describer::Describer, images::Images, known_answers, setting::Training};
use crate::{data::write_training_data, error::TrainError};
use mmlnb_models::weights::Adapter;
use std::path::Path;

/// Writes `best/` and `last/`.
#[derive(Debug)]
pub struct Saver<'s> {
    /// The run.
    pub training: &'s Training<'s>,
    /// The adapter at its start; `None` when the base's own weights are trained.
    pub start: Option<&'s Adapter>,
    /// What is trained.
    pub describer: &'s Describer,
    /// Its images.
    pub images: &'s Images,
}

impl Saver<'_> {
    /// Fills an empty folder.
    ///
    /// # Errors
    /// What libtorch or the operating system refuses.
    pub fn write(&self, folder: &Path) -> Result<(), TrainError> {
        let Training { recipe, base, record, training_data, .. } = self.training;
        match self.start {
            Some(start) => write_trained(folder, start, recipe.adapter_keys.style(), &self.describer.trained_leaves())?,
            None => super::checkpoint::write(folder, base, &self.describer.trained_leaves())?,
        }
        record.write(folder).map_err(|error| TrainError::Failed(error.to_string()))?;
        write_training_data(training_data, folder)?;
        known_answers::write(folder, self.training, self.describer, self.images)
    }
}
