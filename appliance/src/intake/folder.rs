//! What is watched: an inbox with its done and failed. Is it mounted, is it ours, does nobody else read it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::config::Config;
use crate::error::{Exit, Failure};
use crate::files::names::{self, END_MARKER, MARKER, Pattern};
use crate::files::{Dir, Stamp};
use crate::ledger::{INBOX, Ledger, read, record};
use crate::world;

/// A daemon that was killed while it started a decoder holds its locks until that child has become the decoder.
const RELEASE: Duration = Duration::from_millis(700);
/// A marker is one line with an identifier.
const LONGEST_MARKER: u64 = 4096;

/// A watched folder with the places where its files end.
#[derive(Debug)]
pub struct Folder {
    inbox: PathBuf,
    done: PathBuf,
    failed: PathBuf,
    sidecars: Vec<Pattern>,
    held: Mutex<Option<Held>>,
    /// `done` and `failed`.
    ends: Mutex<[End; 2]>,
}

/// What is known of a place where files end.
#[derive(Clone, Default, Debug)]
struct End {
    /// Its marker, once it is adopted.
    marker: Option<String>,
    /// Why it was not.
    trouble: Option<String>,
}

/// What became of an attempt to adopt a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Adoption {
    /// It is ours and locked.
    Held,
    /// It is absent, not mounted or another one; it may come.
    Absent(String),
}

/// The marker that the ledger knows, and the lock on its file.
#[derive(Debug)]
struct Held {
    marker: String,
    lock: File,
}

/// Writes a new marker into an inbox that has none; its identifier.
///
/// # Errors
/// I/O, or something else than a file has its name.
pub fn write_marker(inbox: &Dir) -> io::Result<String> {
    write_as(inbox, OsStr::new(MARKER))
}

fn write_as(folder: &Dir, name: &OsStr) -> io::Result<String> {
    if let Some(marker) = marker_of(folder, name)?.filter(|marker| !marker.is_empty()) {
        return Ok(marker);
    }
    let marker = new_identifier()?;
    let mut file = folder.create_anew(name)?;
    writeln!(file, "{marker}")?;
    file.sync_all()?;
    folder.sync()?;
    Ok(marker)
}

#[expect(clippy::disallowed_methods, reason = "the kernel's file")]
fn new_identifier() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

impl Folder {
    /// The folder of the configuration, neither looked at nor locked yet.
    pub fn new(config: &Config) -> Folder {
        Folder {
            inbox: config.inbox.clone(),
            done: config.done.clone(),
            failed: config.failed.clone(),
            sidecars: config.sidecars.clone(),
            held: Mutex::default(),
            ends: Mutex::default(),
        }
    }

    /// Which names lie beside images and move with them.
    pub fn sidecars(&self) -> &[Pattern] {
        &self.sidecars
    }

    /// Recognises the inbox by its marker, or adopts one that the ledger has never seen, and locks it; `done` and `failed` likewise, as far as
    /// they are there. Once all have succeeded it does nothing more.
    ///
    /// # Errors
    /// [`Exit::Locked`] when another daemon reads it, [`Exit::Permission`], or the ledger.
    pub fn adopt(&self, ledger: &Ledger) -> Result<Adoption, Failure> {
        let adoption = self.adopt_inbox(ledger)?;
        if adoption == Adoption::Held {
            self.adopt_ends(ledger)?;
        }
        Ok(adoption)
    }

    /// One that is absent or cannot be used is told by [`Folder::end`].
    fn adopt_ends(&self, ledger: &Ledger) -> Result<(), Failure> {
        let mut ends = world::lock(&self.ends);
        for (end, (root, name)) in ends.iter_mut().zip([(&self.done, DONE), (&self.failed, FAILED)]) {
            if end.marker.is_some() {
                continue;
            }
            let found = Dir::open(root).and_then(|folder| Ok((folder, real_path(root)?)));
            let adopted = match found {
                Ok((folder, key)) => recognise(ledger, (name, root, &key), &folder, END_MARKER)?,
                Err(error) => Err(error),
            };
            *end = match adopted {
                Ok((marker, _)) => End { marker: Some(marker), trouble: None },
                Err(error) => End { marker: None, trouble: Some(error.to_string()) },
            };
        }
        Ok(())
    }

