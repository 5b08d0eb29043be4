//! Processor time and memory of processes, as the kernel counts them.

use crate::bench::child;
use anyhow::{Context, Result};
use std::{
    fs,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

/// The kernel's unit in `/proc`: a hundredth of a second on every machine that Rust's standard library runs on with Linux but Alpha.
const TICK: Duration = Duration::from_millis(10);

/// What a process took from its start to its end.
pub struct Ended {
    pub status: ExitStatus,
    pub processor: Duration,
    pub peak: u64,
}

/// Runs a program to its end, its words thrown away.
pub fn of_command(command: &mut Command) -> Result<Ended> {
    let before = waited_for()?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut peak = 0;
    let status = loop {
        // A process that has ended has no memory any more; the last value before it counts.
        peak = peak.max(peak_of(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_millis(5));
    };
    Ok(Ended { status, processor: waited_for()?.saturating_sub(before), peak })
}

/// Time of all children of this process that have ended.
fn waited_for() -> Result<Duration> {
    let own = Stat::of(std::process::id())?;
    Ok(TICK * own.ended_children)
}

/// Time of a running process, of its children, and of those that have ended.
pub fn of_family(process: u32) -> Result<Duration> {
    let mut ticks = 0;
    let mut open = vec![process];
    while let Some(process) = open.pop() {
        match Stat::of(process) {
            Ok(stat) => ticks += stat.own + stat.ended_children,
            Err(error) if open.is_empty() && ticks == 0 => return Err(error),
            // A child that ended meanwhile; its parent counts it.
            Err(_) => continue,
        }
        open.extend(children_of(process)?);
    }
    Ok(TICK * ticks)
}

fn children_of(process: u32) -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("/proc cannot be read")?;
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter(|number| Stat::of(*number).is_ok_and(|stat| stat.parent == process)).collect())
}

/// The largest resident memory of a running process in bytes.
pub fn peak_of(process: u32) -> Result<u64> {
    child::memory(process, "VmHWM").with_context(|| format!("process {process} has no VmHWM"))
}

/// The fields of `/proc/PID/stat` that are used.
#[derive(Debug, PartialEq)]
struct Stat {
    parent: u32,
    own: u32,
    ended_children: u32,
}

impl Stat {
    fn of(process: u32) -> Result<Stat> {
        let path = format!("/proc/{process}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
        Stat::parse(&text).with_context(|| format!("{path} is not as the kernel documents it"))
    }

    /// Fields 4 (parent), 14 and 15 (own time in user mode and kernel), 16 and 17 (ended children); the name, field 2, may hold anything.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u32>().ok();
        Some(Stat { parent: number(4)?, own: number(14)? + number(15)?, ended_children: number(16)? + number(17)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let text = "12 (a (b) 7) S 3 12 12 0 -1 4194304 100 200 0 0 40 5 6 7 20 0 1 0 99 1 1 1";
        assert_eq!(Stat::parse(text), Some(Stat { parent: 3, own: 45, ended_children: 13 }));
        assert_eq!(Stat::parse("12 (a"), None);
    }

    #[test]
    fn a_busy_child_is_counted_and_a_sleeping_one_is_not() {
        let busy = of_command(Command::new("sh").args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"])).unwrap();
        let idle = of_command(Command::new("sleep").arg("0.3")).unwrap();
        assert!(busy.status.success() && busy.processor > idle.processor, "{:?} {:?}", busy.processor, idle.processor);
        assert!(busy.peak > 100 << 10);
        assert!(of_family(std::process::id()).unwrap() >= busy.processor);
    }
}
