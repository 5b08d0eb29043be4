//! What lies in the inbox now: the truth that events only hint at. Reads names and states, opens no file.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::names;
use super::settle::Stamp;
use crate::failpoint;
use crate::ledger::{INBOX, NewFile};

/// What kind of thing has a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A file with bytes.
    Regular,
    /// Anything else that is no folder, in words.
    Special(&'static str),
}

/// One name in the inbox.
#[derive(Clone, Debug)]
pub struct Found {
    /// Path, state and owner.
    pub file: NewFile,
    /// What it is.
    pub kind: Kind,
}

/// The inbox at one moment.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Everything that is to be judged, by path.
    pub files: Vec<Found>,
    /// Every folder below the inbox that is descended, for the watcher.
    pub folders: Vec<PathBuf>,
    /// Folders that could not be read, with the reason.
    pub problems: Vec<String>,
}

/// Looks at the whole inbox.
///
/// # Errors
/// The inbox itself cannot be read; a folder below it that cannot be read is a problem of the scan instead.
pub fn scan(root: &Path) -> io::Result<Scan> {
    failpoint::pass("scan.read_dir")?;
    let mut scan = Scan::default();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        match read_folder(root, &folder, &mut scan.files) {
            Ok(folders) => open.extend(folders),
            Err(error) if folder.as_os_str().is_empty() => return Err(error),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => scan.problems.push(format!("folder {} cannot be read: {error}", folder.display())),
        }
        scan.folders.push(folder);
    }
    scan.files.sort_by(|a, b| a.file.path.cmp(&b.file.path));
    Ok(scan)
}

fn read_folder(root: &Path, folder: &Path, files: &mut Vec<Found>) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    let first = files.len();
    for entry in std::fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let name = entry.file_name();
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            if !names::ignored_folder(&name) {
                folders.push(folder.join(name));
            }
        } else if !names::ignored_file(&name) {
            files.push(found(folder.join(name), &metadata));
        }
    }
    let siblings = &files[first..];
    folders.retain(|path| {
        let names = siblings.iter().filter_map(|found| found.file.path.file_name());
        path.file_name().is_some_and(|name| !names::companion_folder(name, names))
    });
    Ok(folders)
}

fn found(path: PathBuf, metadata: &Metadata) -> Found {
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_file() => Kind::Regular,
        () if kind.is_symlink() => Kind::Special("a symbolic link"),
        () if kind.is_fifo() => Kind::Special("a named pipe"),
        () if kind.is_socket() => Kind::Special("a socket"),
        () => Kind::Special("a device"),
    };
    Found { file: NewFile { folder: INBOX.into(), path, stamp: stamp(metadata), owner: metadata.uid() }, kind }
}

/// The state of a file from its metadata.
pub fn stamp(metadata: &Metadata) -> Stamp {
    Stamp {
        dev: metadata.dev(),
        ino: metadata.ino(),
        size: metadata.size(),
        mtime_ns: metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_files_in_subfolders_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["case/left", "@eaDir", "slide", "x.png"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["a.png", "case/left/b.png", "@eaDir/c.png", "slide/d.dat", "slide.mrxs", ".hidden.png", "a.png.part"] {
            std::fs::write(root.join(file), b"x").unwrap();
        }
        std::os::unix::fs::symlink("a.png", root.join("link.png")).unwrap();
        std::os::unix::fs::symlink("case", root.join("loop")).unwrap();
        let scan = scan(root).unwrap();
        let paths: Vec<_> = scan.files.iter().map(|found| found.file.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["a.png", "case/left/b.png", "link.png", "loop", "slide.mrxs"]);
        assert_eq!(scan.files[2].kind, Kind::Special("a symbolic link"));
        assert_eq!(scan.folders.len(), 4);
        assert!(scan.problems.is_empty());
    }

    #[test]
    fn a_missing_inbox_is_an_error() {
        assert!(scan(Path::new("/nonexistent/inbox")).is_err());
    }
}
