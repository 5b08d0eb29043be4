//! Measures of classes and texts against scikit-learn, sacrebleu and rouge-score.

mod golden_files;

use golden_files::{family, integers, json, list, text};
use mmlnb_models::measures::calibration::temperature;
use mmlnb_models::measures::classes::{ClassMeasures, ClassRow, Predictions, calibration_error};
use mmlnb_models::measures::texts::{self, bleu, chrf, corpus_chrf, rouge, sentence_bleu, tokens_13a};
use serde_json::Value;

fn close(found: f64, expected: &Value, tolerance: f64, what: &str) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("{what}: the expectation is no number"));
    assert!((found - expected).abs() <= tolerance, "{what}: {found} instead of {expected}");
}

fn numbers(rows: &Value) -> Vec<Vec<f64>> {
    let row = |row: &Value| row.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    rows.as_array().unwrap().iter().map(row).collect()
}

/// The n-th `probabilities` of a file's text. serde_json may miss the last bit of a number, which makes or breaks ties between scores.
fn exact_rows(text: &str, number: usize) -> Vec<Vec<f64>> {
    let (_, rest) =
        text.match_indices("\"probabilities\"").nth(number).map(|(place, key)| text[place..].split_at(key.len())).unwrap();
    let parse = |value: &str| value.trim().parse::<f64>().ok();
    let row = |row: &str| {
        row.split(',').map(|value| parse(value.trim_start_matches([':', ' ', '\n', '[']))).collect::<Option<Vec<f64>>>()
    };
    rest.split(']').map_while(|one| row(one.trim_start_matches([',', ' ', '\n']))).collect()
}

fn names(file: &Value) -> Vec<String> {
    list(file, "classes").iter().map(|name| name.as_str().unwrap().to_string()).collect()
}

fn labels(case: &Value) -> Vec<usize> {
    integers(case, "labels").into_iter().map(|label| label as usize).collect()
}

#[test]
fn golden_metrics_of_classes() {
    let Some(folder) = family("metrics") else { return };
    let file = json(&folder.join("classification.json"));
    let tolerance = file["tolerance"]["measures"].as_f64().unwrap();
    let text_of_file = std::fs::read_to_string(folder.join("classification.json")).unwrap();
    for (number, set) in list(&file, "sets").iter().enumerate() {
        let predictions = Predictions::new(&names(&file), true, labels(set), exact_rows(&text_of_file, number)).unwrap();
        let (found, expected) = (predictions.measure(), &set["expected"]);
        compare(&found, expected, tolerance, text(set, "name"));
        reliability(&predictions, expected, tolerance);
    }
}

fn compare(found: &ClassMeasures, expected: &Value, tolerance: f64, set: &str) {
    assert_eq!(serde_json::to_value(&found.confusion).unwrap(), expected["confusion_matrix_true_rows"], "{set}");
    let single = [
        ("accuracy", Some(found.accuracy)),
        ("balanced_accuracy", Some(found.balanced_accuracy)),
        ("macro_f1", Some(found.macro_f1)),
        ("weighted_f1", Some(found.weighted_f1)),
        ("macro_precision", Some(found.macro_precision)),
        ("macro_recall", Some(found.balanced_accuracy)),
        ("weighted_precision", Some(found.weighted_precision)),
        ("weighted_recall", Some(found.accuracy)),
        ("macro_specificity", found.macro_specificity),
        ("mcc", Some(found.mcc)),
        ("cohen_kappa", found.kappa),
        ("cohen_kappa_linear", found.kappa_linear),
        ("cohen_kappa_quadratic", found.kappa_quadratic),
        ("auroc_ovr_macro", found.auroc),
        ("auroc_ovr_weighted", found.auroc_weighted),
        ("auroc_ovo_macro", found.auroc_pairs),
        ("auprc_macro", found.auprc),
        ("brier_sum_over_classes", Some(found.brier)),
        ("negative_log_likelihood", Some(found.nll)),
    ];
    for (name, value) in single {
        close(value.unwrap_or_else(|| panic!("{set}: no {name}")), &expected[name], tolerance, &format!("{set}, {name}"));
    }
    for (row, expected) in found.per_class.iter().zip(list(expected, "per_class")) {
        compare_row(row, expected, tolerance);
    }
}

fn compare_row(row: &ClassRow, expected: &Value, tolerance: f64) {
    assert_eq!(row.class, text(expected, "class"));
    let counts = [
        ("true_positive", row.true_positive),
        ("false_positive", row.false_positive),
        ("false_negative", row.false_negative),
        ("true_negative", row.true_negative),
        ("support", row.support),
    ];
    for (name, value) in counts {
        assert_eq!(Some(value), expected[name].as_u64(), "{name}");
    }
    let shares = [
        ("precision", Some(row.precision)),
        ("recall", Some(row.recall)),
        ("f1", Some(row.f1)),
        ("specificity", row.specificity),
        ("auroc", row.auroc),
        ("auprc", row.auprc),
    ];
    for (name, value) in shares {
        close(value.unwrap(), &expected[name], tolerance, &format!("{}, {name}", row.class));
    }
}

