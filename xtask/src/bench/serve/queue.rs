//! Images that are dropped together: the describer has to be what they wait for. Everything else (reading, preparing, classes, reports) runs beside it.

use crate::appliance::{Appliance, Daemon, say};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Images that are dropped.
const IMAGES: usize = 20;
/// All of them take at most so many times the describer's own time, and one image's other work.
const LIMIT: f64 = 1.1;
/// What a report calls the describer's own time. With one slot no image's time holds another's.
const DESCRIBER: [&str; 3] = ["vision", "prefill", "decode"];
/// Waiting for the slot is nobody's work.
const WAITING: &str = "queue";

/// Drops copies of `images` into the inbox of a daemon with one slot; the trouble where they take longer than the limit.
///
/// # Errors
/// Fewer images than are dropped, a daemon that fails, no reports.
pub fn queue(bundle: &Path, images: &[PathBuf], threads: usize) -> Result<Option<String>> {
    ensure!(images.len() > IMAGES, "{IMAGES} images are dropped together, after one: give more --images");
    let folder = std::env::temp_dir().join(format!("mmlnb-queue-{}", std::process::id()));
    let appliance = Appliance::around(folder.clone(), bundle)?;
    let mut daemon = Daemon::start(&appliance, &[("MMLNB_SLOTS", "1"), ("MMLNB_THREADS", &threads.to_string())])?;
    // The first drop may come before the first look, which begins to watch; it is no part of the twenty.
    drop_all(&appliance, &mut daemon, &images[..1])?;
    say(&format!("dropping {IMAGES} files together"));
    let last = images.len() - IMAGES;
    let found = drop_all(&appliance, &mut daemon, &images[last..])?;
    daemon.stop()?;
    fs::remove_dir_all(&folder)?;
    let times = found.times();
    println!(
        "{IMAGES} images dropped together: {:.2} s; the describer's own time {:.2} s; one image's other work {:.3} s; without it {:.3} times the describer's",
        found.whole, times.describer, times.other, times.ratio
    );
    Ok((times.ratio > LIMIT).then(|| format!("queue: {:.3} times the describer's own time, wanted {LIMIT}", times.ratio)))
}

/// What became of the images.
struct Found {
    /// Seconds from the first rename to the last report.
    whole: f64,
    /// `elapsed_ms` of each report.
    stages: Vec<Value>,
}

/// Seconds.
struct Times {
    describer: f64,
    /// Of one image, the mean.
    other: f64,
    /// The whole less `other`, to `describer`.
    ratio: f64,
}

impl Found {
    fn times(&self) -> Times {
        let sum = |wanted: &dyn Fn(&str) -> bool| -> f64 {
            let stages = self.stages.iter().filter_map(Value::as_object).flatten();
            stages.filter(|(name, _)| wanted(name)).filter_map(|(_, time)| time.as_f64()).sum::<f64>() / 1e3
        };
        let describer = sum(&|name| DESCRIBER.contains(&name));
        let other = sum(&|name| !DESCRIBER.contains(&name) && name != WAITING) / self.stages.len() as f64;
        Times { describer, other, ratio: (self.whole - other) / describer }
    }
}

fn drop_all(appliance: &Appliance, daemon: &mut Daemon, images: &[PathBuf]) -> Result<Found> {
    let names = images.iter().map(|image| image.file_name().and_then(|name| name.to_str()).context("an image has a name"));
    let names: Vec<&str> = names.collect::<Result<_>>()?;
    for (image, name) in images.iter().zip(&names) {
        fs::copy(image, appliance.path(name))?;
    }
    let begun = Instant::now();
    for name in &names {
        fs::rename(appliance.path(name), appliance.path("inbox").join(name))?;
    }
    let reports: Vec<PathBuf> = names.iter().map(|name| appliance.path("done").join(format!("{name}.report.json"))).collect();
    while !reports.iter().all(|report| report.exists()) {
        daemon.check()?;
        if begun.elapsed() > Duration::from_secs(600) {
            bail!(
                "{} of {} images have no report after ten minutes",
                reports.iter().filter(|report| !report.exists()).count(),
                names.len()
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let whole = begun.elapsed().as_secs_f64();
    let stages = reports.iter().map(|report| {
        let mut report: Value = serde_json::from_slice(&fs::read(report)?)?;
        let stages = report["elapsed_ms"].take();
        ensure!(DESCRIBER.iter().all(|stage| stages[*stage].is_number()), "a report has no time of the describer");
        Ok(stages)
    });
    Ok(Found { whole, stages: stages.collect::<Result<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_beside_the_describer_costs_nothing_but_once() {
        let stages =
            serde_json::json!({"queue": 9e6, "vision": 500.0, "prefill": 200.0, "decode": 300.0, "classify": 80.0, "read": 20.0});
        let times = Found { whole: 2.3, stages: vec![stages.clone(), stages] }.times();
        assert!((times.describer - 2.0).abs() < 1e-9 && (times.other - 0.1).abs() < 1e-9 && (times.ratio - 1.1).abs() < 1e-9);
    }
}
