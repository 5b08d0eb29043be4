//! `cargo xtask bench size`: a describer of real size through the whole chain, random weights to answers, with the memory that each part takes.
//!
//! Not part of the gate: the 7B takes 22 GB of disk and minutes.

use super::child;
use crate::{
    appliance::{program_path, say},
    checkout,
    checkpoint::{DescriberOptions, Shape, write_describer},
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// What is tried.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Shape of the checkpoint: 0.5b, 3b or 7b
    #[arg(long, default_value = "7b")]
    shape: Shape,
    /// A checkpoint to take instead of making one
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// int4 or int4+int8
    #[arg(long, default_value = "int4", value_parser = ["int4", "int4+int8"])]
    precision: String,
    /// Threads of the answers
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Tokens of a description
    #[arg(long, default_value_t = 64)]
    tokens: usize,
}

/// Most memory of the export beside mapped files, in bytes.
const EXPORT: u64 = 2_000_000_000;

/// Makes checkpoint and bundle below `target/bench-size`, asks the bundle, and fails above a limit.
pub fn run(options: &Options) -> Result<()> {
    let folder = checkout().join("target/bench-size");
    fs::create_dir_all(&folder)?;
    let checkpoint = match &options.checkpoint {
        Some(given) => given.clone(),
        None => made(options, folder.join("checkpoint"))?,
    };
    let bundle = folder.join("bundle");
    if bundle.exists() {
        fs::remove_dir_all(&bundle)?;
    }
    say(&format!("exporting at {}", options.precision));
    let mut export = Command::new(program_path("mmlnb-export"));
    export.arg("bundle").arg("--vlm").arg(&checkpoint).arg("--output").arg(&bundle);
    export.args(["--precision", &options.precision, "--image-size", "252x252"]).stdout(Stdio::null()).stderr(Stdio::null());
    let export = watched(&mut export)?;
    say("asking it");
    let answers = folder.join("bench.json");
    let mut bench = Command::new(program_path("mmlnb-appliance"));
    bench.arg("bench").arg("--bundle").arg(&bundle).args(["--rows", "1", "--slots", "1", "--json", "--provider", "cpu"]);
    bench.args(["--tokens", &options.tokens.to_string(), "--threads", &options.threads.to_string()]);
    let asked = watched(bench.stdout(fs::File::create(&answers)?))?;
    let result: Value = serde_json::from_slice(&fs::read(&answers)?).context("mmlnb-appliance bench printed no JSON")?;
    tell(options, &bundle, (&export, &asked), &result)
}

fn made(options: &Options, output: PathBuf) -> Result<PathBuf> {
    if output.exists() {
        fs::remove_dir_all(&output)?;
    }
    write_describer(&DescriberOptions { shape: options.shape, output: output.clone(), seed: 0, corpus: None })?;
    Ok(output)
}

/// A process that has ended well.
struct Ended {
    seconds: f64,
    /// Most memory of its own at once, in bytes.
    own: u64,
    /// Most of that and of mapped files together.
    whole: u64,
}

/// Runs a command to its end and looks at its memory.
fn watched(command: &mut Command) -> Result<Ended> {
    let begun = Instant::now();
    let (mut own, mut whole) = (0, 0);
    child::run(command, |process| {
        let [anonymous, mapped] = ["RssAnon", "RssFile"].map(|key| child::memory(process, key).unwrap_or(0));
        (own, whole) = (own.max(anonymous), whole.max(anonymous + mapped));
    })?;
    Ok(Ended { seconds: begun.elapsed().as_secs_f64(), own, whole })
}

fn tell(options: &Options, bundle: &Path, (export, asked): (&Ended, &Ended), result: &Value) -> Result<()> {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let median = |value: &Value| value["median"].as_f64().map_or("-".to_owned(), |value| format!("{value:.2}"));
    let describer = &result["describer"];
    let startup = result["startup_s"].as_f64().context("no start-up was measured")?;
    println!("bundle             {:.2} GB", gigabytes(size(bundle)?));
    println!("export             {:.0} s, own memory {:.2} GB", export.seconds, gigabytes(export.own));
    println!("ready after        {startup:.1} s");
    println!("vision             {} s", median(&describer["vision_s"]));
    println!("first token        {} s", median(&describer["first_token_s"]));
    println!("decode, one row    {} tokens a second", median(&describer["decode"][0]["tokens_per_s"]));
    println!("images an hour     {} of {} tokens", median(&result["images_per_hour"]), options.tokens);
    println!("memory while asked {:.2} GB, {:.2} GB of it its own", gigabytes(asked.whole), gigabytes(asked.own));
    let most = if options.precision == "int4" { 8_000_000_000 } else { 12_000_000_000 };
    let patience = if options.shape == Shape::Half { 10.0 } else { 60.0 };
    let mut missed = Vec::new();
    let mut check = |met: bool, what: &str| {
        if !met {
            missed.push(what.to_owned());
        }
    };
    check(export.own < EXPORT, "the export takes more than 2 GB of its own");
    check(asked.whole <= most, &format!("answers take more than {} GB", most / 1_000_000_000));
    check(startup <= patience, &format!("it is ready after more than {patience} s"));
    if missed.is_empty() { Ok(()) } else { bail!("{}", missed.join("; ")) }
}

/// Bytes of all files below a folder.
fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { size(&entry.path())? } else { found.len() };
    }
    Ok(bytes)
}
