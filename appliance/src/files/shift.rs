//! Moving files so that a crash or a neighbour never loses one: the bytes are synced first, nothing is replaced, then both folders are synced.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::{Dir, Stamp, both, names};
use crate::{failpoint, progress};

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

/// The names that `name` may get, the first that is free: its own, marked, marked and numbered.
pub fn candidates(name: &OsStr, mark: &str) -> impl Iterator<Item = OsString> {
    std::iter::once(names::target(name, mark)).chain(marks(mark).map(move |mark| names::marked(name, &mark)))
}

/// The mark, then numbered from 2.
pub fn marks(mark: &str) -> impl Iterator<Item = String> {
    (1u32..).map(move |number| if number == 1 { mark.to_owned() } else { format!("{mark}-{number}") })
}

/// The name for `name` in `folder`, and whether the same bytes lie there already. `same` says whether a name there, in this state, holds them.
///
/// # Errors
/// I/O.
pub fn choose(
    folder: &Dir,
    name: &OsStr,
    mark: &str,
    same: impl Fn(&OsStr, &rustix::fs::Stat) -> io::Result<bool>,
) -> io::Result<(OsString, bool)> {
    choose_among(folder, candidates(name, mark), same)?.ok_or(Errno::EXIST.into())
}

/// As [`choose`], of these names; none when all are taken by others.
///
/// # Errors
/// I/O.
pub fn choose_among(
    folder: &Dir,
    candidates: impl Iterator<Item = OsString>,
    same: impl Fn(&OsStr, &rustix::fs::Stat) -> io::Result<bool>,
) -> io::Result<Option<(OsString, bool)>> {
    for candidate in candidates {
        match folder.stat(&candidate)? {
            None => return Ok(Some((candidate, false))),
            Some(found) if is_regular(&found) && same(&candidate, &found)? => return Ok(Some((candidate, true))),
            Some(_) => {}
        }
    }
    Ok(None)
}

/// Whether it is a file with bytes: a folder, pipe, device or link is none.
pub fn is_regular(found: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
}

/// Where a file comes from: the open inbox, the path below it, and the state in which it was read.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The inbox, opened.
    pub root: &'a Dir,
    /// Path below it.
    pub path: &'a Path,
    /// The state in which it was read.
    pub stamp: Stamp,
    /// SHA-256 of its bytes if they were read; guards a copy between file systems.
    pub sha256: Option<[u8; 32]>,
}

impl Source<'_> {
    fn name(&self) -> io::Result<&OsStr> {
        self.path.file_name().ok_or(Errno::INVAL.into())
    }

    /// The folder that holds it; none when that folder is gone.
    fn folder(&self) -> io::Result<Option<Dir>> {
        match self.root.below(self.path.parent().unwrap_or(Path::new(""))) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether the source still lies there as it was read.
///
/// # Errors
/// I/O.
pub fn state(source: &Source<'_>) -> io::Result<Moved> {
    let Some(folder) = source.folder()? else { return Ok(Moved::Gone) };
    state_in(&folder, source.name()?, &source.stamp)
}

fn state_in(folder: &Dir, name: &OsStr, stamp: &Stamp) -> io::Result<Moved> {
    Ok(match folder.stat(name)? {
        None => Moved::Gone,
        Some(found) if Stamp::from(&found) == *stamp => Moved::Yes,
        Some(_) => Moved::Changed,
    })
}

/// Moves the source to `name` in `target`, never replacing anything. Its bytes are durable before it gets its name there, and both
/// folders before this returns.
///
/// # Errors
/// I/O; the file then still lies at its source, or, after a failed sync, perhaps at its target: [`choose`] finds it there.
pub fn relocate(source: &Source<'_>, target: &Dir, name: &OsStr) -> io::Result<Moved> {
    let Some(folder) = source.folder()? else { return Ok(Moved::Gone) };
    let from = source.name()?;
    failpoint::pass("move.before")?;
    match state_in(&folder, from, &source.stamp)? {
        Moved::Yes => {}
        other => return Ok(other),
    }
    if folder.stat(from)?.is_some_and(|found| is_regular(&found)) {
        folder.sync_file(from)?;
    }
    failpoint::pass("move.rename")?;
    match rename(&folder, from, target, name) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(Moved::Taken),
        Err(Errno::NOENT) => return Ok(Moved::Gone),
        Err(Errno::XDEV) => return copy(source, &folder, from, target, name),
        Err(error) => return Err(error.into()),
    }
    // Somebody may have written to it, or put another in its place, between the look and the move.
    if let Some(found) = target.stat(name)?
        && (Stamp { dev: source.stamp.dev, ..Stamp::from(&found) }) != source.stamp
    {
        rename(target, name, &folder, from)?;
        return Ok(Moved::Changed);
    }
    failpoint::pass("move.after_rename")?;
    both(|| target.sync(), || folder.sync())?;
    Ok(Moved::Yes)
}

