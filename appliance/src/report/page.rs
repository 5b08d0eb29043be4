//! The report page of a patch: one A4 page that a pathologist reads from top to bottom.

use maud::{Markup, html};
use mmlnb_models::base64;
use mmlnb_models::bundle::Standing;

use super::{codes, hex, style};
use crate::clock;
use crate::ledger::{Described, NewReport, ReportRow};
use crate::verdict::leading;

/// For which of the files with these bytes the page is written.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    /// Path below the inbox as text.
    pub source: &'a str,
    /// The file's case.
    pub case_id: &'a str,
    /// The file's id.
    pub file: i64,
    /// When it was first seen.
    pub received_at: &'a str,
}

/// The page.
pub fn page(row: &ReportRow, at: &Placement<'_>) -> String {
    let name = at.source.rsplit('/').next().unwrap_or(at.source);
    let report = &row.report;
    let body = html! {
        (heading(row, at, name))
        div class="hero" {
            (picture(row))
            (verdict(report))
        }
        h2 { "Probabilities" }
        (opinions(report))
        @if let Some(alpha) = report.classified.alpha_text { (weight(alpha)) }
        @if let Some(text) = &report.described { (description(text)) }
        h2 { "Flags" }
        (flags(row, at))
        h2 { "Provenance" }
        (provenance(row, at))
    };
    style::page(&format!("{name}: {}", headline(report)), None, body)
}

fn heading(row: &ReportRow, at: &Placement<'_>, name: &str) -> Markup {
    html! {
        div class="top" {
            span { "Case " b { @if at.case_id.is_empty() { "none" } @else { (at.case_id) } } }
            span { "Report " b { (row.id) } }
            span { (clock::local(&row.reported_at)) " local, " (row.reported_at) " UTC" }
        }
        h1 { (name) }
    }
}

fn picture(row: &ReportRow) -> Markup {
    let Some(image) = &row.image else { return html! { div {} } };
    let size = format!("{} x {} px", image.width, image.height);
    let scale = match image.microns_per_pixel {
        Some(scale) => format!("{scale:.3} µm per pixel, as the file states"),
        None => "scale unknown".to_owned(),
    };
    html! {
        div {
            img src=(format!("data:image/jpeg;base64,{}", base64::encode(&image.thumbnail))) alt=(format!("H&E patch, {size}"));
            p class="small soft" { (size) ", " (scale) }
        }
    }
}

/// The verdict in a few words.
pub fn headline(report: &NewReport) -> String {
    let leads = format!("{}, probability {:.2}", report.leading_class, report.confidence);
    match report.verdict.as_str() {
        "abstain" => "The appliance abstains".to_owned(),
        // A qualified threshold may lie below what is else called indeterminate: one answer, and it is the promise's.
        "accepted" => leads,
        _ if report.flags.iter().any(|flag| flag == "low_probability") => "Indeterminate".to_owned(),
        _ => leads,
    }
}

fn verdict(report: &NewReport) -> Markup {
    let low = headline(report) != format!("{}, probability {:.2}", report.leading_class, report.confidence);
    let leads = format!("{} leads with probability {:.3}.", report.leading_class, report.confidence);
    html! {
        div class=(if low { "verdict low" } else { "verdict" }) {
            p class="soft small" { "Verdict of the model" }
            p class="big" { (headline(report)) }
            @if low { p { (leads) } }
            @match sentences(report).as_slice() {
                [reason] => p { (reason) },
                reasons if report.verdict == "abstain" => ul { @for reason in reasons { li { (reason) } } },
                sentences => p { (sentences.join(" ")) },
            }
            @if let Some(both) = comparison(report) { p { b { (both) } } }
        }
    }
}

/// The verdict with its reasons as sentences.
pub fn sentences(report: &NewReport) -> Vec<&str> {
    let reasons = report.verdict_reasons.iter().map(|code| codes::reason(code));
    match report.verdict.as_str() {
        "accepted" if report.flags.is_empty() => {
            vec!["Accepted: the probability lies above the threshold that was set on validation data."]
        }
        "accepted" => {
            vec![
                "Accepted: the probability lies above the threshold that was set on validation data. Mind the flags of this report.",
            ]
        }
        "abstain" => reasons.collect(),
        _ => {
            std::iter::once("Not assessed.").chain(reasons).chain(["Read it as the model's leaning, not as a result."]).collect()
        }
    }
}

