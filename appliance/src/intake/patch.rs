//! Reading a file once: one open, one read; the hash and the decoder see the same bytes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::failpoint;
use crate::files::{Dir, Stamp};

/// A file's bytes and their identity.
pub struct Patch {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// SHA-256 of them.
    pub sha256: [u8; 32],
}

/// Why a file was not read.
#[derive(Debug)]
pub enum ReadError {
    /// It is not there any more.
    Gone,
    /// It is not in the state that was settled; it has to settle anew.
    Changed,
    /// It is no regular file.
    Special,
    /// Its owner does not let us.
    Denied,
    /// Waiting may help.
    Io(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) => ReadError::Gone,
            Some(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => ReadError::Special,
            Some(Errno::ACCESS | Errno::PERM) => ReadError::Denied,
            _ => ReadError::Io(error),
        }
    }
}

/// Opens a settled file for a look at its structure.
///
/// # Errors
/// As [`read`].
pub fn open(root: &Dir, path: &Path, expected: &Stamp) -> Result<File, ReadError> {
    failpoint::pass("read.open")?;
    let file = root.open_file(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::Special);
    }
    if Stamp::from(&metadata) != *expected {
        return Err(ReadError::Changed);
    }
    Ok(file)
}

/// Reads and hashes a settled file.
///
/// # Errors
/// [`ReadError`]: gone, changed meanwhile, special, denied, or an error that may pass.
pub fn read(root: &Dir, path: &Path, expected: &Stamp) -> Result<Patch, ReadError> {
    let mut file = open(root, path, expected)?;
    let before = changes(&file)?;
    let mut bytes = Vec::with_capacity(expected.size as usize + 1);
    failpoint::pass("read.body")?;
    file.by_ref().take(expected.size + 1).read_to_end(&mut bytes)?;
    let sha256: [u8; 32] = Sha256::digest(&bytes).into();
    if bytes.len() as u64 != expected.size || changes(&file)? != before {
        return Err(ReadError::Changed);
    }
    failpoint::pass("read.after_hash")?;
    Ok(Patch { bytes, sha256 })
}

/// Everything that a writer cannot help to change, the change time included.
fn changes(file: &File) -> io::Result<(Stamp, i64, i64)> {
    let metadata = file.metadata()?;
    Ok((Stamp::from(&metadata), metadata.ctime(), metadata.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_up(bytes: &[u8]) -> (tempfile::TempDir, Dir, Stamp) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.png"), bytes).unwrap();
        let root = Dir::open(dir.path()).unwrap();
        let stamp = Stamp::from(&std::fs::symlink_metadata(dir.path().join("x.png")).unwrap());
        (dir, root, stamp)
    }

    #[test]
    fn reads_and_hashes() {
        let (_dir, root, stamp) = set_up(b"abc");
        let patch = read(&root, Path::new("x.png"), &stamp).unwrap();
        assert_eq!(patch.bytes, b"abc");
        assert_eq!(patch.sha256[..4], [0xba, 0x78, 0x16, 0xbf]);
    }

    #[test]
    fn another_state_or_none_is_told_apart() {
        let (dir, root, stamp) = set_up(b"abc");
        let other = Stamp { size: 4, ..stamp };
        assert!(matches!(read(&root, Path::new("x.png"), &other), Err(ReadError::Changed)));
        assert!(matches!(read(&root, Path::new("y.png"), &stamp), Err(ReadError::Gone)));
        std::os::unix::fs::symlink("x.png", dir.path().join("l.png")).unwrap();
        assert!(matches!(read(&root, Path::new("l.png"), &stamp), Err(ReadError::Special)));
        assert!(matches!(read(&root, Path::new("."), &stamp), Err(ReadError::Special | ReadError::Changed)));
    }
}
