//! `cargo xtask bench describe`: steps of tuning a describer, ours beside transformers + PEFT on the same base, image, text, rank and optimiser.
//!
//! Both sides run in turn, each as a process of its own; the first step of each process is left out. Peak memory is the kernel's own figure (`VmHWM`).

use super::child;
use crate::{
    appliance::{program_path, say},
    checkout,
    checkpoint::{DescriberOptions, Shape, write_describer},
};
use anyhow::Result;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What is compared.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A Python with torch, transformers, peft and Pillow; without it only our side is measured
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Processes of each side
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Steps of each process, the first of which is left out
    #[arg(long, default_value_t = 4)]
    steps: usize,
    /// Threads of each side
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The base's type on both sides: bf16, or f32, in which a processor without 16-bit instructions is PEFT's better side
    #[arg(long, default_value = "bf16", value_parser = ["bf16", "f32"])]
    dtype: String,
    /// A checkpoint to tune instead of random weights in the 0.5B shape
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
}

const PROMPT: &str = "Describe the image.";
const RANK: usize = 16;
/// Words of the description: with the tokenizer of `cargo xtask checkpoint` about 120 tokens.
const WORDS: usize = 60;

/// One process.
#[derive(Debug)]
struct Run {
    /// Tokens a second of each step but the first.
    rates: Vec<f64>,
    peak_bytes: u64,
}

/// Measures and prints; writes nothing but below `target/bench-describe`.
pub fn run(options: &Options) -> Result<()> {
    let folder = checkout().join("target/bench-describe");
    fs::create_dir_all(&folder)?;
    let base = base(options, &folder)?;
    let description = description();
    write_data(&folder, options, &description)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        say(&format!("round {} of {}", round + 1, options.rounds));
        ours.push(our_side(options, &folder, &base)?);
        if let Some(python) = &options.python {
            theirs.push(their_side(options, python, &folder, &base, &description)?);
        }
    }
    print("mmlnb-train", &ours);
    println!("  vision tower, once an image and then kept: {:.2} s an image", seconds_an_image(&folder)?);
    if !theirs.is_empty() {
        print("transformers + PEFT", &theirs);
        let ratio = median(&rates(&ours)) / median(&rates(&theirs));
        println!("tokens a second, ours / theirs: {ratio:.2}");
    }
    Ok(())
}

fn base(options: &Options, folder: &Path) -> Result<PathBuf> {
    if let Some(base) = &options.base {
        return Ok(base.clone());
    }
    let base = folder.join("base");
    if !base.join("config.json").exists() {
        write_describer(&DescriberOptions { shape: Shape::Half, output: base.clone(), seed: 0, corpus: None })?;
    }
    Ok(base)
}

fn description() -> String {
    let words = ["small", "round", "cells", "lie", "in", "sheets", "with", "scant", "neuropil", "and", "rosettes", "here"];
    (0..WORDS).map(|n| words[n % words.len()]).collect::<Vec<_>>().join(" ")
}

/// As many images as steps, a pixel apart, all with the same text, and one for validation, without which no run is.
fn write_data(folder: &Path, options: &Options, description: &str) -> Result<()> {
    let steps = options.steps;
    let images = folder.join("images");
    fs::create_dir_all(&images)?;
    let mut csv = String::from("file_name,description,split\n");
    for number in 0..=steps {
        let pixel =
            |x: u32, y: u32| image::Rgb([(x * 7 % 256) as u8, (y * 5 % 256) as u8, if x + y == 0 { number as u8 } else { 90 }]);
        image::RgbImage::from_fn(252, 252, pixel).save(images.join(format!("{number}.png")))?;
        let part = if number == steps { "validation" } else { "train" };
        csv += &format!("{number}.png,{description},{part}\n");
    }
    fs::write(folder.join("data.csv"), csv)?;
    let settings = format!(
        "rank = {RANK}\nalpha = {}\ndropout = 0.0\nepochs = 1\nbatch_size = 1\naccumulation = 1\nwarmup = 0.0\nsave_steps = 0\n\
         validation_texts = 0\nimage_size = [252, 252]\nprompt = \"{PROMPT}\"\nbase_dtype = \"{}\"\n",
        2 * RANK,
        options.dtype
    );
    fs::write(folder.join("describe.toml"), settings)?;
    Ok(())
}

