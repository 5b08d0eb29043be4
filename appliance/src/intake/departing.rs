//! The files that wait to be put away, and whose turn it is.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

use super::sidecars::Sidecars;
use crate::ledger::FileRow;
use crate::world;

/// So many files at most get their receipts in one transaction.
const TOGETHER: usize = 16;

/// The files that are put away: one at a time, and those that wait meanwhile together get their receipts in one transaction.
#[derive(Default)]
pub struct Departing {
    waiting: Mutex<VecDeque<FileRow>>,
    /// Held by whoever puts files away.
    pub(super) turn: Mutex<Sidecars>,
    /// Contents whose pages say too little and could not be written.
    outdated: Mutex<BTreeSet<[u8; 32]>>,
}

impl Departing {
    /// Their queue.
    pub(super) fn waiting(&self) -> MutexGuard<'_, VecDeque<FileRow>> {
        world::lock(&self.waiting)
    }

    /// A page of this content could not be written anew.
    pub(super) fn outdated(&self, sha256: &[u8; 32]) {
        world::lock(&self.outdated).insert(*sha256);
    }

    /// The contents whose pages have to be written; whoever takes them writes them.
    pub(super) fn take_outdated(&self) -> BTreeSet<[u8; 32]> {
        std::mem::take(&mut world::lock(&self.outdated))
    }

    /// The next ones.
    pub(super) fn take(&self) -> Vec<FileRow> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(TOGETHER);
        waiting.drain(..count).collect()
    }
}
