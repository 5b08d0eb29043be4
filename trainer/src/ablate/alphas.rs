//! How alpha answers to worse texts: true, swapped, generic and empty ones, at several shares of the items.
//!
//! PRMF is meant to weigh a text less when it is worth less. Each trained classifier is asked about the same images with their own text, with the text
//! of another patient of another class, with a sentence that says nothing, and with no text; at a share p of replaced texts alpha should fall and
//! accuracy should not fall below that of the image alone.

use super::asked::{Answer, Asked};
use crate::{
    compare::{Items, Run},
    error::TrainError,
};
use mmlnb_models::hash;
use serde::Serialize;
use std::path::{Path, PathBuf};
use tch::Device;

/// Shares of items whose text is replaced.
pub const SHARES: [f64; 4] = [0.0, 0.25, 0.5, 1.0];
/// A text that says nothing about its image.
const GENERIC: &str = "A microscopic image of tumour tissue with the usual features.";
/// Cases that are listed.
const LISTED: usize = 12;

/// The kinds of replaced texts.
const KINDS: [&str; 3] = ["swapped", "generic", "empty"];

/// What came of it, over all seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alphas {
    /// Every kind at every share.
    pub conditions: Vec<Condition>,
    /// Items over all seeds whose own text alone leads to the right class.
    pub right_texts: usize,
    /// Of these, items that alpha gave to the image, which was wrong.
    pub suppressed: usize,
    /// Some of them, lowest alpha first.
    pub cases: Vec<Suppressed>,
}

/// One kind of text at one share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Condition {
    /// swapped, generic or empty.
    pub kind: String,
    /// Share of items whose text is replaced.
    pub share: f64,
    /// Of all items.
    pub accuracy: f64,
    /// Mean alpha_text of all items.
    pub alpha: f64,
    /// Of the items with a replaced text; null at 0.
    pub alpha_replaced: Option<f64>,
}

/// A correct text that alpha suppressed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suppressed {
    /// The image.
    pub file_name: String,
    /// Seed of the training.
    pub seed: Option<i64>,
    /// The true class.
    pub class: String,
    /// What image and text together led to.
    pub answer: String,
    /// The text's weight.
    pub alpha: f64,
    /// The text.
    pub description: String,
}

/// Asks each run's best classifier; nothing when they have no alpha.
///
/// # Errors
/// Classifiers and images that cannot be read.
pub(super) fn measure(
    runs: &[(&Path, &Run)],
    items: &Items,
    images: &Path,
    seed: u64,
    device: Device,
) -> Result<Option<Alphas>, TrainError> {
    let files: Vec<PathBuf> = items.rows.iter().map(|row| images.join(&row.file_name)).collect();
    let mut answered: Vec<[Vec<Answer>; 4]> = Vec::new();
    let mut found = Alphas { conditions: Vec::new(), right_texts: 0, suppressed: 0, cases: Vec::new() };
    for (folder, run) in runs {
        let (Some(texts), Some(asked)) = (&run.descriptions, Asked::open(&folder.join("best"), device)?) else { return Ok(None) };
        let own: Vec<&str> = texts.iter().map(String::as_str).collect();
        let features = asked.image_features(&files)?;
        let answers = |texts: &[&str]| asked.answers(&features, texts);
        let all = [
            answers(&own)?,
            answers(&swapped(items, &own, seed))?,
            answers(&vec![GENERIC; own.len()])?,
            answers(&vec![""; own.len()])?,
        ];
        found.list(items, run, &own, &all[0]);
        answered.push(all);
    }
    found.cases.sort_by(|one, other| one.alpha.total_cmp(&other.alpha));
    found.cases.truncate(LISTED);
    found.conditions = conditions(items, &answered, seed);
    Ok(Some(found))
}

impl Alphas {
    /// Adds the items of a run whose text was right and was not followed.
    fn list(&mut self, items: &Items, run: &Run, texts: &[&str], answers: &[Answer]) {
        let Some(text_leading) = &run.text_leading else { return };
        for (place, row) in items.rows.iter().enumerate().filter(|(place, row)| text_leading[*place] == row.class) {
            self.right_texts += 1;
            let answer = &answers[place];
            if answer.leading != row.class && answer.alpha < 0.5 {
                self.suppressed += 1;
                self.cases.push(Suppressed {
                    file_name: row.file_name.clone(),
                    seed: run.seed,
                    class: items.classes[row.class].clone(),
                    answer: items.classes[answer.leading].clone(),
                    alpha: answer.alpha,
                    description: texts[place].to_string(),
                });
            }
        }
    }
}

