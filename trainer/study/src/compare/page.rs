//! A comparison as a page that needs nothing but itself.

use super::{Comparison, told};
use crate::report::{
    plot::{Axis, IntervalRow, Intervals},
    sheet,
};
use maud::{Markup, PreEscaped, html};
use mmlnb_models::measures::intervals::Interval;

/// Measures that are drawn.
const DRAWN: [(&str, &str); 4] =
    [("accuracy", "accuracy"), ("macro_f1", "macro F1"), ("auroc", "AUROC"), ("ece", "calibration error")];

/// The whole page.
pub fn page(comparison: &Comparison) -> String {
    let body = html! {
        h1 { "Comparison of " (comparison.runs.len()) " runs" }
        p class="soft" { (comparison.items) " items of the part " (comparison.part) ", classes " (comparison.classes.join(", ")) }
        h2 { "Measures" }
        div class="plots" { @for (name, words) in DRAWN { (figure(measures(comparison, name, words))) } }
        @if !comparison.against.is_empty() {
            h2 { "Differences to " (comparison.runs[0].run) }
            div class="plots" { @for (name, words) in DRAWN { (figure(differences(comparison, name, words))) } }
            (tests(comparison))
        }
        @if let Some(run) = comparison.runs.first() { p class="soft small" { (told::remarks(&run.estimates.draws)) } }
    };
    sheet::page("Comparison of runs", body)
}

fn figure(plot: Intervals) -> Markup {
    html! { figure class="wide" { (PreEscaped(plot.svg().as_str())) } }
}

fn ends(interval: Option<Interval>) -> Option<(f64, f64)> {
    interval.map(|interval| (interval.low, interval.high))
}

fn measures(comparison: &Comparison, name: &str, words: &str) -> Intervals {
    let row = |run: &super::Measured| {
        let found = run.estimates.measures.get(name).copied();
        let value = found.and_then(|found| found.value).unwrap_or(f64::NAN);
        IntervalRow { name: run.run.clone(), value, interval: ends(found.and_then(|found| found.interval)) }
    };
    Intervals { title: words.into(), axis: Axis::free(words), rows: comparison.runs.iter().map(row).collect(), line: None }
}

fn differences(comparison: &Comparison, name: &str, words: &str) -> Intervals {
    let row = |one: &super::Against| {
        let found = one.differences.iter().find(|row| row.measure == name);
        let value = found.and_then(|found| found.difference).unwrap_or(f64::NAN);
        IntervalRow { name: one.second.clone(), value, interval: ends(found.and_then(|found| found.interval)) }
    };
    let title = format!("difference of {words}");
    Intervals { axis: Axis::free(&title), title, rows: comparison.against.iter().map(row).collect(), line: Some(0.0) }
}

fn tests(comparison: &Comparison) -> Markup {
    html! {
        table {
            tr { th { "run" } th class="n" { "only first right" } th class="n" { "only this right" } th class="n" { "McNemar p" } th class="n" { "Holm" } }
            @for one in &comparison.against {
                tr {
                    td { (one.second) }
                    td class="n" { (one.mcnemar.only_first) }
                    td class="n" { (one.mcnemar.only_second) }
                    td class="n" { (format!("{:.4}", one.mcnemar.p)) }
                    td class="n" { (format!("{:.4}", one.holm)) }
                }
            }
        }
        p class="soft small" { "McNemar's test takes items as independent; with several items a patient the interval over patients decides." }
    }
}
