//! `STATUS.html` and `STATUS.txt` for people at the folder, `status.json` for monitoring.

use std::path::Path;

use maud::{Markup, html};
use serde_json::{Value, json};

use super::style;
use crate::clock;
use crate::ledger::{FileRow, FileState};

/// How well the appliance is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// All is well.
    Green,
    /// It works, or will again by itself; someone should know.
    Amber,
    /// It needs help.
    Red,
}

/// Everything that the status shows, at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// One line: `READY`, `WORKING 3 of 12`, `PAUSED: ...`, `NEEDS HELP: ...`.
    pub headline: String,
    /// How well it is.
    pub level: Level,
    /// Sentences about what is not as it should be.
    pub notices: Vec<String>,
    /// Files ready or in work.
    pub queued: usize,
    /// Files in work, each as one line.
    pub working: Vec<String>,
    /// Reports today.
    pub reported_today: i64,
    /// Failures today.
    pub failed_today: i64,
    /// Device that computes.
    pub device: String,
    /// The bundle: which it is, and who signed it.
    pub bundle: String,
    /// Free bytes on the tightest file system.
    pub free: u64,
    /// The newest files.
    pub latest: Vec<FileRow>,
    /// When this was written, UTC.
    pub written_at: String,
    /// When the daemon started, UTC.
    pub started_at: String,
}

const STALE: &str = "older than 2 minutes = the appliance is not running";

/// The page for a reader in `folder`.
pub fn page(status: &Status, folder: &Path) -> String {
    let colour = match status.level {
        Level::Green => "state",
        Level::Amber => "state amber",
        Level::Red => "state red",
    };
    let body = html! {
        div class="top" {
            span { "MMLNB appliance" }
            span { "written " b { (clock::local(&status.written_at)) } ", " (STALE) }
        }
        div class=(colour) { (status.headline) }
        @if !status.notices.is_empty() {
            ul class="flags" { @for notice in &status.notices { li { (notice) } } }
        }
        table class="facts" {
            tr { th { "Today" } td { (status.reported_today) " reported, " (status.failed_today) " failed" } }
            tr { th { "Waiting or in work" } td { (status.queued) } }
            tr { th { "Device" } td { (status.device) } }
            tr { th { "Bundle" } td { (status.bundle) } }
            tr { th { "Free space" } td { (size(status.free)) } }
        }
        h2 { "Last files" }
        (latest(&status.latest, folder))
        p class="small soft" { "Drop images into the inbox; a folder in it is a case. Results appear beside the image in done, notes beside it in failed." }
    };
    style::page(&format!("MMLNB: {}", status.headline), Some(15), body)
}

fn latest(files: &[FileRow], folder: &Path) -> Markup {
    html! {
        @if files.is_empty() { p { "none yet" } }
        @else {
            table {
                tr { th { "File" } th { "Case" } th { "Result" } th { "When" } }
                @for row in files {
                    tr {
                        td { @if let Some(link) = link(row, folder) { a href=(link) { (row.path_text) } } @else { (row.path_text) } }
                        td { (row.case_id) }
                        td { (words(row)) }
                        td { (clock::local(row.filed_at.as_ref().unwrap_or(&row.seen_at))) }
                    }
                }
            }
        }
    }
}

/// A file's state in words.
pub fn words(row: &FileRow) -> String {
    match row.state {
        FileState::Filed => "reported".to_owned(),
        FileState::Reported => "reported, being put away".to_owned(),
        FileState::Waiting if row.code.is_some() => format!("waiting: {}", row.message.as_deref().unwrap_or("")),
        FileState::Waiting => "in work".to_owned(),
        FileState::Failed | FileState::Rejected => {
            format!("no report: {}", super::codes::find(row.code.as_deref().unwrap_or("")).title)
        }
        FileState::Refused => "whole slide, stays where it is; see the note beside it".to_owned(),
        FileState::Vanished => "taken away before it was put away".to_owned(),
        FileState::Replaced => "replaced by another file of the same name".to_owned(),
        FileState::Retried | FileState::Retrying => "tried again".to_owned(),
    }
}

