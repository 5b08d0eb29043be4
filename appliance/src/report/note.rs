//! The note beside a file that has no report: what happened, why, what to do now, and one line for the administrator.

use maud::html;
use serde_json::{Value, json};

use super::{codes, style};
use crate::clock;
use crate::ledger::FileRow;

/// The page.
pub fn page(row: &FileRow) -> String {
    let code = row.code.as_deref().unwrap_or("unknown");
    let meaning = codes::find(code);
    let name = row.path_text.rsplit('/').next().unwrap_or(&row.path_text);
    let body = html! {
        div class="top" {
            span { "Case " b { @if row.case_id.is_empty() { "none" } @else { (row.case_id) } } }
            span { (clock::local(&row.seen_at)) " local, " (row.seen_at) " UTC" }
        }
        h1 { (name) }
        div class="state amber" { (meaning.title) }
        h2 { "Why" }
        p { (row.message.as_deref().unwrap_or(meaning.title)) "." }
        h2 { "What to do now" }
        p class="do" { (meaning.what_to_do) }
        h2 { "For the administrator" }
        p class="small" { "job " (row.id) ", code " code { (code) } ", retry: " code { "mmlnb-appliance retry " (row.id) } }
    };
    style::page(&format!("{name}: {}", meaning.title), None, body)
}

/// The same for programs.
pub fn json(row: &FileRow) -> Value {
    let code = row.code.as_deref().unwrap_or("unknown");
    let meaning = codes::find(code);
    json!({
        "job": row.id,
        "code": code,
        "message": row.message.as_deref().unwrap_or(meaning.title),
        "what_to_do": meaning.what_to_do,
        "file": row.path_text,
        "case_id": row.case_id,
        "seen_at": row.seen_at,
    })
}