/// `RENAME_NOREPLACE`; file systems without it get a hard link and an unlink, which replace nothing either.
fn rename(from_dir: &Dir, from: &OsStr, to_dir: &Dir, to: &OsStr) -> Result<(), Errno> {
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
fn reserve(from_dir: &Dir, from: &OsStr, to_dir: &Dir, to: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(to_dir, to, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::renameat(from_dir, from, to_dir, to)
}

/// Across file systems: copy under a hidden name, sync, hash again, rename without replacing, sync, then unlink the source.
fn copy(source: &Source<'_>, folder: &Dir, from: &OsStr, target: &Dir, name: &OsStr) -> io::Result<Moved> {
    let Some(found) = folder.stat(from)? else { return Ok(Moved::Gone) };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(folder, from, Vec::new())?;
            rustix::fs::symlinkat(link, target, name)?;
            return finish_copy(source, folder, from, target, name);
        }
        // Neither holds bytes: another of its kind is as good. A device stays, and is told again and again: only its maker may move it.
        kind @ (FileType::Fifo | FileType::Socket) => {
            rustix::fs::mknodat(target, name, kind, Mode::from_raw_mode(found.st_mode), 0)?;
            return finish_copy(source, folder, from, target, name);
        }
        _ => return Err(Errno::XDEV.into()),
    }
    let part = names::part(name);
    failpoint::pass("move.copy")?;
    let mut input = folder.open_file(Path::new(from))?;
    let mut output = target.create_anew(&part)?;
    copy_bytes(&mut input, &mut output)?;
    keep_time(&output, &input)?;
    output.sync_all()?;
    if let Some(expected) = source.sha256
        && target.sha256_of(&part)? != expected
    {
        target.remove(&part)?;
        return Ok(Moved::Changed);
    }
    failpoint::pass("move.after_copy")?;
    match rename(target, &part, target, name) {
        Ok(()) => finish_copy(source, folder, from, target, name),
        Err(Errno::EXIST) => Ok(Moved::Taken),
        Err(error) => Err(error.into()),
    }
}

fn copy_bytes(input: &mut File, output: &mut File) -> io::Result<()> {
    const PIECE: u64 = 16 << 20;
    // Piece by piece: one sync of all of a large file shows no life for as long as the disk takes. The last one is the caller's to sync.
    while io::copy(&mut io::Read::take(&mut *input, PIECE), output)? == PIECE {
        output.sync_data()?;
        progress::beat();
    }
    Ok(())
}

fn keep_time(output: &File, input: &File) -> io::Result<()> {
    let metadata = input.metadata()?;
    let time = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::futimens(output, &times)?)
}

/// A copy whose source stays is taken away again where no hash would tell the next try that it lies there.
fn finish_copy(source: &Source<'_>, folder: &Dir, from: &OsStr, target: &Dir, name: &OsStr) -> io::Result<Moved> {
    target.sync()?;
    let moved = remove_in(folder, from, &source.stamp);
    if source.sha256.is_none() && !matches!(moved, Ok(Moved::Yes)) {
        target.remove(name)?;
    }
    moved
}

/// Removes the source whose bytes lie in `target` already, as `name`: they are made durable there first.
///
/// # Errors
/// I/O.
pub fn remove(source: &Source<'_>, target: &Dir, name: &OsStr) -> io::Result<Moved> {
    target.sync_file(name)?;
    target.sync()?;
    let Some(folder) = source.folder()? else { return Ok(Moved::Gone) };
    remove_in(&folder, source.name()?, &source.stamp)
}

