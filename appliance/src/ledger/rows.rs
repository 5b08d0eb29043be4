//! What goes into the ledger and what comes out.

use std::path::PathBuf;
use std::sync::Arc;

use mmlnb_models::bundle::Standings;

use super::FileState;
use crate::files::Stamp;

/// The name of the folder that the configuration calls `inbox`.
pub const INBOX: &str = "inbox";

/// A file as the scanner saw it.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// Name of the watched folder.
    pub folder: Arc<str>,
    /// Path below the inbox.
    pub path: PathBuf,
    /// Its state on disk.
    pub stamp: Stamp,
    /// Its owner.
    pub owner: u32,
}

/// The start of a run of the daemon.
#[derive(Clone, Debug)]
pub struct RunStart {
    /// When, UTC; tells a repeated call from another start.
    pub started_at: String,
    /// The kernel's boot identifier.
    pub boot_id: String,
    /// Host name.
    pub host: String,
    /// SHA-256 of the bundle's manifest, hex.
    pub bundle_sha256: String,
    /// The bundle's classes.
    pub classes: Vec<String>,
    /// SHA-256 of the bundle's qualification, hex, if it has one.
    pub qualification_sha256: Option<String>,
    /// Who signed both.
    pub trust: Standings,
    /// How many processes the kernel has killed for want of memory since it started, if it says so.
    pub oom_kills: Option<i64>,
}

/// What a claim leads to.
#[derive(Clone, Debug)]
pub enum Claim {
    /// The caller has to assess the image.
    Work {
        /// The job.
        job: i64,
        /// How often it was claimed, this time included.
        attempts: u32,
    },
    /// Another worker assesses the same bytes; the file ends together with that job.
    Attached {
        /// The job.
        job: i64,
    },
    /// The bytes have a report or were rejected under this bundle already: only the file is left to be put away.
    Known(Box<FileRow>),
}

/// The claim that a worker holds: whatever it does to the job a second time must find this very claim, not another worker's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    /// The job.
    pub job: i64,
    /// The run.
    pub run: i64,
    /// The worker's own number for the claim.
    pub token: i64,
}

/// Why a file or job ends without a report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// Stable code, e.g. `truncated`.
    pub code: String,
    /// One sentence for a technician.
    pub message: String,
}

/// What decoding found out about an image.
#[derive(Clone, Debug)]
pub struct Image {
    /// e.g. `png`.
    pub format: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// SHA-256 over width, height (little endian) and RGB bytes.
    pub pixels_sha256: [u8; 32],
    /// Micrometres a pixel, if the file says so.
    pub microns_per_pixel: Option<f64>,
    /// A JPEG of at most 512 pixels a side; empty in a list of reports, which shows none.
    pub thumbnail: Vec<u8>,
}

/// The classifier's part of a report; lists are in the order of `classes`.
#[derive(Clone, PartialEq, Debug)]
pub struct Classified {
    /// The bundle's classes.
    pub classes: Vec<String>,
    /// Fused opinion.
    pub probabilities: Vec<f64>,
    /// Fused logits.
    pub logits: Vec<f64>,
    /// The image's opinion alone, if the classifier has that head.
    pub image_only: Option<Vec<f64>>,
    /// Its logits.
    pub image_logits: Option<Vec<f64>>,
    /// Fused logits with the text left out (alpha 0).
    pub logits_without_text: Option<Vec<f64>>,
    /// Weight of the text, 0 to 1.
    pub alpha_text: Option<f64>,
}

/// The describer's part of a report.
#[derive(Clone, PartialEq, Debug)]
pub struct Described {
    /// Word for word.
    pub text: String,
    /// Tokens written.
    pub tokens: i64,
    /// Tokens that the classifier read.
    pub tokens_read: Option<i64>,
    /// Byte in `text` where the classifier stopped reading.
    pub read_until: Option<i64>,
    /// Mean natural logarithm of the chosen tokens' probabilities.
    pub mean_token_logprob: f64,
    /// `end_token`, `max_tokens`.
    pub stop_reason: String,
}

