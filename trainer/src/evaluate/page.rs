//! Base and tuned descriptions side by side, with what was measured.

use super::{Compared, DescriberMeasures, Pair, Side};
use crate::{
    error::TrainError,
    report::{examples::picture, sheet::page},
    run::files,
};
use maud::{Markup, html};
use std::path::Path;

/// Images shown; the CSV file beside the page has all.
const SHOWN: usize = 60;

/// Writes `evaluation.html` into a folder.
///
/// # Errors
/// What the operating system refuses.
pub fn write_page(folder: &Path, name: &str, compared: &Compared, images: &Path) -> Result<(), TrainError> {
    let title = format!("Descriptions of {name}");
    let shown = &compared.pairs[..compared.pairs.len().min(SHOWN)];
    let body = html! {
        h1 { (title) }
        p class="soft" { (compared.measures.items) " images; base: the checkpoint as it is, tuned: the same with what the run learned." }
        (table(&compared.measures))
        (differences(&compared.measures))
        h2 { "Texts" @if shown.len() < compared.pairs.len() { " (the first " (shown.len()) ")" } }
        @for pair in shown { (example(pair, images)) }
    };
    Ok(files::replace_file(&folder.join("evaluation.html"), page(&title, body).as_bytes())?)
}

fn table(measures: &DescriberMeasures) -> Markup {
    type Number = fn(&Side) -> Option<f64>;
    let rows: [(&str, Number); 14] = [
        ("BLEU", |side| Some(side.overlap.as_ref()?.bleu)),
        ("chrF", |side| Some(side.overlap.as_ref()?.chrf)),
        ("ROUGE-1", |side| Some(side.overlap.as_ref()?.rouge1)),
        ("ROUGE-2", |side| Some(side.overlap.as_ref()?.rouge2)),
        ("ROUGE-L", |side| Some(side.overlap.as_ref()?.rouge_l)),
        ("facts: precision", |side| side.facts.as_ref()?.precision),
        ("facts: recall", |side| side.facts.as_ref()?.recall),
        ("facts: F1", |side| side.facts.as_ref()?.f1),
        ("texts that contradict the class", |side| side.contradicts_class),
        ("different texts", |side| Some(side.behaviour.distinct)),
        ("share of the commonest text", |side| Some(side.behaviour.commonest)),
        ("repeated pieces of four words", |side| side.behaviour.repetition),
        ("texts that end by themselves", |side| side.behaviour.stopped),
        ("tokens", |side| side.behaviour.tokens),
    ];
    html! {
        h2 { "Measures" }
        table {
            tr { th { "" } th { "base" } th { "tuned" } }
            @for (name, number) in rows {
                tr { td { (name) } td { (shown(number(&measures.base))) } td { (shown(number(&measures.tuned))) } }
            }
        }
    }
}

fn differences(measures: &DescriberMeasures) -> Markup {
    html! {
        @if !measures.differences.is_empty() {
            h2 { "Tuned minus base" }
            table {
                tr { th { "" } th { "difference" } th { "95 % over patients" } }
                @for one in &measures.differences {
                    tr {
                        td { (one.measure) }
                        td { (shown(one.difference)) }
                        td { @match one.interval {
                            Some(interval) => { (shown(Some(interval.low))) " to " (shown(Some(interval.high))) }
                            None => { "too few patients" }
                        } }
                    }
                }
            }
        }
    }
}

fn example(pair: &Pair, images: &Path) -> Markup {
    html! {
        div class="example" {
            (picture(&images.join(&pair.file_name)))
            div {
                p class="soft" { (pair.file_name) @if let Some(class) = &pair.class { ", " (class) } }
                @if let Some(reference) = &pair.reference { p { b { "expert" } } blockquote { (reference) } }
                p { b { "base" } }
                blockquote { (pair.base.text) }
                p { b { "tuned" } }
                blockquote { (pair.tuned.text) }
            }
        }
    }
}

fn shown(number: Option<f64>) -> String {
    number.map_or("-".into(), |number| format!("{number:.3}"))
}
