//! `cargo xtask bench classify`: steps of stage 2 at full size (VGG16, BERT-base), ours beside PyTorch eager in the same run.
//!
//! Both sides run in turn, each as a process of its own; the first step of each process is left out.

use crate::{appliance::say, checkout};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

/// What is compared.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A Python with torch and transformers; without it only our side is measured
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Processes of each side
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Steps of each phase in a process, the first of which is left out
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Items of a batch
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Threads of each side
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Phases: all, text_frozen (features of the text computed once), last (both encoders' features computed once)
    #[arg(long, value_delimiter = ',', default_values_t = ["all", "text_frozen", "last"].map(String::from))]
    phases: Vec<String>,
}

/// How many times faster than PyTorch each phase has to be.
const WANTED: [(&str, f64); 3] = [("all", 1.0), ("text_frozen", 1.3), ("last", 20.0)];

/// Measures and prints; fails where a phase is slower than it has to be.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.steps >= 2, "--steps counts the first step, which is left out: give at least 2");
    let program = built()?;
    let mut ours = vec![Vec::new(); options.phases.len()];
    let mut theirs = ours.clone();
    for round in 0..options.rounds {
        say(&format!("round {} of {}", round + 1, options.rounds));
        for (place, phase) in options.phases.iter().enumerate() {
            let folder = checkout().join("target/bench-classify");
            ours[place].extend(seconds(Command::new(&program).arg(folder), options, phase)?);
            if let Some(python) = &options.python {
                theirs[place].extend(seconds(
                    Command::new(python).arg(checkout().join("xtask/torch_classify.py")),
                    options,
                    phase,
                )?);
            }
        }
    }
    println!(
        "seconds an image, batch {}: median (smallest to largest) of {} steps",
        options.batch,
        ours.first().map_or(0, Vec::len)
    );
    let mut slow = Vec::new();
    for (place, phase) in options.phases.iter().enumerate() {
        let each = |all: &[f64]| all.iter().map(|seconds| seconds / options.batch as f64).collect::<Vec<f64>>();
        println!("  {phase:12} mmlnb {}", spread(&each(&ours[place])));
        if theirs[place].is_empty() {
            continue;
        }
        let ratio = median(&theirs[place]) / median(&ours[place]);
        println!("  {phase:12} PyTorch {}; ours is {ratio:.2} times as fast", spread(&each(&theirs[place])));
        slow.extend(
            WANTED
                .iter()
                .filter(|(name, wanted)| name == phase && ratio < *wanted)
                .map(|(name, wanted)| format!("{name}: {ratio:.2} times as fast, {wanted} wanted")),
        );
    }
    ensure!(slow.is_empty(), "{}", slow.join("; "));
    Ok(())
}

/// The program that makes our steps.
fn built() -> Result<PathBuf> {
    let status = Command::new(env!("CARGO")).args(["build", "--example", "classify_steps"]).current_dir(checkout()).status()?;
    ensure!(status.success(), "classify_steps cannot be built");
    Ok(checkout().join("target/debug/examples/classify_steps"))
}

/// Seconds of each step but the first.
fn seconds(command: &mut Command, options: &Options, phase: &str) -> Result<Vec<f64>> {
    let numbers = [options.batch, options.steps, options.threads].map(|number| number.to_string());
    let output = command.args(numbers).arg(phase).stderr(Stdio::inherit()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed");
    let line: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} printed no JSON"))?;
    let seconds = line["seconds"].as_array().context("no seconds")?.iter().filter_map(Value::as_f64);
    Ok(seconds.skip(1).collect())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{:.4} ({least:.4} to {most:.4})", median(values))
}
