//! The built binaries, and running one to its end within a time limit.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest run of one command; each of them takes seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// What a finished command left.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; a signal's number plus 128 when one ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Itself, when the exit status is the expected one.
    ///
    /// # Panics
    /// With everything that the command said, when it is another one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "exit status\nstdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Standard output as one JSON value a line.
    ///
    /// # Panics
    /// If a line is no JSON.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("`{line}` is no JSON: {error}"));
        self.out.lines().map(parse).collect()
    }
}

/// The folder `target/PROFILE` that the running test, in its `deps`, or program was built into.
pub(crate) fn build_folder() -> PathBuf {
    let running = std::env::current_exe().expect("a running program has a path");
    let folder = running.parent().expect("a program lies in a folder");
    match folder.file_name().is_some_and(|name| name == "deps") {
        true => folder.parent().expect("tests lie in target/PROFILE/deps").to_owned(),
        false => folder.to_owned(),
    }
}

/// A built binary of the workspace.
///
/// # Panics
/// When it has not been built.
pub fn binary(name: &str) -> PathBuf {
    let path = build_folder().join(name);
    assert!(path.is_file(), "{} is not built: cargo build --workspace --features mmlnb-appliance/failpoints", path.display());
    path
}

/// `mmlnb-appliance`.
pub fn appliance_binary() -> PathBuf {
    binary("mmlnb-appliance")
}

/// Whether `mmlnb-appliance` was built with failpoints; says what is skipped when it was not.
pub fn has_failpoints(what: &str) -> bool {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let built = *BUILT.get_or_init(|| {
        let needle = b"MMLNB_FAILPOINTS";
        let bytes = std::fs::read(appliance_binary()).expect("the binary was found and can be read");
        bytes.windows(needle.len()).any(|window| window == needle)
    });
    if !built {
        crate::skipped(what, "build with --features mmlnb-appliance/failpoints, as `cargo xtask test` does");
    }
    built
}

/// Whether a program of the system is installed; says what is skipped when it is not.
pub fn installed(program: &str, what: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).any(|folder| folder.join(program).is_file());
    if !found {
        crate::skipped(what, &format!("{program} is not installed"));
    }
    found
}

/// A command for a binary, free of settings that the surroundings might bring.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    let foreign = |name: &str| name.starts_with("MMLNB_") && name != "MMLNB_ORT_LIB";
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(foreign) {
            command.env_remove(name);
        }
    }
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started or does not end in two minutes.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let ended = wait(&mut child, LIMIT);
    let (out, err) = (out.join().expect("stdout was read"), err.join().expect("stderr was read"));
    let code = ended.unwrap_or_else(|| panic!("{command:?} did not end in {} s\n{out}\n{err}", LIMIT.as_secs()));
    Ran { code, out, err }
}

/// The exit status of a child that has ended; a signal's number plus 128 when one ended it.
pub(crate) fn ended(child: &mut Child) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let status = child.try_wait().expect("a child can be waited for")?;
    Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// Waits for a child's end; kills it after `limit` and answers `None`.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    let started = Instant::now();
    while started.elapsed() < limit {
        if let Some(code) = ended(child) {
            return Some(code);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("a child can be killed");
    child.wait().expect("a killed child ends");
    None
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    let mut pipe = pipe.expect("the pipe was asked for");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