fn reliability(predictions: &Predictions, expected: &Value, tolerance: f64) {
    let bins = list(expected, "reliability");
    let found = predictions.reliability(&vec![1; predictions.items()], bins.len());
    close(calibration_error(&found), &expected["expected_calibration_error"], tolerance, "ECE");
    for (found, expected) in found.iter().zip(bins) {
        assert_eq!(Some(found.count), expected["count"].as_u64());
        assert_eq!(found.accuracy.is_none(), expected["accuracy"].is_null());
        if let (Some(accuracy), Some(confidence)) = (found.accuracy, found.confidence) {
            close(accuracy, &expected["accuracy"], tolerance, "accuracy of a bin");
            close(confidence, &expected["confidence"], tolerance, "confidence of a bin");
        }
    }
}

#[test]
fn golden_metrics_of_texts() {
    let Some(folder) = family("metrics") else { return };
    let file = json(&folder.join("texts.json"));
    let tolerance = file["tolerance"].as_f64().unwrap();
    let pairs: Vec<(&str, &str)> =
        list(&file, "pairs").iter().map(|pair| (text(pair, "candidate"), text(pair, "reference"))).collect();
    for (pair, expected) in pairs.iter().zip(list(&file, "pairs")) {
        one_text(pair, expected, tolerance);
    }
    corpus(&pairs, &file, tolerance);
}

fn one_text((candidate, reference): &(&str, &str), expected: &Value, tolerance: f64) {
    assert_eq!(serde_json::to_value(tokens_13a(candidate)).unwrap(), expected["tokens_13a"]);
    let effective = sentence_bleu(candidate, reference).score;
    close(effective, &expected["bleu_sentence_effective_order"], tolerance, candidate);
    close(bleu(&[(candidate, reference)]).score, &expected["bleu_sentence_order_4"], tolerance, candidate);
    close(chrf(candidate, reference, 0), &expected["chrf"], tolerance, candidate);
    close(chrf(candidate, reference, 2), &expected["chrf_plus_plus"], tolerance, candidate);
    let found = rouge(candidate, reference);
    for (name, overlap) in [("rouge1", found.rouge1), ("rouge2", found.rouge2), ("rougeL", found.rouge_l)] {
        let expected = &expected["rouge_plain"][name];
        close(overlap.precision, &expected["precision"], tolerance, candidate);
        close(overlap.recall, &expected["recall"], tolerance, candidate);
        close(overlap.f1, &expected["f1"], tolerance, candidate);
    }
}

fn corpus(pairs: &[(&str, &str)], file: &Value, tolerance: f64) {
    let (found, expected) = (bleu(pairs), &file["corpus_bleu"]);
    close(found.score, &expected["score"], tolerance, "BLEU");
    close(found.brevity_penalty, &expected["brevity_penalty"], tolerance, "brevity penalty");
    for (precision, expected) in found.precisions.iter().zip(list(expected, "precisions")) {
        close(*precision, expected, tolerance, "precision");
    }
    assert_eq!(integers(expected, "counts"), found.counts.map(|count| count as i64));
    assert_eq!(integers(expected, "totals"), found.totals.map(|count| count as i64));
    assert_eq!(expected["candidate_length"].as_u64(), Some(found.candidate_length));
    assert_eq!(expected["reference_length"].as_u64(), Some(found.reference_length));
    close(corpus_chrf(pairs, 0), &file["corpus_chrf"]["score"], tolerance, "chrF");
    close(corpus_chrf(pairs, 2), &file["corpus_chrf_plus_plus"]["score"], tolerance, "chrF++");
    let (candidates, references): (Vec<&str>, Vec<&str>) = pairs.iter().copied().unzip();
    let all = texts::measure(&candidates, &references).unwrap();
    for (name, value) in [("rouge1", all.rouge1), ("rouge2", all.rouge2), ("rougeL", all.rouge_l)] {
        close(value, &file["mean_f1"]["rouge_plain"][name], tolerance, name);
    }
}

#[test]
fn golden_metrics_of_calibration() {
    let Some(folder) = family("metrics") else { return };
    let file = json(&folder.join("classification.json"));
    let (case, tolerance) = (&file["temperature"], &file["tolerance"]);
    let (logits, labels) = (numbers(&case["logits"]), labels(case));
    let found = temperature(&logits, &labels).unwrap();
    close(found.temperature, &case["temperature"], tolerance["temperature"].as_f64().unwrap(), "temperature");
    let exact = tolerance["measures"].as_f64().unwrap();
    close(found.nll_before, &case["negative_log_likelihood_before"], exact, "NLL before");
    close(found.nll_after, &case["negative_log_likelihood_after"], exact, "NLL after");
    assert_eq!(found.warning, None);
    let scaled = Predictions::from_logits(&names(&file), true, labels, &logits, found.temperature).unwrap();
    let bins = list(list(&file, "sets").first().unwrap().get("expected").unwrap(), "reliability").len();
    let error = calibration_error(&scaled.reliability(&vec![1; scaled.items()], bins));
    // The bins' borders make the error jump when a confidence crosses one, so it is as exact as the temperature.
    close(error, &case["expected_calibration_error_after"], tolerance["temperature"].as_f64().unwrap(), "ECE after");
}