fn remove_in(folder: &Dir, name: &OsStr, stamp: &Stamp) -> io::Result<Moved> {
    match state_in(folder, name, stamp)? {
        Moved::Yes => {
            folder.remove(name)?;
            folder.sync()?;
            Ok(Moved::Yes)
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source<'a>(root: &'a Dir, path: &'a str) -> Source<'a> {
        let stamp = Stamp::from(&root.path().join(path).symlink_metadata().unwrap());
        Source { root, path: Path::new(path), stamp, sha256: None }
    }

    #[test]
    fn moves_but_never_over_something() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in/case")).unwrap();
        std::fs::create_dir_all(dir.path().join("out")).unwrap();
        std::fs::write(dir.path().join("in/case/x"), b"1").unwrap();
        let (root, out) = (Dir::open(&dir.path().join("in")).unwrap(), Dir::open(&dir.path().join("out")).unwrap());
        let source = source(&root, "case/x");
        std::fs::write(dir.path().join("out/x"), b"2").unwrap();
        assert_eq!(relocate(&source, &out, OsStr::new("x")).unwrap(), Moved::Taken);
        assert_eq!(relocate(&source, &out, OsStr::new("y")).unwrap(), Moved::Yes);
        assert_eq!(relocate(&source, &out, OsStr::new("z")).unwrap(), Moved::Gone);
        assert_eq!(std::fs::read(dir.path().join("out/x")).unwrap(), b"2");
        assert_eq!(std::fs::read(dir.path().join("out/y")).unwrap(), b"1");
    }

    #[test]
    fn a_changed_source_stays() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), b"1").unwrap();
        std::fs::write(dir.path().join("there"), b"1").unwrap();
        let root = Dir::open(dir.path()).unwrap();
        let source = source(&root, "x");
        std::fs::write(dir.path().join("x"), b"12").unwrap();
        assert_eq!(relocate(&source, &root, OsStr::new("y")).unwrap(), Moved::Changed);
        assert_eq!(remove(&source, &root, OsStr::new("there")).unwrap(), Moved::Changed);
        assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"12");
    }

    #[test]
    fn copies_across_file_systems_and_keeps_the_time() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        std::fs::write(dir.path().join("x"), b"1").unwrap();
        let (root, out) = (Dir::open(dir.path()).unwrap(), Dir::open(&dir.path().join("out")).unwrap());
        let mut source = source(&root, "x");
        source.sha256 = Some(root.sha256_of(OsStr::new("x")).unwrap());
        let before = dir.path().join("x").metadata().unwrap().modified().unwrap();
        assert_eq!(copy(&source, &root, OsStr::new("x"), &out, OsStr::new("x")).unwrap(), Moved::Yes);
        assert!(!dir.path().join("x").exists());
        assert_eq!(dir.path().join("out/x").metadata().unwrap().modified().unwrap(), before);
        assert_eq!(std::fs::read_dir(dir.path().join("out")).unwrap().count(), 1);
    }

    #[test]
    fn pipes_and_sockets_get_another_of_their_kind_on_another_file_system() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        let (root, out) = (Dir::open(dir.path()).unwrap(), Dir::open(&dir.path().join("out")).unwrap());
        rustix::fs::mknodat(&root, "pipe", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        for (name, kind) in [("pipe", FileType::Fifo), ("socket", FileType::Socket)] {
            let source = source(&root, name);
            assert_eq!(copy(&source, &root, OsStr::new(name), &out, OsStr::new(name)).unwrap(), Moved::Yes);
            assert!(root.stat(OsStr::new(name)).unwrap().is_none());
            let moved = out.stat(OsStr::new(name)).unwrap().unwrap();
            assert_eq!(FileType::from_raw_mode(moved.st_mode), kind);
        }
    }

    #[test]
    fn links_replace_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), b"1").unwrap();
        std::fs::write(dir.path().join("y"), b"2").unwrap();
        let root = Dir::open(dir.path()).unwrap();
        assert_eq!(reserve(&root, OsStr::new("x"), &root, OsStr::new("y")), Err(Errno::EXIST));
        assert_eq!(reserve(&root, OsStr::new("x"), &root, OsStr::new("z")), Ok(()));
        assert_eq!(std::fs::read(dir.path().join("z")).unwrap(), b"1");
    }

    #[test]
    fn names_give_way_to_other_bytes_only() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Dir::open(dir.path()).unwrap();
        let one = OsStr::new("x.png");
        let equal = |wanted: &'static [u8]| {
            let root = dir.path().to_owned();
            move |name: &OsStr, _: &rustix::fs::Stat| Ok(std::fs::read(root.join(name))? == wanted)
        };
        assert_eq!(choose(&folder, one, "00112233", equal(b"1")).unwrap(), ("x.png".into(), false));
        std::fs::write(dir.path().join("x.png"), b"1").unwrap();
        assert_eq!(choose(&folder, one, "00112233", equal(b"1")).unwrap(), ("x.png".into(), true));
        assert_eq!(choose(&folder, one, "00112233", equal(b"2")).unwrap(), ("x~00112233.png".into(), false));
        std::fs::write(dir.path().join("x~00112233.png"), b"3").unwrap();
        assert_eq!(choose(&folder, one, "00112233", equal(b"2")).unwrap(), ("x~00112233-2.png".into(), false));
    }
}
