//! `reports`: a table for people, JSON lines or CSV for programs.

use clap::Args;
use rusqlite::Connection;

use super::{Configured, Lines, open_for_reading};
use crate::error::{Exit, Failure};
use crate::files::names;
use crate::ledger::read::{self, Filter};
use crate::ledger::{LedgerError, NewReport, ReportRow, read::named};
use crate::report::{hex, json};
use crate::verdict::leading;

/// `reports`.
#[derive(Args, Clone, Debug)]
pub struct Reports {
    /// The configuration.
    #[command(flatten)]
    pub configured: Configured,
    /// One JSON object a line.
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// CSV with a header.
    #[arg(long)]
    pub csv: bool,
    /// Reported at or after this date or time, e.g. 2026-01-31 or 2026-01-31T08:00:00Z; a date is local.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Reported before this time, or on or before this date.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Dropped in this case.
    #[arg(long, value_name = "NAME")]
    pub case: Option<String>,
    /// Of this class (the leading class where the appliance abstains).
    #[arg(long, value_name = "NAME")]
    pub class: Option<String>,
    /// With this verdict.
    #[arg(long, value_parser = ["accepted", "abstain", "not_assessed"])]
    pub verdict: Option<String>,
    /// Path contains this.
    #[arg(long, value_name = "TEXT")]
    pub file: Option<String>,
    /// Only the newest so many.
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
}

/// Lists the reports that pass the filters.
///
/// # Errors
/// A time that cannot be read (2), configuration, ledger.
pub fn run(args: &Reports) -> Result<Exit, Failure> {
    let filter = filter(args)?;
    let (_, mut connection) = open_for_reading(&args.configured)?;
    // One view of the ledger for all of it: the table reads twice.
    let view = connection.transaction().map_err(LedgerError::from)?;
    let mut lines = Lines::new();
    match (args.json, args.csv) {
        (true, _) => stream(&view, &filter, &mut lines, |row| format!("{}\n", object(row)))?,
        (_, true) => {
            lines.write(&(COLUMNS.join(",") + "\r\n"))?;
            stream(&view, &filter, &mut lines, csv_line)?;
        }
        _ => {
            let mut widths = HEADER.map(str::len);
            read::each_report(&view, &filter, |row| widen(&mut widths, &cells(&row)))?;
            lines.write(&aligned(&HEADER.map(str::to_owned), &widths))?;
            stream(&view, &filter, &mut lines, |row| aligned(&cells(row), &widths))?;
        }
    }
    lines.end()?;
    Ok(Exit::Done)
}

/// Writes each report as it is read, until nobody reads any more.
fn stream(view: &Connection, filter: &Filter, lines: &mut Lines, text: impl Fn(&ReportRow) -> String) -> Result<(), Failure> {
    let end = read::each_report(view, filter, |row| {
        if lines.is_unread() {
            return Err(Stop::Unread);
        }
        lines.write(&text(&row)).map_err(Stop::Failed)
    });
    match end {
        Ok(()) | Err(Stop::Unread) => Ok(()),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

/// Why a stream ends early.
enum Stop {
    Unread,
    Failed(Failure),
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Stop {
        Stop::Failed(error.into())
    }
}

fn filter(args: &Reports) -> Result<Filter, Failure> {
    let since = args.since.as_deref().map(|text| moment(text, false)).transpose()?;
    let until = args.until.as_deref().map(|text| moment(text, true)).transpose()?;
    Ok(Filter {
        since,
        until,
        case: args.case.as_deref().map(|case| names::case_name(case.as_ref())),
        class: args.class.clone(),
        verdict: args.verdict.clone(),
        file: args.file.clone(),
        limit: args.limit,
    })
}

/// A time as stored; a date is local and, as an end, includes its day.
fn moment(text: &str, end: bool) -> Result<String, Failure> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(format!("{at:.3}"));
    }
    let zone = jiff::tz::TimeZone::system();
    let local = match text.parse::<jiff::civil::Date>() {
        Ok(date) if text.len() == 10 => {
            let day = if end { date.tomorrow() } else { Ok(date) };
            day.and_then(|day| day.to_zoned_datetime(zone))
        }
        _ => text.parse::<jiff::civil::DateTime>().and_then(|time| time.to_zoned_datetime(zone)),
    };
    match local {
        Ok(at) => Ok(format!("{:.3}", at.timestamp())),
        Err(_) => Err(Failure::new(
            Exit::Usage,
            "this is no time",
            text,
            "write 2026-01-31, 2026-01-31T08:00:00 or 2026-01-31T08:00:00Z",
        )),
    }
}

/// The JSON of a report, as it belongs to its first file.
pub fn object(row: &ReportRow) -> serde_json::Value {
    let sha256 = hex(&row.sha256);
    let subject = json::Subject {
        id: Some(row.id),
        case_id: &row.case_id,
        file: &row.source,
        sha256: &sha256,
        bundle_sha256: &row.bundle_sha256,
        qualification_sha256: row.qualification_sha256.as_deref(),
        trust: row.trust.as_ref(),
    };
    let report = NewReport { flags: row.flags_for(&row.case_id), ..row.report.clone() };
    let mut value = json::report(&subject, &report);
    value["received_at"] = row.received_at.clone().into();
    value["reported_at"] = row.reported_at.clone().into();
    value
}

