//! What is kept of a figure's run: one JSON file each, so that rounds that were played with this commit are not played again.

use super::figure::{Figure, Measures};
use crate::checkout;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

/// A figure's result so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// What was tried, by its commit.
    pub commit: String,
    /// The day of the last step, UTC.
    pub date: String,
    /// The machine in general words.
    pub machine: String,
    /// First rounds of the steps that were played.
    pub steps: BTreeSet<u64>,
    /// Rounds that were played.
    pub rounds: u64,
    /// What they measured.
    pub measures: Measures,
    /// Why it failed, and in which round.
    pub failed: Option<(u64, String)>,
    /// Why it was not played.
    pub skipped: Option<String>,
}

impl Record {
    /// A new one for this commit and machine.
    pub fn new(commit: &str) -> Result<Record> {
        Ok(Record { commit: commit.to_owned(), date: today(), machine: machine()?, ..Record::default() })
    }

    /// What was kept of a figure, of whatever commit.
    pub fn kept(figure: &Figure) -> Result<Option<Record>> {
        let path = path(figure);
        if !path.is_file() {
            return Ok(None);
        }
        let text = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let value: Value = serde_json::from_slice(&text).with_context(|| format!("{} is no JSON; remove it", path.display()))?;
        Record::read(&value).map(Some).with_context(|| format!("{} is not of this version; remove it", path.display()))
    }

    /// Keeps it.
    pub fn keep(&self, figure: &Figure) -> Result<()> {
        let path = path(figure);
        fs::create_dir_all(folder())?;
        let part = path.with_extension("part");
        fs::write(&part, format!("{:#}\n", self.json())).with_context(|| format!("{} cannot be written", part.display()))?;
        fs::rename(&part, &path).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// A step has been played.
    pub fn played(&mut self, first: u64, count: u64, measures: &Measures) {
        if self.steps.insert(first) {
            self.rounds += count;
            self.measures.add(measures);
            self.date = today();
        }
    }

    fn json(&self) -> Value {
        json!({
            "commit": self.commit,
            "date": self.date,
            "machine": self.machine,
            "steps": self.steps,
            "rounds": self.rounds,
            "measures": self.measures.json(),
            "failed": self.failed.as_ref().map(|(round, why)| json!({ "round": round, "why": why })),
            "skipped": self.skipped,
        })
    }

    fn read(value: &Value) -> Option<Record> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Some(Record {
            commit: text("commit")?,
            date: text("date")?,
            machine: text("machine")?,
            steps: value["steps"].as_array()?.iter().map(Value::as_u64).collect::<Option<_>>()?,
            rounds: value["rounds"].as_u64()?,
            measures: Measures::read(&value["measures"])?,
            failed: match &value["failed"] {
                Value::Null => None,
                failed => Some((failed["round"].as_u64()?, failed["why"].as_str()?.to_owned())),
            },
            skipped: text("skipped"),
        })
    }
}

/// Where results are kept.
pub fn folder() -> PathBuf {
    checkout().join("target/torture")
}

fn path(figure: &Figure) -> PathBuf {
    folder().join(format!("{}.json", figure.name))
}

/// The commit of the checkout; marked when files that it holds are altered, the page of results apart.
pub fn commit() -> Result<String> {
    let git = |words: &[&str]| -> Result<String> {
        let ran = Command::new("git").args(words).current_dir(checkout()).output().context("git cannot be started")?;
        anyhow::ensure!(ran.status.success(), "git {}: {}", words.join(" "), String::from_utf8_lossy(&ran.stderr));
        Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    let altered = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/reliability.md"])?;
    Ok(if altered.is_empty() { commit } else { format!("{commit}+") })
}

fn today() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // Civil from days (Howard Hinnant).
    let days = (seconds / 86_400) as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + carry)
}

/// Processors, memory and file system: what a figure depends on, and nothing that names a machine.
fn machine() -> Result<String> {
    let processors = std::thread::available_parallelism()?.get();
    let memory = fs::read_to_string("/proc/meminfo").context("/proc/meminfo cannot be read")?;
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("/proc/meminfo has no MemTotal")?;
    let kilobytes: u64 = total.trim().trim_end_matches(" kB").parse().context("MemTotal is no number")?;
    let kind = match rustix::fs::statfs(std::env::temp_dir())?.f_type as u64 {
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        other => format!("file system {other:#x}"),
    };
    Ok(format!("{processors} processors, {} GB, {kind}", kilobytes.div_ceil(1 << 20)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_kept() {
        let mut record = Record::new("0123456789").unwrap();
        let mut measures = Measures::default();
        measures.count("kills", 25);
        record.played(0, 25, &measures);
        record.played(0, 25, &measures);
        assert_eq!((record.rounds, record.measures.text().as_str()), (25, "25 kills"), "a step counts once");
        record.failed = Some((50, "lost".into()));
        assert_eq!(Record::read(&record.json()), Some(record));
    }

    #[test]
    fn today_is_a_day_of_this_century() {
        let today = today();
        let ran = std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]).output().unwrap();
        assert_eq!(today, String::from_utf8_lossy(&ran.stdout).trim());
    }
}
