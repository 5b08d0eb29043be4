//! The page of a run.

use super::{
    counts, examples,
    figures::Figure,
    measured::{self, LISTED},
    record::Record,
    scores::Scores,
    sheet,
    words::{limits, marks, promise},
};
use crate::data::Part;
use maud::{Markup, PreEscaped, html};
use std::{collections::BTreeMap, path::Path};

/// What the page of a classifier is made from.
pub struct Classified<'a> {
    /// The run.
    pub record: &'a Record,
    /// Of the reported part.
    pub scores: &'a Scores<'a>,
    /// Plots over time.
    pub training: &'a [Figure],
    /// Plots of the answers.
    pub answers: &'a [Figure],
    /// The image folder.
    pub images: &'a Path,
    /// Whether the images are phantoms.
    pub phantoms: bool,
}

/// The page of a classifier.
pub fn classifier(run: &Classified<'_>) -> String {
    let record = run.record;
    let body = html! {
        h1 { (record.name) }
        p class="soft" { (about(record)) }
        (lead(run))
        (mark_list(&marks(record, run.phantoms)))
        h2 { "What it was trained and tested on" }
        (data_table(record))
        h2 { "Measures" }
        (measure_table(record))
        h2 { "Training" }
        (plots(run.training))
        h2 { "Answers on the " (record.reported()) " part" }
        (plots(run.answers))
        (class_table(run))
        h2 { "Calibration and abstention" }
        (calibration(run))
        h2 { "Wrong answers, the most confident first" }
        (example_list(run, &examples::wrong(run.scores)))
        h2 { "Right answers, typical of each class" }
        (example_list(run, &examples::right(run.scores)))
        (ending(record))
    };
    sheet::page(&format!("Run {}", record.name), body)
}

/// The page of a describer.
pub fn describer(record: &Record, figures: &[Figure], images: &Path, phantoms: bool) -> String {
    let body = html! {
        h1 { (record.name) }
        p class="soft" { (about(record)) }
        (mark_list(&marks(record, phantoms)))
        h2 { "What it was tuned on" }
        (data_table(record))
        h2 { "Training" }
        (plots(figures))
        h2 { "Measures of generated texts, by epoch" }
        (text_table(record))
        @if !record.examples.is_empty() {
            h2 { "Descriptions of validation images, best epoch" }
            div class="examples" { @for example in &record.examples { (examples::texts(example, images)) } }
        }
        (ending(record))
    };
    sheet::page(&format!("Run {}", record.name), body)
}

fn about(record: &Record) -> String {
    let setting = |section: &str, key: &str| record.setting(section, key).map(spelled);
    let mut parts =
        vec![if record.classes.is_empty() { "Describer (stage 1)".to_owned() } else { "Classifier (stage 2)".to_owned() }];
    parts.extend(setting("recipe", "name").map(|name| format!("recipe {name}")));
    parts.push(format!("{} epochs", record.epochs()));
    parts.extend(setting("data", "sha256").map(|hash| format!("data {}", &hash[..hash.len().min(12)])));
    parts.join(" \u{b7} ")
}

