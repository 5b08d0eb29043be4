//! Putting files in place so that a crash or a neighbour never loses one: write, sync, rename; move without replacing; sync folders.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::settle::Stamp;
use super::{beneath, names, scan};
use crate::failpoint;

/// What became of a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moved {
    /// The file lies at its target.
    Yes,
    /// The source is not there.
    Gone,
    /// The source is in another state than the one that was read; it stays.
    Changed,
    /// Something took the target's name meanwhile.
    Taken,
}

/// SHA-256 of a file by its path.
///
/// # Errors
/// I/O.
pub fn sha256_of(path: &Path) -> io::Result<[u8; 32]> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Errno::INVAL.into());
    }
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Creates a folder and those above it up to `root`, which must exist; every new name is synced.
///
/// # Errors
/// I/O; `ENOENT` when `root` itself is absent.
pub fn make_folders(root: &Path, relative: &Path) -> io::Result<()> {
    let mut folder = root.to_owned();
    for part in relative.components() {
        let parent = folder.clone();
        folder.push(part);
        failpoint::pass("move.mkdir")?;
        match std::fs::DirBuilder::new().mode(0o2770).create(&folder) {
            Ok(()) => sync_folder(&parent)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes the names in a folder durable.
///
/// # Errors
/// I/O.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    failpoint::pass("move.fsync")?;
    File::open(folder)?.sync_all()
}

/// The failpoints of one written file.
#[derive(Clone, Copy)]
pub struct Points {
    /// Before writing.
    pub write: &'static str,
    /// Before renaming.
    pub rename: &'static str,
}

/// Writes a file of ours under a hidden name, syncs it and renames it into place, replacing an older rendering.
///
/// # Errors
/// I/O; nothing half written is left under the final name.
pub fn write(folder: &Path, name: &OsStr, bytes: &[u8], points: Points) -> io::Result<()> {
    let part = folder.join(names::part(name));
    let flags = OFlags::NOFOLLOW;
    failpoint::pass(points.write)?;
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o660).custom_flags(flags.bits() as i32).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    failpoint::pass(points.rename)?;
    std::fs::rename(&part, folder.join(name))
}

/// The name for `name` in `folder`, and whether the same bytes lie there already. `same` says whether a path holds them.
///
/// # Errors
/// I/O.
pub fn choose(folder: &Path, name: &OsStr, mark: &str, same: impl Fn(&Path) -> io::Result<bool>) -> io::Result<(OsString, bool)> {
    let mut candidate = names::target(name, mark);
    for number in 2u32.. {
        let path = folder.join(&candidate);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((candidate, false)),
            Err(error) => return Err(error),
            Ok(metadata) if metadata.is_file() && same(&path)? => return Ok((candidate, true)),
            Ok(_) if number == 2 => candidate = names::marked(name, mark),
            Ok(_) => candidate = names::marked(name, &format!("{mark}-{}", number - 1)),
        }
    }
    Err(Errno::EXIST.into())
}

/// Where a file comes from: the inbox's handle and the path below it, and the state in which it was read.
pub struct Source<'a> {
    /// The inbox, opened.
    pub root: &'a OwnedFd,
    /// Path below it.
    pub path: &'a Path,
    /// The state in which it was read.
    pub stamp: Stamp,
    /// SHA-256 of its bytes if they were read; guards a copy between file systems.
    pub sha256: Option<[u8; 32]>,
}

/// Whether the source still lies there as it was read.
///
/// # Errors
/// I/O.
pub fn state(source: &Source<'_>) -> io::Result<Moved> {
    let parent = match beneath::open_parent(source.root, source.path) {
        Ok(parent) => parent,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Moved::Gone),
        Err(error) => return Err(error),
    };
    state_in(&parent, file_name(source)?, &source.stamp)
}

fn file_name<'a>(source: &Source<'a>) -> io::Result<&'a OsStr> {
    source.path.file_name().ok_or(Errno::INVAL.into())
}