/// Image alone against the fused opinion, as a sentence.
fn comparison(report: &NewReport) -> Option<String> {
    let found = &report.classified;
    let image = found.image_only.as_deref()?;
    let (alone, fused) = (leading(image)?, leading(&found.probabilities)?);
    let (alone_p, fused_p) = (image[alone], found.probabilities[fused]);
    let (alone_name, fused_name) = (&found.classes[alone], &found.classes[fused]);
    Some(match alone == fused {
        true => format!("Image alone says {alone_name} {alone_p:.2}; with the text {fused_name} {fused_p:.2}."),
        false => format!(
            "IMAGE AND TEXT DISAGREE: image alone says {alone_name} {alone_p:.2}, verdict {fused_name} {fused_p:.2}. Look at the patch."
        ),
    })
}

fn opinions(report: &NewReport) -> Markup {
    let found = &report.classified;
    html! {
        div class="pair" {
            div {
                p class="small" { b { @if found.alpha_text.is_some() { "Image and text together (verdict)" } @else { "Image (verdict)" } } }
                (bars(&found.classes, &found.probabilities))
            }
            @if let Some(image) = &found.image_only {
                div {
                    p class="small" { b { "Image alone" } }
                    (bars(&found.classes, image))
                }
            }
        }
    }
}

fn bars(classes: &[String], values: &[f64]) -> Markup {
    let first = leading(values);
    html! {
        div class="bars" {
            @for (at, (class, value)) in classes.iter().zip(values).enumerate() {
                span class=(if first == Some(at) { "name first-name" } else { "name" }) { (class) }
                span class="track" {
                    span class=(if first == Some(at) { "fill first" } else { "fill" }) style=(format!("width:{:.1}%", value * 100.0)) {}
                }
                span class="n" { (format!("{value:.3}")) }
            }
        }
    }
}

fn weight(alpha: f64) -> Markup {
    let text = alpha * 100.0;
    html! {
        h2 { "Weight of the text" }
        p { (format!("The decision took {text:.0} % from the description and {:.0} % from the image (alpha_text {alpha:.3}).", 100.0 - text)) }
        div class="weight" {
            span style=(format!("width:{text:.1}%")) { @if text >= 12.0 { "description" } }
            span style=(format!("width:{:.1}%", 100.0 - text)) { @if text <= 88.0 { "image" } }
        }
        p class="small soft" { "This is a weight inside the model, not a measure of certainty." }
    }
}

fn description(text: &Described) -> Markup {
    let (read, unread) = split_read(text);
    let ending = match text.stop_reason.as_str() {
        "max_tokens" => format!("cut at {} tokens", text.tokens),
        _ => format!("{} tokens, ended by the model", text.tokens),
    };
    html! {
        h2 { "Description written by the model from the image; may contain errors" }
        blockquote { (read) @if !unread.is_empty() { span class="unread" { (unread) } } }
        p class="small soft" {
            (ending) (format!("; mean log-probability of a token {:.3}", text.mean_token_logprob))
            @if let Some(count) = text.tokens_read { (format!("; the classifier read {count} tokens of its own kind")) }
            @if !unread.trim().is_empty() { "; it did not read the dotted part" }
            "."
        }
    }
}

/// The description in the part that the classifier read and the rest; the border moves to the next character border.
fn split_read(text: &Described) -> (&str, &str) {
    let mut end = text.read_until.map_or(text.text.len(), |end| (end.max(0) as usize).min(text.text.len()));
    while !text.text.is_char_boundary(end) {
        end += 1;
    }
    text.text.split_at(end)
}

fn flags(row: &ReportRow, at: &Placement<'_>) -> Markup {
    let others: Vec<&String> = row.cases.iter().filter(|case| case.as_str() != at.case_id).collect();
    html! {
        @if row.report.flags.is_empty() && others.is_empty() { p { "none" } }
        ul class="flags" {
            @for case in others {
                li class="red" {
                    b { "SAME IMAGE AS CASE " @if case.is_empty() { "(none)" } @else { (case) } } ": possible mix-up of samples. " code { "same_image_other_case" }
                }
            }
            @if row.more_cases {
                li class="red" { b { "AND IN FURTHER CASES: " } code { "mmlnb-appliance show " (row.id) } " names them all." }
            }
            @for flag in &row.report.flags {
                li {
                    (codes::flag(flag)) " "
                    @if flag == "recompressed_same_pixels" {
                        @for id in &row.same_pixels { "See report " (id) ". " }
                    }
                    code { (flag) }
                }
            }
        }
    }
}

