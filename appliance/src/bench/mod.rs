//! How fast a bundle is on this machine: the engine is asked through its own front, as the daemon asks it, and the clock is read.
//!
//! ```text
//! bundle ─► engine (start-up) ─► one image alone, again and again: vision, prompt, first token
//!                            ─► several rows that write fixed tokens: decode, while all of them write
//!                            ─► all slots kept full: images an hour         ─► JSON, or told as text
//!                            ─► classifier with a given text: images a second
//! ```
#![expect(clippy::disallowed_methods, reason = "the bundle, and the system's own figures below /proc")]

mod figure;
mod full;
mod question;
mod tell;
mod writing;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use mmlnb_models::bundle::Bundle;
use serde_json::{Value, json};

use crate::bundle;
use crate::commands::print;
use crate::engine::{Assessment, Engine, EngineError, EngineOptions, Mode};
use crate::error::{Exit, Failure};
use crate::qualify::mode;
use figure::peak_memory;
use question::Question;

/// `bench`.
#[derive(Args, Clone, Debug)]
pub struct Bench {
    /// The bundle that mmlnb-export wrote.
    #[arg(long, value_name = "DIR", env = "MMLNB_BUNDLE")]
    pub bundle: PathBuf,
    /// The image that is described over and over; without it one is drawn.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// How many images write together, one measurement of the decoder for each.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [1, 4, 16],
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub rows: Vec<u16>,
    /// Images that are in work at any time where images an hour are counted.
    #[arg(long, default_value_t = 4, env = "MMLNB_SLOTS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub slots: u16,
    /// Tokens of every description; 0: as many as the bundle allows.
    #[arg(long, default_value_t = 0)]
    pub tokens: usize,
    /// How often each measurement is made.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// auto, cpu or cuda.
    #[arg(long, value_parser = ["auto", "cpu", "cuda"], default_value = "auto", env = "MMLNB_PROVIDER")]
    pub provider: String,
    /// Threads for computing; 0: all cores less one.
    #[arg(long, default_value_t = 0, env = "MMLNB_THREADS")]
    pub threads: usize,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `bench`.
///
/// # Errors
/// Bundle, image, or more tokens than the bundle allows.
pub fn run(args: &Bench) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let (opened, unchecked) = bundle::begin(&args.bundle)?;
    let opening = begun.elapsed();
    let question = Question::new(args, &opened)?;
    let options = options(args, &opened);
    let begun = Instant::now();
    let load = || Engine::open(&opened, &options).map_err(|error| unopened(&error, args));
    let engine = bundle::checked(&opened, unchecked, load)?;
    let startup = (opening + begun.elapsed()).as_secs_f64();
    if let Some(note) = &engine.provider().note {
        eprintln!("warning: {note}");
    }
    let result = measure(args, &opened, &engine, &question, startup)?;
    let warnings = result["warnings"].as_array().map_or(0, Vec::len);
    for warning in result["warnings"].as_array().into_iter().flatten() {
        eprintln!("warning: {}", warning.as_str().unwrap_or_default());
    }
    print(&if args.json { format!("{result}\n") } else { tell::table(&result) })?;
    Ok(if warnings == 0 { Exit::Done } else { Exit::NotAllRight })
}

fn options(args: &Bench, opened: &Bundle) -> EngineOptions {
    let slots = args.rows.iter().fold(args.slots, |most, rows| most.max(*rows));
    bundle::options(&args.provider, args.threads, usize::from(slots), Mode::Both, opened)
}

fn measure(args: &Bench, opened: &Bundle, engine: &Engine, question: &Question, startup: f64) -> Result<Value, Failure> {
    let (describes, classifies) = (opened.manifest.describer.is_some(), opened.manifest.classifier.is_some());
    let mut warnings = Vec::new();
    let describer = describes.then(|| writing::measure(args, engine, question, &mut warnings)).transpose()?;
    let classifier = classifies.then(|| full::classifier(args, engine, question)).transpose()?;
    let images_per_hour = full::images_per_hour(args, engine, question, mode(&opened.manifest))?;
    Ok(json!({
        "producer": format!("mmlnb-appliance {}", env!("CARGO_PKG_VERSION")),
        "bundle_sha256": opened.sha256,
        "precision": opened.manifest.precision,
        "provider": engine.provider().name,
        "threads": args.threads,
        "image": [question.image.rgb.width, question.image.rgb.height],
        "tokens": question.tokens.len(),
        "runs": args.runs,
        "startup_s": startup,
        "decode_image_s": question.decode,
        "describer": describer,
        "classifier": classifier,
        "slots": args.slots,
        "images_per_hour": images_per_hour,
        "peak_memory_bytes": peak_memory(),
        "warnings": warnings,
    }))
}

/// Seconds of a part of an answer, which is 0 where it was not needed.
fn part(assessment: &Assessment, name: &str) -> f64 {
    assessment.elapsed.iter().filter(|(known, _)| *known == name).map(|(_, milliseconds)| milliseconds / 1e3).sum()
}

/// The slots of this command are its rows.
fn unopened(error: &EngineError, args: &Bench) -> Failure {
    let mut failure = bundle::failure(error, &args.bundle);
    if matches!(error, EngineError::TooLarge(_) | EngineError::Memory(_)) {
        failure.problems.iter_mut().for_each(|problem| problem.mend = "give fewer --rows and --slots, or free memory".to_owned());
    }
    failure
}

fn unanswered(error: EngineError) -> Failure {
    match error {
        EngineError::Image(message) | EngineError::Numbers(message) => Failure::new(
            Exit::Usage,
            message,
            "",
            "give another --image; a bundle that fails on every image has to be exported again",
        ),
        other => Failure::internal("an image was not assessed", other),
    }
}
