//! The handle of an open folder. Nothing below it is reached through a symbolic link, not even in the middle of a path.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::world::{self, Reach};
use crate::{failpoint, progress};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A name in a folder with the state of what has it.
pub type Named = (OsString, Stat);

/// An open folder; its path is for messages only.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a folder by its configured path, which may lead through links: its owner chose it.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, ...
    pub fn open(path: &Path) -> io::Result<Dir> {
        world::reach(|| path.to_owned(), Reach::Open)?;
        Ok(Dir { fd: rustix::fs::open(path, FOLDER, Mode::empty())?, path: path.to_owned() })
    }

    /// The path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder `relative` below this one; the folder itself for an empty path.
    ///
    /// # Errors
    /// `ELOOP` or `ENOTDIR` for a symbolic link anywhere on the way, `ENOENT`, `EACCES`, ...
    pub fn below(&self, relative: &Path) -> io::Result<Dir> {
        let path = self.path.join(relative);
        let fd = match relative.as_os_str().is_empty() {
            true => self.fd.try_clone()?,
            false => self.open_at(relative, FOLDER)?,
        };
        Ok(Dir { fd, path })
    }

    /// As [`Dir::below`], creating what is absent; every new name is synced. The mode names no set-group-id bit, which the kernel
    /// passes on from the folder above by itself and which the service manager's `RestrictSUIDSGID` refuses to be asked for.
    ///
    /// # Errors
    /// I/O; `ELOOP` or `ENOTDIR` when something else than a folder has one of the names.
    pub fn make_below(&self, relative: &Path) -> io::Result<Dir> {
        let mut folder = self.below(Path::new(""))?;
        for part in relative.components() {
            let Component::Normal(name) = part else { return Err(Errno::XDEV.into()) };
            failpoint::pass("move.mkdir")?;
            match rustix::fs::mkdirat(&folder.fd, name, Mode::RWXU | Mode::RWXG) {
                Ok(()) => folder.sync()?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            folder = folder.below(Path::new(name))?;
        }
        Ok(folder)
    }

    /// Opens the file `relative` for reading, without waiting for the other end of a pipe; the caller looks at its kind.
    ///
    /// # Errors
    /// As [`Dir::below`].
    pub fn open_file(&self, relative: &Path) -> io::Result<File> {
        Ok(File::from(self.open_at(relative, OFlags::RDONLY)?))
    }

    fn open_at(&self, relative: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        world::reach(|| self.path.join(relative), Reach::Open)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.fd, relative, flags, Mode::empty(), resolve) {
            // Old kernels lack the call, and the service manager's sandbox hides it (its flags lie in memory that no filter can read).
            Err(Errno::NOSYS) => by_component(&self.fd, relative, flags),
            other => Ok(other?),
        }
    }

    /// The state of a name in this folder; links are not followed.
    ///
    /// # Errors
    /// I/O other than its absence.
    pub fn stat(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        world::reach(|| self.path.join(name), Reach::Look)?;
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The names of the folders in this folder, and everything else that is `wanted` with its state, in no order; names that vanish meanwhile
    /// are left out. The state of a folder, and of what is not wanted, is not asked for where the file system tells kinds by name.
    ///
    /// # Errors
    /// I/O.
    pub fn folders_and_files(&self, wanted: impl Fn(&OsStr) -> bool) -> io::Result<(Vec<OsString>, Vec<Named>)> {
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            progress::beat();
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            match entry.file_type() {
                FileType::Directory => {
                    folders.push(name.to_owned());
                    continue;
                }
                FileType::Unknown => {}
                _ if !wanted(name) => continue,
                _ => {}
            }
            match self.stat(name)? {
                Some(state) if FileType::from_raw_mode(state.st_mode) == FileType::Directory => folders.push(name.to_owned()),
                Some(state) if wanted(name) => files.push((name.to_owned(), state)),
                Some(_) | None => {}
            }
        }
        Ok((folders, files))
    }

    /// Every name in this folder, in no order.
    ///
    /// # Errors
    /// I/O.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                found.push(name.to_owned());
            }
        }
        Ok(found)
    }

    /// A small text file of ours; none when it is absent. Pipes, links and folders of that name are errors.
    ///
    /// # Errors
    /// I/O, no regular file, or longer than `limit` bytes.
    pub fn read_text(&self, name: &OsStr, limit: u64) -> io::Result<Option<String>> {
        let file = match self.open_file(Path::new(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        require_regular(&file)?;
        let mut text = String::new();
        if file.take(limit + 1).read_to_string(&mut text)? as u64 > limit {
            return Err(Errno::FBIG.into());
        }
        Ok(Some(text))
    }

    /// Opens a regular file of this folder for locking, creating it when it is absent.
    ///
    /// # Errors
    /// I/O, or no regular file.
    pub fn open_or_create(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.fd, name, flags, own())?);
        require_regular(&file)?;
        Ok(file)
    }

    /// Creates a file of ours; what had the name before is removed, not opened.
    ///
    /// # Errors
    /// I/O; `EISDIR` when a folder has the name.
    pub fn create_anew(&self, name: &OsStr) -> io::Result<File> {
        self.remove(name)?;
        self.create_new(name)
    }

    /// Creates a file of ours where nothing has the name.
    ///
    /// # Errors
    /// I/O; `EEXIST` when something has it.
    pub fn create_new(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.fd, name, flags, own())?))
    }

    /// Renames within this folder, replacing what has the new name.
    ///
    /// # Errors
    /// I/O.
    pub fn rename_over(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes a name that is no folder; its absence is fine.
    ///
    /// # Errors
    /// I/O.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// SHA-256 of a regular file.
    ///
    /// # Errors
    /// I/O, or no regular file.
    pub fn sha256_of(&self, name: &OsStr) -> io::Result<[u8; 32]> {
        let mut file = self.open_file(Path::new(name))?;
        require_regular(&file)?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hash.finalize().into()),
                count => hash.update(&buffer[..count]),
            }
            progress::beat();
        }
    }

    /// Whether two regular files hold the same bytes.
    ///
    /// # Errors
    /// I/O, or no regular file.
    pub fn same_bytes(&self, name: &OsStr, (other, its_name): (&Dir, &OsStr)) -> io::Result<bool> {
        let mut files = [self.open_file(Path::new(name))?, other.open_file(Path::new(its_name))?];
        let mut buffers = [vec![0; 1 << 16], vec![0; 1 << 16]];
        loop {
            let mut counts = [0; 2];
            for ((file, buffer), count) in files.iter_mut().zip(&mut buffers).zip(&mut counts) {
                require_regular(file)?;
                *count = read_full(file, buffer)?;
            }
            if counts[0] != counts[1] || buffers[0][..counts[0]] != buffers[1][..counts[1]] {
                return Ok(false);
            }
            if counts[0] == 0 {
                return Ok(true);
            }
            progress::beat();
        }
    }

    /// Makes the bytes of a regular file durable, whoever wrote them; anything else has none.
    ///
    /// # Errors
    /// I/O.
    pub fn sync_file(&self, name: &OsStr) -> io::Result<()> {
        failpoint::pass("move.sync_file")?;
        let file = self.open_file(Path::new(name))?;
        if file.metadata()?.is_file() { file.sync_all() } else { Ok(()) }
    }

    /// Makes the names in this folder durable.
    ///
    /// # Errors
    /// I/O.
    pub fn sync(&self) -> io::Result<()> {
        failpoint::pass("move.fsync")?;
        Ok(rustix::fs::fsync(&self.fd)?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Fills the buffer as far as the file goes.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// The mode of files of ours: owner and group read and write.
fn own() -> Mode {
    Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP
}

fn require_regular(file: &File) -> io::Result<()> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    if kind == FileType::RegularFile { Ok(()) } else { Err(Errno::INVAL.into()) }
}

/// [`Dir::open_at`] part by part.
fn by_component(root: &OwnedFd, relative: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let mut folder = root.try_clone()?;
    let mut parts = relative.components().peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else { return Err(Errno::XDEV.into()) };
        if parts.peek().is_none() {
            return Ok(rustix::fs::openat(folder.as_fd(), name, flags, Mode::empty())?);
        }
        folder = rustix::fs::openat(folder.as_fd(), name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Err(Errno::NOENT.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn both_ways_open_files_and_refuse_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("case")).unwrap();
        std::fs::write(dir.path().join("case/x.png"), b"x").unwrap();
        symlink(dir.path().join("case"), dir.path().join("link")).unwrap();
        symlink("x.png", dir.path().join("case/y.png")).unwrap();
        let root = Dir::open(dir.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        assert!(root.open_file(Path::new("case/x.png")).is_ok());
        assert!(by_component(&root.fd, Path::new("case/x.png"), flags).is_ok());
        for bad in ["link/x.png", "case/y.png", "case/none.png", "../etc/passwd"] {
            assert!(root.open_file(Path::new(bad)).is_err(), "{bad}");
            assert!(by_component(&root.fd, Path::new(bad), flags).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_fifo_does_not_block_and_is_no_text() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("x.png"), Mode::RWXU).unwrap();
        let root = Dir::open(dir.path()).unwrap();
        assert!(root.open_file(Path::new("x.png")).is_ok());
        assert!(root.read_text(OsStr::new("x.png"), 10).is_err());
        assert!(root.sha256_of(OsStr::new("x.png")).is_err());
        assert!(root.sync_file(OsStr::new("x.png")).is_ok());
    }

    #[test]
    fn folders_are_made_below_and_never_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("done")).unwrap();
        std::fs::create_dir_all(dir.path().join("state")).unwrap();
        let done = Dir::open(&dir.path().join("done")).unwrap();
        done.make_below(Path::new("case/left")).unwrap();
        done.make_below(Path::new("case/left")).unwrap();
        assert!(dir.path().join("done/case/left").is_dir());
        symlink("../state", dir.path().join("done/evil")).unwrap();
        for path in ["evil", "evil/x", "../state/x"] {
            assert!(done.make_below(Path::new(path)).is_err(), "{path}");
            assert!(done.below(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(dir.path().join("state")).unwrap().count(), 0);
    }

    #[test]
    fn the_group_is_passed_on_from_above() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o2770)).unwrap();
        Dir::open(dir.path()).unwrap().make_below(Path::new("case")).unwrap();
        let mode = dir.path().join("case").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o2000, 0o2000, "{mode:o}");
    }
}
