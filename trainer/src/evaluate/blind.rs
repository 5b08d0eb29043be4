//! A page for an expert who is not to know which describer wrote what: two texts an image, in random order, and the key apart from it.

use super::Pair;
use crate::{
    error::TrainError,
    report::{examples::picture_within, sheet::page},
    run::files,
};
use maud::html;
use mmlnb_models::random::Draw;
use serde::Serialize;
use std::path::Path;

/// The page for the expert.
const PAGE: &str = "blind.html";
/// The sheet that the expert fills in.
const ANSWERS: &str = "blind_answers.csv";
/// Longest side of a picture in pixels: it has to be read, not recognised.
const SIDE: u32 = 1024;
/// Who wrote what; to be kept from the expert.
const KEY: &str = "blind_key.json";

/// One image of the reading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blind {
    /// Its number on the page, from 1.
    pub item: usize,
    /// Path of the image below the image folder.
    pub file_name: String,
    /// Who wrote text A: `base` or `tuned`.
    pub a: &'static str,
    /// Who wrote text B.
    pub b: &'static str,
}

/// Writes page, answer sheet and key into a folder. Order of images and of texts follow from `seed`.
///
/// # Errors
/// What the operating system refuses.
pub fn write_blind(folder: &Path, pairs: &[Pair], images: &Path, seed: u64) -> Result<Vec<Blind>, TrainError> {
    let (order, key) = shuffled(pairs, seed);
    let body = html! {
        h1 { "Which description is better?" }
        p { "Two texts were written about each picture. Please mark in " code { (ANSWERS) } " for each: better = A, B or equal; and how many \
             statements in A and in B are wrong. The order is random." }
        @for (number, (pair, one)) in order.iter().zip(&key).enumerate() {
            @let (a, b) = if one.a == "tuned" { (&pair.tuned, &pair.base) } else { (&pair.base, &pair.tuned) };
            h2 { "Picture " (number + 1) }
            (picture_within(&images.join(&pair.file_name), SIDE))
            p { b { "A" } }
            blockquote { (a.text) }
            p { b { "B" } }
            blockquote { (b.text) }
        }
    };
    files::replace_file(&folder.join(PAGE), page("Which description is better?", body).as_bytes())?;
    let rows: String = key.iter().map(|one| format!("{},,,,\n", one.item)).collect();
    files::replace_file(&folder.join(ANSWERS), format!("item,better,wrong_in_a,wrong_in_b,comment\n{rows}").as_bytes())?;
    let text = serde_json::to_string_pretty(&key).map_err(|error| TrainError::Failed(error.to_string()))?;
    files::replace_file(&folder.join(KEY), format!("{text}\n").as_bytes())?;
    Ok(key)
}

fn shuffled(pairs: &[Pair], seed: u64) -> (Vec<&Pair>, Vec<Blind>) {
    let mut draw = Draw::numbered(seed, 0);
    let mut order: Vec<&Pair> = pairs.iter().collect();
    draw.shuffle_by_remainder(&mut order);
    let key = order.iter().enumerate().map(|(number, pair)| {
        let tuned_first = draw.bits() & 1 == 1;
        let (a, b) = if tuned_first { ("tuned", "base") } else { ("base", "tuned") };
        Blind { item: number + 1, file_name: pair.file_name.clone(), a, b }
    });
    let key = key.collect();
    (order, key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Generated, StopReason};
    use std::fs;

    #[test]
    fn the_page_does_not_say_who_wrote_what_and_the_key_does() {
        let said = |text: String| Generated { text, token_ids: vec![1], stop_reason: StopReason::MaxTokens, mean_logprob: 0.0 };
        let pairs: Vec<Pair> = (0..30)
            .map(|n| Pair {
                file_name: format!("secret-{n}.png"),
                sha256: String::new(),
                line: n + 2,
                group: None,
                class: None,
                reference: None,
                base: said(format!("first {n};")),
                tuned: said(format!("second {n};")),
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let key = write_blind(folder.path(), &pairs, folder.path(), 5).unwrap();
        let page = fs::read_to_string(folder.path().join(PAGE)).unwrap();
        for word in ["tuned", "base", "secret"] {
            assert!(!page.contains(word), "{word}");
        }
        for one in &key {
            let number: usize = one.file_name["secret-".len()..].trim_end_matches(".png").parse().unwrap();
            let [first, second] = ["first", "second"].map(|word| page.find(&format!("{word} {number};")).unwrap());
            assert_eq!(one.a == "tuned", second < first, "{one:?}");
        }
        let tuned_first = key.iter().filter(|one| one.a == "tuned").count();
        assert!((5..=25).contains(&tuned_first), "{tuned_first} of 30");
        assert_eq!(key, write_blind(folder.path(), &pairs, folder.path(), 5).unwrap());
        assert_ne!(key, write_blind(folder.path(), &pairs, folder.path(), 6).unwrap());
    }
}
