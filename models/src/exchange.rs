//! One folder in the place of another, so that at every moment the old or the new one lies there, whole; where the file system cannot exchange
//! two names, all but a moment.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// Puts the folder `new` in the place of `target` and brings both names to the disk. What lay there lies in the place of `new` afterwards.
///
/// File systems that cannot exchange two names see the old folder renamed to `.NAME.old` first; if the process is killed before the next
/// step, it waits there, and the next call takes it away.
///
/// # Errors
/// I/O; the old folder is then still in its place, or, where names cannot be exchanged, in `.NAME.old`.
pub fn put_in_place(new: &Path, target: &Path) -> io::Result<()> {
    let old = beside(target, "old")?;
    if !target.exists() {
        fs::rename(new, target)?;
        remove(&old)?;
    } else if !at_once(new, target)? {
        step_aside(new, target, &old)?;
    }
    match std::path::absolute(target)?.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn step_aside(new: &Path, target: &Path, old: &Path) -> io::Result<()> {
    remove(old)?;
    fs::rename(target, old)?;
    fs::rename(new, target)?;
    fs::rename(old, new)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Exchanges two names by one call of the kernel; false where the file system has none.
///
/// # Errors
/// I/O; nothing has changed then.
pub fn at_once(one: &Path, other: &Path) -> io::Result<bool> {
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `.NAME.SUFFIX` in the folder that holds `path`.
///
/// # Errors
/// The path has no name, or the working folder is gone.
pub fn beside(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let full = std::path::absolute(path)?;
    let name = full.file_name().ok_or_else(|| io::Error::other(format!("{} has no name", path.display())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(suffix);
    Ok(full.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lay_there_lies_where_the_new_one_was() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let content = |name: &str| fs::read_to_string(at(name).join("x")).unwrap();
        for text in ["old", "new"] {
            fs::create_dir(at(text)).unwrap();
            fs::write(at(text).join("x"), text).unwrap();
        }
        put_in_place(&at("old"), &at("bundle")).unwrap();
        assert!(!at("old").exists());
        put_in_place(&at("new"), &at("bundle")).unwrap();
        assert_eq!((content("bundle"), content("new")), ("new".to_owned(), "old".to_owned()));
        assert!(put_in_place(&at("absent"), &at("bundle")).is_err());
        assert_eq!(content("bundle"), "new");
        assert_eq!(beside(&at("bundle"), "part").unwrap(), at(".bundle.part"));
    }

    #[test]
    fn what_a_kill_left_aside_hinders_nobody() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let fill = |name: &str, text: &str| {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("x"), text).unwrap();
        };
        let content = |name: &str| fs::read_to_string(at(name).join("x")).unwrap();
        // Killed after the first rename: nothing lies in the place.
        fill(".bundle.old", "first");
        fill("new", "second");
        put_in_place(&at("new"), &at("bundle")).unwrap();
        assert_eq!(content("bundle"), "second");
        assert!(!at(".bundle.old").exists());
        // Killed after the second one.
        fill(".bundle.old", "first");
        fill("new", "third");
        step_aside(&at("new"), &at("bundle"), &at(".bundle.old")).unwrap();
        assert_eq!((content("bundle"), content("new")), ("third".to_owned(), "second".to_owned()));
        assert!(!at(".bundle.old").exists());
    }
}
