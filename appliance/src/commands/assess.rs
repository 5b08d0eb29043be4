//! `classify` and `describe`: the engine on single images, without daemon and database.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use clap::Args;
use mmlnb_models::bundle::{Bundle, Trust, Unchecked};
use serde_json::Value;

use super::print;
use crate::assess::pipeline::{self, Patch, unusable};
use crate::assess::reader::{Reader, Settings};
use crate::bundle;
use crate::engine::{Assessment, Engine, EngineError, EngineOptions, Mode, Request};
use crate::error::{Exit, Failure, Problem};
use crate::files::names;
use crate::ledger::{Described, NewReport};
use crate::report::{codes, hex, json, page};
use crate::verdict;

/// A bundle and images, without a daemon.
#[derive(Args, Clone, Debug)]
pub struct DescribeOnly {
    /// The bundle that mmlnb-export wrote.
    #[arg(long, value_name = "DIR", env = "MMLNB_BUNDLE")]
    pub bundle: PathBuf,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// Write the tensors on the way into this safetensors file (one image only).
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// auto, cpu or cuda.
    #[arg(long, value_parser = ["auto", "cpu", "cuda"], default_value = "auto", env = "MMLNB_PROVIDER")]
    pub provider: String,
    /// Threads for computing; 0: all cores less one.
    #[arg(long, default_value_t = 0, env = "MMLNB_THREADS")]
    pub threads: usize,
    /// Images that are described together.
    #[arg(long, default_value_t = 4, env = "MMLNB_SLOTS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub slots: u16,
    /// Write every token by itself. Without this, bundles at int8, int4 and int4+int8 read likely tokens of a lone image together: the same texts, sooner.
    #[arg(long)]
    pub no_drafts: bool,
    /// Images: PNG, JPEG, TIFF or BMP.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
}

/// `classify`.
#[derive(Args, Clone, Debug)]
pub struct Direct {
    /// Bundle, images and how to compute.
    #[command(flatten)]
    pub common: DescribeOnly,
    /// Classify with this text instead of the describer's.
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

/// Tokens of the description that were kept of drafts. Reports have it not: it depends on what was described before.
const ACCEPTED: &str = "draft_tokens_accepted";

/// What is asked of every image.
struct Job<'a> {
    bundle: &'a Bundle,
    engine: &'a Engine,
    mode: Mode,
    description: Option<&'a str>,
    trace: Option<&'a Path>,
    reading: Settings,
}

/// One image's answer.
struct Answer {
    json: Value,
    text: String,
}

/// `describe`.
///
/// # Errors
/// Usage, absent images, bundle.
pub fn describe(args: &DescribeOnly) -> Result<Exit, Failure> {
    let (opened, unchecked) = check(args)?;
    if opened.manifest.describer.is_none() {
        return Err(lacks("a describer", &args.bundle));
    }
    assess(args, (&opened, unchecked), Mode::Describe, None)
}

/// `classify`.
///
/// # Errors
/// Usage, absent images, bundle.
pub fn classify(args: &Direct) -> Result<Exit, Failure> {
    let (opened, unchecked) = check(&args.common)?;
    let Some(classifier) = &opened.manifest.classifier else { return Err(lacks("a classifier", &args.common.bundle)) };
    let describes = opened.manifest.describer.is_some() && args.description.is_none();
    if classifier.text.is_some() && !describes && args.description.is_none() {
        bundle::require_classifier(&opened)?;
    }
    let mode = if describes { Mode::Both } else { Mode::Classify };
    assess(&args.common, (&opened, unchecked), mode, args.description.as_deref())
}

fn lacks(half: &str, dir: &Path) -> Failure {
    Failure::new(
        Exit::Configuration,
        format!("the bundle has not {half}"),
        dir.display().to_string(),
        "export one that has it with `mmlnb-export bundle`",
    )
}

/// Everything that can be wrong before anything starts.
fn check(args: &DescribeOnly) -> Result<(Bundle, Unchecked), Failure> {
    if args.trace.is_some() && args.images.len() != 1 {
        let what = format!("--trace takes one image, not {}", args.images.len());
        return Err(Failure::new(Exit::Usage, what, "", "give one image, or leave --trace out"));
    }
    let absent: Vec<Problem> = args.images.iter().filter(|path| !path.exists()).map(|path| absent(path)).collect();
    if !absent.is_empty() {
        return Err(Failure { exit: Exit::NotFound, problems: absent });
    }
    bundle::begin(&args.bundle, &Trust::unjudged())
}

fn absent(path: &Path) -> Problem {
    Problem::new("there is no such image", path.display().to_string(), "check the path")
}

fn assess(
    args: &DescribeOnly,
    (opened, unchecked): (&Bundle, Unchecked),
    mode: Mode,
    description: Option<&str>,
) -> Result<Exit, Failure> {
    let slots = usize::from(args.slots).min(args.images.len());
    let options = bundle::options(&args.provider, args.threads, slots, mode, opened);
    let options = EngineOptions { drafts: !args.no_drafts, ..options };
    let load = || Engine::open(opened, &options).map_err(|error| bundle::failure(&error, &args.bundle));
    let engine = bundle::checked(opened, unchecked, load)?;
    if let Some(note) = &engine.provider().note {
        eprintln!("warning: {note}");
    }
    if engine.provider().name == "cpu" && mode != Mode::Classify && bundle::is_half(opened) {
        eprintln!("warning: {}", bundle::HALF_ON_CPU);
    }
    let job =
        Job { bundle: opened, engine: &engine, mode, description, trace: args.trace.as_deref(), reading: pipeline::settings() };
    let failed = run_all(&job, &args.images, args.json, slots)?;
    pipeline::warn(&job.reading);
    Ok(match (failed, args.images.len()) {
        (0, _) => Exit::Done,
        (_, 1) => Exit::Usage,
        _ => Exit::SomeFailed,
    })
}

