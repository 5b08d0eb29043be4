//! The ledger: every file that was judged, every report, in one SQLite file with one writer.

pub mod check;
mod migrate;
pub mod open;
pub mod read;
pub mod record;
mod rows;
pub mod runs;
pub mod state;
mod writer;

use std::path::PathBuf;

use crate::error::{Exit, Failure};
pub use rows::{
    Claim, Classified, Described, FileRow, Hold, INBOX, Image, NewFile, NewReport, RecoveredJob, Rejection, ReportRow, RunStart,
};
pub use state::{FileEvent, FileState, JobEvent, JobState};
pub use writer::{Health, Ledger, Trouble};

/// What can go wrong with the ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// There is no ledger.
    #[error("there is no ledger at {0}")]
    Absent(PathBuf),
    /// An SQLite file of another program.
    #[error("{0} is not a ledger of this program")]
    Foreign(PathBuf),
    /// Written by a later version.
    #[error("{path} has schema version {found}, this program knows {known}")]
    Newer {
        /// The ledger's file.
        path: PathBuf,
        /// Its version.
        found: i32,
        /// The latest version that this program knows.
        known: i32,
    },
    /// Written by an earlier version, and only a writer may change it.
    #[error("{path} has schema version {found}, this program reads {known}")]
    Older {
        /// The ledger's file.
        path: PathBuf,
        /// Its version.
        found: i32,
        /// The version that this program reads.
        known: i32,
    },
    /// Something asked for a step that the table of states does not hold: a fault of the program; nothing was written.
    #[error("{what} is {state}: {event} cannot happen to it")]
    Transition {
        /// Which file or job.
        what: String,
        /// Its state.
        state: &'static str,
        /// What was asked for.
        event: String,
    },
    /// SQLite's check failed.
    #[error("{path} is damaged: {found}")]
    Damaged {
        /// The ledger's file.
        path: PathBuf,
        /// What the check says.
        found: String,
    },
    /// The state folder is on a network file system.
    #[error("{folder} is on a network file system ({kind})")]
    Network {
        /// The state folder.
        folder: PathBuf,
        /// The file system.
        kind: &'static str,
    },
    /// The SQLite library is too old to be safe.
    #[error("SQLite {0} is older than 3.51.3")]
    OldSqlite(String),
    /// The program is stopping and the ledger could not be written.
    #[error("stopped while the ledger could not be written: {0}")]
    Stopped(String),
    /// The file system.
    #[error("ledger: {0}")]
    Io(#[from] std::io::Error),
    /// SQLite.
    #[error("ledger: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl LedgerError {
    /// Whether waiting may help: disk full, busy, I/O. After such an error a commit may or may not have happened.
    pub fn is_transient(&self) -> bool {
        use rusqlite::ErrorCode as Code;
        match self {
            LedgerError::Io(_) => true,
            LedgerError::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(
                    Code::DatabaseBusy
                        | Code::DatabaseLocked
                        | Code::DiskFull
                        | Code::SystemIoFailure
                        | Code::OutOfMemory
                        | Code::CannotOpen
                        | Code::FileLockingProtocolFailed
                )
            ),
            _ => false,
        }
    }

    /// Whether the disk, or the share of it that this user may have, is full.
    pub fn is_full(&self) -> bool {
        use rustix::io::Errno;
        match self {
            LedgerError::Io(error) => {
                error.raw_os_error().map(Errno::from_raw_os_error).is_some_and(|code| matches!(code, Errno::NOSPC | Errno::DQUOT))
            }
            LedgerError::Sqlite(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            _ => false,
        }
    }

    /// Whether the file itself is broken.
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode as Code;
        match self {
            LedgerError::Damaged { .. } => true,
            LedgerError::Sqlite(error) => {
                matches!(error.sqlite_error_code(), Some(Code::DatabaseCorrupt | Code::NotADatabase))
            }
            _ => false,
        }
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        if error.is_damage() {
            let mend = "copy the file and its -wal aside, then restore a backup or recover with `sqlite3 ledger.sqlite .recover`; never start with an empty one";
            return Failure::new(Exit::LedgerDamaged, error.to_string(), "", mend);
        }
        let (exit, mend) = match &error {
            LedgerError::Absent(_) => (Exit::NotFound, "start the daemon once, or check `state` in the configuration"),
            LedgerError::Foreign(_) => (Exit::Configuration, "point `state` at the appliance's own folder"),
            LedgerError::Newer { .. } => {
                (Exit::Configuration, "install the version of the appliance that wrote it, or a later one")
            }
            LedgerError::Older { .. } => {
                (Exit::Configuration, "start the daemon once: it keeps a copy in `backup` and brings the ledger to this version")
            }
            LedgerError::Network { .. } => (Exit::Configuration, "put `state` on a local disk"),
            LedgerError::OldSqlite(_) => (Exit::Configuration, "build with the bundled SQLite"),
            LedgerError::Sqlite(error) => match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::PermissionDenied | rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen) => {
                    (Exit::Permission, "check owner and mode of the state folder")
                }
                Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                    (Exit::Locked, "another program holds the ledger; try again")
                }
                _ => (Exit::Internal, "check the disk; see the log"),
            },
            LedgerError::Stopped(_) | LedgerError::Io(_) | LedgerError::Damaged { .. } => {
                (Exit::Internal, "check the disk; see the log")
            }
            LedgerError::Transition { .. } => {
                (Exit::Internal, "this is a fault of the program, and nothing was written: report it with the log of the service")
            }
        };
        Failure::new(exit, error.to_string(), "", mend)
    }
}
