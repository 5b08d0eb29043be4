//! Images that the model answered rightly and wrongly, chosen by rule so that nobody picks the pretty ones.

use super::{record::Example, scores::Scores};
use crate::run::predictions::Prediction;
use maud::{Markup, html};
use mmlnb_models::{
    base64,
    measures::classes::softmax,
    prepare::{decode, header::Limits},
    verdict::leading,
};
use std::{fs, path::Path};

/// Examples of each kind.
const COUNT: usize = 6;
/// Longest side of a thumbnail in pixels.
const SIDE: u32 = 240;

/// The wrong answers with the highest confidence.
pub fn wrong(scores: &Scores<'_>) -> Vec<usize> {
    let mut items: Vec<usize> = (0..scores.items.len()).filter(|item| !scores.right(*item)).collect();
    items.sort_by(|one, other| scores.confidence[*other].total_cmp(&scores.confidence[*one]));
    items.truncate(COUNT);
    items
}

/// Right answers, the classes in turn, of each the one with the median confidence of those left, so that they are typical.
pub fn right(scores: &Scores<'_>) -> Vec<usize> {
    let classes = scores.measured.classes.len();
    let mut of_class: Vec<Vec<usize>> = vec![Vec::new(); classes];
    for item in (0..scores.items.len()).filter(|item| scores.right(*item)) {
        of_class[scores.truth[item]].push(item);
    }
    for items in &mut of_class {
        items.sort_by(|one, other| scores.confidence[*one].total_cmp(&scores.confidence[*other]));
    }
    let mut chosen = Vec::new();
    while chosen.len() < COUNT && of_class.iter().any(|items| !items.is_empty()) {
        for items in of_class.iter_mut().filter(|items| !items.is_empty()) {
            chosen.push(items.remove(items.len() / 2));
        }
    }
    chosen.truncate(COUNT);
    chosen
}

/// One example with its image and the words that the classifier read.
pub fn card(scores: &Scores<'_>, at: usize, images: &Path, temperature: f64) -> Markup {
    let item = scores.items[at];
    let said = &scores.measured.classes[scores.predicted[at]];
    html! {
        div class="example" {
            (picture(&images.join(&item.file_name)))
            div {
                p {
                    @if scores.right(at) { span class="tag right" { "right: " } } @else { span class="tag wrong" { "wrong: " } }
                    b { (said) } (format!(" with {:.2}", scores.confidence[at]))
                    @if !scores.right(at) { ", truth " b { (item.class) } }
                }
                p class="small soft" { (facts(item, &scores.measured.classes, temperature)) }
                @if let Some(text) = &item.description { blockquote class="small" { (text) } }
                p class="small soft" { (item.file_name) }
            }
        }
    }
}

fn facts(item: &Prediction, classes: &[String], temperature: f64) -> String {
    let mut facts = Vec::new();
    if let Some(logits) = &item.image_logits
        && let Some(class) = leading(logits)
    {
        facts.push(format!("image alone: {} {:.2}", classes[class], softmax(logits, temperature)[class]));
    }
    facts.extend(item.alpha_text.map(|alpha| format!("\u{3b1} {alpha:.2}")));
    facts.push(item.verdict.replace('_', " "));
    if !item.verdict_reasons.is_empty() {
        facts.push(format!("because: {}", item.verdict_reasons.join(", ").replace('_', " ")));
    }
    facts.join(" \u{b7} ")
}

/// One image of a describer with the texts beside each other.
pub fn texts(example: &Example, images: &Path) -> Markup {
    html! {
        div class="example" {
            (picture(&images.join(&example.file_name)))
            div {
                p class="small soft" { "tuned" }
                blockquote class="small" { (example.tuned) }
                @if let Some(base) = &example.base {
                    p class="small soft" { "before training" }
                    blockquote class="small" { (base) }
                }
                p class="small soft" { "reference" }
                blockquote class="small" { (example.reference) }
                p class="small soft" { (example.file_name) }
            }
        }
    }
}

/// The image, small; an image that is no longer there leaves its place with a word.
pub fn picture(path: &Path) -> Markup {
    picture_within(path, SIDE)
}

/// The image, its longer side at most `side` pixels.
pub fn picture_within(path: &Path, side: u32) -> Markup {
    match thumbnail(path, side) {
        Some((jpeg, width, height)) => html! {
            img src=(format!("data:image/jpeg;base64,{}", base64::encode(&jpeg))) alt=(format!("patch, {width} x {height} px"));
        },
        None => html! { div class="gone" { "the image is no longer where it was" } },
    }
}

fn thumbnail(path: &Path, longest: u32) -> Option<(Vec<u8>, usize, usize)> {
    let picture = decode::decode(&fs::read(path).ok()?, &Limits::default()).ok()?;
    let (width, height) = (picture.width as u32, picture.height as u32);
    let mut small = image::RgbImage::from_raw(width, height, picture.pixels)?;
    if width.max(height) > longest {
        let scale = f64::from(longest) / f64::from(width.max(height));
        let side = |pixels: u32| ((f64::from(pixels) * scale).round() as u32).max(1);
        small = image::imageops::thumbnail(&small, side(width), side(height));
    }
    let mut jpeg = Vec::new();
    small.write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 85)).ok()?;
    Some((jpeg, picture.width, picture.height))
}
