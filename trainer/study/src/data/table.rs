//! The rows of a data set.

use mmlnb_models::{
    hash,
    rows::{Identity, Part},
};
use std::path::PathBuf;

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

impl Row {
    /// What tells it from others.
    pub fn identity(&self) -> Identity<'_> {
        let Row { line, file_name, sha256, group, split, .. } = self;
        Identity { line: *line, file_name, sha256, group: group.as_deref(), part: *split }
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