fn state_in(parent: &OwnedFd, name: &OsStr, stamp: &Stamp) -> io::Result<Moved> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(Moved::Gone),
        Err(error) => Err(error.into()),
        Ok(found) if stamp_of(&found) == *stamp => Ok(Moved::Yes),
        Ok(_) => Ok(Moved::Changed),
    }
}

fn stamp_of(found: &rustix::fs::Stat) -> Stamp {
    Stamp {
        dev: found.st_dev,
        ino: found.st_ino,
        size: found.st_size as u64,
        mtime_ns: found.st_mtime.wrapping_mul(1_000_000_000).wrapping_add(found.st_mtime_nsec as i64),
    }
}

/// Moves the source to `folder/name`, never replacing anything, and syncs both folders.
///
/// # Errors
/// I/O; the file then still lies at its source, or, after a failed sync, perhaps at its target: [`choose`] finds it there.
pub fn relocate(source: &Source<'_>, folder: &Path, name: &OsStr) -> io::Result<Moved> {
    let parent = match beneath::open_parent(source.root, source.path) {
        Ok(parent) => parent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Moved::Gone),
        Err(error) => return Err(error),
    };
    let from = file_name(source)?;
    failpoint::pass("move.before")?;
    match state_in(&parent, from, &source.stamp)? {
        Moved::Yes => {}
        other => return Ok(other),
    }
    let target = beneath::open_root(folder)?;
    failpoint::pass("move.rename")?;
    match rename(&parent, from, &target, name) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(Moved::Taken),
        Err(Errno::NOENT) => return Ok(Moved::Gone),
        Err(Errno::XDEV) => return copy(source, &parent, from, folder, name),
        Err(error) => return Err(error.into()),
    }
    if let Ok(found) = rustix::fs::statat(&target, name, AtFlags::SYMLINK_NOFOLLOW)
        && stamp_of(&found).ino != source.stamp.ino
    {
        rename(&target, name, &parent, from)?;
        return Ok(Moved::Changed);
    }
    failpoint::pass("move.after_rename")?;
    both(|| sync_folder(folder), || Ok(rustix::fs::fsync(&parent)?))?;
    Ok(Moved::Yes)
}

/// Does two things that wait for the disk at the same time: the file system then makes both durable in one go.
///
/// # Errors
/// The first one's error, else the second one's.
pub fn both(first: impl FnOnce() -> io::Result<()>, second: impl Fn() -> io::Result<()> + Sync) -> io::Result<()> {
    std::thread::scope(|scope| {
        let beside = std::thread::Builder::new().spawn_scoped(scope, &second);
        let first = first();
        let second = match beside {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => second(),
        };
        first.and(second)
    })
}

/// `RENAME_NOREPLACE`; file systems without it get a hard link and an unlink, which replace nothing either.
fn rename(from_dir: &OwnedFd, from: &OsStr, to_dir: &OwnedFd, to: &OsStr) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from_dir, from, to_dir, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        other => return other,
    }
    match rustix::fs::linkat(from_dir, from, to_dir, to, AtFlags::empty()) {
        Ok(()) => rustix::fs::unlinkat(from_dir, from, AtFlags::empty()),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK | Errno::NOSYS) => reserve(from_dir, from, to_dir, to),
        Err(error) => Err(error),
    }
}

