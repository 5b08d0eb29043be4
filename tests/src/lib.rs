//! What the end-to-end tests share: the built binaries, a bundle exported once, patches, an appliance on a temporary folder,
//! its daemon as a child process, and the ledger's views. Nothing here knows how the binaries work inside.

mod appliance;
mod binaries;
mod bundle;
mod checkpoint;
mod daemon;
mod drops;
mod imports;
mod ledger;
mod notes;
mod patches;
mod trainer;

pub use appliance::Appliance;
pub use binaries::{Ran, appliance_binary, binary, command, has_failpoints, installed, run};
pub use bundle::{bundle, copy_folder, golden};
pub use checkpoint::{StoredTensor, edit_checkpoint, edit_tensors, read_tensors};
pub use daemon::{Daemon, Starting};
pub use drops::{drop_by_copy, drop_by_rename, drop_in_pieces, drop_size_first};
pub use imports::{circles, files_that_name};
pub use ledger::{FileRow, ReportRow};
pub use notes::Note;
pub use patches::{Patch, patches, sha256_hex};
pub use trainer::{Stage, Training, checkout, losses, phantoms, send};

use std::time::{Duration, Instant};

/// Waits until `done` answers true.
///
/// # Panics
/// After `limit`, with `what` was waited for.
pub fn wait_for(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < limit, "waited {} s in vain: {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Says that a test, or a part of one, cannot run here; what it needs is named so that nobody takes it for passed.
pub fn skipped(what: &str, needs: &str) {
    eprintln!("SKIPPED: {what}: {needs}");
}
