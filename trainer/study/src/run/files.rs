//! Files and folders that appear whole or not at all, whenever the process is killed or the power fails.
//!
//! What is new is written beside its place as `.NAME.new`, brought to the disk, and exchanged with what is there by one call. File systems without
//! that call see the old one renamed to `.NAME.old` first; [`settle`] finishes either way.

use crate::error::StudyError;
use mmlnb_models::exchange;
use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Refuses to write what is read: `output` must be none of the inputs, under whatever name or by a link. Each input with the option that names it.
///
/// # Errors
/// [`StudyError::Asked`] with the option.
pub fn not_an_input(output: &Path, inputs: &[(&str, &Path)]) -> Result<(), StudyError> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let Some(written) = identity(output) else { return Ok(()) };
    match inputs.iter().find(|(_, input)| identity(input) == Some(written)) {
        None => Ok(()),
        Some((option, input)) => Err(StudyError::Asked(format!(
            "{} would be overwritten, but it is what {option} reads ({}); name another --output",
            output.display(),
            input.display()
        ))),
    }
}

/// Writes a file anew.
///
/// # Errors
/// What the operating system refuses; the old file stays then.
pub fn replace_file(target: &Path, content: &[u8]) -> Result<(), StudyError> {
    let new = beside(target, "new");
    fault::point(&new)?;
    let mut file = File::create(&new).map_err(StudyError::io("create", &new))?;
    fault::point(&new)?;
    file.write_all(content).map_err(StudyError::io("write", &new))?;
    put(&new, target)
}

/// As [`replace_file`], for a writer that wants a path. It gets one in a folder of its own: what it leaves beside its file goes with the folder,
/// also when the process is killed (safetensors writes a temporary file first).
///
/// # Errors
/// Those of the writer, and what the operating system refuses; the old file stays then.
pub fn replace_file_by<E: From<StudyError>>(target: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let folder = beside(target, "new");
    remove_folder(&folder)?;
    fault::point(&folder)?;
    fs::create_dir(&folder).map_err(StudyError::io("create", &folder))?;
    let new = folder.join(target.file_name().unwrap_or_default());
    fault::point(&new)?;
    write(&new)?;
    put(&new, target)?;
    fault::point(&folder)?;
    remove_folder(&folder)?;
    Ok(())
}

/// A whole file takes the place of `target`, and both are on the disk.
fn put(new: &Path, target: &Path) -> Result<(), StudyError> {
    sync(new)?;
    fault::point(target)?;
    fs::rename(new, target).map_err(StudyError::io("rename", new))?;
    sync(parent(target))
}

/// Writes a folder anew: `fill` gets an empty folder; what it leaves there takes the place of `target`.
///
/// # Errors
/// Those of `fill`, and what the operating system refuses; the old folder stays then.
pub fn replace_folder<E: From<StudyError>>(target: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let new = beside(target, "new");
    remove_folder(&new)?;
    fault::point(&new)?;
    fs::create_dir_all(&new).map_err(StudyError::io("create", &new))?;
    fill(&new)?;
    fault::point(&new)?;
    sync_all(&new)?;
    fault::point(target)?;
    exchange(&new, target)?;
    sync(parent(target))?;
    fault::point(&new)?;
    remove_folder(&new)?;
    remove_folder(&beside(target, "old"))?;
    Ok(())
}

/// Removes what a killed process left in `folder`, and puts back an old folder whose new one did not arrive.
///
/// # Errors
/// What the operating system refuses.
pub fn settle(folder: &Path) -> Result<(), StudyError> {
    for entry in fs::read_dir(folder).map_err(StudyError::io("read", folder))? {
        let path = entry.map_err(StudyError::io("read", folder))?.path();
        match unfinished(&path) {
            Some((name, "old")) if !folder.join(name).exists() => {
                fault::point(&path)?;
                fs::rename(&path, folder.join(name)).map_err(StudyError::io("rename", &path))?;
            }
            Some(_) if path.is_dir() => remove_folder(&path)?,
            Some(_) => fs::remove_file(&path).map_err(StudyError::io("remove", &path))?,
            None => {}
        }
    }
    Ok(())
}

/// The name and the stage of `.NAME.new` and `.NAME.old`.
pub fn unfinished(path: &Path) -> Option<(&str, &str)> {
    let name = path.file_name()?.to_str()?.strip_prefix('.')?;
    name.rsplit_once('.').filter(|(name, stage)| !name.is_empty() && matches!(*stage, "new" | "old"))
}

fn beside(target: &Path, stage: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{stage}"))
}

fn parent(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Puts `new` in the place of `target`; what was there then lies in the place of `new`, or as `.NAME.old`.
fn exchange(new: &Path, target: &Path) -> Result<(), StudyError> {
    if !target.exists() {
        return fs::rename(new, target).map_err(StudyError::io("rename", new));
    }
    match exchange::at_once(new, target).map_err(StudyError::io("rename", new))? {
        true => Ok(()),
        false => step_aside(new, target),
    }
}

fn step_aside(new: &Path, target: &Path) -> Result<(), StudyError> {
    let old = beside(target, "old");
    remove_folder(&old)?;
    fault::point(&old)?;
    fs::rename(target, &old).map_err(StudyError::io("rename", target))?;
    fault::point(target)?;
    fs::rename(new, target).map_err(StudyError::io("rename", new))
}

fn remove_folder(folder: &Path) -> Result<(), StudyError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(StudyError::io("remove", folder)),
    }
}

