//! The rows of a data set.

use mmlnb_models::hash;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

/// One image with what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Line of the CSV file, from 1, on which the row begins.
    pub line: u64,
    /// Path of the image below the image folder, as written.
    pub file_name: String,
    /// The expert's or the model's words.
    pub description: Option<String>,
    /// Number of the class in [`Table::classes`].
    pub class: Option<usize>,
    /// The patient.
    pub group: Option<String>,
    /// Hospital or scanner.
    pub site: Option<String>,
    /// The part that the file itself assigns.
    pub split: Option<Part>,
    /// SHA-256 of the image file, lower-case hex.
    pub sha256: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Weights are fitted here.
    Train,
    /// The best epoch, the temperature and the thresholds are chosen here.
    Validation,
    /// What is reported.
    Test,
}

impl Part {
    /// In the order of a run.
    pub const ALL: [Part; 3] = [Part::Train, Part::Validation, Part::Test];

    /// As the column `split` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Validation => "validation",
            Part::Test => "test",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A checked data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The CSV file.
    pub file: PathBuf,
    /// The image folder.
    pub images: PathBuf,
    /// In the file's order.
    pub rows: Vec<Row>,
    /// Names of the classes in the order of the logits; empty when no row has a class.
    pub classes: Vec<String>,
    /// Whether the order means something: then kappa is weighted.
    pub ordinal: bool,
}

impl Table {
    /// The path of a row's image.
    pub fn image(&self, row: &Row) -> PathBuf {
        self.images.join(&row.file_name)
    }

    /// Whether every row names its patient.
    pub fn has_groups(&self) -> bool {
        self.rows.iter().all(|row| row.group.is_some())
    }

    /// SHA-256 over everything in the rows that training reads, images by their hashes; the file's own layout does not matter.
    pub fn sha256(&self) -> String {
        let mut text = format!("classes {:?}\n", self.classes);
        for row in &self.rows {
            let Row { file_name, description, class, group, site, split, sha256, .. } = row;
            text += &format!("{file_name:?} {description:?} {class:?} {group:?} {site:?} {split:?} {sha256}\n");
        }
        hash::sha256_hex(text.as_bytes())
    }
}
