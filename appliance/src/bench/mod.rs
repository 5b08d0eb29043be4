//! How fast a bundle is on this machine: the engine is asked through its own front, as the daemon asks it, and the clock is read.
//!
//! ```text
//! bundle ─► engine (start-up) ─► one image alone, again and again: vision, prompt, first token
//!                            ─► several rows that write fixed tokens: decode, while all of them write
//!                            ─► all slots kept full: images an hour         ─► JSON, or told as text
//!                            ─► classifier with a given text: images a second
//! ```
#![expect(clippy::disallowed_methods, reason = "the bundle, and the system's own figures below /proc")]

mod answer;
mod args;
mod figure;
mod full;
mod question;
mod tell;
mod writing;

use std::time::Instant;

use mmlnb_models::bundle::{Bundle, Trust};
use serde_json::{Value, json};

use crate::bundle;
use crate::commands::print;
use crate::engine::{Engine, EngineError, EngineOptions, Mode};
use crate::error::{Exit, Failure};
use crate::qualify::mode;
pub use args::Bench;
use figure::peak_memory;
use question::Question;

/// `bench`.
///
/// # Errors
/// Bundle, image, or more tokens than the bundle allows.
pub fn run(args: &Bench) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let (opened, unchecked) = bundle::begin(&args.bundle, &Trust::unjudged())?;
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

/// The slots of this command are its rows.
fn unopened(error: &EngineError, args: &Bench) -> Failure {
    let mut failure = bundle::failure(error, &args.bundle);
    if matches!(error, EngineError::TooLarge(_) | EngineError::Memory(_)) {
        failure.problems.iter_mut().for_each(|problem| problem.mend = "give fewer --rows and --slots, or free memory".to_owned());
    }
    failure
}