/// Without hard links too: the name is reserved by creating it, then replaced by the move.
fn reserve(from_dir: &OwnedFd, from: &OsStr, to_dir: &OwnedFd, to: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(to_dir, to, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::renameat(from_dir, from, to_dir, to)
}

/// Across file systems: copy under a hidden name, sync, hash again, rename without replacing, sync, then unlink the source.
fn copy(source: &Source<'_>, parent: &OwnedFd, from: &OsStr, folder: &Path, name: &OsStr) -> io::Result<Moved> {
    let metadata = rustix::fs::statat(parent, from, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = rustix::fs::FileType::from_raw_mode(metadata.st_mode);
    if kind == rustix::fs::FileType::Symlink {
        let link = rustix::fs::readlinkat(parent, from, Vec::new())?;
        rustix::fs::symlinkat(link, CWD, folder.join(name))?;
        return finish_copy(source, parent, from, folder);
    }
    if kind != rustix::fs::FileType::RegularFile {
        return Err(Errno::XDEV.into());
    }
    let part = folder.join(names::part(name));
    failpoint::pass("move.copy")?;
    let mut input =
        File::from(rustix::fs::openat(parent, from, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?);
    let mut output = OpenOptions::new().write(true).create(true).truncate(true).mode(0o660).open(&part)?;
    io::copy(&mut input, &mut output)?;
    keep_time(&output, &input)?;
    output.sync_all()?;
    if let Some(expected) = source.sha256
        && sha256_of(&part)? != expected
    {
        std::fs::remove_file(&part)?;
        return Ok(Moved::Changed);
    }
    failpoint::pass("move.after_copy")?;
    let target = beneath::open_root(folder)?;
    match rename(&target, &names::part(name), &target, name) {
        Ok(()) => finish_copy(source, parent, from, folder),
        Err(Errno::EXIST) => Ok(Moved::Taken),
        Err(error) => Err(error.into()),
    }
}

fn keep_time(output: &File, input: &File) -> io::Result<()> {
    let metadata = input.metadata()?;
    let time = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::futimens(output, &times)?)
}

fn finish_copy(source: &Source<'_>, parent: &OwnedFd, from: &OsStr, folder: &Path) -> io::Result<Moved> {
    sync_folder(folder)?;
    remove_in(parent, from, &source.stamp)
}

/// Removes the source whose bytes lie at their target already.
///
/// # Errors
/// I/O.
pub fn remove(source: &Source<'_>) -> io::Result<Moved> {
    let parent = match beneath::open_parent(source.root, source.path) {
        Ok(parent) => parent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Moved::Gone),
        Err(error) => return Err(error),
    };
    remove_in(&parent, file_name(source)?, &source.stamp)
}

fn remove_in(parent: &OwnedFd, name: &OsStr, stamp: &Stamp) -> io::Result<Moved> {
    match state_in(parent, name, stamp)? {
        Moved::Yes => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            rustix::fs::fsync(parent.as_fd())?;
            Ok(Moved::Yes)
        }
        other => Ok(other),
    }
}

