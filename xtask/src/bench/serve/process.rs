//! A process that measures: its lines as they come, its time, its peak memory; one that takes too long is ended.

use crate::bench::child::memory;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longest time of one process: a side that needs more is told as failed.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// What a process left.
pub struct Ended {
    /// The JSON objects that it wrote, and seconds from its start to each.
    pub lines: Vec<(f64, Value)>,
    pub seconds: f64,
    pub peak_bytes: u64,
    /// Largest share of time in which some process of the machine waited for a core; `None` where the kernel does not say.
    pub waited: Option<f64>,
}

/// Runs a command to its end. What it says on stderr goes into `log`; lines of stdout that are no JSON objects are passed over.
///
/// # Errors
/// It cannot be started, fails, or takes longer than half an hour.
pub fn run(command: &mut Command, log: &Path) -> Result<Ended> {
    let name = command.get_program().display().to_string();
    command.stderr(fs::File::create(log).with_context(|| format!("{} cannot be written", log.display()))?);
    let (begun, stalled_before) = (Instant::now(), stalled());
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("{name} cannot be started"))?;
    let out = child.stdout.take().context("a pipe was asked for")?;
    let reader = thread::spawn(move || read(out, begun));
    let mut peak = 0;
    let status = loop {
        peak = peak.max(memory(child.id(), "VmHWM").unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > LONGEST {
            child.kill()?;
            child.wait()?;
            bail!("{name} was ended after {} minutes: {}", LONGEST.as_secs() / 60, end(log));
        }
        thread::sleep(Duration::from_millis(20));
    };
    let seconds = begun.elapsed().as_secs_f64();
    let lines = reader.join().map_err(|_| anyhow::anyhow!("the output of {name} could not be read"))?;
    ensure!(status.success(), "{name} failed ({status}): {}", end(log));
    let waited = stalled_before.zip(stalled()).map(|(before, after)| (after - before) / seconds);
    Ok(Ended { lines, seconds, peak_bytes: peak, waited: waited.map(|share| share.min(1.0)) })
}

/// The last lines of a log, and where it is.
fn end(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("{}\n{}", log.display(), lines[lines.len().saturating_sub(5)..].join("\n"))
}

fn read(out: ChildStdout, begun: Instant) -> Vec<(f64, Value)> {
    let lines = BufReader::new(out).lines().map_while(Result::ok);
    lines.filter_map(|line| Some((begun.elapsed().as_secs_f64(), serde_json::from_str(&line).ok()?))).collect()
}

/// Seconds since the machine's start in which some process waited for a core.
fn stalled() -> Option<f64> {
    let text = fs::read_to_string("/proc/pressure/cpu").ok()?;
    Some(text.lines().next()?.rsplit_once("total=")?.1.parse::<f64>().ok()? / 1e6)
}