/// A relative link from `folder` to the page of a file, percent-encoded.
fn link(row: &FileRow, folder: &Path) -> Option<String> {
    let suffix = match row.state {
        state if state.has_report() => ".report.html",
        // Its page went with it.
        FileState::Retrying | FileState::Retried => return None,
        _ => ".note.html",
    };
    let target = row.filed_path.as_ref()?;
    let shared = folder.ancestors().position(|ancestor| target.starts_with(ancestor))?;
    let root = folder.ancestors().nth(shared)?;
    let rest = target.strip_prefix(root).ok()?;
    let mut out = "../".repeat(shared);
    for byte in std::os::unix::ffi::OsStrExt::as_bytes(rest.as_os_str()).iter().chain(suffix.as_bytes()) {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(*byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    Some(out)
}

/// Bytes in a unit that people read.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MB", bytes >> 20),
        _ => format!("{:.1} GB", bytes as f64 / 1_073_741_824.0),
    }
}

/// The text for viewers without a browser.
pub fn text(status: &Status) -> String {
    let mut out = format!(
        "{}\nwritten {} ({})\n\ntoday: {} reported, {} failed\nwaiting or in work: {}\ndevice: {}\nbundle: {}\nfree space: {}\n",
        status.headline,
        clock::local(&status.written_at),
        STALE,
        status.reported_today,
        status.failed_today,
        status.queued,
        status.device,
        status.bundle,
        size(status.free),
    );
    for notice in &status.notices {
        out.push_str(&format!("! {notice}\n"));
    }
    out.push_str("\nlast files:\n");
    for row in &status.latest {
        let when = clock::local(row.filed_at.as_ref().unwrap_or(&row.seen_at));
        out.push_str(&format!("{when}  {}  {}\n", row.path_text, words(row)));
    }
    out.push_str("\nRESEARCH USE ONLY. Not for diagnosis.\n");
    out
}

/// For monitoring: no case and no file names.
pub fn json(status: &Status) -> Value {
    json!({
        "headline": status.headline,
        "level": level(status.level),
        "notices": status.notices.len(),
        "queued": status.queued,
        "working": status.working.len(),
        "reported_today": status.reported_today,
        "failed_today": status.failed_today,
        "device": status.device,
        "bundle": status.bundle,
        "free_bytes": status.free,
        "started_at": status.started_at,
        "written_at": status.written_at,
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// The level's name.
pub fn level(level: Level) -> &'static str {
    match level {
        Level::Green => "green",
        Level::Amber => "amber",
        Level::Red => "red",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Stamp;

    fn file(state: FileState) -> FileRow {
        FileRow {
            id: 1,
            folder: "inbox".into(),
            path: "S1/a b.png".into(),
            path_text: "S1/a b.png".into(),
            case_id: "S1".into(),
            stamp: Stamp { dev: 1, ino: 1, size: 1, mtime_ns: 1 },
            owner: 0,
            sha256: None,
            job: None,
            report: Some(3),
            state,
            code: None,
            message: None,
            seen_at: clock::utc_now(),
            filed_path: Some("/srv/done/S1/a b.png".into()),
            filed_at: Some(clock::utc_now()),
        }
    }

    #[test]
    fn links_work_from_inbox_and_done() {
        assert_eq!(link(&file(FileState::Filed), Path::new("/srv/done")).unwrap(), "S1/a%20b.png.report.html");
        assert_eq!(link(&file(FileState::Filed), Path::new("/srv/inbox")).unwrap(), "../done/S1/a%20b.png.report.html");
    }

    #[test]
    fn monitoring_sees_no_names() {
        let status = Status {
            headline: "READY".into(),
            level: Level::Green,
            notices: vec!["S1 is odd".into()],
            queued: 1,
            working: vec!["S1/a.png".into()],
            reported_today: 2,
            failed_today: 0,
            device: "cpu".into(),
            bundle: "abcdef012345, not signed".into(),
            free: 5 << 30,
            latest: vec![file(FileState::Filed)],
            written_at: clock::utc_now(),
            started_at: clock::utc_now(),
        };
        assert!(!json(&status).to_string().contains("S1"));
        assert!(page(&status, Path::new("/srv/done")).contains("READY"));
        assert!(text(&status).contains("S1/a b.png  reported") && text(&status).contains("bundle: abcdef012345, not signed"));
    }
}