/// A setting without TOML's quotes.
pub fn spelled(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

fn lead(run: &Classified<'_>) -> Markup {
    let (record, scores) = (run.record, run.scores);
    let part = record.reported().to_string();
    let accuracy = measured::number(record, &part, "accuracy")
        .unwrap_or(measured::Number { value: Some(scores.measured.accuracy), interval: None });
    let most = scores.measured.per_class.iter().map(|row| row.support).max().unwrap_or(0) as f64 / scores.items.len() as f64;
    html! {
        div class="lead" {
            p class="soft small" { "On the " (part) " part: " (counts::words(record, record.reported(), None)) }
            p class="big" { "Accuracy " (accuracy.words()) }
            p { "Always saying the commonest class would reach " (format!("{most:.3}")) ". " (verdicts(scores)) }
        }
    }
}

/// How many answers are accepted, and how many of these are wrong.
fn verdicts(scores: &Scores<'_>) -> String {
    let accepted: Vec<usize> = (0..scores.items.len()).filter(|item| scores.items[*item].verdict == "accepted").collect();
    let wrong = accepted.iter().filter(|item| !scores.right(**item)).count();
    let share = 100.0 * accepted.len() as f64 / scores.items.len() as f64;
    match accepted.len() {
        0 => "No answer is accepted.".to_owned(),
        count => format!("{share:.0} % of the answers are accepted, {wrong} of these {count} are wrong."),
    }
}

fn mark_list(marks: &[String]) -> Markup {
    html! { @if !marks.is_empty() { ul class="marks" { @for mark in marks { li { (mark) } } } } }
}

fn data_table(record: &Record) -> Markup {
    let settings = record.settings.get("data").and_then(toml::Value::as_table);
    let notes = measured::warnings(record);
    html! {
        table {
            tr { th { "images" } @for part in Part::ALL { th class="n" { (part) } } }
            @for class in (0..record.classes.len()).map(Some).chain([None]) {
                tr {
                    td { @match class { Some(class) => (record.classes[class]), None => b { "all" } } }
                    @for part in Part::ALL { td class="n" { (counts::words(record, part, class)) } }
                }
            }
        }
        @if !notes.is_empty() { ul { @for note in notes { li { (note) } } } }
        @if let Some(settings) = settings {
            table class="facts" {
                @for (key, value) in settings.iter().filter(|(_, value)| !value.is_table()) {
                    tr { th { (key.replace('_', " ")) } td { (spelled(value)) } }
                }
            }
        }
    }
}

fn measure_table(record: &Record) -> Markup {
    let parts: Vec<&str> =
        ["test", "validation"].into_iter().filter(|part| measured::number(record, part, "accuracy").is_some()).collect();
    if parts.is_empty() {
        return html! { p { "measures.json holds none." } };
    }
    html! {
        table {
            tr { th { "measure" } @for part in &parts { th class="n" { (part) } } }
            @for (key, words) in LISTED {
                @if parts.iter().any(|part| measured::number(record, part, key).is_some_and(|number| number.value.is_some())) {
                    tr {
                        td { (words) }
                        @for part in &parts { td class="n" { (measured::number(record, part, key).map_or_else(String::new, |number| number.words())) } }
                    }
                }
            }
            (alone(record, &parts))
        }
        p class="small soft" { "In brackets: 95 % intervals, drawn over patients where they are known. All probabilities are after the temperature." }
    }
}

/// Rows for what each half of the network, the texts and each site are worth by themselves.
fn alone(record: &Record, parts: &[&str]) -> Markup {
    let rows = [
        ("accuracy of the image alone", ["image_only", "accuracy"]),
        ("accuracy of the text alone (\u{3b1} = 1)", ["text_only", "accuracy"]),
        ("share of distinct descriptions", ["texts", "distinct"]),
        ("share of the commonest description", ["texts", "commonest"]),
        ("repeated 4-grams in descriptions", ["texts", "repetition"]),
        ("descriptions cut by the text encoder", ["texts", "cut"]),
    ];
    let number = |part: &str, path| measured::plain(record, part, path);
    html! {
        @for (words, path) in rows.into_iter().filter(|(_, path)| parts.iter().any(|part| number(part, *path).is_some())) {
            tr {
                td { (words) }
                @for part in parts { td class="n" { (number(part, path).map_or_else(String::new, |value| format!("{value:.3}"))) } }
            }
        }
        @for part in parts {
            @for (site, items, accuracy) in measured::sites(record, part) {
                tr {
                    td { "accuracy at site " (site) }
                    @for other in parts { td class="n" { @if other == part { (format!("{accuracy:.3} on {items}")) } } }
                }
            }
        }
    }
}

fn plots(figures: &[Figure]) -> Markup {
    html! {
        div class="plots" {
            @for figure in figures {
                figure class=(if figure.wide { "wide" } else { "" }) {
                    (PreEscaped(figure.svg.as_str()))
                    @if !figure.caption.is_empty() { figcaption { (figure.caption) } }
                }
            }
        }
    }
}

fn class_table(run: &Classified<'_>) -> Markup {
    let shares = |value: Option<f64>| value.map_or_else(|| "\u{2013}".to_owned(), |value| format!("{value:.3}"));
    html! {
        h3 { "Each class" }
        table {
            tr {
                th { "class" } th class="n" { "images" } th class="n" { "recall" } th class="n" { "precision" } th class="n" { "F1" }
                th class="n" { "specificity" } th class="n" { "AUROC" }
            }
            @for (class, row) in run.scores.measured.per_class.iter().enumerate() {
                tr {
                    td { (row.class) }
                    td class="n" { (row.support) }
                    @for number in &run.scores.per_class[class] { td class="n" { (number.words()) } }
                    td class="n" { (shares(row.specificity)) }
                    td class="n" { (shares(row.auroc)) }
                }
            }
        }
    }
}

fn calibration(run: &Classified<'_>) -> Markup {
    let (record, scores) = (run.record, run.scores);
    let Some(found) = &record.calibration else {
        return html! { p { "Not calibrated: reports of the appliance will be " code { "not_assessed" } "." } };
    };
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in scores.items.iter().flat_map(|item| &item.verdict_reasons) {
        *reasons.entry(reason).or_default() += 1;
    }
    html! {
        table class="facts" {
            tr { th { "Temperature" } td { (format!("{:.3}", found.temperature)) } }
            tr { th { "Threshold" } td { (promise(record).unwrap_or_default()) } }
            @if let Some(novelty) = &found.novelty {
                tr { th { "Far from training data" } td { (format!(
                    "above {:.4} (distance to neighbour {}); at most {:.0} % of images like the training's exceed it",
                    novelty.threshold, novelty.neighbours, 100.0 * novelty.false_alarm
                )) } }
            }
            @if let Some(side) = found.ranges.as_ref().and_then(|ranges| ranges.image_side) {
                tr { th { "Image sides in training" } td { (format!("{:.0} to {:.0} px", side[0], side[1])) } }
            }
            @if let Some(scale) = found.ranges.as_ref().and_then(|ranges| ranges.microns_per_pixel) {
                tr { th { "Scale in training" } td { (format!("{:.3} to {:.3} \u{b5}m per pixel", scale[0], scale[1])) } }
            }
            tr { th { "Verdicts here" } td { (verdicts(scores)) } }
            @if !reasons.is_empty() {
                tr { th { "Reasons to abstain" } td {
                    @for (reason, count) in &reasons { (format!("{} {count}; ", reason.replace('_', " "))) }
                } }
            }
        }
    }
}

fn example_list(run: &Classified<'_>, items: &[usize]) -> Markup {
    html! {
        @if items.is_empty() { p { "none" } }
        div class="examples" {
            @for item in items { (examples::card(run.scores, *item, run.images, run.record.temperature())) }
        }
    }
}

fn text_table(record: &Record) -> Markup {
    let columns = ["nll", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "facts_f1", "stopped", "distinct", "repetition"];
    html! {
        table {
            tr { th class="n" { "epoch" } @for column in columns { th class="n" { (column.replace('_', " ")) } } }
            @for metric in record.of_kind("validation") {
                tr {
                    td class="n" { (metric.epoch + 1) }
                    @for column in columns { td class="n" { (metric.number(column).map_or_else(String::new, |value| format!("{value:.3}"))) } }
                }
            }
        }
    }
}

fn ending(record: &Record) -> Markup {
    let diagnostics: Vec<_> = record.of_kind("diagnostic").collect();
    html! {
        h2 { "Diagnostics" }
        @if diagnostics.is_empty() { p { "none" } }
        @for found in diagnostics {
            div class="diagnostic" {
                p { b { (found.text("code").replace('_', " ")) } ", epoch " (found.epoch + 1) ": " (found.text("message")) }
                p { "What to do: " (found.text("remedy")) }
            }
        }
        h2 { "Limits" }
        ul { @for limit in limits(record) { li { (limit) } } }
        h2 { "All that decided the result" }
        details { summary { "run.toml" } pre { (record.settings_text) } }
    }
}