fn sync_all(folder: &Path) -> Result<(), StudyError> {
    for entry in fs::read_dir(folder).map_err(StudyError::io("read", folder))? {
        let path = entry.map_err(StudyError::io("read", folder))?.path();
        if path.is_dir() { sync_all(&path)? } else { sync(&path)? }
    }
    sync(folder)
}

/// Brings a file or a folder's list of names to the disk.
fn sync(path: &Path) -> Result<(), StudyError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(StudyError::io("write", path))
}

/// Where tests let the process end: each point fails once, as if it had been killed just before the call that follows.
pub mod fault {
    use crate::error::StudyError;
    use std::path::Path;

    /// Passes.
    ///
    /// # Errors
    /// None outside tests.
    #[cfg(not(any(test, feature = "failpoints")))]
    pub fn point(_: &Path) -> Result<(), StudyError> {
        Ok(())
    }

    #[cfg(any(test, feature = "failpoints"))]
    std::thread_local! {
        /// Points that still pass; none: all of them do.
        pub static PASSES: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
    }

    /// Passes as often as [`PASSES`] says, then fails.
    ///
    /// # Errors
    /// As if the process had been killed here.
    #[cfg(any(test, feature = "failpoints"))]
    pub fn point(path: &Path) -> Result<(), StudyError> {
        match PASSES.get() {
            None => Ok(()),
            Some(0) => Err(StudyError::Io { action: "write", path: path.into(), source: std::io::Error::other("killed here") }),
            Some(left) => {
                PASSES.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> impl FnOnce(&Path) -> Result<(), StudyError> {
        move |folder| {
            fs::create_dir(folder.join("inner")).unwrap();
            fs::write(folder.join("inner/a"), text).unwrap();
            fs::write(folder.join("b"), text).unwrap();
            Ok(())
        }
    }

    fn content(folder: &Path) -> Vec<String> {
        ["inner/a", "b"].map(|name| fs::read_to_string(folder.join(name)).unwrap()).to_vec()
    }

    #[test]
    fn a_folder_is_the_old_or_the_new_wherever_the_process_ends() {
        for aside in [false, true] {
            let mut points = 0;
            for passes in 0.. {
                let root = tempfile::tempdir().unwrap();
                let target = root.path().join("best");
                replace_folder(&target, filled("old")).unwrap();
                fault::PASSES.set(Some(passes));
                let outcome = if aside {
                    let new = root.path().join(".best.new");
                    fs::create_dir(&new).unwrap();
                    filled("new")(&new).unwrap();
                    step_aside(&new, &target)
                } else {
                    replace_folder(&target, filled("new"))
                };
                fault::PASSES.set(None);
                settle(root.path()).unwrap();
                let now = content(&target);
                assert!(now == ["old", "old"] || now == ["new", "new"], "{now:?} after {passes} points");
                assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing is left beside it");
                if outcome.is_ok() {
                    assert_eq!(now, ["new", "new"]);
                    break;
                }
                points += 1;
            }
            assert!(points >= 2, "the test ended the process at {points} points only");
        }
    }

    #[test]
    fn a_file_is_the_old_or_the_new_wherever_the_process_ends() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("measures.json");
        replace_file(&target, b"old").unwrap();
        for passes in 0..3 {
            fault::PASSES.set(Some(passes));
            replace_file(&target, b"new").unwrap_err();
            fault::PASSES.set(None);
            assert_eq!(fs::read(&target).unwrap(), b"old");
            settle(root.path()).unwrap();
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
        replace_file(&target, b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn what_a_killed_writer_leaves_beside_its_file_goes_too() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("state");
        let untidy = |path: &Path| {
            fs::write(path.with_file_name(".tmp0a1B2c"), "half").unwrap();
            fs::write(path, "new").map_err(StudyError::io("write", path))
        };
        let mut points = 0;
        for passes in 0.. {
            replace_file(&target, b"old").unwrap();
            fault::PASSES.set(Some(passes));
            let outcome = replace_file_by(&target, untidy);
            fault::PASSES.set(None);
            settle(root.path()).unwrap();
            assert!(matches!(fs::read(&target).unwrap().as_slice(), b"old" | b"new"), "after {passes} points");
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing is left beside it after {passes} points");
            if outcome.is_ok() {
                break;
            }
            points += 1;
        }
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(points, 4);
    }

    #[test]
    fn a_refusal_while_filling_keeps_the_old_folder() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("last");
        replace_folder(&target, filled("old")).unwrap();
        replace_folder(&target, |_| Err(StudyError::Failed("no gradient".into()))).unwrap_err();
        assert_eq!(content(&target), ["old", "old"]);
    }
}
