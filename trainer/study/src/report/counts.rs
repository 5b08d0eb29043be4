//! How many images and patients of each class are in each part.

use super::record::Record;
use crate::data::Part;
use serde_json::Value;
use std::collections::BTreeSet;

/// Of one class in one part: `120 of 9 patients`; empty when the run does not say it. `class`: none for all.
pub fn words(record: &Record, part: Part, class: Option<usize>) -> String {
    let (images, patients) = if part == Part::Train || record.predictions.is_empty() {
        summed(record, part, class)
    } else {
        predicted(record, part, class)
    };
    match (images, patients) {
        (Some(images), Some(patients)) => format!("{images} of {patients} patients"),
        (Some(images), None) => images.to_string(),
        (None, _) => String::new(),
    }
}

/// From the summary of the data in `measures.json`, which does not count the patients of a single class.
fn summed(record: &Record, part: Part, class: Option<usize>) -> (Option<u64>, Option<u64>) {
    let mut parts = record.measures["data"]["parts"].as_array().into_iter().flatten();
    let Some(found) = parts.find(|found| found["part"] == part.to_string()) else { return (None, None) };
    match class {
        Some(class) => (found["per_class"].get(class).and_then(Value::as_u64), None),
        None => (found["images"].as_u64(), found["patients"].as_u64()),
    }
}

fn predicted(record: &Record, part: Part, class: Option<usize>) -> (Option<u64>, Option<u64>) {
    let class = class.map(|class| &record.classes[class]);
    let items: Vec<_> = record.part(part).into_iter().filter(|item| class.is_none_or(|class| item.class == *class)).collect();
    let patients: Option<BTreeSet<&str>> = items.iter().map(|item| item.group.as_deref()).collect();
    (Some(items.len() as u64), patients.map(|patients| patients.len() as u64))
}
