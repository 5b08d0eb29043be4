//! What lies in the inbox now: the truth that events only hint at. Reads names and states, opens no file.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use crate::failpoint;
use crate::files::names::Pattern;
use crate::files::{Dir, Stamp, names};
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

/// Looks at the whole inbox but for names that fit a pattern of `left_alone`.
///
/// # Errors
/// The inbox itself cannot be read; a folder below it that cannot be read is a problem of the scan instead.
pub fn scan(root: &Dir, left_alone: &[&[Pattern]]) -> io::Result<Scan> {
    failpoint::pass("scan.read_dir")?;
    let mut scan = Scan::default();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        match read_folder(root, &folder, left_alone, &mut scan.files) {
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

fn read_folder(root: &Dir, folder: &Path, left_alone: &[&[Pattern]], files: &mut Vec<Found>) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    let first = files.len();
    for (name, state) in root.below(folder)?.entries()? {
        crate::progress::beat();
        if FileType::from_raw_mode(state.st_mode) == FileType::Directory {
            if !names::ignored_folder(&name) {
                folders.push(folder.join(name));
            }
        } else if !names::ignored_file(&name) && !left_alone.iter().any(|list| list.iter().any(|pattern| pattern.fits(&name))) {
            files.push(found(folder.join(name), &state));
        }
    }
    let siblings = &files[first..];
    folders.retain(|path| {
        let names = siblings.iter().filter_map(|found| found.file.path.file_name());
        path.file_name().is_some_and(|name| !names::companion_folder(name, names))
    });
    Ok(folders)
}

fn found(path: PathBuf, state: &Stat) -> Found {
    let kind = match FileType::from_raw_mode(state.st_mode) {
        FileType::RegularFile => Kind::Regular,
        FileType::Symlink => Kind::Special("a symbolic link"),
        FileType::Fifo => Kind::Special("a named pipe"),
        FileType::Socket => Kind::Special("a socket"),
        _ => Kind::Special("a device"),
    };
    Found { file: NewFile { folder: INBOX.into(), path, stamp: Stamp::from(state), owner: state.st_uid }, kind }
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
        let scan = scan(&Dir::open(root).unwrap(), &[]).unwrap();
        let paths: Vec<_> = scan.files.iter().map(|found| found.file.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["a.png", "case/left/b.png", "link.png", "loop", "slide.mrxs"]);
        assert_eq!(scan.files[2].kind, Kind::Special("a symbolic link"));
        assert_eq!(scan.folders.len(), 4);
        assert!(scan.problems.is_empty());
    }

    #[test]
    fn an_inbox_that_cannot_be_listed_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = Dir::open(dir.path()).unwrap();
        drop(dir);
        assert!(scan(&root, &[]).is_ok_and(|scan| scan.files.is_empty()), "a removed folder is empty; its marker tells");
    }
}
