//! `cargo xtask bench overhead`: how long the appliance itself takes from drop to report, beside settling and inference.

use crate::{
    appliance::{Appliance, Daemon, say},
    checkout, slide,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What is measured.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Drop to report, less settle time and inference, over 200 files dropped one after the other
    Overhead,
}

/// Files dropped.
const FILES: usize = 200;

/// A short settle time: it is subtracted, and the measurement need not wait for it.
const SETTLE: Duration = Duration::from_millis(100);

/// What a report calls the stages that are the networks' own time.
const INFERENCE: [&str; 4] = ["vision", "prefill", "decode", "classify"];

/// The limits: median and 99th percentile in milliseconds.
const LIMITS: [f64; 2] = [25.0, 100.0];

/// Measures, writes every single value to `target/overhead.csv`, prints the summary, and fails above the limits.
pub fn run(bench: &Bench) -> Result<()> {
    let Bench::Overhead = bench;
    let folder = std::env::temp_dir().join(format!("mmlnb-bench-{}", std::process::id()));
    let appliance = Appliance::make(folder.clone(), None)?;
    let tiles = slide::tiles(None)?;
    let settle = SETTLE.as_millis().to_string();
    let mut daemon = Daemon::start(&appliance, &[("MMLNB_SETTLE_MS", &settle)])?;
    say(&format!("dropping {FILES} files one after the other"));
    let images = variants(&tiles)?;
    let mut milliseconds = Vec::with_capacity(FILES);
    for (number, image) in images.iter().enumerate() {
        milliseconds.push(overhead(&appliance, &mut daemon, number, image)?);
    }
    daemon.stop()?;
    fs::remove_dir_all(&folder)?;
    report(&mut milliseconds)
}

/// As many different images: a content that was assessed once is not assessed again.
fn variants(tiles: &Path) -> Result<Vec<Vec<u8>>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(tiles.join("images"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    let variant = |number: usize| -> Result<Vec<u8>> {
        let mut image = image::open(&paths[number % paths.len()])?.into_rgb8();
        // One pixel makes another image of it.
        image.get_pixel_mut(0, 0).0 = [number as u8, 0, 0];
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png)?;
        Ok(bytes.into_inner())
    };
    (0..FILES).map(variant).collect()
}

/// Drops one file by renaming it into the inbox and waits for its report; milliseconds that are neither settling nor inference.
fn overhead(appliance: &Appliance, daemon: &mut Daemon, number: usize, image: &[u8]) -> Result<f64> {
    let name = format!("{number:03}.png");
    let outside = appliance.path(&name);
    fs::write(&outside, image)?;
    let report = appliance.path("done").join(format!("{name}.report.json"));
    let dropped = Instant::now();
    fs::rename(&outside, appliance.path("inbox").join(&name))?;
    while !report.exists() {
        if dropped.elapsed() > Duration::from_secs(60) {
            daemon.check()?;
            bail!("no report of {name} after a minute");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let whole = dropped.elapsed().as_secs_f64() * 1e3;
    let text = fs::read(&report).with_context(|| format!("{} cannot be read", report.display()))?;
    let report: Value = serde_json::from_slice(&text)?;
    let stage = |name: &str| report["elapsed_ms"][name].as_f64().with_context(|| format!("the report has no time for {name}"));
    let inference = INFERENCE.into_iter().map(stage).sum::<Result<f64>>()?;
    Ok(whole - SETTLE.as_secs_f64() * 1e3 - inference)
}

fn report(milliseconds: &mut [f64]) -> Result<()> {
    let lines: String = milliseconds.iter().map(|value| format!("{value:.2}\n")).collect();
    let path = checkout().join("target/overhead.csv");
    fs::write(&path, format!("milliseconds\n{lines}")).with_context(|| format!("{} cannot be written", path.display()))?;
    milliseconds.sort_by(f64::total_cmp);
    let at = |share: f64| milliseconds[((milliseconds.len() as f64 * share).ceil() as usize).max(1) - 1];
    let (median, p99) = (at(0.5), at(0.99));
    println!("files {}, median {median:.1} ms, p99 {p99:.1} ms, largest {:.1} ms", milliseconds.len(), at(1.0));
    println!("limits: median {} ms, p99 {} ms; each value stands in {}", LIMITS[0], LIMITS[1], path.display());
    ensure!(median <= LIMITS[0] && p99 <= LIMITS[1], "the overhead is above its limits");
    Ok(())
}
