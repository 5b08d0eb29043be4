//! The commands of `mmlnb-train`, one file each.

mod import;
mod merge;
mod phantom;

use crate::error::TrainError;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Trains the describer and the classifier of MMLNB (arXiv 2503.12927), measures and compares them.
#[derive(Parser)]
#[command(name = "mmlnb-train", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Import(import::Args),
    Merge(merge::Args),
    Phantom(phantom::Args),
}

/// Parses the command line, runs the command, and says what went wrong.
pub fn main() -> ExitCode {
    let outcome = run(Cli::parse().command);
    if let Err(error) = &outcome {
        eprintln!("error: {error}");
    }
    outcome.map_or_else(|error| ExitCode::from(error.exit_code()), |()| ExitCode::SUCCESS)
}

fn run(command: Command) -> Result<(), TrainError> {
    match command {
        Command::Import(args) => import::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Phantom(args) => phantom::run(&args),
    }
}
