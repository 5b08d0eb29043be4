//! `cargo xtask bench serve`: what serves beside other programs that are installed, on the same machine in the same run.
//!
//! ```text
//! make: checkpoint (0.5B, random), bundles, images; each peer's own form of the checkpoint         (once, kept)
//! round: ours, peer, peer, .. each a process of its own ─► values.csv, line by line     (round after round)
//! table: medians with spread, ratios to the best peer, targets of the processor's class
//! queue, overhead: the daemon alone, once, printed
//! ```

mod figure;
mod machine;
mod make;
mod ours;
mod peers;
mod process;
mod queue;
mod table;

use crate::appliance::{Appliance, program_path, say};
use anyhow::{Context, Result, bail, ensure};
use figure::Part;
use make::Made;
use ours::SIDES;
use peers::{PEERS, Peer};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// What is compared.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A Python with packages of peers (torch, transformers, Pillow; onnxruntime_genai; openvino, optimum-intel; llama_cpp, gguf); may be
    /// given several times: each peer runs with the first that has what it needs
    #[arg(long, value_name = "FILE")]
    python: Vec<PathBuf>,
    /// How often every side is measured, all in turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads of each side
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Rows that are decoded together, of 1, 4 and 16
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    rows: Vec<usize>,
    /// Tokens that each row of a peer decodes; rows of ours write 448, of which those count that all write together
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Tokens of a description in the whole pipeline
    #[arg(long, default_value_t = 128)]
    description: usize,
    /// Images that go through our whole pipeline; a plain loop, in which each takes as long, gets four of them
    #[arg(long, default_value_t = 25)]
    images: usize,
    /// Images that our pipeline has in work together
    #[arg(long, default_value_t = 4)]
    slots: usize,
    /// Measure only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Measure only peers whose name contains this
    #[arg(long, value_name = "NAME")]
    peers: Option<String>,
}

/// What our side is called.
const OURS: &str = "mmlnb";

/// Share of a value's time in which others may have waited for a core; above it, something else was running.
const QUIET: f64 = 0.1;

/// A measured value of one process.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The figure's name.
    pub figure: String,
    pub value: f64,
    /// Share of its time in which some process of the machine waited for a core; `None`: not known.
    pub waited: Option<f64>,
}

/// A sample of a side.
#[derive(Debug, Clone)]
pub struct Record {
    side: String,
    sample: Sample,
}

/// Measures, prints the table, and fails where a target is missed, a peer broke, or nothing was there to compare with.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds >= 1 && options.slots >= 1, "give at least one round and one slot");
    ensure!(
        options.images >= 3 * options.slots,
        "give at least three --images for each of --slots: at both ends slots fill and empty"
    );
    ensure!(
        !options.wants(Part::Queue) || options.images >= queue::IMAGES,
        "give at least {} --images, or leave the part `queue` out with --only",
        queue::IMAGES
    );
    let known = |rows: &usize| figure::FIGURES.iter().any(|figure| figure.name == format!("decode {rows}"));
    ensure!(options.rows.iter().all(known), "--rows takes 1, 4 and 16, for which there are targets");
    for name in ["mmlnb-appliance", "mmlnb-export"] {
        ensure!(program_path(name).is_file(), "{name} is not built: cargo build --workspace");
    }
    let machine = machine::this()?;
    println!("{} ({}), {} threads: targets of class {:?}", machine.name, machine.flags.join(" "), options.threads, machine.class);
    let made = Made::make(options)?;
    println!("prompt: {} tokens", made.prompt_tokens);
    let mut trouble = Vec::new();
    let present = present(options, &made, &mut trouble)?;
    let sides = SIDES.iter().any(|side| side.parts.iter().any(|part| options.wants(*part)));
    let records = if sides { rounds(options, &made, &present, &mut trouble)? } else { Vec::new() };
    let (text, missed) = table::table(&records, machine.class);
    if sides {
        println!("\n{text}\nevery value stands in {}", values().display());
    }
    let disturbed = records.iter().filter(|record| record.sample.waited.is_some_and(|share| share > QUIET)).count();
    if disturbed > 0 {
        println!(
            "{disturbed} of {} values were disturbed for more than a tenth of their time: not to be published",
            records.len()
        );
    }
    trouble.extend(missed);
    if options.wants(Part::Queue) {
        let found = queue::queue(&made.pipeline_bundle(options), &made.image_files()?, options.threads, &made.path("queue"));
        trouble.extend(found.unwrap_or_else(|problem| Some(told("queue", &problem))));
    }
    if options.wants(Part::Overhead) {
        trouble.extend(overhead()?);
    }
    if !trouble.is_empty() {
        bail!("{}", trouble.join("\n"));
    }
    Ok(())
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn wants_peer(&self, peer: &Peer) -> bool {
        self.wants(peer.part) && self.peers.as_ref().is_none_or(|name| peer.name.contains(name))
    }
}

