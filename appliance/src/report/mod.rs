//! What people and programs read: the report page and its JSON, the note beside a failure, the status pages. All are renderings of
//! the ledger and may be deleted.

pub mod codes;
pub mod json;
pub mod note;
pub mod page;
pub mod status;
mod style;

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
