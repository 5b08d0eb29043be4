//! `show` and `explain`: one report in words, or why a file has none.

use clap::Args;
use mmlnb_models::measures::classes::softmax;
use rusqlite::Connection;
use serde_json::json;

use super::{Machine, open_for_reading, print, reports};
use crate::bundle;
use crate::clock;
use crate::error::{Exit, Failure};
use crate::ledger::{FileRow, NewReport, ReportRow, read};
use crate::report::{codes, hex, note, page, status};
use crate::verdict::leading;

enum Subject {
    Report(Box<ReportRow>),
    File(Box<FileRow>),
}

/// `show` and `explain`.
#[derive(Args, Clone, Debug)]
pub struct Named {
    /// Configuration and form of the answer.
    #[command(flatten)]
    pub machine: Machine,
    /// Number of a report, or a file: path below the inbox, path on disk, name, or the beginning of its SHA-256.
    #[arg(value_name = "ID|FILE")]
    pub subject: String,
}

/// Prints what the page says.
///
/// # Errors
/// [`Exit::NotFound`], configuration, ledger.
pub fn show(args: &Named) -> Result<Exit, Failure> {
    answer(args, reports::object, show_text)
}

/// Prints what the page cannot hold.
///
/// # Errors
/// [`Exit::NotFound`], configuration, ledger.
pub fn explain(args: &Named) -> Result<Exit, Failure> {
    answer(args, explain_json, explain_text)
}

fn answer(
    args: &Named,
    as_json: impl Fn(&ReportRow) -> serde_json::Value,
    as_text: impl Fn(&ReportRow) -> String,
) -> Result<Exit, Failure> {
    let (_, connection) = open_for_reading(&args.machine.configured)?;
    let text = match (find(&connection, &args.subject)?, args.machine.json) {
        (Subject::Report(row), true) => format!("{}\n", as_json(&row)),
        (Subject::Report(row), false) => as_text(&row),
        (Subject::File(row), true) => format!("{}\n", note::json(&row)),
        (Subject::File(row), false) => file_text(&row),
    };
    print(&text)?;
    Ok(Exit::Done)
}

fn find(connection: &Connection, subject: &str) -> Result<Subject, Failure> {
    let id = subject.parse::<i64>().ok();
    if let Some(id) = id
        && let Some(row) = read::report(connection, id)?
    {
        return with_all_cases(connection, row);
    }
    let Some(file) = read::files_named(connection, subject)?.into_iter().next() else {
        return Err(Failure::new(
            Exit::NotFound,
            "there is no such report or file",
            subject,
            "`mmlnb-appliance reports` lists the reports with their numbers",
        ));
    };
    // A file that failed is told as that, also when another one with its bytes got a report later.
    let report = file.report.filter(|_| file.code.is_none());
    match report.map(|id| read::report(connection, id)).transpose()?.flatten() {
        Some(row) => with_all_cases(connection, row),
        None => Ok(Subject::File(Box::new(file))),
    }
}

/// The page names the first cases only; this is where the others are found.
fn with_all_cases(connection: &Connection, mut row: ReportRow) -> Result<Subject, Failure> {
    if std::mem::take(&mut row.more_cases) {
        row.cases = read::cases(connection, &row.sha256, u32::MAX)?;
    }
    Ok(Subject::Report(Box::new(row)))
}

fn file_text(row: &FileRow) -> String {
    let mut out = format!("job {}  {}\n{}\n", row.id, row.path_text, status::words(row));
    if let Some(code) = &row.code {
        let meaning = codes::find(code);
        let why = row.message.as_deref().unwrap_or(meaning.title);
        out.push_str(&format!("why: {why} (code {code})\nwhat to do: {}\n", meaning.what_to_do));
        out.push_str(&format!("retry: mmlnb-appliance retry {}\n", row.id));
    }
    if let Some(path) = &row.filed_path {
        out.push_str(&format!("lies at: {}\n", path.display()));
    }
    out
}

fn show_text(row: &ReportRow) -> String {
    let (report, found) = (&row.report, &row.report.classified);
    let list = |values: &[f64]| {
        found.classes.iter().zip(values).map(|(class, value)| format!("{class} {value:.3}")).collect::<Vec<_>>().join("  ")
    };
    let mut lines = vec![
        format!("report {}  case {}  {}", row.id, if row.case_id.is_empty() { "-" } else { &row.case_id }, row.source),
        format!("verdict      {} ({})", page::headline(report), report.verdict),
    ];
    lines.extend(report.verdict_reasons.iter().map(|code| format!("             {}", codes::reason(code))));
    lines.push(format!("fused        {}", list(&found.probabilities)));
    lines.extend(found.image_only.as_deref().map(|values| format!("image alone  {}", list(values))));
    lines.extend(found.alpha_text.map(|alpha| format!("alpha_text   {alpha:.3}")));
    if let Some(text) = &report.described {
        lines.push(format!("description  {}", text.text));
        let read = text.tokens_read.map(|read| format!(", classifier read {read}")).unwrap_or_default();
        lines.push(format!(
            "             {} tokens, {}{read}, mean log-probability {:.3}",
            text.tokens, text.stop_reason, text.mean_token_logprob
        ));
    }
    let flags = row.flags_for(&row.case_id);
    let flags = if flags.is_empty() { "none".to_owned() } else { flags.join(", ") };
    lines.push(format!("flags        {flags}"));
    if row.cases.len() > 1 {
        lines.push(format!("CASES        the same image was dropped in: {}", row.cases.join(", ")));
    }
    let times: Vec<String> = report.elapsed_ms.iter().map(|(stage, ms)| format!("{stage} {ms:.0} ms")).collect();
    lines.push(format!("image        SHA-256 {}, {} bytes", hex(&row.sha256), row.size));
    lines.push(format!("reported     {} ({} UTC), {}", clock::local(&row.reported_at), row.reported_at, report.provider));
    lines.push(format!("time         {}", times.join(", ")));
    let served = bundle::named(&row.bundle_sha256, row.qualification_sha256.as_deref(), row.trust.as_ref());
    lines.push(format!("bundle       SHA-256 {served}, appliance {}", row.version));
    lines.join("\n") + "\n"
}