/// The peers that can run, with their converted checkpoints; the others are told.
fn present<'o>(options: &'o Options, made: &Made, trouble: &mut Vec<String>) -> Result<Vec<(&'static Peer, &'o Path)>> {
    let mut present = Vec::new();
    for peer in PEERS.iter().filter(|peer| options.wants_peer(peer)) {
        match peer.python(options) {
            Ok(python) => present.push((peer, python)),
            Err(lacks) => println!("absent: {} ({:?}): {lacks}", peer.name, peer.part),
        }
    }
    if let Some((_, python)) = present.iter().find(|(peer, _)| matches!(peer.part, Part::Decode | Part::Export)) {
        made.text_checkpoint(python)?;
    }
    present.retain(|(peer, python)| {
        let converted = peer.convert(python, options, made);
        converted.map_err(|problem| trouble.push(told(peer.name, &problem))).is_ok()
    });
    Ok(present)
}

fn told(side: &str, problem: &anyhow::Error) -> String {
    let text = format!("{side}: {problem:#}");
    eprintln!("failed: {text}");
    text
}

/// All sides in turn, round after round; a side that broke is told and not asked again.
fn rounds(options: &Options, made: &Made, present: &[(&'static Peer, &Path)], trouble: &mut Vec<String>) -> Result<Vec<Record>> {
    let mut file = fs::File::create(values()).with_context(|| format!("{} cannot be written", values().display()))?;
    writeln!(file, "round,side,figure,value,waited")?;
    let mut records = Vec::new();
    let mut broken = Vec::new();
    for round in 1..=options.rounds {
        let ours = SIDES.iter().filter(|side| side.parts.iter().any(|part| options.wants(*part)));
        let ours = ours.map(|side| (OURS, Box::new(|| side.measure(options, made)) as Box<dyn Fn() -> Result<Vec<Sample>>>));
        let theirs = present.iter().map(|(peer, python)| (peer.name, Box::new(|| peer.measure(python, options, made)) as _));
        for (place, (side, measure)) in ours.chain(theirs).enumerate() {
            if broken.contains(&place) {
                continue;
            }
            say(&format!("round {round} of {}: {side}", options.rounds));
            match measure() {
                Ok(samples) => keep(samples, round, side, options, &mut file, &mut records)?,
                Err(problem) => {
                    trouble.push(told(side, &problem));
                    broken.push(place);
                }
            }
        }
    }
    Ok(records)
}

fn keep(
    samples: Vec<Sample>,
    round: usize,
    side: &str,
    options: &Options,
    file: &mut fs::File,
    records: &mut Vec<Record>,
) -> Result<()> {
    for sample in samples {
        let figure = figure::FIGURES.iter().find(|figure| figure.name == sample.figure);
        let part = figure.map(|figure| figure.part);
        if part.is_some_and(|part| !options.wants(part)) {
            continue;
        }
        let waited = sample.waited.map_or(String::new(), |share| format!("{share:.3}"));
        println!("  {}: {:.4} {}, disturbed {waited}", sample.figure, sample.value, figure.map_or("", |figure| figure.unit));
        writeln!(file, "{round},\"{side}\",{},{},{waited}", sample.figure, sample.value)?;
        records.push(Record { side: side.to_owned(), sample });
    }
    Ok(())
}

fn values() -> PathBuf {
    crate::checkout().join("target/bench-serve/values.csv")
}

/// The appliance's own time, once; what of it is above its limits.
fn overhead() -> Result<Option<String>> {
    let folder = std::env::temp_dir().join(format!("mmlnb-serve-{}", std::process::id()));
    let found = super::overhead_of(&Appliance::of_built(folder.clone())?)?;
    fs::remove_dir_all(&folder)?;
    let above = found[0] > super::LIMITS[0] || found[1] > super::LIMITS[1];
    Ok(above
        .then(|| format!("overhead: median {:.1} ms, p99 {:.1} ms are above the limits {:?}", found[0], found[1], super::LIMITS)))
}
