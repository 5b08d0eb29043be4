//! A comparison as text.

use serde_json::Value;

/// The object of [`super::run`] as lines for people.
pub fn table(result: &Value) -> String {
    let mut text = String::new();
    for (name, key) in [("REFERENCE", "reference"), ("BUNDLE", "bundle")] {
        let side = &result[key];
        let [precision, provider, sha256] =
            ["precision", "provider", "bundle_sha256"].map(|key| side[key].as_str().unwrap_or_default());
        text += &line(name, &format!("{precision}, {provider}, {sha256}"));
    }
    let data = &result["data"];
    let patients = data["groups"].as_u64().map_or(", patients not named".to_owned(), |groups| format!(" of {groups} patients"));
    text +=
        &line("images", &format!("{}{patients}, {} rows left out, {} failed", data["images"], data["left_out"], failed(result)));
    if !result["describer"].is_null() {
        text += &describers(&result["describer"]);
    }
    if !result["classifier"].is_null() {
        text += &classifiers(&result["classifier"]);
    }
    text
}

fn failed(result: &Value) -> usize {
    result["failed"].as_array().map_or(0, Vec::len)
}

fn describers(found: &Value) -> String {
    let kl = &found["kl"];
    let of = |name: &str| with_interval(&found["intervals"]["measures"][name]);
    let mut text = format!("\nDescribers, on the {} greedy tokens of REFERENCE\n", kl["positions"]);
    text += &line("KL, nats", &format!("mean {}", of("kl")));
    text += &line("", &["median", "p99", "largest"].map(|key| format!("{key} {}", number(&kl[key]))).join(", "));
    text += &line("same likeliest token", &of("same_token"));
    text += &line("same text", &of("same_text"));
    text += &line("common prefix", &format!("{} of {} tokens", of("common_prefix"), number(&found["tokens"])));
    let overlap = [("BLEU-4", "bleu"), ("ROUGE-L", "rougeL"), ("chrF", "chrf")];
    let overlap = overlap.map(|(name, key)| format!("{name} {}", number(&found["texts"][key])));
    text += &line("text against text", &overlap.join(", "));
    if !found["facts"].is_null() {
        text += &both("facts F1", &found["facts"]["f1"]);
    }
    text + &notes(&found["intervals"])
}

fn classifiers(found: &Value) -> String {
    let of = |name: &str| with_interval(&found["intervals"]["measures"][name]);
    let mut text = "\nClassifiers, each with its own bundle's text\n".to_owned();
    text += &line("same class", &of("same_class"));
    text += &line("same verdict", &of("same_verdict"));
    if !found["same_image_class"].is_null() {
        text += &line("same class, image alone", &of("same_image_class"));
    }
    let apart = format!("mean {}, largest {}", of("mean_difference"), number(&found["largest_difference"]));
    text += &line("probabilities apart", &apart);
    if !found["accuracy"].is_null() {
        text += &both("accuracy", &found["accuracy"]);
    }
    text + &notes(&found["intervals"])
}

/// A figure of both, and its difference.
fn both(name: &str, figure: &Value) -> String {
    let parts = ["reference", "bundle", "difference"].map(|key| with_interval(&figure[key]));
    line(name, &format!("REFERENCE {}, BUNDLE {}, difference {}", parts[0], parts[1], parts[2]))
}

/// Why there are no intervals, or what makes them too narrow.
fn notes(draws: &Value) -> String {
    let told = ["no_interval", "warning"].iter().filter_map(|key| draws[key].as_str());
    told.map(|note| line("note", note)).collect()
}

fn line(name: &str, text: &str) -> String {
    format!("  {name:<24}{text}\n")
}

fn with_interval(estimate: &Value) -> String {
    let interval = &estimate["interval"];
    let range = match interval.is_null() {
        true => String::new(),
        false => format!(" ({} to {})", number(&interval["low"]), number(&interval["high"])),
    };
    number(&estimate["value"]) + &range
}

/// Four places after the point, or what they would not show: the power of ten of little, the distance of nearly one from one.
fn number(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(value) if (0.99995..1.0).contains(&value) => format!("1 - {:.2e}", 1.0 - value),
        Some(value) if value != 0.0 && value.abs() < 1e-3 => format!("{value:.2e}"),
        Some(value) => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_there_is_told_with_its_interval_and_what_is_not_is_left_out() {
        let measure = json!({"value": 0.5, "interval": {"low": 0.25, "high": 0.0000125}});
        let figure = json!({"reference": measure, "bundle": {"value": null, "interval": null}, "difference": {"value": -0.0}});
        let classifier = json!({"same_image_class": null, "largest_difference": 0.0, "accuracy": figure,
            "intervals": {"measures": {"same_class": measure}, "no_interval": "too few", "warning": null}});
        let side = json!({"precision": "f32", "provider": "cpu", "bundle_sha256": "ab"});
        let result = json!({"reference": side, "bundle": side, "data": {"images": 3, "groups": null, "left_out": 1},
            "describer": null, "classifier": classifier, "failed": ["line 2"]});
        let text = table(&result);
        for part in [
            "REFERENCE               f32, cpu, ab\n",
            "3, patients not named, 1 rows left out, 1 failed\n",
            "same class              0.5000 (0.2500 to 1.25e-5)\n",
            "REFERENCE 0.5000 (0.2500 to 1.25e-5), BUNDLE -, difference",
            "note                    too few\n",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("Describers") && !text.contains("image alone"), "{text}");
    }
}