const HEADER: [&str; 9] = ["ID", "CASE", "FILE", "CLASS", "P", "VERDICT", "IMAGE", "ALPHA", "FLAGS"];

/// A report as a line for people.
fn cells(row: &ReportRow) -> [String; 9] {
    let (report, found) = (&row.report, &row.report.classified);
    let image = found.image_only.as_deref().and_then(|values| {
        let top = leading(values)?;
        Some(format!("{} {:.2}", found.classes[top], values[top]))
    });
    let flags = row.flags_for(&row.case_id);
    let flags = if flags.is_empty() { "-".to_owned() } else { flags.join(",") };
    let name = row.source.rsplit('/').next().unwrap_or(&row.source).to_owned();
    [
        row.id.to_string(),
        dash(&row.case_id),
        name,
        report.class.clone().unwrap_or_else(|| format!("({})", report.leading_class)),
        format!("{:.3}", report.confidence),
        report.verdict.clone(),
        image.unwrap_or_else(|| "-".to_owned()),
        found.alpha_text.map_or_else(|| "-".to_owned(), |alpha| format!("{alpha:.2}")),
        flags,
    ]
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn widen<const N: usize>(widths: &mut [usize; N], cells: &[String; N]) -> Result<(), LedgerError> {
    for (width, cell) in widths.iter_mut().zip(cells) {
        *width = (*width).max(cell.chars().count());
    }
    Ok(())
}

fn aligned<const N: usize>(cells: &[String; N], widths: &[usize; N]) -> String {
    let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
    format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
}

const COLUMNS: [&str; 18] = [
    "id",
    "case_id",
    "file",
    "sha256",
    "class",
    "leading_class",
    "confidence",
    "verdict",
    "probabilities",
    "image_only_class",
    "image_only",
    "alpha_text",
    "flags",
    "description",
    "bundle_sha256",
    "provider",
    "received_at",
    "reported_at",
];

fn csv_line(row: &ReportRow) -> String {
    let (report, found) = (&row.report, &row.report.classified);
    let image_class = found.image_only.as_deref().and_then(leading).map(|top| found.classes[top].clone());
    let cells: [String; 18] = [
        row.id.to_string(),
        row.case_id.clone(),
        row.source.clone(),
        hex(&row.sha256),
        report.class.clone().unwrap_or_default(),
        report.leading_class.clone(),
        report.confidence.to_string(),
        report.verdict.clone(),
        named(&found.classes, &found.probabilities).to_string(),
        image_class.unwrap_or_default(),
        found.image_only.as_deref().map(|values| named(&found.classes, values).to_string()).unwrap_or_default(),
        found.alpha_text.map(|alpha| alpha.to_string()).unwrap_or_default(),
        row.flags_for(&row.case_id).join(" "),
        report.described.as_ref().map(|text| text.text.clone()).unwrap_or_default(),
        row.bundle_sha256.clone(),
        report.provider.clone(),
        row.received_at.clone(),
        row.reported_at.clone(),
    ];
    format!("{}\r\n", cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(","))
}

/// RFC 4180, and nothing that a spreadsheet takes for a formula.
fn quoted(cell: &str) -> String {
    let guard = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
    let cell = if guard { format!("'{cell}") } else { cell.to_owned() };
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_safe_in_a_spreadsheet() {
        assert_eq!(quoted("=cmd()"), "'=cmd()");
        assert_eq!(quoted("-0.5"), "-0.5");
        assert_eq!(quoted("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        assert_eq!(quoted("plain"), "plain");
    }

    #[test]
    fn dates_are_local_days_and_times_are_exact() {
        assert_eq!(moment("2026-01-31T08:00:00Z", false).unwrap(), "2026-01-31T08:00:00.000Z");
        assert!(moment("2026-01-31", true).unwrap() > moment("2026-01-31", false).unwrap());
        assert!(moment("2026-01-31T08:00:00", false).unwrap().ends_with(".000Z"));
        assert_eq!(moment("yesterday", false).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn columns_line_up() {
        let lines = [["a".to_owned(), "b".to_owned()], ["long".to_owned(), "ü".to_owned()]];
        let mut widths = [0; 2];
        lines.iter().for_each(|line| widen(&mut widths, line).unwrap());
        assert_eq!(lines.map(|line| aligned(&line, &widths)).concat(), "a     b\nlong  ü\n");
    }

    #[test]
    fn a_row_has_as_many_cells_as_columns() {
        let line = csv_line(&crate::report::page::tests::row());
        assert_eq!(COLUMNS.len(), 18);
        assert!(line.starts_with("12,S1,S1/<x>.png,0707") && line.ends_with("Z\r\n"), "{line}");
    }
}
