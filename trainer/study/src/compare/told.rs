//! A comparison as lines of JSON and as a table for people.

use super::Comparison;
use mmlnb_models::measures::{
    intervals::{Basis, Estimate, Interval},
    paired::Difference,
};
use serde_json::{Value, json};

/// One object a run (`kind` = run), then one a comparison (`kind` = difference).
pub fn lines(comparison: &Comparison) -> Vec<Value> {
    let with_kind = |kind: &str, value: Value| {
        let mut object = json!({"kind": kind, "part": comparison.part, "items": comparison.items});
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), value) {
            object.extend(fields);
        }
        object
    };
    let run = |value| with_kind("run", value);
    let difference = |value| with_kind("difference", value);
    let runs = comparison.runs.iter().map(|one| run(json!(one)));
    runs.chain(comparison.against.iter().map(|one| difference(json!(one)))).collect()
}

/// Markdown: measures side by side, then differences to the first run.
pub fn table(comparison: &Comparison) -> String {
    let mut text =
        format!("{} items of the part {}, classes {}\n\n", comparison.items, comparison.part, comparison.classes.join(", "));
    text += "| run | recipe | seed | accuracy | macro F1 | AUROC | ECE | NLL | alpha | accepted | wrong among accepted |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
    for run in &comparison.runs {
        let value = |name: &str| run.estimates.measures.get(name).map_or_else(String::new, estimate);
        let share = |value: Option<f64>| value.map_or_else(|| "-".to_string(), |value| format!("{value:.3}"));
        let cells = ["accuracy", "macro_f1", "auroc", "ece", "nll"].map(value).join(" | ");
        let seed = run.seed.map_or_else(|| "-".to_string(), |seed| seed.to_string());
        text += &format!(
            "| {} | {} | {seed} | {cells} | {} | {:.3} | {} |\n",
            run.run,
            run.recipe,
            share(run.alpha_text),
            run.accepted,
            share(run.accepted_error)
        );
    }
    if let Some(first) = comparison.against.first() {
        text += &format!("\nDifferences to {} (paired bootstrap, the same draws for both)\n\n", first.first);
        text += "| run | accuracy | share of draws not above | macro F1 | AUROC | only first right | only this right | McNemar p | Holm |\n|---|---|---|---|---|---|---|---|---|\n";
        for one in &comparison.against {
            let named = |name: &str| one.differences.iter().find(|row| row.measure == name);
            let value = |name: &str| named(name).map_or_else(String::new, difference);
            let share =
                named("accuracy").and_then(|row| row.not_above).map_or_else(|| "-".to_string(), |share| format!("{share:.3}"));
            let test = one.mcnemar;
            text += &format!(
                "| {} | {} | {share} | {} | {} | {} | {} | {:.4} | {:.4} |\n",
                one.second,
                value("accuracy"),
                value("macro_f1"),
                value("auroc"),
                test.only_first,
                test.only_second,
                test.p,
                one.holm
            );
        }
        text += "\nMcNemar's test takes items as independent; with several items a patient the interval over patients decides.\n";
    }
    comparison.runs.first().map_or(text.clone(), |run| text + &remarks(&run.estimates.draws))
}

/// What must be said beside intervals.
pub fn remarks(basis: &Basis) -> String {
    let mut text = match &basis.no_interval {
        Some(reason) => format!("\nNo intervals: {reason}.\n"),
        None => format!("\nIntervals: 95 %, {} draws of {} {}, seed {}.\n", basis.draws, basis.units, basis.unit, basis.seed),
    };
    if let Some(warning) = &basis.warning {
        text += &format!("WARNING: {warning}.\n");
    }
    text
}

/// `0.812 [0.745, 0.870]`.
pub fn estimate(estimate: &Estimate) -> String {
    let value = estimate.value.map_or_else(|| "not defined".to_string(), |value| format!("{value:.3}"));
    value + &bounds(estimate.interval, false)
}

/// `+0.021 [-0.010, +0.052]`.
pub fn difference(difference: &Difference) -> String {
    let value = difference.difference.map_or_else(|| "not defined".to_string(), |value| format!("{value:+.3}"));
    value + &bounds(difference.interval, true)
}

fn bounds(interval: Option<Interval>, signed: bool) -> String {
    match interval {
        None => String::new(),
        Some(Interval { low, high, .. }) if signed => format!(" [{low:+.3}, {high:+.3}]"),
        Some(Interval { low, high, .. }) => format!(" [{low:.3}, {high:.3}]"),
    }
}
