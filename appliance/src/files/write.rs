//! Writing a file of ours: whole under a hidden name, synced, then renamed into place.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};

use rustix::fs::Mode;

use super::{Dir, names};
use crate::{failpoint, world};

/// The failpoints of one written file.
#[derive(Clone, Copy)]
pub struct Points {
    /// Before writing.
    pub write: &'static str,
    /// Before renaming.
    pub rename: &'static str,
}

/// Writes a file of ours under a hidden name, syncs it and renames it into place, replacing an older rendering. Whatever has the
/// hidden name already, a pipe or a link that somebody planted too, is removed and never opened.
///
/// # Errors
/// I/O; nothing half written is left under the final name.
pub fn write(folder: &Dir, name: &OsStr, bytes: &[u8], points: Points) -> io::Result<()> {
    write_with(folder, name, bytes, points, |_| Ok(()))
}

/// As [`write()`], for a file that every user of the machine may read.
///
/// # Errors
/// I/O.
pub fn write_for_all(folder: &Dir, name: &OsStr, bytes: &[u8], points: Points) -> io::Result<()> {
    let readable = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    write_with(folder, name, bytes, points, |file| Ok(rustix::fs::fchmod(file, readable)?))
}

fn write_with(
    folder: &Dir,
    name: &OsStr,
    bytes: &[u8],
    points: Points,
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let part = names::part(name);
    failpoint::pass(points.write)?;
    let mut file = folder.create_anew(&part)?;
    file.write_all(bytes)?;
    prepare(&file)?;
    file.sync_all()?;
    failpoint::pass(points.rename)?;
    folder.rename_over(&part, name)
}

/// Does two things that wait for the disk at the same time: the file system then makes both durable in one go.
///
/// # Errors
/// The first one's error, else the second one's.
pub fn both(first: impl FnOnce() -> io::Result<()>, second: impl Fn() -> io::Result<()> + Sync) -> io::Result<()> {
    if world::is_made_up() {
        // A world that is made up runs one thread at a time, and none that it does not know.
        let first = first();
        let second = second();
        return first.and(second);
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::fs::CWD;

    use super::*;

    const POINTS: Points = Points { write: "render.html_write", rename: "render.html_rename" };

    #[test]
    fn a_rendering_replaces_the_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Dir::open(dir.path()).unwrap();
        write(&folder, OsStr::new("r.html"), b"1", POINTS).unwrap();
        write(&folder, OsStr::new("r.html"), b"2", POINTS).unwrap();
        assert_eq!(std::fs::read(dir.path().join("r.html")).unwrap(), b"2");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_planted_under_the_hidden_name_is_neither_opened_nor_followed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Dir::open(dir.path()).unwrap();
        rustix::fs::mkfifoat(CWD, dir.path().join(".pipe.html.part"), Mode::RWXU).unwrap();
        std::fs::write(dir.path().join("victim"), b"ledger").unwrap();
        std::os::unix::fs::symlink("victim", dir.path().join(".link.html.part")).unwrap();
        std::os::unix::fs::symlink("victim", dir.path().join("link.html")).unwrap();
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let results = ["pipe.html", "link.html"].map(|name| write(&folder, OsStr::new(name), b"page", POINTS));
            sender.send(results).unwrap();
        });
        let results = done.recv_timeout(Duration::from_secs(10)).expect("no pipe may hold a writer");
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        for name in ["pipe.html", "link.html"] {
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"page");
            assert!(dir.path().join(name).symlink_metadata().unwrap().is_file());
        }
        assert_eq!(std::fs::read(dir.path().join("victim")).unwrap(), b"ledger");
    }
}
