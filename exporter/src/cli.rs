//! The commands.

use crate::{
    password,
    progress::{Progress, Work, megabytes},
};
use clap::{Args, Parser, Subcommand, builder::PossibleValuesParser, builder::TypedValueParser};
use mmlnb_exporter::{
    Calibration, Convolutions, ExportError, FewBits, Network, Recipe, Report, Source, Step, check_calibration, export_bundle,
    export_decided, export_genai, inspect, keygen, lower_deciding, lower_portable, not_portable, sign, verify, weight_bytes,
};
use mmlnb_models::bundle::{Precision, PublicKey};
use std::{cell::RefCell, io::Write, path::PathBuf};

/// Turns checkpoints into ONNX graphs and bundles.
#[derive(Parser)]
#[command(
    name = "mmlnb-export",
    version,
    about = "Turns checkpoints into ONNX graphs and bundles",
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write one network as an ONNX graph with its weights beside it.
    Graph(GraphArgs),
    /// Write a bundle: everything that the appliance needs, in one folder.
    Bundle(BundleArgs),
    /// Write a folder that onnxruntime-genai loads: a describer for images of one size.
    Genai(GenaiArgs),
    /// Show what an .onnx file or a bundle holds: graphs, inputs, outputs, operators, parameters, hashes.
    Inspect {
        /// An .onnx file or a bundle's folder.
        path: PathBuf,
        /// One JSON object per line on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Make a pair of keys to sign bundles with, in minisign's formats: the secret key into FILE, the public one beside it with the ending .pub.
    Keygen {
        /// The secret key's file; never overwritten.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// No password: for machines that sign by themselves. Whoever can read the file can sign.
        #[arg(long)]
        no_password: bool,
    },
    /// Sign a bundle after checking every file of it. A signature by another key stays as it is.
    Sign {
        /// The bundle's folder.
        bundle: PathBuf,
        /// A secret key of this program or of minisign; its password is asked.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Check that a bundle is signed, and that every file of it is the one that was signed.
    Verify {
        /// The bundle's folder.
        bundle: PathBuf,
        /// A public key, its line RW... or its file; once for each key that may have signed.
        #[arg(long, value_name = "KEY", required = true, value_parser = public_key)]
        public_key: Vec<PublicKey>,
    },
}

#[derive(Args)]
struct GraphArgs {
    /// Which network.
    #[arg(long, value_enum)]
    network: Network,
    /// A checkpoint in the Hugging Face layout, or a classifier's folder.
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Where NETWORK.onnx and its external data go; made if need be.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// A PEFT adapter (LoRA, rsLoRA or DoRA) to merge into the checkpoint.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Accept an adapter that lacks modules that its configuration names: they stay as in the checkpoint.
    #[arg(long, requires = "adapter")]
    allow_partial: bool,
    /// Type of products and their weights; norms, softmax and rotary tables stay f32 (but in bf16, which runs on GPUs alone).
    #[arg(long, default_value = "f32", value_name = "P", value_parser = PossibleValuesParser::new(["f32", "f16", "bf16", "int8", "int4"]).try_map(|p| p.parse::<Precision>()))]
    precision: Precision,
    /// Statistics by `mmlnb-train calibrate` of this checkpoint and adapter: with them, weights in few bits are chosen for the least error of the layers' outputs.
    #[arg(long, value_name = "DIR")]
    calibration: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

#[derive(Args)]
struct BundleArgs {
    /// The folder to write; made if need be, an older bundle there is replaced when the new one is whole.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// A Qwen2.5-VL checkpoint, for the describer.
    #[arg(long, value_name = "DIR")]
    vlm: Option<PathBuf>,
    /// A PEFT adapter (LoRA, rsLoRA or DoRA) to merge into it.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Accept an adapter that lacks modules that its configuration names: they stay as in the checkpoint.
    #[arg(long, requires = "adapter")]
    allow_partial: bool,
    /// A classifier's folder.
    #[arg(long, value_name = "DIR")]
    classifier: Option<PathBuf>,
    /// Prompt and generation settings (TOML); what it leaves out has the documented defaults.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Type of products and their weights; norms, softmax and rotary tables stay f32. int4+int8: prompts as int8, steps as int4. Few bits are for
    /// processors, f16 for GPUs; bf16 runs on GPUs alone.
    #[arg(long, default_value = "f32", value_name = "P", value_parser = PossibleValuesParser::new(Precision::ALL.map(Precision::name)).try_map(|p| p.parse::<Precision>()))]
    precision: Precision,
    /// Statistics by `mmlnb-train calibrate` of this checkpoint and adapter: with them, weights in few bits are chosen for the least error of the layers' outputs.
    #[arg(long, value_name = "DIR")]
    calibration: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

#[derive(Args)]
struct GenaiArgs {
    /// A Qwen2.5-VL checkpoint.
    #[arg(long, value_name = "DIR")]
    vlm: PathBuf,
    /// A PEFT adapter (LoRA, rsLoRA or DoRA) to merge into it.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Accept an adapter that lacks modules that its configuration names: they stay as in the checkpoint.
    #[arg(long, requires = "adapter")]
    allow_partial: bool,
    /// The one size that images are brought to, both sides multiples of 28; the aspect is ignored.
    #[arg(long, value_name = "WxH", value_parser = image_size)]
    image_size: [i64; 2],
    /// The folder to write; made if need be, an older one there is replaced when the new one is whole.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Type of products and their weights; norms, softmax and rotary tables stay f32.
    #[arg(long, default_value = "f32", value_name = "P", value_parser = PossibleValuesParser::new(["f32", "int8", "int4"]).try_map(|p| p.parse::<Precision>()))]
    precision: Precision,
}

#[derive(Args, Clone, Copy)]
struct Form {
    /// Size that the describer's images are brought to, both sides multiples of 28; the aspect is ignored.
    #[arg(long, value_name = "WxH", value_parser = image_size)]
    image_size: Option<[i64; 2]>,
    /// Operators of the ONNX standard alone (set 21), so that OpenVINO and other runtimes load the graphs; for f32, f16 and int8.
    #[arg(long)]
    portable: bool,
}

fn image_size(text: &str) -> Result<[i64; 2], String> {
    let sides = text.split_once('x').and_then(|(w, h)| Some([w.parse::<i64>().ok()?, h.parse::<i64>().ok()?]));
    match sides {
        Some(sides) if sides.iter().all(|side| *side > 0 && side % 28 == 0) => Ok(sides),
        Some([width, height]) => Err(format!("{width} x {height}: both sides must be multiples of 28")),
        None => Err("expected WIDTHxHEIGHT, for example 448x448".to_string()),
    }
}

fn public_key(text: &str) -> Result<PublicKey, String> {
    match std::fs::read_to_string(text) {
        Ok(content) => content.parse(),
        Err(_) => text.parse::<PublicKey>().map_err(|problem| format!("neither a file nor a key: {problem}")),
    }
}

/// Does what was asked for.
pub fn run(cli: Cli) -> Result<(), ExportError> {
    match cli.command {
        Command::Graph(args) => graph(&args),
        Command::Bundle(args) => bundle(args),
        Command::Genai(args) => genai(args),
        Command::Inspect { path, json } => show(&inspect(&path)?, json),
        Command::Keygen { output, no_password } => {
            let password = if no_password { None } else { Some(password::choose()?) };
            let made = keygen(&output, password)?;
            say(&format!(
                "{}: secret key {}, keep it where only those who sign can read it\n{}: public key\n{}\n",
                output.display(),
                made.id,
                made.file.display(),
                made.line
            ))
        }
        Command::Sign { bundle, key } => sign(&bundle, &key, password::ask)?.iter().try_for_each(|signing| {
            let stays = if signing.now { "" } else { " before, which stays" };
            say(&format!("{}: signed with the key {}{stays}\n", bundle.join(signing.name).display(), signing.key))
        }),
        Command::Verify { bundle, public_key } => verify(&bundle, public_key)?
            .iter()
            .try_for_each(|(name, standing)| say(&format!("{}: {}\n", bundle.join(name).display(), standing.in_full()))),
    }
}

fn graph(args: &GraphArgs) -> Result<(), ExportError> {
    let (precision, Form { image_size, portable }) = (args.precision, args.form);
    if let Some(problem) = not_portable(precision).filter(|_| portable) {
        return Err(ExportError::Asked(problem));
    }
    if image_size.is_some() && args.network != Network::Vision {
        let problem = "--image-size is for --network vision; the classifier's size stands in its config.json";
        return Err(ExportError::Asked(problem.to_string()));
    }
    let source = Source::open_allowing(&args.checkpoint, args.adapter.as_deref(), args.allow_partial)?;
    source.told_partial().iter().for_each(|warning| eprintln!("warning: {warning}"));
    let calibration = calibration(args, &source)?;
    let statistics = calibration.as_ref().map(|calibration| &calibration.statistics);
    let (graph, weights, name) = (source.graph(args.network)?, source.weights()?, args.network.name());
    let convolutions = Convolutions::open(&source, args.network, precision)?;
    convolutions.warning().iter().for_each(|warning| eprintln!("warning: {name}: {warning}"));
    let current = RefCell::new(None);
    let progress = |step: Step<'_>| tell(&current, step);
    let few =
        FewBits::decide_telling(&graph, &weights, precision, statistics, (name, &progress))?.with_convolutions(convolutions);
    let lowered =
        if portable { lower_portable(&graph, name, precision, &few)? } else { lower_deciding(&graph, name, precision, &few)? };
    let size = image_size.map(|[width, height]| ("image_size", format!("{width}x{height}")));
    let calibrated = statistics.map(|statistics| ("calibration_sha256", statistics.sha256().to_string()));
    let metadata: Vec<(&str, String)> = size.into_iter().chain(calibrated).collect();
    progress(Step::Begin { name, bytes: weight_bytes(&lowered) });
    let wrote = |bytes| progress(Step::Wrote(bytes));
    let info = export_decided(&lowered, (&weights, &few), precision, &args.output, &metadata, &wrote)?;
    progress(Step::End);
    say(&format!("{}: {} parameters, {}\n", info.file.display(), info.parameters, megabytes(weight_bytes(&lowered))))
}

/// The statistics that were given, for a network that they are of.
fn calibration(args: &GraphArgs, source: &Source) -> Result<Option<Calibration>, ExportError> {
    let Some(folder) = &args.calibration else { return Ok(None) };
    check_calibration(args.precision)?;
    if !matches!(args.network, Network::Vision | Network::Decoder) {
        let problem = "--calibration is for --network vision and decoder: of the others mmlnb-train calibrate gathers nothing";
        return Err(ExportError::Asked(problem.to_string()));
    }
    Calibration::open(folder, source).map(Some)
}

fn bundle(args: BundleArgs) -> Result<(), ExportError> {
    let BundleArgs { output, vlm, adapter, allow_partial, classifier, settings, precision, calibration, form } = args;
    let Form { image_size, portable } = form;
    let recipe =
        Recipe { output, vlm, adapter, allow_partial, classifier, settings, precision, portable, calibration, image_size };
    let current = RefCell::new(None);
    let sha256 = export_bundle(&recipe, &|step| tell(&current, step))?;
    say(&format!("{}: bundle_sha256 {sha256}\n", recipe.output.display()))
}

fn genai(args: GenaiArgs) -> Result<(), ExportError> {
    let GenaiArgs { vlm, adapter, allow_partial, image_size, output, precision } = args;
    let recipe = Recipe {
        output,
        vlm: Some(vlm),
        adapter,
        allow_partial,
        classifier: None,
        settings: None,
        precision,
        portable: false,
        calibration: None,
        image_size: Some(image_size),
    };
    let current = RefCell::new(None);
    export_genai(&recipe, &|step| tell(&current, step))?;
    say(&format!("{}: for onnxruntime-genai\n", recipe.output.display()))
}

/// Shows how far an export of several graphs is.
fn tell(current: &RefCell<Option<Progress>>, step: Step<'_>) {
    match step {
        Step::Decide { name, matrices } => drop(current.replace(Some(Progress::begin(name, Work::Deciding, matrices)))),
        Step::Begin { name, bytes } => drop(current.replace(Some(Progress::begin(name, Work::Writing, bytes)))),
        Step::Decided(more) | Step::Wrote(more) => current.borrow().iter().for_each(|progress| progress.advance(more)),
        Step::End => drop(current.replace(None)),
        Step::Warning(warning) => eprintln!("warning: {warning}"),
    }
}

fn show(report: &Report, json: bool) -> Result<(), ExportError> {
    match json {
        true => say(&report.json_lines().iter().map(|line| format!("{line}\n")).collect::<String>()),
        false => say(&report.to_string()),
    }
}

/// Writes to stdout; a reader that has seen enough (`| head`) is no error.
fn say(text: &str) -> Result<(), ExportError> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(ExportError::Io { action: "write", path: "stdout".into(), source: error })
        }
        _ => Ok(()),
    }
}
