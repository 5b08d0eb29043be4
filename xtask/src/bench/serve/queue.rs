//! Images that are dropped together: the describer has to be what they wait for. Everything else (reading, preparing, classes, reports) runs beside it.
//! What an image costs by itself is measured on images that are dropped one after the other, with nothing beside them.

use crate::appliance::{Appliance, Daemon, finish, program, say};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

/// Images that are dropped together.
const TOGETHER: usize = 20;
/// Images that are dropped one after the other; one more comes first, perhaps before the first look, and is not counted.
const ALONE: usize = 4;
/// Images that are needed.
pub const IMAGES: usize = 1 + ALONE + TOGETHER;
/// All of them take at most so many times the describer's own time, and one image's other work.
const LIMIT: f64 = 1.1;
/// What a report calls the describer's own time.
const DESCRIBER: [&str; 3] = ["vision", "prefill", "decode"];
/// So long no image takes.
const LONGEST: Duration = Duration::from_secs(300);

/// Drops copies of `images` into the inbox of a daemon with one slot, in a folder that is gone afterwards; the trouble where they take longer than the limit.
///
/// # Errors
/// A daemon that fails, an image without a report.
pub fn queue(bundle: &Path, images: &[PathBuf], threads: usize, folder: &Path) -> Result<Option<String>> {
    fs::remove_dir_all(folder).ok();
    let measured = measure(bundle, images, threads, folder);
    fs::remove_dir_all(folder).ok();
    let (alone, together) = measured?;
    let [describer, whole] = [alone.describer.iter().sum::<f64>(), alone.whole.iter().sum()].map(|sum| sum / ALONE as f64);
    let found = ratio(together.last, describer, whole);
    println!(
        "{TOGETHER} images dropped together: {:.2} s; one alone {whole:.3} s, {describer:.3} s of it the describer's; without one image's other work \
         {found:.3} times the describer's time",
        together.last
    );
    ensure!(found > 0.5, "{TOGETHER} images took less than half of the describer's time: this figure says nothing");
    Ok((found > LIMIT).then(|| format!("queue: {found:.3} times the describer's own time, wanted {LIMIT}")))
}

/// `together` less the other work of one image, to the describer's own time of all of them.
fn ratio(together: f64, describer: f64, whole: f64) -> f64 {
    (together - (whole - describer)) / (TOGETHER as f64 * describer)
}

/// Seconds.
struct Times {
    /// Of each image, from its rename to its report.
    whole: Vec<f64>,
    /// Of each image.
    describer: Vec<f64>,
    /// From the first rename to the last report.
    last: f64,
}

fn measure(bundle: &Path, images: &[PathBuf], threads: usize, folder: &Path) -> Result<(Times, Times)> {
    ensure!(images.len() >= IMAGES, "{IMAGES} images are dropped: give as many --images");
    finish(program("mmlnb-appliance").arg("init").arg(folder).stdout(Stdio::null()))?;
    let appliance = Appliance { folder: folder.to_owned() };
    let bundle = bundle.to_str().context("the bundle's path is text")?;
    let threads = threads.to_string();
    let settings = [("MMLNB_BUNDLE", bundle), ("MMLNB_SLOTS", "1"), ("MMLNB_THREADS", &threads)];
    let mut daemon = Daemon::start(&appliance, &settings)?;
    say(&format!("dropping {ALONE} files one after the other, then {TOGETHER} together"));
    let mut alone = Times { whole: Vec::new(), describer: Vec::new(), last: 0.0 };
    for (number, image) in images[..=ALONE].iter().enumerate() {
        let one = drop_together(&appliance, &mut daemon, std::slice::from_ref(image))?;
        if number > 0 {
            alone.whole.extend(one.whole);
            alone.describer.extend(one.describer);
        }
    }
    let together = drop_together(&appliance, &mut daemon, &images[1 + ALONE..IMAGES])?;
    daemon.stop()?;
    Ok((alone, together))
}

fn drop_together(appliance: &Appliance, daemon: &mut Daemon, images: &[PathBuf]) -> Result<Times> {
    let names = images.iter().map(|image| image.file_name().and_then(|name| name.to_str()).context("an image has a name"));
    let names: Vec<&str> = names.collect::<Result<_>>()?;
    for (image, name) in images.iter().zip(&names) {
        fs::copy(image, appliance.path(name))?;
    }
    let begun = Instant::now();
    for name in &names {
        fs::rename(appliance.path(name), appliance.path("inbox").join(name))?;
    }
    let mut times = Times { whole: Vec::new(), describer: Vec::new(), last: 0.0 };
    let mut waiting: Vec<PathBuf> = names.iter().map(|name| appliance.path("done").join(format!("{name}.report.json"))).collect();
    while !waiting.is_empty() {
        daemon.check()?;
        let (there, absent): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|report| report.exists());
        waiting = absent;
        for report in there {
            times.last = begun.elapsed().as_secs_f64();
            times.whole.push(times.last);
            times.describer.push(describer(&report)?);
        }
        if begun.elapsed() > LONGEST * names.len() as u32 {
            bail!("{} of {} images have no report: see {}", waiting.len(), names.len(), appliance.path("failed").display());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(times)
}

/// Seconds that the describer took of a report's.
fn describer(report: &Path) -> Result<f64> {
    let report: Value = serde_json::from_slice(&fs::read(report)?)?;
    let times =
        DESCRIBER.iter().map(|stage| report["elapsed_ms"][*stage].as_f64().with_context(|| format!("a report has no {stage}")));
    Ok(times.sum::<Result<f64>>()? / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_beside_the_describer_costs_nothing_but_once() {
        assert!((ratio(20.0 + 0.3, 1.0, 1.3) - 1.0).abs() < 1e-9, "one after the other, and the last one's other work");
        assert!((ratio(20.0 * 1.3, 1.0, 1.3) - 1.285).abs() < 1e-9, "nothing runs beside the describer");
    }
}
