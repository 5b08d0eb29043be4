//! How many images and patients of each class are in each part.

use super::record::Record;
use crate::data::Part;
use std::collections::BTreeSet;

/// One class in one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Images.
    pub items: usize,
    /// Patients; nothing when they are not known.
    pub patients: Option<usize>,
}

impl Count {
    /// `120 of 9 patients`.
    pub fn words(self) -> String {
        match self.patients {
            Some(patients) => format!("{} of {patients} patients", self.items),
            None => self.items.to_string(),
        }
    }
}

/// Of the validation or test part; of `class`, or of all.
pub fn predicted(record: &Record, part: Part, class: Option<&str>) -> Count {
    let items: Vec<_> = record.part(part).into_iter().filter(|item| class.is_none_or(|class| item.class == class)).collect();
    let patients: Option<BTreeSet<&str>> = items.iter().map(|item| item.group.as_deref()).collect();
    Count { items: items.len(), patients: patients.map(|patients| patients.len()) }
}