    fn adopt_inbox(&self, ledger: &Ledger) -> Result<Adoption, Failure> {
        let mut held = world::lock(&self.held);
        if held.is_some() {
            return Ok(Adoption::Held);
        }
        let (inbox, key) = match Dir::open(&self.inbox).and_then(|inbox| Ok((inbox, real_path(&self.inbox)?))) {
            Ok(found) => found,
            Err(error) => return self.unusable(&error),
        };
        let marker = match recognise(ledger, (INBOX, &self.inbox, &key), &inbox, MARKER)? {
            Ok((marker, true)) => marker,
            Ok((_, false)) => return Ok(Adoption::Absent(NOT_MOUNTED.to_owned())),
            Err(error) => return self.unusable(&error),
        };
        let file = match inbox.open_or_create(OsStr::new(MARKER)) {
            Ok(file) => file,
            Err(error) => return self.unusable(&error),
        };
        hold(&file, &self.inbox.join(MARKER), "another appliance reads this inbox")?;
        *held = Some(Held { marker, lock: file });
        Ok(Adoption::Held)
    }

    /// Without permission a person has to help; any other error may pass while the appliance waits.
    fn unusable(&self, error: &io::Error) -> Result<Adoption, Failure> {
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Err(Failure::io("the inbox's marker cannot be used", &self.inbox.join(MARKER), error))
            }
            _ => Ok(Adoption::Absent(error.to_string())),
        }
    }

    /// The inbox, opened: it is mounted, and it is the one that was adopted.
    ///
    /// # Errors
    /// `NotFound` when it is not there or not mounted, else I/O.
    pub fn inbox(&self) -> io::Result<Dir> {
        let inbox = Dir::open(&self.inbox)?;
        let mut held = world::lock(&self.held);
        let Some(held) = held.as_mut() else { return Err(io::Error::new(io::ErrorKind::NotFound, NOT_MOUNTED)) };
        if marker_of(&inbox, OsStr::new(MARKER))?.as_ref() != Some(&held.marker) {
            return Err(io::Error::new(io::ErrorKind::NotFound, NOT_MOUNTED));
        }
        held.follow(&inbox)?;
        Ok(inbox)
    }

    /// The folder for files with a report, or for files without: it is mounted, and it is the one that was adopted. Elsewhere what is put
    /// there would be hidden, and what lies there would be taken for gone.
    ///
    /// # Errors
    /// I/O; `NotFound` while it is absent, not mounted or another one.
    pub fn end(&self, with_report: bool) -> io::Result<Dir> {
        let root = if with_report { &self.done } else { &self.failed };
        let folder = Dir::open(root)?;
        let End { marker: known, trouble } = world::lock(&self.ends)[usize::from(!with_report)].clone();
        if known.is_some() && marker_of(&folder, OsStr::new(END_MARKER))? == known {
            return Ok(folder);
        }
        if let (None, Some(trouble)) = (&known, trouble) {
            let marker = root.join(END_MARKER);
            return Err(io::Error::other(format!("its marker {} cannot be read or written: {trouble}", names::shown(&marker))));
        }
        let line = known.map_or_else(|| "its old line".to_owned(), |marker| format!("the line {marker}"));
        let reason = format!(
            "{} is not mounted, or another folder: its {END_MARKER} is missing or another one (mount the share; if the folder was really \
             replaced, write {line} into that file)",
            names::shown(root)
        );
        Err(io::Error::new(io::ErrorKind::NotFound, reason))
    }

    /// Where a file that was put away lies: its folder and its name there.
    ///
    /// # Errors
    /// I/O; `NotFound` too when the place lies in none of the folders of the configuration.
    pub fn placed(&self, path: &Path) -> io::Result<(Dir, OsString)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        for root in [&self.done, &self.failed, &self.inbox] {
            if let Ok(relative) = parent.strip_prefix(root) {
                return Ok((Dir::open(root)?.below(relative)?, name.to_owned()));
            }
        }
        let reason = format!("{} lies in no folder of this configuration", names::shown(path));
        Err(io::Error::new(io::ErrorKind::NotFound, reason))
    }

    /// The watched folder's path, for messages and for the watch.
    pub fn path(&self) -> &Path {
        &self.inbox
    }

    /// Done's path, for messages.
    pub fn done(&self) -> &Path {
        &self.done
    }
}

/// How the ledger names the places where files end.
const DONE: &str = "done";
const FAILED: &str = "failed";
const NOT_MOUNTED: &str = "its marker .appliance-inbox is missing or another one: its share is not mounted, or it is another folder \
    (mount the share; if the folder was really replaced, copy the marker into it)";