/// A report to be committed, or as committed.
#[derive(Clone, PartialEq, Debug)]
pub struct NewReport {
    /// `accepted`, `abstain`, `not_assessed`.
    pub verdict: String,
    /// Why it is not accepted.
    pub verdict_reasons: Vec<String>,
    /// The class; none on abstain.
    pub class: Option<String>,
    /// The class of the highest probability.
    pub leading_class: String,
    /// What the verdict is based on.
    pub confidence: f64,
    /// The classifier's part.
    pub classified: Classified,
    /// The describer's part; none when the classifier reads no text.
    pub described: Option<Described>,
    /// Stable words, e.g. `disagree`.
    pub flags: Vec<String>,
    /// The logits were divided by it before the softmax; none in reports from before it was kept.
    pub temperature: Option<f64>,
    /// Device that computed.
    pub provider: String,
    /// Why it is another device than the one asked for.
    pub provider_note: Option<String>,
    /// Stage and milliseconds.
    pub elapsed_ms: Vec<(String, f64)>,
}

/// A file's row.
#[derive(Clone, Debug)]
pub struct FileRow {
    /// The id that people use.
    pub id: i64,
    /// Name of the watched folder.
    pub folder: Arc<str>,
    /// Path below the inbox.
    pub path: PathBuf,
    /// The same as text.
    pub path_text: String,
    /// Case, "" at the top.
    pub case_id: String,
    /// Its state on disk when it was judged.
    pub stamp: Stamp,
    /// Its owner.
    pub owner: u32,
    /// SHA-256 of the bytes, if they were read.
    pub sha256: Option<[u8; 32]>,
    /// The job of these bytes.
    pub job: Option<i64>,
    /// The report of these bytes.
    pub report: Option<i64>,
    /// Where it is in its life.
    pub state: FileState,
    /// Why there is no report.
    pub code: Option<String>,
    /// The same as a sentence.
    pub message: Option<String>,
    /// First seen.
    pub seen_at: String,
    /// Where it was put, absolute.
    pub filed_path: Option<PathBuf>,
    /// When.
    pub filed_at: Option<String>,
}

/// A report with everything that its page shows.
#[derive(Clone, Debug)]
pub struct ReportRow {
    /// The report's number.
    pub id: i64,
    /// Its content.
    pub report: NewReport,
    /// SHA-256 of the image file.
    pub sha256: [u8; 32],
    /// Size in bytes.
    pub size: i64,
    /// What decoding found.
    pub image: Option<Image>,
    /// First file with these bytes: path below the inbox.
    pub source: String,
    /// Its case.
    pub case_id: String,
    /// When it was first seen.
    pub received_at: String,
    /// When the first byte was parsed.
    pub started_at: String,
    /// When the report was committed.
    pub reported_at: String,
    /// The bundle.
    pub bundle_sha256: String,
    /// SHA-256 of its qualification at that time, if it had one.
    pub qualification_sha256: Option<String>,
    /// Who had signed both; none of reports from before that was kept.
    pub trust: Option<Standings>,
    /// Name of the watched folder of that first file.
    pub folder: String,
    /// The appliance's version that wrote it.
    pub version: String,
    /// The first cases in which these bytes were dropped; see [`ReportRow::flags_for`].
    pub cases: Vec<String>,
    /// Whether there are more.
    pub more_cases: bool,
    /// Reports of other files with the same pixels.
    pub same_pixels: Vec<i64>,
}

/// A job that was in flight when the program ended.
#[derive(Clone, Debug)]
pub struct RecoveredJob {
    /// The job.
    pub job: i64,
    /// Whether it is set aside now.
    pub rejected: bool,
}

impl ReportRow {
    /// The report's flags, and that the same bytes lie in another case too when it is shown for `case`: a possible mix-up of samples.
    pub fn flags_for(&self, case: &str) -> Vec<String> {
        let elsewhere = self.more_cases || self.cases.iter().any(|other| other != case);
        let mix_up = elsewhere.then(|| "same_image_other_case".to_owned());
        self.report.flags.iter().cloned().chain(mix_up).collect()
    }
}