fn our_side(options: &Options, folder: &Path, base: &Path) -> Result<Run> {
    let run = folder.join("run");
    if run.exists() {
        fs::remove_dir_all(&run)?;
    }
    let mut command = Command::new(program_path("mmlnb-train"));
    command.arg("describe").arg("--data").arg(folder.join("data.csv")).arg("--images").arg(folder.join("images"));
    command.arg("--base").arg(base).arg("--output").arg(&run).arg("--config").arg(folder.join("describe.toml"));
    command.args(["--device", "cpu"]).env("OMP_NUM_THREADS", options.threads.to_string()).stdout(Stdio::null());
    let peak_bytes = watched(&mut command)?;
    let text = fs::read_to_string(run.join("metrics.jsonl"))?;
    let lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let rates = lines.iter().filter(|line| line["kind"] == "step").skip(1).filter_map(|line| line["tokens_per_second"].as_f64());
    Ok(Run { rates: rates.collect(), peak_bytes })
}

fn their_side(options: &Options, python: &Path, folder: &Path, base: &Path, description: &str) -> Result<Run> {
    let output = folder.join("peft.jsonl");
    let mut command = Command::new(python);
    command.arg(checkout().join("xtask/peft_describe.py")).arg("--base").arg(base);
    command.arg("--image").arg(folder.join("images/0.png")).args(["--answer", description, "--prompt", PROMPT]);
    command.args([
        "--dtype",
        &options.dtype,
        "--rank",
        &RANK.to_string(),
        "--steps",
        &options.steps.to_string(),
        "--threads",
        &options.threads.to_string(),
    ]);
    command.env("HF_HUB_OFFLINE", "1").stdout(fs::File::create(&output)?);
    let peak_bytes = watched(&mut command)?;
    let text = fs::read_to_string(&output)?;
    let lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let rate = |line: &Value| Some(line["tokens"].as_f64()? / line["seconds"].as_f64()?);
    Ok(Run { rates: lines.iter().filter_map(rate).skip(1).collect(), peak_bytes })
}

/// Runs a command to its end; its peak memory.
fn watched(command: &mut Command) -> Result<u64> {
    let mut peak = 0;
    child::run(command, |process| peak = peak.max(child::memory(process, "VmHWM").unwrap_or(0)))?;
    Ok(peak)
}

/// From the times at which the cache's files were written.
fn seconds_an_image(folder: &Path) -> Result<f64> {
    let mut times = Vec::new();
    for kind in fs::read_dir(folder.join("run/cache"))? {
        for file in fs::read_dir(kind?.path())? {
            times.push(file?.metadata()?.modified()?);
        }
    }
    times.sort();
    let [Some(first), Some(last)] = [times.first(), times.last()] else { return Ok(f64::NAN) };
    Ok(last.duration_since(*first)?.as_secs_f64() / (times.len() - 1).max(1) as f64)
}

fn rates(runs: &[Run]) -> Vec<f64> {
    runs.iter().flat_map(|run| run.rates.iter().copied()).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(name: &str, runs: &[Run]) {
    let rates = rates(runs);
    let most = runs.iter().map(|run| run.peak_bytes).max().unwrap_or(0);
    let (low, high) = rates.iter().fold((f64::INFINITY, 0.0f64), |(low, high), rate| (low.min(*rate), high.max(*rate)));
    println!(
        "{name}: median {:.1} tokens/s of {} steps ({low:.1} to {high:.1}), peak {:.2} GiB",
        median(&rates),
        rates.len(),
        most as f64 / (1u64 << 30) as f64
    );
}
