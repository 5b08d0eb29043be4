//! `MODEL_CARD.md`, filled from what was measured.

use super::{
    counts,
    measured::{self, LISTED},
    page::spelled,
    record::Record,
    scores::Scores,
    words::{limits, marks, promise},
};
use crate::data::Part;
use std::fmt::Write;

/// The card of a classifier.
pub fn classifier(record: &Record, scores: &Scores<'_>, phantoms: bool) -> String {
    let mut card = heading(record, "MMLNB classifier: H&E patch (and its description) to a class of neuroblastoma");
    list(&mut card, "Read this first", &marks(record, phantoms));
    data(&mut card, record);
    settings(&mut card, record, "data");
    measures(&mut card, record);
    per_class(&mut card, record, scores);
    calibration(&mut card, record, scores);
    list(&mut card, "Limits", &limits(record));
    diagnostics(&mut card, record);
    settings_section(&mut card, record);
    card
}

/// The card of a describer.
pub fn describer(record: &Record, phantoms: bool) -> String {
    let mut card = heading(record, "MMLNB describer: an adapter for Qwen2.5-VL that describes H&E patches of neuroblastoma");
    list(&mut card, "Read this first", &marks(record, phantoms));
    data(&mut card, record);
    settings(&mut card, record, "data");
    card += "\n## Base\nThe base model's own licence applies to the base and to everything merged with it; read it where the base came from.\n";
    settings(&mut card, record, "base");
    if let Some(best) = record.best_validation() {
        line(
            &mut card,
            format_args!("\n## Measures on the validation part, best epoch ({})\n| measure | value |\n|---|---|", best.epoch + 1),
        );
        for (name, value) in best.measures() {
            line(
                &mut card,
                format_args!("| {} | {} |", cell(name), value.as_f64().map_or_else(String::new, |value| format!("{value:.4}"))),
            );
        }
    }
    list(&mut card, "Limits", &limits(record));
    diagnostics(&mut card, record);
    settings_section(&mut card, record);
    card
}

fn heading(record: &Record, what: &str) -> String {
    format!(
        "# {}\n{what}.\n\n## Intended use\nResearch. Not for diagnosis, not for decisions about patients. Method: MMLNB (arXiv 2503.12927); trained with {} {}.\n",
        cell(&record.name),
        "mmlnb-trainer",
        env!("CARGO_PKG_VERSION"),
    )
}

fn line(card: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(card, "{text}").expect("a String takes everything");
}

fn list(card: &mut String, title: &str, items: &[String]) {
    if !items.is_empty() {
        line(card, format_args!("\n## {title}"));
        items.iter().for_each(|item| line(card, format_args!("- {item}")));
    }
}

fn data(card: &mut String, record: &Record) {
    *card += "\n## Data\n| images | train | validation | test |\n|---|---|---|---|\n";
    for class in (0..record.classes.len()).map(Some).chain([None]) {
        let [train, validation, test] = Part::ALL.map(|part| counts::words(record, part, class));
        let name = class.map_or("all", |class| record.classes[class].as_str());
        line(card, format_args!("| {} | {train} | {validation} | {test} |", cell(name)));
    }
    *card += "\n";
    measured::warnings(record).iter().for_each(|warning| line(card, format_args!("- {}", cell(warning))));
}

/// Text that stays inside its cell and is no markup.
fn cell(text: &str) -> String {
    let plain: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    plain
        .replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('`', "\\`")
        .replace('*', "\\*")
        .replace('[', "\\[")
}

fn settings(card: &mut String, record: &Record, section: &str) {
    let Some(table) = record.settings.get(section).and_then(toml::Value::as_table) else { return };
    *card += "\n";
    for (key, value) in table.iter().filter(|(_, value)| !value.is_table()) {
        line(card, format_args!("- {}: {}", key.replace('_', " "), cell(&spelled(value))));
    }
}

fn measures(card: &mut String, record: &Record) {
    *card += "\n## Measures\n95 % intervals in brackets, drawn over patients where they are known.\n\n| measure | test | validation |\n|---|---|---|\n";
    for (key, words) in LISTED {
        let both = ["test", "validation"].map(|part| measured::number(record, part, key));
        if both.iter().flatten().any(|number| number.value.is_some()) {
            let [test, validation] = both.map(|number| number.map_or_else(String::new, |number| number.words()));
            line(card, format_args!("| {words} | {test} | {validation} |"));
        }
    }
}

fn per_class(card: &mut String, record: &Record, scores: &Scores<'_>) {
    let part = record.reported();
    line(
        card,
        format_args!("\n### Each class, {part} part\n| class | images | recall | precision | F1 |\n|---|---|---|---|---|"),
    );
    for (class, row) in scores.measured.per_class.iter().enumerate() {
        let [recall, precision, f1] = scores.per_class[class].map(|number| number.words());
        line(card, format_args!("| {} | {} | {recall} | {precision} | {f1} |", cell(&row.class), row.support));
    }
    line(
        card,
        format_args!(
            "\nConfusion (rows truth, columns prediction, order {}):\n",
            record.classes.iter().map(|name| cell(name)).collect::<Vec<_>>().join(", ")
        ),
    );
    for row in &scores.measured.confusion {
        line(card, format_args!("    {}", row.iter().map(|count| format!("{count:>5}")).collect::<String>()));
    }
}

fn calibration(card: &mut String, record: &Record, scores: &Scores<'_>) {
    *card += "\n## Calibration, abstention, out-of-distribution\n";
    let Some(found) = &record.calibration else {
        *card += "Not calibrated.\n";
        return;
    };
    line(card, format_args!("- temperature {:.4}; expected calibration error {:.4}", found.temperature, scores.measured.ece));
    if let Some(promise) = promise(record) {
        line(card, format_args!("- {promise}"));
    }
    let accepted = scores.items.iter().filter(|item| item.verdict == "accepted").count();
    line(card, format_args!("- accepted on the {} part: {accepted} of {}", record.reported(), scores.items.len()));
    if let Some(novelty) = &found.novelty {
        line(
            card,
            format_args!(
                "- out-of-distribution: distance to neighbour {} above {:.4}; false alarms at most {:.0} % on data like the training's",
                novelty.neighbours,
                novelty.threshold,
                100.0 * novelty.false_alarm
            ),
        );
    }
    if !found.generic_texts.is_empty() {
        line(card, format_args!("- descriptions known to be generic: {}", found.generic_texts.len()));
    }
}

fn diagnostics(card: &mut String, record: &Record) {
    let found: Vec<String> = record
        .of_kind("diagnostic")
        .map(|metric| format!("{} (epoch {}): {}", metric.text("code"), metric.epoch + 1, cell(metric.text("message"))))
        .collect();
    list(card, "Diagnostics during training", &found);
}

fn settings_section(card: &mut String, record: &Record) {
    line(
        card,
        format_args!("\n## All that decided the result\n~~~toml\n{}\n~~~", record.settings_text.trim().replace("~~~", "~ ~ ~")),
    );
}
