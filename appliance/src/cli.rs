//! The command line: what can be asked, and how an answer ends.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::assess::child;
use crate::bench::Bench;
use crate::commands::assess::{DescribeOnly, Direct};
use crate::commands::reports::Reports;
use crate::commands::retry::Retry;
use crate::commands::show::Named;
use crate::commands::status::Status;
use crate::commands::submit::Submit;
use crate::commands::{Configured, Machine};
use crate::compare::Compare;
use crate::error::{Exit, Failure};
use crate::qualify::Qualify;
use crate::{commands, engine};

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
    /// Measure how far a bundle's answers are from a reference's, usually the same networks in f32. Texts are greedy here, whatever
    /// the bundles' settings for sampling.
    Compare(Compare),
    /// Measure how fast a bundle is on this machine: start-up, vision, prompt, first token, tokens a second with several rows, images
    /// an hour, the classifier, memory. Every description has the same fixed tokens.
    Bench(Bench),
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
    DecodeChild { max_side: u32, min_side: u32, seconds: u64, parent: u32 },
}

/// Reads the command line, does what it asks, and says on stderr what went wrong.
pub fn main() -> ExitCode {
    engine::set_environment();
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
        Command::Compare(compare) => {
            log_to_stderr("warn");
            crate::compare::run(&compare)
        }
        Command::Bench(bench) => {
            log_to_stderr("warn");
            crate::bench::run(&bench)
        }
        Command::Submit(submit) => commands::submit::run(&submit),
        Command::Status(status) => commands::status::run(&status),
        Command::Reports(reports) => commands::reports::run(&reports),
        Command::Show(named) => commands::show::show(&named),
        Command::Explain(named) => commands::show::explain(&named),
        Command::Retry(retry) => commands::retry::run(&retry),
        Command::Verify(machine) => commands::verify::run(&machine),
        Command::DecodeChild { max_side, min_side, seconds, parent } => {
            child::run(max_side, min_side, seconds, parent).map_err(|error| Failure::internal("the decoder", error))?;
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
