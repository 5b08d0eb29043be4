//! Numbers of `measures.json`.

use super::record::Record;
use serde_json::Value;

/// A number with its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    /// Nothing when it is not defined on these items.
    pub value: Option<f64>,
    /// 95 %, over patients where they are known.
    pub interval: Option<(f64, f64)>,
}

/// The measures that the page and the card list, with the words for them.
pub const LISTED: [(&str, &str); 13] = [
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy (mean recall)"),
    ("macro_f1", "macro F1"),
    ("weighted_f1", "weighted F1"),
    ("mcc", "Matthews correlation"),
    ("kappa", "kappa, unweighted"),
    ("kappa_linear", "kappa, linear weights"),
    ("kappa_quadratic", "kappa, quadratic weights"),
    ("auroc", "AUROC, mean of classes"),
    ("auprc", "average precision, mean of classes"),
    ("ece", "expected calibration error (15 bins)"),
    ("brier", "Brier score (0 to 2)"),
    ("nll", "negative log-likelihood"),
];

/// A measure of one part (`test`, `validation`).
pub fn number(record: &Record, part: &str, name: &str) -> Option<Number> {
    let estimate = record.measures.get(part)?.get("estimates")?.get("measures")?.get(name)?;
    let interval = &estimate["interval"];
    let interval = interval["low"].as_f64().zip(interval["high"].as_f64());
    Some(Number { value: estimate["value"].as_f64(), interval })
}

/// The seed with which the intervals were drawn, so that others are drawn alike.
pub fn seed(record: &Record) -> u64 {
    let of = |part: &str| record.measures.get(part)?.get("estimates")?.get("seed")?.as_u64();
    of("test").or_else(|| of("validation")).unwrap_or(0)
}

/// A number deeper in a part, without an interval.
pub fn plain(record: &Record, part: &str, path: [&str; 2]) -> Option<f64> {
    record.measures.get(part)?.get(path[0])?.get(path[1])?.as_f64()
}

/// Items and accuracy of each site of a part.
pub fn sites(record: &Record, part: &str) -> Vec<(String, u64, f64)> {
    let sites = record.measures.get(part).and_then(|part| part.get("sites")).and_then(Value::as_object);
    let row = |(site, found): (&String, &Value)| Some((site.clone(), found["items"].as_u64()?, found["accuracy"].as_f64()?));
    sites.into_iter().flatten().filter_map(row).collect()
}

/// What the run itself wants its readers to know.
pub fn warnings(record: &Record) -> Vec<String> {
    let list =
        |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_str).map(String::from).collect::<Vec<_>>();
    let own = list(&record.measures["warnings"]);
    if own.is_empty() { list(&record.measures["data"]["warnings"]) } else { own }
}

/// What is to be said about the intervals of a part: why there are none, or what makes them too narrow.
pub fn remarks(record: &Record, part: &str) -> Vec<String> {
    let estimates = record.measures.get(part).and_then(|part| part.get("estimates")).unwrap_or(&Value::Null);
    ["no_interval", "warning"].iter().filter_map(|name| estimates[name].as_str()).map(String::from).collect()
}

impl Number {
    /// `0.812 [0.745, 0.870]`.
    pub fn words(&self) -> String {
        let value = self.value.map_or_else(|| "not defined".to_owned(), |value| format!("{value:.3}"));
        match self.interval {
            Some((low, high)) => format!("{value} [{low:.3}, {high:.3}]"),
            None => value,
        }
    }
}