fn provenance(row: &ReportRow, at: &Placement<'_>) -> Markup {
    let report = &row.report;
    let stages: Vec<String> = report.elapsed_ms.iter().map(|(stage, ms)| format!("{stage} {ms:.0} ms")).collect();
    let format = row.image.as_ref().map_or("", |image| &image.format);
    let pixels = row.image.as_ref().map(|image| hex(&image.pixels_sha256[..6])).unwrap_or_default();
    let fact = |name: &str, value: Markup| html! { tr { th { (name) } td { (value) } } };
    html! {
        table class="facts" {
            (fact("Report and file", html! { "report " (row.id) ", file " (at.file) ", in the inbox " (at.source) }))
            (fact("Image file", html! { (format) ", " (row.size) " bytes, SHA-256 " code { (hex(&row.sha256)) } "; pixels " code { (pixels) } "…" }))
            (fact("Received, started, finished", received(row, at)))
            (fact("Time", html! { (stages.join(", ")) }))
            (fact("Device", html! { (report.provider) @if let Some(note) = &report.provider_note { ": " (note) } }))
            (fact("Bundle", html! { "SHA-256 " code { (row.bundle_sha256) } (signed(row.trust.as_ref().map(|trust| &trust.bundle))) }))
            @if let Some(sha256) = &row.qualification_sha256 {
                (fact("Qualification", html! { "SHA-256 " code { (sha256) } (signed(row.trust.as_ref().and_then(|trust| trust.qualification.as_ref()))) }))
            }
            (fact("Appliance", html! { "version " (row.version) "; check with: " code { "mmlnb-appliance show " (row.id) } " and " code { "mmlnb-appliance verify" } }))
        }
    }
}

/// Who signed it; nothing where that was not kept.
fn signed(standing: Option<&Standing>) -> Markup {
    html! { @if let Some(standing) = standing { ", " (standing) } }
}

/// A later copy of the same bytes was received after the work on them, and a clock may have been set back in between.
fn received(row: &ReportRow, at: &Placement<'_>) -> Markup {
    html! {
        (at.received_at)
        @if at.received_at > row.started_at.as_str() { "; the same bytes were assessed before: " } @else { ", " }
        (row.started_at) ", " (row.reported_at)
    }
}

#[cfg(test)]
pub mod tests {
    //! Also gives other tests a report to show.

    use mmlnb_models::bundle::Standings;

    use super::*;
    use crate::ledger::{Classified, Image};

    /// A report row for tests of pages.
    pub fn row() -> ReportRow {
        ReportRow {
            id: 12,
            report: NewReport {
                verdict: "not_assessed".into(),
                verdict_reasons: vec!["not_calibrated".into()],
                class: Some("PD".into()),
                leading_class: "PD".into(),
                confidence: 0.81,
                classified: Classified {
                    classes: ["UD", "PD", "D"].map(String::from).to_vec(),
                    probabilities: vec![0.12, 0.81, 0.07],
                    logits: vec![0.1, 2.0, -0.4],
                    image_only: Some(vec![0.2, 0.64, 0.16]),
                    image_logits: Some(vec![0.2, 1.3, 0.0]),
                    logits_without_text: Some(vec![0.1, 1.0, 0.2]),
                    alpha_text: Some(0.37),
                },
                described: Some(Described {
                    text: "Small round cells with <b>scant</b> cytoplasm. Schwannian stroma is sparse.".into(),
                    tokens: 19,
                    tokens_read: Some(10),
                    read_until: Some(48),
                    mean_token_logprob: -0.412,
                    stop_reason: "end_token".into(),
                }),
                flags: vec!["description_partly_read".into()],
                temperature: Some(1.0),
                provider: "cpu".into(),
                provider_note: None,
                elapsed_ms: vec![("decode".into(), 12.0), ("describe".into(), 800.0)],
            },
            sha256: [7; 32],
            size: 123,
            image: Some(Image {
                format: "PNG".into(),
                width: 1024,
                height: 768,
                pixels_sha256: [9; 32],
                microns_per_pixel: None,
                thumbnail: vec![0xff, 0xd8],
            }),
            source: "S1/<x>.png".into(),
            case_id: "S1".into(),
            received_at: "2026-01-01T00:00:00.000Z".into(),
            started_at: "2026-01-01T00:00:01.000Z".into(),
            reported_at: "2026-01-01T00:00:02.000Z".into(),
            bundle_sha256: "ab".repeat(32),
            qualification_sha256: None,
            trust: Some(Standings::default()),
            folder: "inbox".into(),
            version: "0.1.0".into(),
            cases: vec!["S1".into(), "S2".into()],
            more_cases: false,
            same_pixels: vec![],
        }
    }

