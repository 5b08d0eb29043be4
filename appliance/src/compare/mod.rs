//! How far a bundle's answers are from another's, usually of the same networks at another precision: quality is measured, never assumed.
//!
//! ```text
//! two bundles ─► pair: asked and answering alike?      CSV, images ─► qualify's rows
//! rounds: REFERENCE on each image ─► greedy tokens, report; logits ─► scratch          (dropped before the other is loaded)
//!         BUNDLE on each image ─► on REFERENCE's tokens: divergence from the scratch's logits; its own text, report
//! all rounds ─► measure ─► JSON, or told as text
//! ```
#![expect(clippy::disallowed_methods, reason = "bundles, data, images and scratch are the operator's own")]

mod answers;
mod measure;
mod pair;
mod scratch;
mod side;
mod tell;

use std::path::PathBuf;

use clap::Args;
use mmlnb_models::bundle::Bundle;
use mmlnb_models::measures::MeasureError;
use mmlnb_models::sheet::Sheet;
use serde_json::{Value, json};

use crate::assess::pipeline;
use crate::assess::reader::{Reader, Settings};
use crate::bundle;
use crate::commands::print;
use crate::engine::Mode;
use crate::error::{Exit, Failure, Problem};
use crate::qualify::rows::{self, Found, Needs, Row};
use crate::qualify::{mode, seen};
use answers::{Compared, Round};
use pair::Pair;
use scratch::{Scratch, Shape};
use side::Side;

/// `compare`.
#[derive(Args, Clone, Debug)]
pub struct Compare {
    /// The bundle that is measured against, usually in f32.
    #[arg(value_name = "REFERENCE")]
    pub reference: PathBuf,
    /// The bundle that is measured.
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// CSV with file_name, and if known class, description, group (patient) and split; rows of the split `train` are left out.
    #[arg(long, value_name = "CSV")]
    pub data: PathBuf,
    /// The folder of the images.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
    /// Where the reference's logits are kept meanwhile; at most half of what is free there is taken, and at most 16 GiB (1 GiB in memory).
    #[arg(long, value_name = "DIR", env = "TMPDIR", default_value = "/var/tmp")]
    pub scratch: PathBuf,
    /// Decides the intervals' draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// auto, cpu or cuda.
    #[arg(long, value_parser = ["auto", "cpu", "cuda"], default_value = "auto", env = "MMLNB_PROVIDER")]
    pub provider: String,
    /// Threads for computing; 0: all cores less one.
    #[arg(long, default_value_t = 0, env = "MMLNB_THREADS")]
    pub threads: usize,
    /// Images that are described together; more than one is faster and takes more memory.
    #[arg(long, default_value_t = 1, env = "MMLNB_SLOTS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub slots: u16,
}

