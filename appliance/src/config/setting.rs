//! A value of the configuration, and how much of it a command needs.

use mmlnb_models::bundle::{KeyId, PublicKey};

use crate::files::names::Pattern;

/// What a command needs of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// All folders must exist: the daemon.
    Everything,
    /// Only the state folder must exist: commands that read the ledger.
    Ledger,
}

/// A value as its key wants it.
#[derive(Clone, Debug)]
pub(super) enum Setting {
    Text(String),
    Whole(i64),
    Real(f64),
    Flag(bool),
    Patterns(Vec<Pattern>),
    PublicKeys(Vec<PublicKey>),
    KeyIds(Vec<KeyId>),
}

/// A value with the place that it came from, for messages.
pub(super) struct Placed {
    pub setting: Setting,
    pub place: String,
}
