//! What the command line can do besides running the daemon.

pub mod assess;
pub mod init;
pub mod reports;
pub mod retry;
pub mod show;
pub mod status;
pub mod submit;
pub mod verify;

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::PathBuf;

use clap::Args;
use rusqlite::Connection;

use crate::config::{Config, DEFAULT_FILE, Need};
use crate::error::Failure;
use crate::ledger::open;

/// Where the configuration is.
#[derive(Args, Clone, Debug)]
pub struct Configured {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE, env = "MMLNB_CONFIG")]
    pub config: PathBuf,
}

/// How the answer is written.
#[derive(Args, Clone, Debug)]
pub struct Machine {
    /// The configuration.
    #[command(flatten)]
    pub configured: Configured,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// The configuration and a read-only view of its ledger.
///
/// # Errors
/// Configuration or ledger.
pub fn open_for_reading(configured: &Configured) -> Result<(Config, Connection), Failure> {
    let config = Config::load(&configured.config, Need::Ledger)?;
    let connection = open::reader(&config.ledger())?;
    Ok((config, connection))
}

/// Writes to stdout; a reader that has gone away (`| head`) is no error.
///
/// # Errors
/// Anything else that keeps stdout from being written.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut lines = Lines::new();
    lines.write(text)?;
    lines.end()
}

/// Stdout for an answer that is too long to be held: written piece by piece.
pub(crate) struct Lines {
    out: BufWriter<StdoutLock<'static>>,
    gone: bool,
}

impl Lines {
    /// Takes stdout.
    pub fn new() -> Lines {
        Lines { out: BufWriter::new(io::stdout().lock()), gone: false }
    }

    /// Writes a piece.
    ///
    /// # Errors
    /// As [`print`].
    pub fn write(&mut self, text: &str) -> Result<(), Failure> {
        let result = if self.gone { Ok(()) } else { self.out.write_all(text.as_bytes()) };
        self.judge(result)
    }

    /// Whether the reader has gone away: nothing more need be made.
    pub fn is_unread(&self) -> bool {
        self.gone
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// As [`print`].
    pub fn end(mut self) -> Result<(), Failure> {
        let result = if self.gone { Ok(()) } else { self.out.flush() };
        self.judge(result)
    }

    fn judge(&mut self, result: io::Result<()>) -> Result<(), Failure> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.gone = true,
            Err(error) => return Err(Failure::internal("stdout cannot be written", error)),
            Ok(()) => {}
        }
        Ok(())
    }
}