impl Held {
    /// A share that was mounted anew has another file as its marker: the lock moves on to it.
    fn follow(&mut self, inbox: &Dir) -> io::Result<()> {
        let now = inbox.stat(OsStr::new(MARKER))?.map(|found| (found.st_dev, found.st_ino));
        let before = Stamp::from(&self.lock.metadata()?);
        if now == Some((before.dev, before.ino)) {
            return Ok(());
        }
        let file = inbox.open_or_create(OsStr::new(MARKER))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        self.lock = file;
        Ok(())
    }
}

/// The marker by which the ledger knows a folder, and whether the folder bears it; one that the ledger has never seen is adopted, and one that it
/// knows from another path was moved: what was put away in it lies at the new path now.
///
/// # Errors
/// The ledger; [`Exit::Configuration`] when the folder is a copy of one that is still there.
fn recognise(
    ledger: &Ledger,
    (name, configured, root): (&str, &Path, &Path),
    folder: &Dir,
    file: &str,
) -> Result<io::Result<(String, bool)>, Failure> {
    let file = OsStr::new(file);
    if let Some(known) = ledger.read(|tx| read::marker(tx, root))? {
        return Ok(marker_of(folder, file).map(|found| {
            let bears = found.as_ref() == Some(&known);
            (known, bears)
        }));
    }
    let marker = match write_as(folder, file) {
        Ok(marker) => marker,
        Err(error) => return Ok(Err(error)),
    };
    if let Some(before) = ledger.read(|tx| read::marked(tx, &marker))? {
        let still = Dir::open(&before).and_then(|before| marker_of(&before, file));
        if still.is_ok_and(|still| still.as_ref() == Some(&marker)) {
            let what =
                format!("it bears the marker of {}, which is still there: one is a copy of the other", names::shown(&before));
            let mend = format!("remove {} from the copy", names::shown(Path::new(file)));
            return Err(Failure::new(Exit::Configuration, what, configured.display().to_string(), mend));
        }
        tracing::warn!(event = "folder_moved", from = names::shown(&before), to = names::shown(root));
        ledger.write("ledger.begin_run", |tx| record::move_folder(tx, &marker, root, configured))?;
        return Ok(Ok((marker, true)));
    }
    ledger.write("ledger.begin_run", |tx| record::adopt_folder(tx, name, root, &marker))?;
    Ok(Ok((marker, true)))
}

fn marker_of(folder: &Dir, name: &OsStr) -> io::Result<Option<String>> {
    Ok(folder.read_text(name, LONGEST_MARKER)?.map(|text| text.trim().to_owned()))
}

#[expect(clippy::disallowed_methods, reason = "resolves the configured path; nothing is opened by it")]
fn real_path(path: &Path) -> io::Result<PathBuf> {
    std::fs::canonicalize(path)
}

/// Takes an exclusive lock on a file of the state folder that lasts as long as the file is open.
///
/// # Errors
/// [`Exit::Locked`] with `held` as the reason, or I/O.
#[expect(clippy::disallowed_methods, reason = "the state folder is the appliance's own")]
pub fn lock(path: &Path, held: &str) -> Result<File, Failure> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| Failure::io("the lock cannot be opened", path, &error))?;
    hold(&file, path, held)?;
    Ok(file)
}

