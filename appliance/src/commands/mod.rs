//! What the command line can do besides running the daemon.

pub mod assess;
pub mod bundle;
pub mod init;
pub mod reports;
pub mod retry;
pub mod show;
pub mod status;
pub mod submit;
pub mod verify;

use std::io::{self, Write};

use rusqlite::Connection;

use crate::cli::Configured;
use crate::config::{Config, Need};
use crate::error::Failure;
use crate::ledger::open;

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
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::internal("stdout cannot be written", error)),
        _ => Ok(()),
    }
}
