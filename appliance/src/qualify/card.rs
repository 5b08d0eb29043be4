//! The page that a qualification leaves beside a bundle's MODEL_CARD.md, with the trainer's figures beside its own.

use mmlnb_models::bundle::Calibration;
use serde_json::Value;

const HEADING: &str = "# Qualification";
/// The numbers of the table, by their names among the measures.
const NUMBERS: [(&str, &str); 9] = [
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy"),
    ("macro_f1", "macro F1"),
    ("kappa", "kappa"),
    ("kappa_quadratic", "kappa, quadratic"),
    ("auroc", "AUROC"),
    ("ece", "calibration error (ECE)"),
    ("brier", "Brier (0 to 2)"),
    ("nll", "negative log likelihood"),
];

/// A model card without the section that a qualification of format 1 wrote into it.
pub fn without_section(card: &str) -> String {
    let Some((before, section)) = card.split_once(&format!("#{HEADING}")) else { return card.to_owned() };
    format!("{}\n{}", before.trim_end(), section.find("\n## ").map_or("", |next| &section[next..]))
}

/// The page.
pub fn page(calibration: Option<&Calibration>, result: &Value) -> String {
    let data = &result["data"];
    let mut text = format!(
        "{HEADING}\n\nMeasured on the machine that serves the bundle ({}, {}), at its precision.\n\n- data: SHA-256 {}, {} images{}\n",
        string(&result["producer"]),
        string(&result["provider"]),
        string(&data["sha256"]),
        data["images"],
        match data["groups"].as_u64() {
            Some(groups) => format!(" of {groups} patients; the halves share no patient"),
            None => "; NOT split by patient: the figures may be too good".to_owned(),
        }
    );
    text += &format!("- fitted on {} images, reported on {}\n", data["fitted"], data["reported"]);
    match (data["training_rows_known"].as_bool(), data["left_out"].as_u64()) {
        (Some(false), _) => {
            text +=
                "- unknown: all or some of the images that trained the bundle; rows were chosen by the file's column `split`\n"
        }
        (_, Some(rows)) if rows > 0 => {
            text += &format!("- left out: {rows} rows that trained the bundle, or whose patients did\n")
        }
        _ => {}
    }
    if let Some(calibration) = calibration {
        text += "- calibration in use:\n";
        calibration.lines().iter().for_each(|line| text += &format!("  - {line}\n"));
    }
    if !result["classes"].is_null() {
        text += &classes(&result["classes"], &result["trainer"]["measures"]);
    }
    let agreement = &result["trainer"]["agreement"];
    if !agreement.is_null() {
        text += &format!(
            "- agreement with the trainer on {} images: same class {}, same description {}, probabilities at most {} apart\n",
            agreement["compared"],
            number(&agreement["same_class"]),
            number(&agreement["same_description"]),
            number(&agreement["largest_probability_difference"])
        );
    }
    if !result["descriptions"].is_null() {
        text += &descriptions(&result["descriptions"]);
    }
    result["warnings"].as_array().into_iter().flatten().for_each(|warning| text += &format!("- note: {}\n", string(warning)));
    text
}

/// The table of numbers with their intervals, the trainer's beside them, and the verdicts.
fn classes(found: &Value, trainer: &Value) -> String {
    let mut text = "\n| measure | here | 95 % interval | trainer |\n|---|---|---|---|\n".to_owned();
    for (key, name) in NUMBERS {
        let estimate = &found["intervals"]["measures"][key];
        let interval = interval(estimate);
        text += &format!(
            "| {name} | {} | {interval} | {} |\n",
            number(&estimate["value"]),
            number(&trainer["estimates"]["measures"][key]["value"])
        );
    }
    let verdicts = &found["verdicts"];
    text += &format!(
        "\n- verdicts: {} accepted, {} abstained ({}, 95 % interval {}); accuracy of the accepted {} (95 % interval {})\n",
        verdicts["accepted"],
        verdicts["abstain"],
        number(&verdicts["abstain_rate"]),
        interval(&verdicts["intervals"]["measures"]["abstain_rate"]),
        number(&verdicts["accepted_accuracy"]),
        interval(&verdicts["intervals"]["measures"]["accepted_accuracy"])
    );
    let why = verdicts["reasons"].as_object().into_iter().flatten().map(|(reason, count)| format!("{reason} {count}"));
    let why = why.collect::<Vec<_>>().join(", ");
    if why.is_empty() { text } else { text + &format!("- reasons for abstaining: {why}\n") }
}

fn interval(estimate: &Value) -> String {
    match (estimate["interval"]["low"].as_f64(), estimate["interval"]["high"].as_f64()) {
        (Some(low), Some(high)) => format!("{low:.4} to {high:.4}"),
        _ => "-".to_owned(),
    }
}

fn descriptions(found: &Value) -> String {
    let made = &found["generated"];
    let mut text = format!(
        "- descriptions: {} of them different, {} ended by the model, repetition {}\n",
        number(&made["distinct"]),
        number(&made["stopped"]),
        number(&made["repetition"])
    );
    if !found["overlap"].is_null() {
        let (overlap, facts) = (&found["overlap"], &found["facts"]);
        text += &format!(
            "- against the given descriptions: BLEU {}, chrF {}, ROUGE-L {}, facts F1 {}\n",
            number(&overlap["bleu"]),
            number(&overlap["chrf"]),
            number(&overlap["rougeL"]),
            number(&facts["f1"])
        );
    }
    text
}

fn number(value: &Value) -> String {
    value.as_f64().map_or("-".to_owned(), |value| format!("{value:.4}"))
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_page_shows_the_figures_and_an_old_section_is_taken_out() {
        let result = json!({"producer": "p", "provider": "cpu", "data": {"sha256": "ab", "images": 4, "groups": 2, "fitted": 2, "reported": 2},
            "classes": {"intervals": {"measures": {"accuracy": {"value": 0.75, "interval": {"low": 0.5, "high": 1.0}}}},
                "verdicts": {"accepted": 1, "abstain": 1, "abstain_rate": 0.5, "accepted_accuracy": 1.0, "reasons": {"low_confidence": 1}}},
            "trainer": {"measures": {"estimates": {"measures": {"accuracy": {"value": 0.8}}}}}, "warnings": ["few images"]});
        let calibration = Calibration { threshold: Some(0.7), ..Calibration::default() };
        let page = page(Some(&calibration), &result);
        assert!(page.starts_with("# Qualification\n\nMeasured"), "{page}");
        for part in [
            "| accuracy | 0.7500 | 0.5000 to 1.0000 | 0.8000 |",
            "accepted from probability 0.7",
            "low_confidence 1",
            "note: few images",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        let card = "# Card\n\n## Classifier\n\nx\n";
        assert_eq!(without_section(card), card);
        assert_eq!(without_section(&format!("{card}\n#{page}")), card);
        let between = without_section("# Card\n\n## Qualification\n\nold\n\n## Provenance\n\ny\n");
        assert_eq!(between, "# Card\n\n## Provenance\n\ny\n");
    }
}