fn hold(file: &File, path: &Path, held: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < RELEASE => std::thread::sleep(Duration::from_millis(20)),
            Err(Errno::WOULDBLOCK) => {
                let mend = "stop the other one first, or give this one folders of its own";
                return Err(Failure::new(Exit::Locked, held, path.display().to_string(), mend));
            }
            Err(error) => return Err(Failure::io("the lock cannot be taken", path, &error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(dir: &Path) -> Ledger {
        Ledger::open(&dir.join("ledger.sqlite"), Default::default()).unwrap()
    }

    fn folder(root: &Path) -> Folder {
        let [inbox, done, failed] = ["inbox", "done", "failed"].map(|name| root.join(name));
        Folder { inbox, done, failed, sidecars: Vec::new(), held: Mutex::default(), ends: Mutex::default() }
    }

    #[test]
    fn an_unmounted_share_is_not_taken_for_an_empty_inbox() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path());
        let inbox = dir.path().join("inbox");
        assert!(matches!(folder(dir.path()).adopt(&ledger), Ok(Adoption::Absent(_))));
        std::fs::create_dir(&inbox).unwrap();
        let first = folder(dir.path());
        first.adopt(&ledger).unwrap();
        assert!(first.inbox().is_ok());
        let marker = std::fs::read(inbox.join(MARKER)).unwrap();
        std::fs::remove_file(inbox.join(MARKER)).unwrap();
        assert_eq!(first.inbox().err().unwrap().kind(), io::ErrorKind::NotFound);
        drop(first);
        let second = folder(dir.path());
        assert!(matches!(second.adopt(&ledger), Ok(Adoption::Absent(_))));
        assert!(!inbox.join(MARKER).exists());
        std::fs::write(inbox.join(MARKER), &marker).unwrap();
        assert_eq!(second.adopt(&ledger).unwrap(), Adoption::Held);
        std::fs::remove_file(inbox.join(MARKER)).unwrap();
        std::fs::write(inbox.join(MARKER), &marker).unwrap();
        assert!(second.inbox().is_ok(), "mounted anew");
        assert_eq!(folder(dir.path()).adopt(&ledger).err().unwrap().exit, Exit::Locked, "the lock has moved on");
    }

    #[test]
    fn a_folder_that_was_moved_is_recognised_and_a_copy_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path());
        let [inbox, done, failed] = ["inbox", "done", "failed"].map(|name| dir.path().join(name));
        [&inbox, &done, &failed].iter().for_each(|path| std::fs::create_dir(path).unwrap());
        folder(dir.path()).adopt(&ledger).unwrap();
        let before = done.join("case/x.png");
        let add = |tx: &rusqlite::Transaction<'_>| {
            let sql = "INSERT INTO file(path, path_text, case_id, dev, ino, size, mtime_ns, owner_uid, state, seen_at, filed_path, filed_at)
                       VALUES(x'78', 'x', 'case', 1, 1, 1, 1, 0, 'failed', '2026-01-01T00:00:00.000Z', ?1, '2026-01-01T00:00:00.000Z')";
            Ok(tx.execute(sql, [std::os::unix::ffi::OsStrExt::as_bytes(before.as_os_str())])?)
        };
        ledger.write("ledger.reject", add).unwrap();
        let moved = dir.path().join("other/done");
        std::fs::create_dir(dir.path().join("other")).unwrap();
        std::fs::rename(&done, &moved).unwrap();
        let elsewhere = || Folder { done: moved.clone(), ..folder(dir.path()) };
        let now = elsewhere();
        assert_eq!(now.adopt(&ledger).unwrap(), Adoption::Held);
        assert!(now.end(true).is_ok());
        let row = ledger.read(|connection| read::file(connection, 1)).unwrap().unwrap();
        assert_eq!(row.filed_path.unwrap(), moved.join("case/x.png"), "what lay in it lies there now");
        drop(now);
        std::fs::create_dir(&done).unwrap();
        std::fs::copy(moved.join(END_MARKER), done.join(END_MARKER)).unwrap();
        let copy = folder(dir.path());
        let failure = copy.adopt(&ledger).err().unwrap();
        assert_eq!(failure.exit, Exit::Configuration);
        assert!(failure.to_string().contains("one is a copy of the other"), "{failure}");
    }

    #[test]
    fn why_a_folder_cannot_be_used_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path());
        ["inbox", "done", "failed"].iter().for_each(|name| std::fs::create_dir(dir.path().join(name)).unwrap());
        std::fs::create_dir(dir.path().join("done").join(END_MARKER)).unwrap();
        let folder = folder(dir.path());
        folder.adopt(&ledger).unwrap();
        let error = folder.end(true).err().unwrap().to_string();
        assert!(error.contains(END_MARKER) && error.contains("cannot be read or written"), "{error}");
        assert!(folder.end(false).is_ok());
    }

    #[test]
    fn a_second_reader_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path());
        std::fs::create_dir(dir.path().join("inbox")).unwrap();
        let first = folder(dir.path());
        first.adopt(&ledger).unwrap();
        assert_eq!(folder(dir.path()).adopt(&ledger).err().unwrap().exit, Exit::Locked);
        drop(first);
        assert_eq!(folder(dir.path()).adopt(&ledger).unwrap(), Adoption::Held);
    }

    #[test]
    fn a_pipe_as_marker_holds_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path());
        let inbox = dir.path().join("inbox");
        std::fs::create_dir(&inbox).unwrap();
        let first = folder(dir.path());
        first.adopt(&ledger).unwrap();
        std::fs::remove_file(inbox.join(MARKER)).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, inbox.join(MARKER), rustix::fs::Mode::RWXU).unwrap();
        assert!(first.inbox().is_err());
    }
}
