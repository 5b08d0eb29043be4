//! The command line: what can be asked, and how an answer ends.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::config::DEFAULT_FILE;
use crate::error::{Exit, Failure};

/// Describes and classifies neuroblastoma patches from a drop folder. Research use only, not for diagnosis.
#[derive(Parser)]
#[command(name = "mmlnb-appliance", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a commented configuration and make the folders.
    Init {
        /// Where; it is created.
        dir: PathBuf,
        /// Also give the folders to the service and write its drop-in, so that its sandbox lets it work there (needs root)
        #[arg(long)]
        service: bool,
    },
    /// The daemon, in the foreground.
    Run(Configured),
    /// Classify images; no daemon, no database.
    Classify(Direct),
    /// Describe images; no daemon, no database.
    Describe(DescribeOnly),
    /// Measure a bundle where it will be served, and write calibration, figures and known answers into it.
    Qualify(Qualify),
    /// Put copies of files into the inbox.
    Submit(Submit),
    /// What the appliance is doing.
    Status(Status),
    /// List reports.
    Reports(Reports),
    /// One report, or why a file has none.
    Show(Named),
    /// What led to a report: logits, both opinions, the effect of the text.
    Explain(Named),
    /// Try failed files again.
    Retry(Retry),
    /// Check the ledger and every filed image.
    Verify(Machine),
    #[command(hide = true)]
    DecodeChild { max_side: u32, min_side: u32, seconds: u64 },
}

/// Where the configuration is.
#[derive(Args, Clone, Debug)]
pub struct Configured {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE, env = "MMLNB_CONFIG")]
    pub config: PathBuf,
}

/// How the answer is written.
#[derive(Args, Clone, Debug)]
pub struct Machine {
    /// The configuration.
    #[command(flatten)]
    pub configured: Configured,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
}

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

/// `qualify`.
#[derive(Args, Clone, Debug)]
pub struct Qualify {
    /// The bundle.
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// CSV with file_name, class, and if known description, group (patient) and split; rows of the split `train` are left out.
    #[arg(long, value_name = "CSV")]
    pub data: PathBuf,
    /// The folder of the images.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// A run of mmlnb-train classify, to compare its answers for the same images.
    #[arg(long, value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// Largest share of errors among accepted answers.
    #[arg(long, default_value_t = 0.10, value_parser = share)]
    pub risk: f64,
    /// Confidence with which it holds.
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    pub confidence: f64,
    /// Share of images like the training's that may be called far from it.
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    pub false_alarm: f64,
    /// Images that go into the bundle as known answers.
    #[arg(long, default_value_t = 3)]
    pub known_answers: usize,
    /// Decides the halves and the intervals' draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
    /// auto, cpu or cuda.
    #[arg(long, value_parser = ["auto", "cpu", "cuda"], default_value = "auto", env = "MMLNB_PROVIDER")]
    pub provider: String,
    /// Threads for computing; 0: all cores less one.
    #[arg(long, default_value_t = 0, env = "MMLNB_THREADS")]
    pub threads: usize,
    /// Images that are described together.
    #[arg(long, default_value_t = 4, env = "MMLNB_SLOTS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub slots: u16,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("expected a number between 0 and 1".to_owned()),
    }
}

/// `submit`.
#[derive(Args, Clone, Debug)]
pub struct Submit {
    /// The configuration.
    #[command(flatten)]
    pub configured: Configured,
    /// Put them into this case.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub case: String,
    /// Files to copy.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `status`.
#[derive(Args, Clone, Debug)]
pub struct Status {
    /// Configuration and form of the answer.
    #[command(flatten)]
    pub machine: Machine,
    /// Exit 1 when anything is not as it should be, 69 when the daemon is not running.
    #[arg(long)]
    pub check: bool,
}

/// `reports`.
#[derive(Args, Clone, Debug)]
pub struct Reports {
    /// The configuration.
    #[command(flatten)]
    pub configured: Configured,
    /// One JSON object a line.
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// CSV with a header.
    #[arg(long)]
    pub csv: bool,
    /// Reported at or after this date or time, e.g. 2026-01-31 or 2026-01-31T08:00:00Z; a date is local.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Reported before this time, or on or before this date.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Dropped in this case.
    #[arg(long, value_name = "NAME")]
    pub case: Option<String>,
    /// Of this class (the leading class where the appliance abstains).
    #[arg(long, value_name = "NAME")]
    pub class: Option<String>,
    /// With this verdict.
    #[arg(long, value_parser = ["accepted", "abstain", "not_assessed"])]
    pub verdict: Option<String>,
    /// Path contains this.
    #[arg(long, value_name = "TEXT")]
    pub file: Option<String>,
    /// Only the newest so many.
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
}

/// `show` and `explain`.
#[derive(Args, Clone, Debug)]
pub struct Named {
    /// Configuration and form of the answer.
    #[command(flatten)]
    pub machine: Machine,
    /// Number of a report, or a file: path below the inbox, path on disk, name, or the beginning of its SHA-256.
    #[arg(value_name = "ID|FILE")]
    pub subject: String,
}

/// `retry`.
#[derive(Args, Clone, Debug)]
pub struct Retry {
    /// The configuration.
    #[command(flatten)]
    pub configured: Configured,
    /// All failed files.
    #[arg(long, conflicts_with_all = ["code", "ids"])]
    pub all: bool,
    /// All files that failed with this code.
    #[arg(long, value_name = "CODE", conflicts_with = "ids")]
    pub code: Option<String>,
    /// Job numbers, as the notes name them.
    #[arg(value_name = "ID", required_unless_present_any = ["all", "code"])]
    pub ids: Vec<i64>,
}

/// Reads the command line, does what it asks, and says on stderr what went wrong.
pub fn main() -> ExitCode {
    crate::engine::disable_telemetry();
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit.into()
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Init { dir, service } => commands::init::run(&dir, service),
        Command::Run(configured) => {
            log_to_stderr("info");
            crate::daemon::run(&configured.config)
        }
        Command::Classify(direct) => {
            log_to_stderr("warn");
            commands::assess::classify(&direct)
        }
        Command::Describe(direct) => {
            log_to_stderr("warn");
            commands::assess::describe(&direct)
        }
        Command::Qualify(qualify) => {
            log_to_stderr("warn");
            crate::qualify::run(&qualify)
        }
        Command::Submit(submit) => commands::submit::run(&submit),
        Command::Status(status) => commands::status::run(&status),
        Command::Reports(reports) => commands::reports::run(&reports),
        Command::Show(named) => commands::show::show(&named),
        Command::Explain(named) => commands::show::explain(&named),
        Command::Retry(retry) => commands::retry::run(&retry),
        Command::Verify(machine) => commands::verify::run(&machine),
        Command::DecodeChild { max_side, min_side, seconds } => {
            crate::intake::decode::child(max_side, min_side, seconds).map_err(|error| Failure::internal("the decoder", error))?;
            Ok(Exit::Done)
        }
    }
}

/// Log lines on stderr; the journal adds its own time.
fn log_to_stderr(level: &str) {
    // ONNX Runtime tells every allocation at its level info.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("{level},ort=warn")));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let set = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => log.without_time().with_ansi(false).try_init(),
        None => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
    if let Err(error) = set {
        eprintln!("no log: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_that_come_later_are_absent() {
        let help = Cli::command().render_long_help().to_string();
        for later in ["selftest", "doctor", "correct", "backup", "restore", "audit", "decode-child"] {
            assert!(!help.contains(later), "{later}");
        }
    }
}