/// What was asked of both bundles.
struct Asked {
    /// Images that both have answered.
    all: Vec<Compared>,
    /// Images that one of them could not answer, in words.
    failed: Vec<String>,
    /// Where the reference ran, and where the other did.
    providers: [&'static str; 2],
}

/// `compare`.
///
/// # Errors
/// Bundles that cannot be compared or data (all problems at once), an engine, or the scratch folder.
pub fn run(args: &Compare) -> Result<Exit, Failure> {
    let pair = pair::open(&args.reference, &args.bundle)?;
    let reading = pipeline::settings();
    let (found, unknown) = read_rows(args, &pair, &reading)?;
    pipeline::warn(&reading);
    let Found { rows, left_out } = found;
    if left_out > 0 {
        eprintln!(
            "{left_out} rows are left out: they trained a bundle, or another image of their patient did; {} are used",
            rows.len()
        );
    }
    let Asked { all, failed, providers } = ask_both(args, &pair, &rows, &reading)?;
    if all.is_empty() {
        let problem =
            |what: &String| Problem::new(what, args.data.display().to_string(), "export the image again, best as 8-bit PNG");
        return Err(Failure { exit: Exit::Usage, problems: failed.iter().map(problem).collect() });
    }
    let used: Vec<Row> = all.iter().map(|one| one.row.clone()).collect();
    let groups: Option<std::collections::BTreeSet<&str>> = used.iter().map(|row| row.group.as_deref()).collect();
    let result = json!({
        "producer": format!("mmlnb-appliance {}", env!("CARGO_PKG_VERSION")),
        "reference": named(&pair.reference, providers[0]),
        "bundle": named(&pair.bundle, providers[1]),
        "slots": args.slots,
        "data": {
            "sha256": rows::data_sha256(&used),
            "images": used.len(),
            "groups": groups.map(|groups| groups.len()),
            "left_out": left_out,
            "training_rows_known": !unknown,
        },
        "describer": measure::describers(&all, args.seed).map_err(unmeasurable)?,
        "classifier": measure::classifiers(&all, args.seed).map_err(unmeasurable)?,
        "warnings": warnings(&pair),
        "failed": failed,
    });
    for warning in ["warnings", "failed"].iter().flat_map(|key| result[key].as_array().into_iter().flatten()) {
        eprintln!("warning: {}", warning.as_str().unwrap_or_default());
    }
    print(&if args.json { format!("{result}\n") } else { tell::table(&result) })?;
    Ok(if failed.is_empty() { Exit::Done } else { Exit::SomeFailed })
}

/// Which bundle was asked, and where it ran.
fn named(bundle: &Bundle, provider: &str) -> Value {
    json!({"bundle_sha256": bundle.sha256, "precision": bundle.manifest.precision, "provider": provider})
}

/// The rows that `qualify` would take for both bundles, and whether one does not say all that trained it. Classes are needed only where the
/// table has them.
fn read_rows(args: &Compare, pair: &Pair, reading: &Settings) -> Result<(Found, bool), Failure> {
    let classifier = pair.reference.manifest.classifier.as_ref();
    let has_classes = Sheet::read(&args.data).is_ok_and(|sheet| sheet.column("class").is_some());
    let (mut known, first_unknown) = seen(&pair.reference)?;
    let (more, second_unknown) = seen(&pair.bundle)?;
    known.extend(more);
    let unknown = first_unknown || second_unknown;
    let needs = Needs {
        classes: classifier.map(|part| part.classes.as_slice()).filter(|_| has_classes),
        description: mode(&pair.reference.manifest) == Mode::Classify && classifier.is_some_and(|part| part.text.is_some()),
        seed: args.seed,
        seen: &known,
        unknown,
    };
    let mut reader = Reader::new(reading.clone());
    let found = rows::read(&args.data, &args.images, &needs, &mut |path| pipeline::inspect(&mut reader, path))?;
    Ok((found, unknown))
}

/// Both bundles' answers, in rounds of as many images as the scratch folder has room for: only one bundle is loaded at a time.
fn ask_both(args: &Compare, pair: &Pair, rows: &[Row], reading: &Settings) -> Result<Asked, Failure> {
    let describer = pair.reference.manifest.describer.as_ref();
    let shape =
        pair.vocabulary.zip(describer).map(|(vocabulary, part)| Shape { vocabulary, tokens: part.generation.max_new_tokens });
    let together = shape.map(|shape| shape.images(&args.scratch)).transpose()?.unwrap_or(rows.len());
    let open = |name: &'static str, of: &Bundle| {
        let options = bundle::options(&args.provider, args.threads, usize::from(args.slots), mode(&of.manifest), of);
        Side::open(name, of, &options)
    };
    let mut asked = Asked { all: Vec::new(), failed: Vec::new(), providers: [""; 2] };
    let rounds = rows.len().div_ceil(together);
    for (number, rows) in rows.chunks(together).enumerate() {
        let title = if rounds > 1 { format!(", round {} of {rounds}", number + 1) } else { String::new() };
        let scratch = shape.map(|shape| Scratch::create(&args.scratch, shape)).transpose()?;
        let round = Round { rows, title, scratch, classifies: pair.reference.manifest.classifier.is_some(), reading };
        let side = open("REFERENCE", &pair.reference)?;
        asked.providers[0] = side.provider();
        let answers = round.ask_reference(&side, &mut asked.failed)?;
        drop(side);
        let side = open("BUNDLE", &pair.bundle)?;
        asked.providers[1] = side.provider();
        asked.all.extend(round.ask_bundle(&side, answers, &mut asked.failed)?);
    }
    asked.failed.sort();
    Ok(asked)
}

/// What makes figures say less than they seem to.
fn warnings(pair: &Pair) -> Vec<String> {
    let calibrated = [&pair.reference, &pair.bundle].map(|one| one.calibration().is_some());
    let lacks = match calibrated {
        [true, false] => "BUNDLE",
        [false, true] => "REFERENCE",
        _ => return Vec::new(),
    };
    vec![format!(
        "{lacks} is not calibrated and the other is: their verdicts and probabilities do not mean the same; qualify both"
    )]
}

fn unmeasurable(error: MeasureError) -> Failure {
    Failure::new(Exit::Usage, error.to_string(), "", "give more images")
}
