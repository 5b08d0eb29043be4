//! Phantoms: the same bytes every time, a truth that is what was drawn, and descriptions that are read back as they were meant.

mod colours;
mod files;
mod texts;
mod truth;

use mmlnb_phantom::{
    plan::{Plan, Texts},
    sets::Set,
};

/// A small plan of small images.
fn plan(set: Set, seed: u64, patients: u64) -> Plan {
    Plan {
        seed,
        patients,
        patches: 1..=3,
        sites: 3,
        size: 64,
        um_per_px: 1.0,
        set,
        class_shares: [1.0; 3],
        texts: Texts::default(),
    }
}
