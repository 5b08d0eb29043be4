//! The note that lies beside a file which has no report.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// `NAME.note.json`, with `NAME.note.html` known to lie beside it.
#[derive(Debug)]
pub struct Note {
    /// A stable word.
    pub code: String,
    /// What happened, for a technician.
    pub message: String,
    /// What to do, for a technician.
    pub what_to_do: String,
    /// The id in the view `files`.
    pub job: i64,
}

impl Note {
    /// The note beside `file`, which itself need not be there.
    ///
    /// # Panics
    /// When the note is absent, incomplete or in one form only.
    #[track_caller]
    pub fn beside(file: &Path) -> Note {
        let page = format!("{}.note.html", file.display());
        let page = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page}: {error}"));
        let json = format!("{}.note.json", file.display());
        let json = fs::read(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
        let json: Value = serde_json::from_slice(&json).expect("a note is JSON");
        let text = |key: &str| match json[key].as_str() {
            Some(text) if !text.is_empty() => text.to_owned(),
            _ => panic!("the note of {} has no `{key}`: {json}", file.display()),
        };
        let note = Note {
            code: text("code"),
            message: text("message"),
            what_to_do: text("what_to_do"),
            job: json["job"].as_i64().expect("a note names its job"),
        };
        assert!(page.contains(&note.job.to_string()), "the page names the job {}", note.job);
        assert!(page.contains(&note.code), "the page names the code {}", note.code);
        note
    }
}
