//! The inbox as a whole: is it mounted, is it ours, does nobody else read it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::names::MARKER;
use crate::error::{Exit, Failure};
use crate::ledger::{INBOX, Ledger, LedgerError, read, record};

/// A daemon that was killed while it started a decoder holds its locks until that child has become the decoder.
const RELEASE: Duration = Duration::from_millis(700);

/// An inbox whose marker is known and locked.
pub struct Inbox {
    root: PathBuf,
    marker: String,
    _lock: File,
}

/// Writes a new marker into an inbox that has none; its identifier.
///
/// # Errors
/// I/O.
pub fn write_marker(root: &Path) -> io::Result<String> {
    let path = root.join(MARKER);
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let marker = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    let mut file = File::create(&path)?;
    writeln!(file, "{marker}")?;
    file.sync_all()?;
    Ok(marker)
}

impl Inbox {
    /// Adopts or recognises the inbox and locks it.
    ///
    /// # Errors
    /// [`Exit::Configuration`] when the marker is missing or another one (a share that is not mounted), [`Exit::Locked`] when another
    /// daemon reads the inbox, [`Exit::Permission`].
    pub fn open(root: &Path, ledger: &Ledger) -> Result<Inbox, Failure> {
        let key = std::fs::canonicalize(root).map_err(|error| Failure::io("the inbox cannot be opened", root, &error))?;
        let known = ledger.read(|tx| read::marker(tx, &key))?;
        let marker = match &known {
            Some(marker) if mounted(root, marker) => marker.clone(),
            Some(_) => return Err(not_mounted(root)),
            None => write_marker(root).map_err(|error| Failure::io("the inbox's marker cannot be written", root, &error))?,
        };
        if known.is_none() {
            ledger
                .write("ledger.begin_run", |tx| -> Result<(), LedgerError> { record::adopt_folder(tx, INBOX, &key, &marker) })?;
        }
        let lock = lock(&root.join(MARKER), "another appliance reads this inbox")?;
        Ok(Inbox { root: root.to_owned(), marker, _lock: lock })
    }

    /// Whether the folder still is the one that was opened.
    pub fn mounted(&self) -> bool {
        mounted(&self.root, &self.marker)
    }
}

fn mounted(root: &Path, marker: &str) -> bool {
    std::fs::read_to_string(root.join(MARKER)).is_ok_and(|text| text.trim() == marker)
}

fn not_mounted(root: &Path) -> Failure {
    Failure::new(
        Exit::Configuration,
        format!(
            "the inbox does not hold the marker {MARKER} that the ledger knows: its share is not mounted, or it is another folder"
        ),
        root.display().to_string(),
        "mount the share; if the folder was really replaced, copy the marker into it",
    )
}

/// Takes an exclusive lock that lasts as long as the file is open.
///
/// # Errors
/// [`Exit::Locked`] with `held` as the reason, or I/O.
pub fn lock(path: &Path, held: &str) -> Result<File, Failure> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| Failure::io("the lock cannot be opened", path, &error))?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < RELEASE => std::thread::sleep(Duration::from_millis(20)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mend = "stop the other one first, or give this one folders of its own";
                return Err(Failure::new(Exit::Locked, held, path.display().to_string(), mend));
            }
            Err(error) => return Err(Failure::io("the lock cannot be taken", path, &error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(dir: &Path) -> Ledger {
        Ledger::open(&dir.join("ledger.sqlite"), Default::default()).unwrap()
    }

    #[test]
    fn an_unmounted_share_is_not_taken_for_an_empty_inbox() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path());
        let root = dir.path().join("inbox");
        std::fs::create_dir(&root).unwrap();
        let inbox = Inbox::open(&root, &ledger).unwrap();
        assert!(inbox.mounted());
        std::fs::remove_file(root.join(MARKER)).unwrap();
        assert!(!inbox.mounted());
        drop(inbox);
        assert_eq!(Inbox::open(&root, &ledger).err().unwrap().exit, Exit::Configuration);
        assert!(!root.join(MARKER).exists());
    }

    #[test]
    fn a_second_reader_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path());
        let root = dir.path().join("inbox");
        std::fs::create_dir(&root).unwrap();
        let first = Inbox::open(&root, &ledger).unwrap();
        assert_eq!(Inbox::open(&root, &ledger).err().unwrap().exit, Exit::Locked);
        drop(first);
        assert!(Inbox::open(&root, &ledger).is_ok());
    }
}
