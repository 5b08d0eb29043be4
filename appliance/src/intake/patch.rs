//! Reading a file once: one open, one read; the hash and the decoder see the same bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::assess::bytes::Bytes;
use crate::failpoint;
use crate::files::{Dir, Stamp};

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

/// Reads and hashes an opened file that was settled.
///
/// # Errors
/// [`ReadError`]: changed meanwhile, or an error that may pass.
pub fn read(file: &mut File, expected: &Stamp) -> Result<Bytes, ReadError> {
    let before = changes(file)?;
    failpoint::pass("read.body")?;
    let bytes = Bytes::read(file, expected.size + 1)?;
    if bytes.size != expected.size || changes(file)? != before {
        return Err(ReadError::Changed);
    }
    failpoint::pass("read.after_hash")?;
    Ok(bytes)
}

/// Whether a part of the file was never written: room that was only reserved, or a place that was skipped. A file system that knows no
/// holes reports none.
///
/// # Errors
/// I/O.
pub fn has_holes(file: &File, size: u64) -> Result<bool, ReadError> {
    let hole = match rustix::fs::seek(file, SeekFrom::Hole(0)) {
        Ok(hole) => hole < size,
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO) => false,
        Err(error) => return Err(io::Error::from(error).into()),
    };
    rustix::fs::seek(file, SeekFrom::Start(0)).map_err(io::Error::from)?;
    Ok(hole)
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
        let mut file = open(&root, Path::new("x.png"), &stamp).unwrap();
        assert_eq!(read(&mut file, &stamp).unwrap().sha256[..4], [0xba, 0x78, 0x16, 0xbf]);
        let mut file = open(&root, Path::new("x.png"), &stamp).unwrap();
        assert!(matches!(read(&mut file, &Stamp { size: 2, ..stamp }), Err(ReadError::Changed)));
    }

    #[test]
    fn another_state_or_none_is_told_apart() {
        let (dir, root, stamp) = set_up(b"abc");
        let other = Stamp { size: 4, ..stamp };
        assert!(matches!(open(&root, Path::new("x.png"), &other), Err(ReadError::Changed)));
        assert!(matches!(open(&root, Path::new("y.png"), &stamp), Err(ReadError::Gone)));
        std::os::unix::fs::symlink("x.png", dir.path().join("l.png")).unwrap();
        assert!(matches!(open(&root, Path::new("l.png"), &stamp), Err(ReadError::Special)));
        assert!(matches!(open(&root, Path::new("."), &stamp), Err(ReadError::Special | ReadError::Changed)));
    }

    #[test]
    fn room_that_was_only_reserved_is_a_hole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bmp");
        let size = 1 << 20;
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
        file.set_len(size).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 65_536], 0).unwrap();
        // Some file systems know no holes: they say that the first is at the end.
        let known = rustix::fs::seek(&file, SeekFrom::Hole(0)).is_ok_and(|hole| hole < size);
        assert_eq!(has_holes(&file, size).unwrap(), known);
        assert_eq!(rustix::fs::tell(&file).unwrap(), 0, "it is read from its beginning");
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; size as usize], 0).unwrap();
        assert!(!has_holes(&file, size).unwrap());
    }
}
