//! `submit`: copies into the inbox, complete at the moment they get their name.

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::print;
use crate::cli::Submit;
use crate::config::{Config, Need};
use crate::daemon::control;
use crate::error::{Exit, Failure, Problem};
use crate::intake::{names, place};

/// Copies the files; says when no daemon is there to take them.
///
/// # Errors
/// Absent files (66, nothing is copied), an unusable case name (2), I/O.
pub fn run(args: &Submit) -> Result<Exit, Failure> {
    let config = Config::load(&args.configured.config, Need::Everything)?;
    check(args)?;
    let parent = PathBuf::from(&args.case);
    let folder = config.inbox.join(&parent);
    place::make_folders(&config.inbox, &parent).map_err(|error| Failure::io("the case cannot be made", &folder, &error))?;
    for file in &args.files {
        let name =
            copy(file, &folder).map_err(|error| Failure::io(format!("{} cannot be copied", file.display()), &folder, &error))?;
        print(&format!("{}\n", parent.join(name).display()))?;
    }
    match control::ask(&config.state, &serde_json::json!({ "do": "status" }))? {
        Some(_) => Ok(Exit::Done),
        None => Err(Failure::new(
            Exit::NotRunning,
            "the files are in the inbox, but the daemon is not running",
            config.inbox.display().to_string(),
            "start it: systemctl start mmlnb-appliance",
        )),
    }
}

fn check(args: &Submit) -> Result<(), Failure> {
    let mut parts = Path::new(&args.case).components();
    if !parts.all(|part| matches!(part, Component::Normal(name) if !names::ignored_folder(name))) {
        return Err(Failure::new(Exit::Usage, "this cannot be the name of a case", &args.case, "give a plain folder name"));
    }
    let mut problems = Vec::new();
    for file in &args.files {
        if !file.is_file() {
            problems.push(Problem::new("there is no such file", file.display().to_string(), "check the path"));
        } else if file.file_name().is_none_or(names::ignored_file) {
            let mend = "give it another name: hidden and half-transferred files are left alone";
            problems.push(Problem::new("the inbox ignores files of this name", file.display().to_string(), mend));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure { exit: Exit::NotFound, problems }) }
}

fn copy(file: &Path, folder: &Path) -> io::Result<std::ffi::OsString> {
    let name = file.file_name().unwrap_or(OsStr::new("unnamed"));
    let part = folder.join(names::part(name));
    std::fs::copy(file, &part)?;
    std::fs::File::open(&part)?.sync_all()?;
    let sha256 = place::sha256_of(&part)?;
    for _ in 0..8 {
        let (name, _) = place::choose(folder, name, &crate::report::hex(&sha256[..4]), |_| Ok(false))?;
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(rustix::fs::CWD, &part, rustix::fs::CWD, folder.join(&name), flags) {
            Ok(()) => return Ok(name),
            Err(rustix::io::Errno::EXIST) => continue,
            Err(rustix::io::Errno::INVAL) => {
                std::fs::hard_link(&part, folder.join(&name))?;
                std::fs::remove_file(&part)?;
                return Ok(name);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
