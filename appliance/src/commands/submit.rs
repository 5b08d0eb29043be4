//! `submit`: copies into the inbox, complete at the moment they get their name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use clap::Args;

use super::{Configured, print};
use crate::clock;
use crate::config::{Config, Need};
use crate::daemon::control;
use crate::error::{Exit, Failure, Problem};
use crate::files::{self, Dir, Moved, Source, Stamp, names};

/// `submit`.
#[derive(Args, Clone, Debug)]
pub struct Submit {
    /// The configuration.
    #[command(flatten)]
    pub configured: Configured,
    /// Put them into this case.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub case: String,
    /// Files to copy.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Copies the files; says when no daemon is there to take them.
///
/// # Errors
/// Absent files (66, nothing is copied), an unusable case name (2), [`Exit::SomeFailed`] for files that could not be copied while others
/// were, else I/O.
pub fn run(args: &Submit) -> Result<Exit, Failure> {
    let config = Config::load(&args.configured.config, Need::Everything)?;
    check(args, &config)?;
    let parent = PathBuf::from(&args.case);
    let folder = config.inbox.join(&parent);
    let inbox = mounted(&config)?.make_below(&parent);
    let inbox = inbox.map_err(|error| Failure::io("the case cannot be made", &folder, &error))?;
    let mut failures = Vec::new();
    for (number, file) in args.files.iter().enumerate() {
        match copy(file, number, &inbox) {
            Ok(name) => print(&format!("{}\n", names::shown(&parent.join(name))))?,
            Err(error) => failures.push(Failure::io(format!("{} cannot be copied", names::shown(file)), &folder, &error)),
        }
    }
    let some = failures.len() < args.files.len();
    let idle = some && control::ask(&config.state, &serde_json::json!({ "do": "status" }))?.is_none();
    let idle = idle.then(|| {
        Failure::new(
            Exit::NotRunning,
            "the files are in the inbox, but the daemon is not running",
            config.inbox.display().to_string(),
            "start it: systemctl start mmlnb-appliance",
        )
    });
    if failures.is_empty() {
        return idle.map_or(Ok(Exit::Done), Err);
    }
    Err(Failure::joined(failures.into_iter().chain(idle).collect(), some))
}

/// The inbox, if it bears the appliance's marker: without it a share is not mounted, and what is copied would lie hidden beneath it.
fn mounted(config: &Config) -> Result<Dir, Failure> {
    let place = || config.inbox.display().to_string();
    let mend = "mount the share, or start the daemon once so that it takes the inbox; nothing was copied";
    let found = Dir::open(&config.inbox).and_then(|inbox| Ok((inbox.stat(OsStr::new(names::MARKER))?.is_some(), inbox)));
    match found {
        Ok((true, inbox)) => Ok(inbox),
        Ok((false, _)) => {
            let what = format!("the inbox has no {}: it is not mounted, or no appliance has taken it yet", names::MARKER);
            Err(Failure::new(Exit::NotFound, what, place(), mend))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::new(Exit::NotFound, "the inbox is not there", place(), mend))
        }
        Err(error) => Err(Failure::io("the inbox cannot be opened", &config.inbox, &error)),
    }
}

fn check(args: &Submit, config: &Config) -> Result<(), Failure> {
    let left_alone = |name: &OsStr| names::left_alone(name, &[&config.ignore, &config.sidecars]);
    let mut parts = Path::new(&args.case).components();
    if !parts.all(|part| matches!(part, Component::Normal(name) if !names::ignored_folder(name))) {
        return Err(Failure::new(Exit::Usage, "this cannot be the name of a case", &args.case, "give a plain folder name"));
    }
    let (mut problems, mut absent) = (Vec::new(), false);
    for file in &args.files {
        if !file.is_file() {
            absent = true;
            problems.push(Problem::new("there is no such file", file.display().to_string(), "check the path"));
        } else if file.file_name().is_none_or(left_alone) {
            let mend = "give it another name: hidden and half-transferred files, and those of the keys `ignore` and `sidecars`, are left alone";
            problems.push(Problem::new("the inbox ignores files of this name", file.display().to_string(), mend));
        }
    }
    let exit = if absent { Exit::NotFound } else { Exit::Usage };
    if problems.is_empty() { Ok(()) } else { Err(Failure { exit, problems }) }
}

/// Copies one file under a hidden name that no other copy has, and gives it its own when it is whole.
fn copy(file: &Path, number: usize, folder: &Dir) -> io::Result<OsString> {
    let mut input = open(file)?;
    let now = clock::boot().as_nanos();
    let part = OsString::from(format!(".submit-{}-{number}-{now}.part", std::process::id()));
    let output = folder.create_new(&part)?;
    let copied = copy_as(file, &part, &mut input, output, folder);
    if copied.is_err() {
        folder.remove(&part)?;
    }
    copied
}

fn copy_as(file: &Path, part: &OsStr, input: &mut File, mut output: File, folder: &Dir) -> io::Result<OsString> {
    let name = file.file_name().unwrap_or(OsStr::new("unnamed"));
    io::copy(input, &mut output)?;
    output.sync_all()?;
    let sha256 = folder.sha256_of(part)?;
    let source = Source { root: folder, path: Path::new(part), stamp: Stamp::from(&output.metadata()?), sha256: Some(sha256) };
    for _ in 0..8 {
        let (name, _) = files::choose(folder, name, &crate::report::hex(&sha256[..4]), |_, _| Ok(false))?;
        match files::relocate(&source, folder, &name)? {
            Moved::Yes => return Ok(name),
            Moved::Taken => {}
            Moved::Gone | Moved::Changed => return Err(io::ErrorKind::NotFound.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[expect(clippy::disallowed_methods, reason = "the operator's own file, by the path that they gave")]
fn open(file: &Path) -> io::Result<File> {
    File::open(file)
}
