//! What lies in the inbox now: the truth that events only hint at. Reads names and states, opens no file.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
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

/// What a look found.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Everything that is to be judged, by path.
    pub files: Vec<Found>,
    /// The folders below the inbox that were read, for the watcher.
    pub read: Vec<PathBuf>,
    /// Folders that lay there before.
    pub gone: Vec<PathBuf>,
    /// Folders that could not be read, with the reason.
    pub problems: Vec<String>,
    /// The share of these files that lie in folders which the next look reads too, whatever happens.
    pub again: f64,
}

/// What is known of the inbox's folders, so that a look need not read those in which nothing lay, or only files that rest, and nothing happened since. Cases stay
/// behind when their files are filed, and slides rest where they are; without this every look would read all that there ever were.
#[derive(Debug, Default)]
pub struct Folders {
    /// The folders in each, in order.
    below: HashMap<PathBuf, Vec<PathBuf>>,
    /// Those that the next look reads whatever happens: they hold files that do not rest, could not be read, or were not watched when they
    /// were read.
    due: BTreeSet<PathBuf>,
}

impl Folders {
    /// The next look reads every folder.
    pub fn doubt_all(&mut self) {
        self.due.extend(self.below.keys().cloned());
    }

    /// The next look reads the folder in which this path lies. If it is that of a known folder, that may be another one now: what is known
    /// of it is forgotten.
    fn touch(&mut self, path: &Path, gone: &mut Vec<PathBuf>) {
        let Some(parent) = path.parent() else {
            self.due.insert(PathBuf::new());
            return;
        };
        if self.below.contains_key(path) {
            self.forget(path, gone);
            if let Some(siblings) = self.below.get_mut(parent) {
                siblings.retain(|sibling| sibling != path);
            }
        }
        if self.below.contains_key(parent) {
            self.due.insert(parent.to_owned());
        }
    }

    fn forget(&mut self, folder: &Path, gone: &mut Vec<PathBuf>) {
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            self.due.remove(&folder);
            if let Some(below) = self.below.remove(&folder) {
                open.extend(below);
                gone.push(folder);
            }
        }
    }

    /// Looks at every folder that is due, that holds a `touched` path, or that is new; `rests` says which files nobody waits for. `cover` is
    /// asked before a folder is read, so that nothing happens between the two unseen: whether a change in it will be told from now on. It
    /// gets the folders that are gone since it was asked last, and at the end without a folder the last of them. Names that fit a pattern of `left_alone` are no files.
    ///
    /// # Errors
    /// The inbox itself cannot be read; a folder below it that cannot be read is a problem of the scan instead.
    pub fn look(
        &mut self,
        root: &Dir,
        left_alone: &[&[Pattern]],
        touched: &BTreeSet<PathBuf>,
        mut cover: impl FnMut(Option<&Path>, &[PathBuf]) -> bool,
        rests: impl Fn(&NewFile) -> bool,
    ) -> io::Result<Scan> {
        failpoint::pass("scan.read_dir")?;
        let mut scan = Scan::default();
        touched.iter().for_each(|path| self.touch(path, &mut scan.gone));
        if self.below.is_empty() {
            self.due.insert(PathBuf::new());
        }
        let mut open: Vec<PathBuf> = std::mem::take(&mut self.due).into_iter().collect();
        let (mut read, mut let_go, mut again) = (HashSet::new(), 0, 0);
        while let Some(folder) = open.pop() {
            if !read.insert(folder.clone()) {
                continue;
            }
            let files = scan.files.len();
            let told = cover(Some(&folder), &scan.gone[let_go..]);
            let_go = scan.gone.len();
            match read_folder(root, &folder, left_alone, &mut scan.files) {
                Ok(below) => {
                    open.extend(self.replace(&folder, below, &mut scan.gone));
                    if !told || scan.files[files..].iter().any(|found| !rests(&found.file)) {
                        self.due.insert(folder.clone());
                        again += scan.files.len() - files;
                    }
                }
                Err(error) if folder.as_os_str().is_empty() => {
                    self.due.extend(open);
                    self.due.insert(folder);
                    return Err(error);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.forget(&folder, &mut scan.gone);
                    continue;
                }
                Err(error) => {
                    self.due.insert(folder.clone());
                    scan.problems.push(format!("folder {} cannot be read: {error}", names::shown(&folder)));
                }
            }
            scan.read.push(folder);
        }
        cover(None, &scan.gone[let_go..]);
        scan.again = again as f64 / scan.files.len().max(1) as f64;
        scan.files.sort_by(|a, b| a.file.path.as_os_str().cmp(b.file.path.as_os_str()));
        Ok(scan)
    }

    /// Notes the folders in a folder; those that are new.
    fn replace(&mut self, folder: &Path, below: Vec<PathBuf>, gone: &mut Vec<PathBuf>) -> Vec<PathBuf> {
        let new = below.iter().filter(|path| !self.below.contains_key(*path)).cloned().collect();
        let before = self.below.insert(folder.to_owned(), below).unwrap_or_default();
        let left = before.into_iter().filter(|path| self.below[folder].binary_search(path).is_err());
        left.collect::<Vec<_>>().iter().for_each(|path| self.forget(path, gone));
        new
    }
}

