//! A process that is measured from outside: run to its end, its memory as the kernel tells it.

use anyhow::{Context, Result, ensure};
use std::{fs, process::Command, thread, time::Duration};

/// How often a process is looked at.
const EVERY: Duration = Duration::from_millis(10);

/// Runs a command to its end, which must be a good one; meanwhile `look` gets the process's number again and again.
pub fn run(command: &mut Command, mut look: impl FnMut(u32)) -> Result<()> {
    let name = command.get_program().display().to_string();
    let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
    loop {
        look(child.id());
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "{name} failed ({status})");
            return Ok(());
        }
        thread::sleep(EVERY);
    }
}

/// Bytes that the kernel's status of a process gives for a key (`VmHWM`, `RssAnon`, `RssFile`); `None` where the process has none any more.
pub fn memory(process: u32, key: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
