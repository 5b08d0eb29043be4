//! Exit statuses and the edge where typed errors become sentences: what is wrong, where, how to mend it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::files::names;

/// The exit statuses of `mmlnb-appliance`; other programs rely on the numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Checked or worked, and not all is right.
    NotAllRight = 1,
    /// Wrong usage or wrong input data; nothing was started.
    Usage = 2,
    /// Some items failed, the others are done.
    SomeFailed = 3,
    /// The ledger is damaged.
    LedgerDamaged = 65,
    /// No such report or file.
    NotFound = 66,
    /// The daemon is not running.
    NotRunning = 69,
    /// Internal error, or the GPU was lost; a restart may help.
    Internal = 70,
    /// Another process holds the ledger or the folder.
    Locked = 75,
    /// Missing permission.
    Permission = 77,
    /// Configuration, bundle or schema version.
    Configuration = 78,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong, one sentence without a full stop.
    pub what: String,
    /// File, line, key or tensor; empty when `what` says it.
    pub place: String,
    /// What to do.
    pub mend: String,
}

impl Problem {
    /// A problem from its three parts.
    pub fn new(what: impl Into<String>, place: impl Into<String>, mend: impl Into<String>) -> Problem {
        Problem { what: what.into(), place: place.into(), mend: mend.into() }
    }
}

/// Why a command ends without success: an exit status and every problem that was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The exit status.
    pub exit: Exit,
    /// All problems, never empty.
    pub problems: Vec<Problem>,
}

impl Failure {
    /// A failure with a single problem.
    pub fn new(exit: Exit, what: impl Into<String>, place: impl Into<String>, mend: impl Into<String>) -> Failure {
        Failure { exit, problems: vec![Problem::new(what, place, mend)] }
    }

    /// All of these in one, of work on several items: the exit status that they share, or [`Exit::SomeFailed`], also where `some` are done.
    pub fn joined(failures: Vec<Failure>, some: bool) -> Failure {
        let first = failures.first().map(|failure| failure.exit).filter(|_| !some);
        let exit = first.filter(|first| failures.iter().all(|failure| failure.exit == *first)).unwrap_or(Exit::SomeFailed);
        Failure { exit, problems: failures.into_iter().flat_map(|failure| failure.problems).collect() }
    }

    /// An unexpected error: what was being done and what the system said.
    pub fn internal(doing: impl fmt::Display, error: impl fmt::Display) -> Failure {
        Failure::new(
            Exit::Internal,
            format!("{doing}: {error}"),
            "",
            "try again; if it comes back, report it with the log of the service",
        )
    }

    /// An I/O error on a path; missing permission gets its own exit status.
    pub fn io(doing: impl fmt::Display, path: &std::path::Path, error: &std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => Failure::new(
                Exit::Permission,
                format!("{doing}: permission denied"),
                path.display().to_string(),
                "run as the user mmlnb or as a member of mmlnb-drop, or correct the owner and mode of the folder",
            ),
            _ => Failure::new(
                Exit::Internal,
                format!("{doing}: {error}"),
                path.display().to_string(),
                "check the disk and that the folder exists",
            ),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "error: {}", shown(&problem.what))?;
            if !problem.place.is_empty() {
                write!(f, "\n  where: {}", names::text(problem.place.as_bytes()))?;
            }
            if !problem.mend.is_empty() {
                write!(f, "\n  to mend: {}", shown(&problem.mend))?;
            }
        }
        Ok(())
    }
}

/// Sentences may have several lines; what names of files smuggle in is escaped as in the ledger.
fn shown(text: &str) -> String {
    text.lines().map(|line| names::text(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_write_on_the_operators_terminal() {
        let failure = Failure::new(Exit::Usage, "two\nlines of \u{1b}[2J", "a\u{202e}gnp.x\nerror: forged", "mend it\t");
        let text = failure.to_string();
        assert_eq!(text, "error: two\nlines of %1B[2J\n  where: a%E2%80%AEgnp.x%0Aerror: forged\n  to mend: mend it%09");
    }
}