    fn placement() -> Placement<'static> {
        Placement { source: "S1/<x>.png", case_id: "S1", file: 4, received_at: "2026-01-01T00:00:00.000Z" }
    }

    #[test]
    fn the_page_says_what_a_pathologist_needs() {
        let page = page(&row(), &placement());
        for text in [
            "RESEARCH USE ONLY",
            "PD, probability 0.81",
            "Not assessed",
            "Image alone says PD 0.64; with the text PD 0.81",
            "37 % from the description and 63 % from the image (alpha_text 0.370)",
            "SAME IMAGE AS CASE S2",
            "default-src 'none'",
            "scale unknown",
            "H&amp;E patch, 1024 x 768 px",
            "data:image/jpeg;base64,/9g=",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert_eq!(page.matches("RESEARCH USE ONLY").count(), 2);
    }

    #[test]
    fn nothing_is_loaded_and_everything_is_escaped() {
        let page = page(&row(), &placement());
        assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"));
        assert!(page.contains("&lt;b&gt;scant") && page.contains("&lt;x&gt;.png"));
    }

    #[test]
    fn every_reason_stands_in_words() {
        let mut row = row();
        row.report.verdict = "abstain".into();
        row.report.verdict_reasons = ["low_confidence", "far_from_training"].map(String::from).to_vec();
        let page = page(&row, &placement());
        assert!(page.contains("<li>The probability lies below the threshold"), "{page}");
        assert!(page.contains("<li>The patch looks unlike"), "{page}");
        assert!(page.contains("The appliance abstains") && page.contains("PD leads with probability 0.810"));
    }

    #[test]
    fn an_accepted_report_with_flags_does_not_say_that_nothing_speaks_against_it() {
        let mut row = row();
        row.report.verdict = "accepted".into();
        for flag in ["description_generic", "blurred", "stain_left"] {
            row.report.flags = vec![flag.into()];
            let page = page(&row, &placement());
            assert!(page.contains("Mind the flags"), "{page}");
        }
        row.report.flags.clear();
        assert!(!page(&row, &placement()).contains("Mind the flags"));
    }

    #[test]
    fn a_later_copy_is_not_told_to_be_received_before_it_was_begun() {
        let at = Placement { received_at: "2026-02-01T00:00:00.000Z", ..placement() };
        assert!(
            page(&row(), &at).contains("2026-02-01T00:00:00.000Z; the same bytes were assessed before: 2026-01-01T00:00:01.000Z")
        );
        assert!(page(&row(), &placement()).contains("2026-01-01T00:00:00.000Z, 2026-01-01T00:00:01.000Z, "));
    }

    #[test]
    fn further_cases_are_told_without_a_name() {
        let mut row = row();
        row.more_cases = true;
        assert!(page(&row, &placement()).contains("AND IN FURTHER CASES"));
    }

    #[test]
    fn disagreement_stands_in_capitals() {
        let mut row = row();
        row.report.classified.image_only = Some(vec![0.1, 0.38, 0.52]);
        assert!(page(&row, &placement()).contains("IMAGE AND TEXT DISAGREE: image alone says D 0.52, verdict PD 0.81"));
    }

    #[test]
    fn the_unread_part_begins_at_a_character() {
        let mut text = row().report.described.unwrap();
        text.text = "aüb".into();
        text.read_until = Some(2);
        assert_eq!(split_read(&text), ("aü", "b"));
        text.read_until = Some(99);
        assert_eq!(split_read(&text), ("aüb", ""));
    }
}
