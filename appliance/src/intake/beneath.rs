//! Opening what lies below the inbox without ever leaving it: no symbolic link is followed, not even in the middle of a path.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens `relative` below `root`.
///
/// # Errors
/// `ELOOP` for a symbolic link anywhere on the way, `ENOENT`, `EACCES`, ...
pub fn open(root: &OwnedFd, relative: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, relative, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => by_component(root, relative, flags),
        other => Ok(other?),
    }
}

/// The same on kernels without `openat2`.
fn by_component(root: &OwnedFd, relative: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let mut folder = root.try_clone()?;
    let mut parts = relative.components().peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else { return Err(Errno::XDEV.into()) };
        if parts.peek().is_none() {
            return Ok(rustix::fs::openat(folder.as_fd(), name, flags, Mode::empty())?);
        }
        let way = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder = rustix::fs::openat(folder.as_fd(), name, way, Mode::empty())?;
    }
    Err(Errno::NOENT.into())
}

/// Opens the folder that holds `relative`.
///
/// # Errors
/// As [`open`].
pub fn open_parent(root: &OwnedFd, relative: &Path) -> io::Result<OwnedFd> {
    match relative.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => open(root, parent, OFlags::RDONLY | OFlags::DIRECTORY),
        None => root.try_clone(),
    }
}

/// Opens a folder itself, e.g. the inbox.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, ...
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_open_files_and_refuse_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("case")).unwrap();
        std::fs::write(dir.path().join("case/x.png"), b"x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("case"), dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("x.png", dir.path().join("case/y.png")).unwrap();
        let root = open_root(dir.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        assert!(open(&root, Path::new("case/x.png"), OFlags::RDONLY).is_ok());
        assert!(by_component(&root, Path::new("case/x.png"), flags).is_ok());
        for bad in ["link/x.png", "case/y.png", "case/none.png", "../etc/passwd"] {
            assert!(open(&root, Path::new(bad), OFlags::RDONLY).is_err(), "{bad}");
            assert!(by_component(&root, Path::new(bad), flags).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_fifo_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("x.png"), Mode::RWXU).unwrap();
        let root = open_root(dir.path()).unwrap();
        assert!(open(&root, Path::new("x.png"), OFlags::RDONLY).is_ok());
    }
}
