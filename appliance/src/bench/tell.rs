//! The figures as text.

use serde_json::Value;

/// The object of [`super::run`] as lines for people.
pub fn table(result: &Value) -> String {
    let [precision, provider, sha256] =
        ["precision", "provider", "bundle_sha256"].map(|key| result[key].as_str().unwrap_or_default());
    let mut text = line("bundle", &format!("{precision}, {provider}, {sha256}"));
    let threads = result["threads"].as_u64().filter(|threads| *threads > 0);
    text += &line("threads", &threads.map_or("all cores less one".to_owned(), |threads| threads.to_string()));
    text += &line("start-up", &format!("{} s", number(result["startup_s"].as_f64())));
    if !result["decode_image_s"].is_null() {
        text += &figure("image file", &result["decode_image_s"], "s");
    }
    let describer = &result["describer"];
    if !describer.is_null() {
        text += &format!("\nDescriber, {} tokens an image, one image alone\n", result["tokens"]);
        text += &line(
            "prompt",
            &format!("{} tokens, {} of them read for each image", describer["prompt_tokens"], describer["prompt_tokens_read"]),
        );
        text += &figure("preparation", &describer["prepare_s"], "s");
        text += &figure("vision", &describer["vision_s"], "s");
        text += &figure("prompt", &describer["prompt_tokens_per_s"], "tokens a second");
        text += &figure("first token", &describer["first_token_s"], "s");
        text += "\nDescriber, all rows writing\n";
        for decode in describer["decode"].as_array().into_iter().flatten() {
            let rows = if decode["rows"] == 1 { "1 row".to_owned() } else { format!("{} rows", decode["rows"]) };
            text += &figure(&rows, &decode["tokens_per_s"], "tokens a second");
        }
    }
    text += &format!("\nAll {} slots full\n", result["slots"]);
    if !result["classifier"].is_null() {
        text += &figure("classifier", &result["classifier"]["images_per_s"], "images a second");
    }
    text += &figure("whole", &result["images_per_hour"], "images an hour");
    let peak = result["peak_memory_bytes"].as_f64().map(|bytes| bytes / f64::from(1 << 30));
    text + &line("peak memory", &format!("{} GiB", number(peak)))
}

/// Median, range, and how much of the time somebody waited for a core.
fn figure(name: &str, found: &Value, unit: &str) -> String {
    if found.is_null() {
        return line(name, "not measured");
    }
    let [median, least, most] = ["median", "least", "most"].map(|key| number(found[key].as_f64()));
    let waited = match found["waited"].as_f64() {
        Some(share) => format!(", {:.0} % disturbed", share * 100.0),
        None => String::new(),
    };
    line(name, &format!("{median} {unit} ({least} to {most}{waited})"))
}

fn line(name: &str, text: &str) -> String {
    format!("  {name:<14}{text}\n")
}

/// Three figures that count.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) if value.abs() >= 0.1 => format!("{value:.2}"),
        Some(value) => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_not_measured_is_told_and_a_half_that_is_absent_is_left_out() {
        let figure = json!({"median": 12.34, "least": 0.0123, "most": 345.6, "waited": 0.127});
        let describer = json!({"prompt_tokens": 300, "prompt_tokens_read": 280, "vision_s": figure,
            "decode": [{"rows": 16, "tokens_per_s": null}]});
        let result = json!({"precision": "f32", "provider": "cpu", "bundle_sha256": "ab", "threads": 0, "startup_s": 1.5,
            "tokens": 64, "slots": 16, "describer": describer, "classifier": null, "images_per_hour": figure,
            "peak_memory_bytes": null});
        let text = table(&result);
        for part in [
            "vision        12.3 s (0.0123 to 346, 13 % disturbed)\n",
            "16 rows       not measured\n",
            "300 tokens, 280 of them",
            "threads       all cores less one",
            "peak memory   - GiB",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("classifier"), "{text}");
    }
}