/// The folders in a folder that are descended, in order.
fn read_folder(root: &Dir, folder: &Path, left_alone: &[&[Pattern]], files: &mut Vec<Found>) -> io::Result<Vec<PathBuf>> {
    let (folders, others) = root.below(folder)?.folders_and_files(|name| !names::left_alone(name, left_alone))?;
    let mut companions = HashSet::new();
    for (name, state) in others {
        companions.extend(names::companion_of(&name));
        files.push(found(folder.join(name), &state));
    }
    let descended = |name: &OsString| {
        !names::ignored_folder(name) && (companions.is_empty() || !companions.contains(&name.as_bytes().to_ascii_lowercase()))
    };
    let mut below: Vec<PathBuf> = folders.into_iter().filter(descended).map(|name| folder.join(name)).collect();
    below.sort();
    Ok(below)
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

    fn paths(scan: &Scan) -> Vec<&str> {
        scan.files.iter().map(|found| found.file.path.to_str().unwrap()).collect()
    }

    /// A look after events about these paths, all folders being watched.
    fn look(folders: &mut Folders, root: &Path, touched: &[&str]) -> Scan {
        let touched = touched.iter().map(PathBuf::from).collect();
        folders.look(&Dir::open(root).unwrap(), &[], &touched, |_, _| true, |_| false).unwrap()
    }

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
        let scan = look(&mut Folders::default(), root, &[]);
        assert_eq!(paths(&scan), ["a.png", "case/left/b.png", "link.png", "loop", "slide.mrxs"]);
        assert_eq!(scan.files[2].kind, Kind::Special("a symbolic link"));
        assert_eq!(scan.read.len(), 4);
        assert!(scan.problems.is_empty());
    }

    #[test]
    fn an_inbox_that_cannot_be_listed_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = Dir::open(dir.path()).unwrap();
        drop(dir);
        let scan = Folders::default().look(&root, &[], &BTreeSet::new(), |_, _| true, |_| false);
        assert!(scan.is_ok_and(|scan| scan.files.is_empty()), "a removed folder is empty; its marker tells");
    }

    #[test]
    fn an_emptied_case_is_read_again_when_something_happened_in_it_or_all_is_in_doubt() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for case in ["a", "b"] {
            std::fs::create_dir(root.join(case)).unwrap();
        }
        std::fs::write(root.join("a/x.png"), b"x").unwrap();
        let mut folders = Folders::default();
        assert_eq!(look(&mut folders, root, &[]).read.len(), 3);
        let second = look(&mut folders, root, &[]);
        assert_eq!(paths(&second), ["a/x.png"], "a file may change without an event");
        assert_eq!(second.read, [PathBuf::from("a")]);
        std::fs::write(root.join("b/y.png"), b"x").unwrap();
        std::fs::remove_file(root.join("a/x.png")).unwrap();
        assert_eq!(paths(&look(&mut folders, root, &["b/y.png"])), ["b/y.png"]);
        std::fs::remove_file(root.join("b/y.png")).unwrap();
        assert_eq!(look(&mut folders, root, &[]).read, [PathBuf::from("b")]);
        assert!(look(&mut folders, root, &[]).read.is_empty());
        std::fs::write(root.join("a/z.png"), b"x").unwrap();
        folders.doubt_all();
        let whole = look(&mut folders, root, &[]);
        assert_eq!((paths(&whole), whole.read.len()), (vec!["a/z.png"], 3));
    }

    #[test]
    fn a_folder_in_which_all_rests_is_read_when_something_happens_in_it_or_all_is_in_doubt() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("slides")).unwrap();
        std::fs::write(dir.path().join("slides/a.mrxs"), b"x").unwrap();
        let root = Dir::open(dir.path()).unwrap();
        let mut folders = Folders::default();
        let mut look = |touched: &[&str], doubt: bool| {
            if doubt {
                folders.doubt_all();
            }
            let touched = touched.iter().map(PathBuf::from).collect();
            let rests = |file: &NewFile| file.path.extension().is_some_and(|ending| ending == "mrxs");
            let scan = folders.look(&root, &[], &touched, |_, _| true, rests).unwrap();
            paths(&scan).iter().map(|path| path.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(look(&[], false), ["slides/a.mrxs"]);
        assert!(look(&[], false).is_empty());
        std::fs::write(dir.path().join("slides/b.png"), b"x").unwrap();
        assert_eq!(look(&["slides/b.png"], false), ["slides/a.mrxs", "slides/b.png"]);
        assert_eq!(look(&[], false).len(), 2, "one of them does not rest");
        std::fs::remove_file(dir.path().join("slides/b.png")).unwrap();
        assert_eq!(look(&[], false), ["slides/a.mrxs"]);
        assert!(look(&[], false).is_empty());
        assert_eq!(look(&[], true), ["slides/a.mrxs"]);
    }

    #[test]
    fn a_folder_that_is_not_watched_is_read_at_every_look() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("case")).unwrap();
        let mut folders = Folders::default();
        for _ in 0..3 {
            let root = Dir::open(dir.path()).unwrap();
            let scan = folders
                .look(&root, &[], &BTreeSet::new(), |path, _| path.is_some_and(|path| path.as_os_str().is_empty()), |_| false)
                .unwrap();
            assert!(scan.read.contains(&PathBuf::from("case")));
        }
    }

    #[test]
    fn folders_that_left_and_folders_that_were_exchanged_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        let mut folders = Folders::default();
        look(&mut folders, root, &[]);
        std::fs::rename(root.join("a"), root.join("c")).unwrap();
        let moved = look(&mut folders, root, &["a", "c"]);
        assert_eq!(moved.gone, ["a", "a/b"].map(PathBuf::from));
        assert!(moved.read.contains(&PathBuf::from("c/b")));
        std::fs::remove_dir_all(root.join("c")).unwrap();
        std::fs::create_dir(root.join("c")).unwrap();
        std::fs::write(root.join("c/x.png"), b"x").unwrap();
        let anew = look(&mut folders, root, &["c"]);
        assert!(anew.gone.contains(&PathBuf::from("c")), "its watch is void");
        assert_eq!(paths(&anew), ["c/x.png"]);
        std::fs::remove_dir_all(root.join("c")).unwrap();
        let left = look(&mut folders, root, &["c"]);
        assert_eq!((left.gone, left.files.len()), (vec![PathBuf::from("c")], 0));
    }
}
