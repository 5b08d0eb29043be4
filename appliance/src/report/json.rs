//! The JSON of a report, the same for `classify --json` and for the file beside an image.

use mmlnb_models::bundle::Standings;
use serde_json::{Map, Value, json};

use crate::ledger::read::named;
use crate::ledger::{Described, NewReport};

/// Whose report it is.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The report's number; none outside the daemon.
    pub id: Option<i64>,
    /// The case.
    pub case_id: &'a str,
    /// The file as given, or its path below the inbox.
    pub file: &'a str,
    /// SHA-256 of the file, hex.
    pub sha256: &'a str,
    /// SHA-256 of the bundle's manifest, hex.
    pub bundle_sha256: &'a str,
    /// SHA-256 of its qualification, hex, if it has one of its own.
    pub qualification_sha256: Option<&'a str>,
    /// Who signed both, as far as it is known.
    pub trust: Option<&'a Standings>,
}

/// The object of a whole report.
pub fn report(subject: &Subject<'_>, report: &NewReport) -> Value {
    let elapsed = &report.elapsed_ms;
    object(subject, Some(report), report.described.as_ref(), &report.provider, elapsed)
}

/// The object of a description without a class.
pub fn description(subject: &Subject<'_>, described: &Described, provider: &str, elapsed_ms: &[(String, f64)]) -> Value {
    object(subject, None, Some(described), provider, elapsed_ms)
}

fn object(
    subject: &Subject<'_>,
    report: Option<&NewReport>,
    described: Option<&Described>,
    provider: &str,
    elapsed_ms: &[(String, f64)],
) -> Value {
    let classified = report.map(|report| &report.classified);
    let elapsed: Map<String, Value> = elapsed_ms.iter().map(|(stage, ms)| (stage.clone(), json!(ms))).collect();
    let image_only = classified.and_then(|found| Some(named(&found.classes, found.image_only.as_deref()?)));
    json!({
        "id": subject.id,
        "case_id": subject.case_id,
        "file": subject.file,
        "sha256": subject.sha256,
        "class": report.and_then(|report| report.class.clone()),
        "leading_class": report.map(|report| &report.leading_class),
        "probabilities": classified.map(|found| named(&found.classes, &found.probabilities)),
        "image_only": image_only,
        "alpha_text": classified.and_then(|found| found.alpha_text),
        "confidence": report.map(|report| report.confidence),
        "verdict": report.map(|report| &report.verdict),
        "verdict_reasons": report.map(|report| report.verdict_reasons.clone()).unwrap_or_default(),
        "flags": report.map(|report| report.flags.clone()).unwrap_or_default(),
        "description": described.map(|text| &text.text),
        "description_tokens": described.map(|text| text.tokens),
        "description_tokens_read": described.and_then(|text| text.tokens_read),
        "mean_token_logprob": described.map(|text| text.mean_token_logprob),
        "stop_reason": described.map(|text| &text.stop_reason),
        "bundle_sha256": subject.bundle_sha256,
        "qualification_sha256": subject.qualification_sha256,
        "trust": subject.trust,
        "provider": provider,
        "elapsed_ms": elapsed,
    })
}