/// Moves a file back to the inbox for a retry: the name that it got there.
///
/// # Errors
/// I/O.
pub fn bring_back(from: &Path, inbox: &Path, relative: &Path, mark: &str) -> io::Result<()> {
    let parent = relative.parent().unwrap_or(Path::new(""));
    make_folders(inbox, parent)?;
    let folder = inbox.join(parent);
    let name = relative.file_name().ok_or(Errno::INVAL)?;
    let (name, _) = choose(&folder, name, mark, |_| Ok(false))?;
    let root = beneath::open_root(from.parent().unwrap_or(Path::new("/")))?;
    let path = Path::new(from.file_name().ok_or(Errno::INVAL)?);
    let stamp = scan::stamp(&from.symlink_metadata()?);
    match relocate(&Source { root: &root, path, stamp, sha256: None }, &folder, &name)? {
        Moved::Yes => Ok(()),
        Moved::Gone => Err(Errno::NOENT.into()),
        Moved::Changed | Moved::Taken => Err(Errno::BUSY.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTS: Points = Points { write: "render.html_write", rename: "render.html_rename" };

    fn source<'a>(root: &'a OwnedFd, dir: &Path, path: &'a str) -> Source<'a> {
        let stamp = scan::stamp(&dir.join(path).symlink_metadata().unwrap());
        Source { root, path: Path::new(path), stamp, sha256: None }
    }

    #[test]
    fn moves_but_never_over_something() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in/case")).unwrap();
        std::fs::create_dir_all(dir.path().join("out")).unwrap();
        std::fs::write(dir.path().join("in/case/x"), b"1").unwrap();
        let root = beneath::open_root(&dir.path().join("in")).unwrap();
        let source = source(&root, &dir.path().join("in"), "case/x");
        std::fs::write(dir.path().join("out/x"), b"2").unwrap();
        let out = dir.path().join("out");
        assert_eq!(relocate(&source, &out, OsStr::new("x")).unwrap(), Moved::Taken);
        assert_eq!(relocate(&source, &out, OsStr::new("y")).unwrap(), Moved::Yes);
        assert_eq!(relocate(&source, &out, OsStr::new("z")).unwrap(), Moved::Gone);
        assert_eq!(std::fs::read(out.join("x")).unwrap(), b"2");
        assert_eq!(std::fs::read(out.join("y")).unwrap(), b"1");
    }

    #[test]
    fn a_changed_source_stays() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), b"1").unwrap();
        let root = beneath::open_root(dir.path()).unwrap();
        let source = source(&root, dir.path(), "x");
        std::fs::write(dir.path().join("x"), b"12").unwrap();
        assert_eq!(relocate(&source, dir.path(), OsStr::new("y")).unwrap(), Moved::Changed);
        assert_eq!(remove(&source).unwrap(), Moved::Changed);
        assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"12");
    }

    #[test]
    fn copies_across_file_systems_and_keeps_the_time() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        std::fs::write(dir.path().join("x"), b"1").unwrap();
        let root = beneath::open_root(dir.path()).unwrap();
        let mut source = source(&root, dir.path(), "x");
        source.sha256 = Some(sha256_of(&dir.path().join("x")).unwrap());
        let before = dir.path().join("x").metadata().unwrap().modified().unwrap();
        let parent = beneath::open_parent(&root, source.path).unwrap();
        let out = dir.path().join("out");
        assert_eq!(copy(&source, &parent, OsStr::new("x"), &out, OsStr::new("x")).unwrap(), Moved::Yes);
        assert!(!dir.path().join("x").exists());
        assert_eq!(out.join("x").metadata().unwrap().modified().unwrap(), before);
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
    }

    #[test]
    fn links_replace_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), b"1").unwrap();
        std::fs::write(dir.path().join("y"), b"2").unwrap();
        let root = beneath::open_root(dir.path()).unwrap();
        assert_eq!(reserve(&root, OsStr::new("x"), &root, OsStr::new("y")), Err(Errno::EXIST));
        assert_eq!(reserve(&root, OsStr::new("x"), &root, OsStr::new("z")), Ok(()));
        assert_eq!(std::fs::read(dir.path().join("z")).unwrap(), b"1");
    }

    #[test]
    fn names_give_way_to_other_bytes_only() {
        let dir = tempfile::tempdir().unwrap();
        let one = OsStr::new("x.png");
        let equal = |wanted: &'static [u8]| move |path: &Path| Ok(std::fs::read(path)? == wanted);
        assert_eq!(choose(dir.path(), one, "00112233", equal(b"1")).unwrap(), ("x.png".into(), false));
        std::fs::write(dir.path().join("x.png"), b"1").unwrap();
        assert_eq!(choose(dir.path(), one, "00112233", equal(b"1")).unwrap(), ("x.png".into(), true));
        assert_eq!(choose(dir.path(), one, "00112233", equal(b"2")).unwrap(), ("x~00112233.png".into(), false));
        std::fs::write(dir.path().join("x~00112233.png"), b"3").unwrap();
        assert_eq!(choose(dir.path(), one, "00112233", equal(b"2")).unwrap(), ("x~00112233-2.png".into(), false));
    }

    #[test]
    fn a_rendering_replaces_the_older_one() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), OsStr::new("r.html"), b"1", POINTS).unwrap();
        write(dir.path(), OsStr::new("r.html"), b"2", POINTS).unwrap();
        assert_eq!(std::fs::read(dir.path().join("r.html")).unwrap(), b"2");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