/// For each item the text of another patient, of another class where there is one; drawn by `seed`: all items stand in one drawn order, and
/// each takes the first that is fit behind a place of its own.
fn swapped<'t>(items: &Items, texts: &[&'t str], seed: u64) -> Vec<&'t str> {
    let patient = |place: usize| items.rows[place].group.as_ref().unwrap_or(&items.rows[place].file_name);
    let order = drawn_order(texts.len(), seed);
    let other = |place: usize| {
        let from = (drawn(seed, place, place) * order.len() as f64) as usize;
        let strangers = || order[from..].iter().chain(&order[..from]).filter(|one| patient(**one) != patient(place));
        let of_other_class = strangers().find(|one| items.rows[**one].class != items.rows[place].class);
        of_other_class.or_else(|| strangers().next()).map_or("", |one| texts[*one])
    };
    (0..texts.len()).map(other).collect()
}

fn drawn_order(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_cached_key(|place| drawn_bits(seed, *place, usize::MAX));
    order
}

/// A number in 0..1 for two items.
fn drawn(seed: u64, one: usize, other: usize) -> f64 {
    drawn_bits(seed, one, other) as f64 / (1_u64 << 48) as f64
}

/// Of 48 bits.
fn drawn_bits(seed: u64, one: usize, other: usize) -> u64 {
    let digest = hash::sha256_hex(format!("alpha {seed} {one} {other}").as_bytes());
    u64::from_str_radix(&digest[..12], 16).expect("a hash is written in hex digits")
}

/// Accuracy and alpha for each kind and share; item i's text is replaced when its number in 0..1 lies below the share, so that shares are nested.
fn conditions(items: &Items, answered: &[[Vec<Answer>; 4]], seed: u64) -> Vec<Condition> {
    let order = drawn_order(items.rows.len(), seed);
    let mut rank = vec![0; order.len()];
    order.iter().enumerate().for_each(|(place, item)| rank[*item] = place);
    let replaced = |item: usize, share: f64| (rank[item] as f64) < share * order.len() as f64;
    let condition = |(kind, share): (usize, f64)| {
        let (mut right, mut alpha, mut others, mut total) = (0.0, 0.0, Vec::new(), 0.0);
        for all in answered {
            for (item, row) in items.rows.iter().enumerate() {
                let answer = &all[if replaced(item, share) { kind + 1 } else { 0 }][item];
                right += if answer.leading == row.class { 1.0 } else { 0.0 };
                alpha += answer.alpha;
                total += 1.0;
                if replaced(item, share) {
                    others.push(answer.alpha);
                }
            }
        }
        Condition {
            kind: KINDS[kind].into(),
            share,
            accuracy: right / total,
            alpha: alpha / total,
            alpha_replaced: (!others.is_empty()).then(|| others.iter().sum::<f64>() / others.len() as f64),
        }
    };
    (0..KINDS.len()).flat_map(|kind| SHARES.map(|share| (kind, share))).map(condition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compare::Item, data::Part};

    fn items() -> Items {
        let row =
            |place: usize| Item { file_name: format!("{place}"), group: Some(format!("{}", place / 2)), class: place % 4 / 2 };
        Items { part: Part::Test, classes: vec!["A".into(), "B".into()], ordinal: true, rows: (0..40).map(row).collect() }
    }

    #[test]
    fn swapped_texts_come_from_other_patients_of_other_classes() {
        let items = items();
        let texts: Vec<String> = (0..40).map(|place| place.to_string()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let given = swapped(&items, &texts, 1);
        for (place, text) in given.iter().enumerate() {
            let from: usize = text.parse().unwrap();
            assert!(items.rows[from].group != items.rows[place].group && items.rows[from].class != items.rows[place].class);
        }
        assert_ne!(given, swapped(&items, &texts, 2));
        let alone = Items { rows: items.rows[..2].to_vec(), ..items };
        assert_eq!(swapped(&alone, &texts[..2], 1), ["", ""], "one patient has no stranger");
    }

    #[test]
    fn shares_mix_the_answers() {
        let items = items();
        let answers = |right: bool, alpha: f64| {
            let leading = |class: usize| if right { class } else { 1 - class };
            items.rows.iter().map(|row| Answer { leading: leading(row.class), alpha }).collect::<Vec<_>>()
        };
        let found = conditions(&items, &[[answers(true, 0.8), answers(false, 0.2), answers(true, 0.4), answers(true, 0.0)]], 3);
        let of = |kind: &str, share: f64| found.iter().find(|one| one.kind == kind && one.share == share).unwrap();
        assert_eq!((of("swapped", 0.0).accuracy, of("swapped", 0.0).alpha_replaced), (1.0, None));
        assert_eq!((of("swapped", 0.25).accuracy, of("swapped", 1.0).accuracy), (0.75, 0.0));
        assert!((of("swapped", 0.5).alpha - 0.5).abs() < 1e-12 && (of("generic", 1.0).alpha - 0.4).abs() < 1e-12);
        assert_eq!(of("empty", 0.5).alpha_replaced, Some(0.0));
        assert_eq!(found.len(), 12);
    }
}