/// The probabilities, had the text no weight; none where the classifier reads no text or the report does not hold its temperature.
fn without_text(report: &NewReport) -> Option<Vec<f64>> {
    Some(softmax(report.classified.logits_without_text.as_deref()?, report.temperature?))
}

fn explain_json(row: &ReportRow) -> serde_json::Value {
    let found = &row.report.classified;
    let named = |values: &[f64]| read::named(&found.classes, values);
    json!({
        "id": row.id,
        "file": row.source,
        "probabilities": named(&found.probabilities),
        "logits": named(&found.logits),
        "image_only": found.image_only.as_deref().map(named),
        "image_logits": found.image_logits.as_deref().map(named),
        "alpha_text": found.alpha_text,
        "temperature": row.report.temperature,
        "logits_without_text": found.logits_without_text.as_deref().map(named),
        "probabilities_without_text": without_text(&row.report).as_deref().map(named),
        "description_tokens": row.report.described.as_ref().map(|text| text.tokens),
        "description_tokens_read": row.report.described.as_ref().and_then(|text| text.tokens_read),
        "verdict": row.report.verdict,
        "verdict_reasons": row.report.verdict_reasons.iter().map(|code| json!({ "reason": code, "meaning": codes::reason(code) })).collect::<Vec<_>>(),
        "flags": row.flags_for(&row.case_id).iter().map(|flag| json!({ "flag": flag, "meaning": codes::flag(flag) })).collect::<Vec<_>>(),
    })
}

fn explain_text(row: &ReportRow) -> String {
    let found = &row.report.classified;
    let line = |name: &str, values: &[f64]| {
        let cells = found.classes.iter().zip(values).map(|(class, value)| format!("{class} {value:+.4}"));
        format!("{name:28}{}\n", cells.collect::<Vec<_>>().join("  "))
    };
    let mut out = format!("report {}  {}\n", row.id, row.source);
    out += &line("fused logits", &found.logits);
    out += &line("fused probabilities", &found.probabilities);
    if let Some(image) = &found.image_only {
        out += &line("image alone, probabilities", image);
    }
    if let Some(logits) = &found.image_logits {
        out += &line("image alone, logits", logits);
    }
    match (without_text(&row.report), found.alpha_text) {
        (Some(without), Some(alpha)) => {
            out += &line("text left out (alpha 0)", &without);
            out += &format!("weight of the text          alpha_text {alpha:.4}\n");
            if let (Some(with), Some(top)) = (leading(&found.probabilities), leading(&without)) {
                let moved = found.probabilities[with] - without[with];
                let class = &found.classes[with];
                out += &format!("the text moves P({class}) by {moved:+.3}");
                out += &match with == top {
                    true => format!("; without it {class} leads too\n"),
                    false => format!("; without it {} would lead\n", found.classes[top]),
                };
            }
        }
        (None, Some(alpha)) => {
            out += &format!("weight of the text          alpha_text {alpha:.4}\n");
            out += "without the text            unknown: this report was written before its temperature was kept\n";
        }
        (_, None) => out += "this classifier reads no text\n",
    }
    out += &format!("verdict {}\n", row.report.verdict);
    for code in &row.report.verdict_reasons {
        out += &format!("reason {code}: {}\n", codes::reason(code));
    }
    for flag in &row.flags_for(&row.case_id) {
        out += &format!("flag {flag}: {}\n", codes::flag(flag));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effect_of_the_text_is_told() {
        let text = explain_text(&page::tests::row());
        assert!(text.contains("text left out (alpha 0)"), "{text}");
        assert!(text.contains("the text moves P(PD) by +0."), "{text}");
        assert!(text.contains("without it PD leads too"), "{text}");
    }

    #[test]
    fn the_temperature_is_the_one_of_the_report() {
        let mut row = page::tests::row();
        row.report.classified.logits_without_text = Some(vec![0.5, 3.0, -1.0]);
        row.report.temperature = Some(2.5);
        assert_eq!(without_text(&row.report), Some(softmax(&[0.5, 3.0, -1.0], 2.5)));
        row.report.temperature = None;
        assert_eq!(without_text(&row.report), None);
        assert!(explain_text(&row).contains("unknown: this report"));
        row.report.classified.alpha_text = None;
        assert!(explain_text(&row).contains("reads no text"));
    }
}
