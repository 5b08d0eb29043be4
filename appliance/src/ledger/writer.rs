//! The one writing connection: transactions are immediate, serialised, and repeated while the cause of a failure may pass.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{LedgerError, open};
use crate::{clock, failpoint, progress, world};

/// What hinders the ledger at present.
#[derive(Default, Debug)]
pub struct Health {
    trouble: Mutex<Option<Trouble>>,
    /// Since when a write waits for the ledger or the disk.
    waits: Mutex<Option<Instant>>,
}

/// A write that takes longer than this is told.
const SLOW: Duration = Duration::from_secs(2);

/// Why the ledger cannot be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// In words.
    pub reason: String,
    /// Whether it is for want of space, which ends by itself once there is room.
    pub full: bool,
}

impl Health {
    /// The trouble, if any.
    pub fn trouble(&self) -> Option<Trouble> {
        lock(&self.trouble).clone().or_else(|| {
            let waited = lock(&self.waits).map(|since| since.elapsed()).filter(|waited| *waited > SLOW)?;
            Some(Trouble { reason: format!("a write has been waiting for {} s", waited.as_secs()), full: false })
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The writer's handle.
pub struct Ledger {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
    health: Health,
    stop: Arc<AtomicBool>,
}

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

impl Ledger {
    /// Opens or creates the ledger; once `stop` is set, an operation that cannot succeed gives up.
    ///
    /// # Errors
    /// Network file system, foreign, newer or damaged file, I/O.
    pub fn open(path: &Path, stop: Arc<AtomicBool>) -> Result<Ledger, LedgerError> {
        open::require_local(path.parent().unwrap_or(Path::new(".")))?;
        let connection = open::writer(path)?;
        Ok(Ledger { path: path.to_owned(), connection: Mutex::new(Some(connection)), health: Health::default(), stop })
    }

    /// The ledger's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What hinders it at present.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Runs `operation` in one immediate transaction. When the disk is full, busy or failing, nobody knows whether a commit
    /// happened: the connection is reopened and the operation repeated, so it must do nothing the second time.
    ///
    /// # Errors
    /// Whatever waiting does not cure, or [`LedgerError::Stopped`].
    pub fn write<T>(
        &self,
        point: &str,
        operation: impl Fn(&Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut wait = FIRST_WAIT;
        loop {
            let error = match self.once(point, &operation) {
                Ok(value) => {
                    lock(&self.health.trouble).take();
                    return Ok(value);
                }
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            tracing::warn!(event = "ledger_trouble", point, %error, next_s = wait.as_secs_f64());
            *lock(&self.health.trouble) = Some(Trouble { reason: error.to_string(), full: error.is_full() });
            if self.sleep(wait) {
                return Err(LedgerError::Stopped(error.to_string()));
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Runs a query on the writer's connection.
    ///
    /// # Errors
    /// As [`Ledger::write`].
    pub fn read<T>(&self, query: impl Fn(&Connection) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        match self.on_the_connection(|connection| query(connection)) {
            Err(error) if error.is_transient() => self.write("ledger.read", |tx| query(tx)),
            other => other,
        }
    }

    fn once<T>(&self, point: &str, operation: impl Fn(&Transaction<'_>) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        self.on_the_connection(|connection| {
            *lock(&self.health.waits) = Some(Instant::now());
            let result = transact(connection, point, operation);
            *lock(&self.health.waits) = None;
            result
        })
    }

    /// The connection is opened anew after a failure that may pass; that this fails too may pass as well.
    fn on_the_connection<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let mut guard = world::lock(&self.connection);
        let connection = match guard.take() {
            Some(connection) => guard.insert(connection),
            None => guard.insert(open::writer(&self.path)?),
        };
        let result = work(connection);
        if result.as_ref().is_err_and(LedgerError::is_transient) {
            guard.take();
        }
        result
    }

    /// Sleeps in small pieces; true when the program is stopping.
    fn sleep(&self, time: Duration) -> bool {
        let end = clock::boot() + time;
        while clock::boot() < end {
            if self.stop.load(Ordering::Relaxed) {
                return true;
            }
            progress::beat();
            world::sleep(Duration::from_millis(100));
        }
        self.stop.load(Ordering::Relaxed)
    }

    /// Moves the write-ahead log's content into the ledger's file.
    ///
    /// # Errors
    /// I/O.
    pub fn checkpoint(&self) -> Result<(), LedgerError> {
        match world::lock(&self.connection).as_ref() {
            Some(connection) => Ok(connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?),
            None => Ok(()),
        }
    }
}

fn transact<T>(
    connection: &mut Connection,
    point: &str,
    operation: impl Fn(&Transaction<'_>) -> Result<T, LedgerError>,
) -> Result<T, LedgerError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    failpoint::pass(point)?;
    let value = operation(&transaction)?;
    transaction.commit()?;
    failpoint::pass("ledger.committed")?;
    Ok(value)
}
