//! Diagnostics of descriptions, before or while a classifier reads them.

use super::Diagnostic;
use std::collections::BTreeMap;

/// Fewer texts than this say nothing about variety.
const ENOUGH_TEXTS: usize = 8;
/// Below this share of distinct texts they are called generic.
const LEAST_DISTINCT: f64 = 0.25;
/// One text on more than this share of the images is called generic too.
const MOST_COMMON: f64 = 0.5;
/// More than this share of texts cut by the text encoder is worth a word.
const MOST_CUT: f64 = 0.05;

/// `generic_descriptions`: the same sentence for most images, from which no classifier can learn anything.
pub fn generic_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Diagnostic> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for text in texts {
        *counts.entry(text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()).or_default() += 1;
    }
    let texts: usize = counts.values().sum();
    let (commonest, times) = counts.iter().max_by_key(|(_, times)| **times)?;
    let generic = (counts.len() as f64) < LEAST_DISTINCT * texts as f64 || *times as f64 > MOST_COMMON * texts as f64;
    (texts >= ENOUGH_TEXTS && generic).then(|| Diagnostic {
        code: "generic_descriptions",
        message: format!(
            "The descriptions are generic: {} distinct texts on {texts} images, the commonest ({:?}) on {times}.",
            counts.len(),
            shortened(commonest)
        ),
        remedy: "train the describer longer, on more varied descriptions or with a higher rank, and look at `evaluate`; until its texts differ from image \
                 to image, the recipes human-text and image-only show what the classifier can do.",
    })
}

/// `texts_cut`: the end of descriptions is lost because the text encoder reads only `max_length` tokens.
pub fn cut_texts(cut: usize, texts: usize, max_length: usize) -> Option<Diagnostic> {
    (cut as f64 > MOST_CUT * texts as f64).then(|| Diagnostic {
        code: "texts_cut",
        message: format!("{cut} of {texts} descriptions are longer than {max_length} tokens: BERT does not see their ends."),
        remedy: "raise max_length (up to 512; 256 costs about twice the time of 128), or lower the describer's max_new_tokens.",
    })
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_for_all_is_generic_and_varied_texts_are_not() {
        let same = ["Sheets of  small cells."; 7].into_iter().chain(["sheets of small cells.", "Neuropil.", "Rosettes."]);
        let found = generic_texts(same).unwrap();
        assert_eq!(found.code, "generic_descriptions");
        assert!(found.message.contains("3 distinct texts on 10 images") && found.message.contains("on 8."), "{}", found.message);

        let varied: Vec<String> = (0..10).map(|number| format!("{number} rosettes")).collect();
        assert_eq!(generic_texts(varied.iter().map(String::as_str)), None);
        let few_sorts: Vec<String> = (0..40).map(|number| format!("{} rosettes", number % 8)).collect();
        assert!(generic_texts(few_sorts.iter().map(String::as_str)).is_some(), "8 distinct of 40");
        assert_eq!(generic_texts(["same"; 7]), None, "too few to tell");
        assert_eq!(generic_texts([]), None);
    }

    #[test]
    fn a_long_text_is_shortened_between_characters() {
        let long = "\u{e9}".repeat(100);
        assert!(generic_texts(vec![long.as_str(); 8]).unwrap().message.contains(&format!("{}..", "\u{e9}".repeat(60))));
    }

    #[test]
    fn cut_texts_are_told_beyond_one_in_twenty() {
        assert_eq!(cut_texts(5, 100, 128), None);
        assert!(cut_texts(6, 100, 128).unwrap().message.contains("6 of 100 descriptions are longer than 128 tokens"));
        assert_eq!(cut_texts(0, 0, 128), None);
    }
}