/// Assesses images together and prints the answers in the order of the images; how many failed.
fn run_all(job: &Job<'_>, images: &[PathBuf], as_json: bool, slots: usize) -> Result<usize, Failure> {
    let next = AtomicUsize::new(0);
    let (sender, answers) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..slots + 1 {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                let mut reader = Reader::new(job.reading.clone());
                while let Some(path) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if sender.send((path.clone(), one(job, path, &mut reader))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        print_in_order(images, answers, as_json)
    })
}

fn print_in_order(
    images: &[PathBuf],
    answers: mpsc::Receiver<(PathBuf, Result<Answer, Failure>)>,
    as_json: bool,
) -> Result<usize, Failure> {
    let (mut early, mut failed, mut at) = (Vec::new(), 0, 0);
    for answer in answers {
        early.push(answer);
        while let Some(path) = images.get(at)
            && let Some(found) = early.iter().position(|(of, _)| of == path)
        {
            at += 1;
            match early.swap_remove(found).1 {
                Ok(answer) if as_json => print(&format!("{}\n", answer.json))?,
                Ok(answer) => print(&answer.text)?,
                Err(failure) if failure.exit == Exit::Usage => {
                    failed += 1;
                    eprintln!("{failure}");
                }
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok(failed)
}

fn one(job: &Job<'_>, path: &Path, reader: &mut Reader) -> Result<Answer, Failure> {
    let patch = pipeline::open(reader, path)?;
    let request =
        Request { description: job.description.map(str::to_owned), trace: job.trace.is_some(), ..Request::new(job.mode) };
    let assessment = job.engine.assess(patch.image(), &request).map_err(|error| match error {
        EngineError::Image(message) | EngineError::Numbers(message) => unusable(path, &message),
        other => Failure::internal(format!("{} was not assessed", path.display()), other),
    })?;
    if let (Some(file), Some(trace)) = (job.trace, &assessment.trace) {
        trace.write(file).map_err(|error| Failure::io("the trace cannot be written", file, &error))?;
    }
    answer(job, path, &patch, &assessment)
}

fn answer(job: &Job<'_>, path: &Path, patch: &Patch, assessment: &Assessment) -> Result<Answer, Failure> {
    let file = path.display().to_string();
    let (sha256, standings) = (hex(&patch.sha256), job.bundle.standings());
    let subject = json::Subject {
        id: None,
        case_id: "",
        file: &file,
        sha256: &sha256,
        bundle_sha256: &job.bundle.sha256,
        qualification_sha256: job.bundle.qualification_sha256(),
        trust: Some(&standings),
    };
    if job.mode == Mode::Describe {
        let text = assessment.description.as_ref().ok_or_else(|| Failure::internal(&file, "the engine gave no description"))?;
        let described = verdict::described(text, None);
        let elapsed = verdict::elapsed(&patch.elapsed, assessment);
        let mut json = json::description(&subject, &described, job.engine.provider().name, &elapsed);
        json[ACCEPTED] = assessment.accepted.into();
        return Ok(Answer { json, text: description_text(&names::shown(path), &described) });
    }
    let (calibration, provider) = (job.bundle.calibration().cloned(), job.engine.provider().clone());
    let rules = verdict::Rules { calibration, indeterminate_below: 0.5, provider };
    let report =
        patch.report(assessment, &rules).ok_or_else(|| unusable(path, "the classifier's probabilities are no numbers"))?;
    let mut json = json::report(&subject, &report);
    json[ACCEPTED] = assessment.accepted.into();
    if let Some(text) = job.description {
        json["description"] = text.into();
        json["description_tokens_read"] =
            assessment.classification.as_ref().and_then(|found| found.description_tokens_read).into();
    }
    Ok(Answer { json, text: report_text(&names::shown(path), &report) })
}

fn description_text(file: &str, described: &Described) -> String {
    format!("{file}\n  {}\n  {} tokens, {}\n", described.text.replace('\n', "\n  "), described.tokens, described.stop_reason)
}

fn report_text(file: &str, report: &NewReport) -> String {
    let found = &report.classified;
    let list = |values: &[f64]| {
        let pairs = found.classes.iter().zip(values).map(|(class, value)| format!("{class} {value:.3}"));
        pairs.collect::<Vec<_>>().join("  ")
    };
    let mut out = format!("{file}\n  {} ({})", page::headline(report), report.verdict);
    for code in &report.verdict_reasons {
        out.push_str(&format!("\n  {}", codes::reason(code)));
    }
    out.push_str(&format!("\n  {}", list(&found.probabilities)));
    if let Some(image) = &found.image_only {
        out.push_str(&format!("\n  image alone: {}", list(image)));
    }
    if let Some(alpha) = found.alpha_text {
        out.push_str(&format!("\n  weight of the text: {alpha:.3}"));
    }
    if let Some(text) = &report.described {
        out.push_str(&format!("\n  {}", text.text.replace('\n', "\n  ")));
    }
    if !report.flags.is_empty() {
        out.push_str(&format!("\n  flags: {}", report.flags.join(", ")));
    }
    out + "\n"
}
