//! `cargo xtask bench`. `overhead`: how long the appliance itself takes from drop to report, beside inference.
//!
//! Files are renamed into the inbox: that is a complete file by contract, which needs no settling, so there is no settle time to subtract.

mod child;
mod classify;
mod decode;
mod describe;
mod growth;
mod serve;
mod size;

use crate::{
    appliance::{Appliance, Daemon, say},
    checkout, slide,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What is measured.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Drop to report, less inference, over 200 files renamed into the inbox one after the other (such files need no settling)
    Overhead,
    /// Steps of stage 2 at full size, beside PyTorch
    Classify(classify::Options),
    /// Our JPEG decoder beside the `image` crate's
    Decode(decode::Options),
    /// Steps of tuning a describer, beside transformers and PEFT when --python names one that has them
    Describe(describe::Options),
    /// Processor time an item at three sizes of each kind of work; fails where it more than doubles
    Growth(growth::Options),
    /// Serving beside other programs: onnxruntime-genai, OpenVINO, llama.cpp, transformers, each where it is installed
    Serve(serve::Options),
    /// A describer of real size through the whole chain, with the memory of each part; the 7B takes 22 GB of disk
    Size(size::Options),
}

/// Files dropped.
const FILES: usize = 200;

/// What a report calls the stages that are the networks' own time.
const INFERENCE: [&str; 4] = ["vision", "prefill", "decode", "classify"];

/// The limits: median and 99th percentile in milliseconds. An image is synced before it is moved, and its attempt is durable before it is parsed.
pub const LIMITS: [f64; 2] = [35.0, 120.0];

/// Runs a benchmark.
pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Overhead => overhead(),
        Bench::Classify(options) => classify::run(options),
        Bench::Decode(options) => decode::run(options),
        Bench::Describe(options) => describe::run(options),
        Bench::Growth(options) => growth::run(options),
        Bench::Serve(options) => serve::run(options),
        Bench::Size(options) => size::run(options),
    }
}

/// Measures, prints the summary, and fails above the limits.
fn overhead() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("mmlnb-bench-{}", std::process::id()));
    let found = overhead_of(&Appliance::make(folder.clone(), None)?)?;
    fs::remove_dir_all(&folder)?;
    println!("limits: median {} ms, p99 {} ms", LIMITS[0], LIMITS[1]);
    ensure!(found[0] <= LIMITS[0] && found[1] <= LIMITS[1], "the overhead is above its limits");
    Ok(())
}

/// Median, 99th percentile and largest of the overhead in milliseconds; every single value is written to `target/overhead.csv`.
pub fn overhead_of(appliance: &Appliance) -> Result<[f64; 3]> {
    let images = variants(&slide::tiles(None)?)?;
    let mut daemon = Daemon::start(appliance, &[])?;
    say(&format!("dropping {FILES} files one after the other"));
    let mut drops = Vec::with_capacity(FILES);
    for (number, image) in images.iter().enumerate() {
        let dropped = drop_one(appliance, &mut daemon, number, image)?;
        // Nobody is told of the first one if it comes before the first look, which begins to watch: it has to lie still for a while.
        if number > 0 {
            drops.push(dropped);
        }
    }
    daemon.stop()?;
    print_stages(&drops);
    report(&drops)
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
    (0..=FILES).map(variant).collect()
}

/// One file's way through the appliance.
struct Dropped {
    /// Milliseconds from the rename into the inbox to the report's file.
    whole: f64,
    /// Milliseconds of each stage, as the report gives them.
    stages: Map<String, Value>,
}

impl Dropped {
    fn stage(&self, name: &str) -> f64 {
        self.stages.get(name).and_then(Value::as_f64).unwrap_or(0.0)
    }

    fn overhead(&self) -> f64 {
        self.whole - INFERENCE.into_iter().map(|name| self.stage(name)).sum::<f64>()
    }
}

fn drop_one(appliance: &Appliance, daemon: &mut Daemon, number: usize, image: &[u8]) -> Result<Dropped> {
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
    let mut report: Value = serde_json::from_slice(&text)?;
    let Value::Object(stages) = report["elapsed_ms"].take() else { bail!("the report of {name} has no elapsed_ms") };
    for stage in INFERENCE {
        ensure!(stages.contains_key(stage), "the report of {name} has no time for {stage}");
    }
    Ok(Dropped { whole, stages })
}

fn print_stages(drops: &[Dropped]) {
    let names: Vec<&String> = drops.first().into_iter().flat_map(|drop| drop.stages.keys()).collect();
    println!("medians in milliseconds: whole {:.1}", percentile(drops.iter().map(|drop| drop.whole), 0.5));
    for name in names {
        let kind = if INFERENCE.contains(&name.as_str()) { "inference" } else { "overhead" };
        println!("  {name:14} {:7.1}  {kind}", percentile(drops.iter().map(|drop| drop.stage(name)), 0.5));
    }
}

/// The smallest value that at least this share of the values does not exceed.
fn percentile(values: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() as f64 * share).ceil() as usize).max(1) - 1]
}

fn report(drops: &[Dropped]) -> Result<[f64; 3]> {
    let lines: String = drops.iter().map(|drop| format!("{:.2}\n", drop.overhead())).collect();
    let path = checkout().join("target/overhead.csv");
    fs::write(&path, format!("milliseconds\n{lines}")).with_context(|| format!("{} cannot be written", path.display()))?;
    let found = [0.5, 0.99, 1.0].map(|share| percentile(drops.iter().map(Dropped::overhead), share));
    let [median, p99, largest] = found;
    println!("overhead of {} files: median {median:.1} ms, p99 {p99:.1} ms, largest {largest:.1} ms", drops.len());
    println!("each value stands in {}", path.display());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_values_themselves() {
        let values = || (1..=200).rev().map(f64::from);
        assert_eq!([0.5, 0.99, 1.0].map(|share| percentile(values(), share)), [100.0, 198.0, 200.0]);
    }

    #[test]
    fn inference_is_not_overhead() {
        let stages = serde_json::json!({"decode_image": 20.0, "vision": 1.0, "prefill": 2.0, "decode": 3.0, "classify": 4.0});
        let drop = Dropped { whole: 50.0, stages: stages.as_object().unwrap().clone() };
        assert_eq!(drop.overhead(), 40.0);
    }
}
