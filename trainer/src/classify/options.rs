//! What a run of the stage is asked to do.

use super::recipe::Recipe;
use crate::data::{SplitBy, SplitOptions, Table};
use std::path::PathBuf;
use tch::Device;

/// How the data are split.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// By the column `split`, else by patient into three parts.
    #[default]
    Usual,
    /// As the paper's code: a random fifth of all patches chooses and is reported.
    Paper,
    /// One fold of several is reported.
    Fold {
        /// From 0.
        number: usize,
        /// 3 or more.
        of: usize,
    },
    /// One site is reported.
    LeaveOut(String),
}

/// What to train, on what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The CSV file.
    pub data: PathBuf,
    /// The image folder.
    pub images: PathBuf,
    /// The run's folder.
    pub output: PathBuf,
    /// Name of the recipe, for readers.
    pub recipe_name: String,
    /// The recipe with everything that was changed in it.
    pub recipe: Recipe,
    /// A run of `describe`, an adapter's folder or a checkpoint.
    pub describer: Option<PathBuf>,
    /// The checkpoint beside which the describer's adapter was trained.
    pub base: Option<PathBuf>,
    /// From the lowest to the highest.
    pub class_order: Option<Vec<String>>,
    /// How the data are split.
    pub protocol: Protocol,
    /// Another seed, another split.
    pub split_seed: u64,
    /// Whether the describer may have been tuned on images that are reported.
    pub allow_overlap: bool,
    /// Where to compute.
    pub device: Device,
    /// Go on with a run that was stopped.
    pub resume: bool,
    /// Check the data, print the plan, and stop.
    pub dry_run: bool,
}

impl Protocol {
    /// How a table is split under it; `seed`: another seed, another split.
    pub(super) fn split(&self, table: &Table, seed: u64) -> SplitOptions {
        let usual = SplitOptions::usual(table, seed);
        let by = match self {
            Protocol::Usual => return usual,
            Protocol::Paper => SplitBy::Paper,
            Protocol::Fold { number, of } => SplitBy::Fold { number: *number, of: *of },
            Protocol::LeaveOut(site) => SplitBy::LeaveOut(site.clone()),
        };
        SplitOptions { by, ..usual }
    }

    /// Its name on the pages of a run on this table.
    pub(super) fn name(&self, table: &Table) -> String {
        match self {
            Protocol::Usual if table.rows.iter().any(|row| row.split.is_some()) => "column".into(),
            Protocol::Usual => "default".into(),
            Protocol::Paper => "paper".into(),
            Protocol::Fold { number, of } => format!("fold {} of {of}", number + 1),
            Protocol::LeaveOut(site) => format!("leave-out {site}"),
        }
    }
}
