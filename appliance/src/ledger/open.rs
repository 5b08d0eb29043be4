//! Opening the ledger's file: whose it is, which version, whether it is whole, and how SQLite is to treat it.

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::LedgerError;
use super::migrate::{self, APPLICATION_ID, VERSION};

/// SQLite before this has a bug that can damage a write-ahead log on reset (3.7.0 to 3.51.2).
const OLDEST_SQLITE: i32 = 3_051_003;

/// Opens for writing, creating the ledger when the file is absent.
///
/// # Errors
/// Foreign file, newer version, damage, network file system, or I/O.
pub fn writer(path: &Path) -> Result<Connection, LedgerError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(LedgerError::OldSqlite(rusqlite::version().to_owned()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    identify(&connection, path, true)?;
    configure(&connection)?;
    migrate::migrate(&mut connection, path)?;
    Ok(connection)
}

/// Opens for reading only; the daemon may write meanwhile.
///
/// # Errors
/// Absent, foreign or damaged file, or another version: a reader writes nothing, so it migrates nothing.
pub fn reader(path: &Path) -> Result<Connection, LedgerError> {
    if !path.is_file() {
        return Err(LedgerError::Absent(path.to_owned()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let version = identify(&connection, path, false)?;
    if version < VERSION {
        return Err(LedgerError::Older { path: path.to_owned(), found: version, known: VERSION });
    }
    connection.execute_batch(&format!("{FEW_PAGES} PRAGMA trusted_schema=OFF; PRAGMA query_only=ON; PRAGMA mmap_size=0;"))?;
    Ok(connection)
}

/// The ledger's version; refuses a file of another program and a ledger of a later version before anything is written.
fn identify(connection: &Connection, path: &Path, may_be_new: bool) -> Result<i32, LedgerError> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application == 0 && version == 0 && tables == 0 && may_be_new {
        return Ok(version);
    }
    if application != APPLICATION_ID {
        return Err(LedgerError::Foreign(path.to_owned()));
    }
    if version > VERSION {
        return Err(LedgerError::Newer { path: path.to_owned(), found: version, known: VERSION });
    }
    Ok(version)
}

/// The system keeps the file's pages anyway: a second copy of them in the daemon would only make its memory grow with the ledger.
const FEW_PAGES: &str = "PRAGMA cache_size=-256;";

fn configure(connection: &Connection) -> Result<(), LedgerError> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.execute_batch(&format!(
        "{FEW_PAGES} PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF;
         PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0; PRAGMA wal_autocheckpoint=1000;
         PRAGMA recursive_triggers=ON; PRAGMA journal_size_limit=67108864;"
    ))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    keep_wal(connection)
}

/// Keeps the write-ahead log's files after a clean end, so that readers of another user can always open the ledger.
fn keep_wal(connection: &Connection) -> Result<(), LedgerError> {
    let mut on: std::ffi::c_int = 1;
    // SAFETY: the handle is open as long as `connection` is borrowed; the opcode reads and writes one int through the pointer.
    let code = unsafe {
        rusqlite::ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            rusqlite::ffi::SQLITE_FCNTL_PERSIST_WAL,
            (&raw mut on).cast(),
        )
    };
    match code {
        rusqlite::ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None).into()),
    }
}

/// File systems whose locks and shared memory SQLite cannot rely on, and whose events do not arrive.
pub fn network_file_system(folder: &Path) -> std::io::Result<Option<&'static str>> {
    let kind = rustix::fs::statfs(folder)?.f_type as u64 & 0xFFFF_FFFF;
    Ok(match kind {
        0x6969 => Some("NFS"),
        0x517B => Some("SMB"),
        0xFF53_4D42 => Some("CIFS"),
        0xFE53_4D42 => Some("SMB2"),
        0x6573_5546 => Some("FUSE"),
        0x0102_1997 => Some("9p"),
        0x00C3_6400 => Some("Ceph"),
        0x786F_4256 => Some("VirtualBox shared folder"),
        _ => None,
    })
}

/// Refuses a ledger on a network file system.
///
/// # Errors
/// [`LedgerError::Network`].
pub fn require_local(folder: &Path) -> Result<(), LedgerError> {
    match network_file_system(folder).map_err(LedgerError::Io)? {
        Some(kind) => Err(LedgerError::Network { folder: PathBuf::from(folder), kind }),
        None => Ok(()),
    }
}
