//! An ablation as Markdown, as lines of JSON and as a page.

use super::{Ablation, Alphas, NULLS, Row, ranks};
use crate::{
    compare::{difference, estimate, remarks},
    report::{
        plot::{Axis, Chart, IntervalRow, Intervals, Mark},
        sheet,
    },
};
use maud::{Markup, PreEscaped, html};
use serde_json::{Value, json};

/// One object a variation, then one a rank, then one an alpha condition.
pub fn lines(ablation: &Ablation) -> Vec<Value> {
    let with_kind = |kind: &str, value: Value| {
        let mut object = json!({"kind": kind});
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), value) {
            object.extend(fields.into_iter().map(|(name, value)| (if name == "kind" { "text".into() } else { name }, value)));
        }
        object
    };
    let rows = ablation.rows.iter().map(|row| with_kind("variation", json!(row)));
    let conditions = ablation.alphas.iter().flat_map(|alphas| &alphas.conditions).map(|one| with_kind("alpha", json!(one)));
    let ranks = ablation.ranks.iter().map(|one| with_kind("rank", json!(one)));
    rows.chain(ranks).chain(conditions).collect()
}

/// The tables, as `docs/ablations.md` has them.
pub fn markdown(ablation: &Ablation) -> String {
    let first = ablation.rows.first().map_or("", |row| row.name.as_str());
    let mut text = format!(
        "{} items of the part {}. Means over the seeds; differences are to `{first}`.\n\n",
        ablation.items, ablation.part
    );
    text += "| variation | paper, accuracy | ours, accuracy | range over seeds | difference | paper's difference | p (Holm) | macro F1 | AUROC | alpha |\n\
             |---|---|---|---|---|---|---|---|---|---|\n";
    for row in &ablation.rows {
        text += &line(ablation, row);
    }
    text += &remarks(&ablation.draws);
    if let Some(why) = &ablation.no_p {
        text += &format!("\nNo p: {why}.\n");
    }
    for (name, _, _, _, words) in NULLS {
        if ablation.rows.iter().any(|row| row.name == name) {
            text += &format!("\n`{name}`: {words}.\n");
        }
    }
    text += &ranks::table(&ablation.ranks);
    if !ablation.failed.is_empty() {
        text += &format!("\nNot trained:\n\n- {}\n", ablation.failed.join("\n- "));
    }
    if let Some(alphas) = &ablation.alphas {
        text += &alphas_table(alphas);
    }
    text
}

fn line(ablation: &Ablation, row: &Row) -> String {
    let measure = |name: &str| row.measures.measures.get(name).map_or_else(String::new, estimate);
    let number = |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_string(), |value| format!("{value:.digits$}"));
    let paper =
        ablation.rows.first().and_then(|first| Some(row.published? - first.published?)).filter(|_| !row.differences.is_empty());
    let found = row.differences.iter().find(|one| one.measure == "accuracy").map_or_else(|| "-".to_string(), difference);
    let [low, high] = row.accuracy_range;
    format!(
        "| {} | {} | {} | {low:.3} to {high:.3} | {found} | {} | {} | {} | {} | {} |\n",
        row.name,
        number(row.published, 4),
        measure("accuracy"),
        paper.map_or_else(|| "-".to_string(), |value| format!("{value:+.4}")),
        number(row.p, 4),
        measure("macro_f1"),
        measure("auroc"),
        number(row.alpha_text, 3)
    )
}

fn alphas_table(alphas: &Alphas) -> String {
    let mut text = "\nAlpha against the quality of texts: the texts of a share of the items are replaced.\n\n\
                    | texts | share replaced | accuracy | alpha, all items | alpha, replaced |\n|---|---|---|---|---|\n"
        .to_string();
    for one in &alphas.conditions {
        let replaced = one.alpha_replaced.map_or_else(|| "-".to_string(), |alpha| format!("{alpha:.3}"));
        text += &format!("| {} | {:.0} % | {:.3} | {:.3} | {replaced} |\n", one.kind, 100.0 * one.share, one.accuracy, one.alpha);
    }
    text += &format!(
        "\nCorrect texts that alpha suppressed (the text alone leads to the right class, alpha below 0.5, the answer wrong): {} of {}.\n",
        alphas.suppressed, alphas.right_texts
    );
    for case in &alphas.cases {
        let seed = case.seed.map_or_else(|| "-".to_string(), |seed| seed.to_string());
        text += &format!(
            "- {} (seed {seed}): {}, answered {} at alpha {:.2}: \"{}\"\n",
            case.file_name, case.class, case.answer, case.alpha, case.description
        );
    }
    text
}

/// The page with plots.
pub fn page(ablation: &Ablation) -> String {
    let figure = |svg: &str| html! { figure class="wide" { (PreEscaped(svg)) } };
    let body = html! {
        h1 { "Ablation" }
        p class="soft" { (ablation.items) " items of the part " (ablation.part) }
        h2 { "Accuracy" }
        div class="plots" {
            (figure(accuracies(ablation).svg().as_str()))
            (figure(differences(ablation).svg().as_str()))
        }
        @if let Some(alphas) = &ablation.alphas {
            h2 { "Alpha against the quality of texts" }
            div class="plots" {
                (figure(against_share(alphas, "accuracy", |one| Some(one.accuracy)).svg().as_str()))
                (figure(against_share(alphas, "alpha of replaced texts", |one| one.alpha_replaced).svg().as_str()))
            }
        }
        h2 { "Tables" }
        (tables(ablation))
    };
    sheet::page("Ablation", body)
}

fn tables(ablation: &Ablation) -> Markup {
    html! { pre { (markdown(ablation)) } }
}

fn accuracies(ablation: &Ablation) -> Intervals {
    let row = |row: &Row| {
        let found = row.measures.measures.get("accuracy").copied();
        IntervalRow {
            name: row.name.clone(),
            value: found.and_then(|found| found.value).unwrap_or(f64::NAN),
            interval: found.and_then(|found| found.interval).map(|interval| (interval.low, interval.high)),
        }
    };
    Intervals {
        title: "Accuracy, mean over seeds".into(),
        axis: Axis::free("accuracy"),
        rows: ablation.rows.iter().map(row).collect(),
        line: None,
    }
}

fn differences(ablation: &Ablation) -> Intervals {
    let first = ablation.rows.first().map_or("", |row| row.name.as_str());
    let row = |row: &Row| {
        let found = row.differences.iter().find(|one| one.measure == "accuracy")?;
        let interval = found.interval.map(|interval| (interval.low, interval.high));
        Some(IntervalRow { name: row.name.clone(), value: found.difference.unwrap_or(f64::NAN), interval })
    };
    let rows = ablation.rows.iter().filter_map(row).collect();
    Intervals {
        title: format!("Difference of accuracy to {first}"),
        axis: Axis::free("difference of accuracy"),
        rows,
        line: Some(0.0),
    }
}

fn against_share(alphas: &Alphas, label: &str, value: fn(&super::Condition) -> Option<f64>) -> Chart {
    let chart = Chart::new(
        &format!("{label} against replaced texts"),
        Axis::fixed("share of texts replaced", 0.0, 1.0),
        Axis::fixed(label, 0.0, 1.0),
    );
    let mut kinds: Vec<&str> = alphas.conditions.iter().map(|one| one.kind.as_str()).collect();
    kinds.dedup();
    kinds.into_iter().fold(chart, |chart, kind| {
        let of_kind = alphas.conditions.iter().filter(|one| one.kind == kind);
        chart.with(kind, Mark::Both, of_kind.filter_map(|one| Some((one.share, value(one)?))).collect())
    })
}
