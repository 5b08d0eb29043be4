//! The commands of `mmlnb-train`, one file each.

mod ablate;
mod calibrate;
mod classify;
mod compare;
mod describe;
mod evaluate;
mod generate;
mod import;
mod merge;
mod phantom;
mod place;

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
    Ablate(ablate::Args),
    Calibrate(calibrate::Args),
    Classify(classify::Args),
    Compare(compare::Args),
    Describe(describe::Args),
    Evaluate(evaluate::Args),
    Generate(generate::Args),
    Import(import::Args),
    Merge(merge::Args),
    Phantom(phantom::Args),
}

/// Parses the command line, runs the command, and says what went wrong.
pub fn main() -> ExitCode {
    let outcome = run(Cli::parse().command);
    if let Err(error) = &outcome {
        eprintln!("error: {error}");
        error.advice().iter().for_each(|advice| eprintln!("{advice}"));
    }
    outcome.map_or_else(|error| ExitCode::from(error.exit_code()), |()| ExitCode::SUCCESS)
}

fn run(command: Command) -> Result<(), TrainError> {
    match command {
        Command::Ablate(args) => ablate::run(args),
        Command::Calibrate(args) => calibrate::run(args),
        Command::Classify(args) => classify::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Describe(args) => describe::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Import(args) => import::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Phantom(args) => phantom::run(&args),
    }
}

/// `WxH`.
fn image_size(text: &str) -> Result<[i64; 2], String> {
    let sides = text.split_once('x').and_then(|(width, height)| Some([width.parse().ok()?, height.parse().ok()?]));
    sides.ok_or_else(|| format!("`{text}` is no size; expected WIDTHxHEIGHT, for example 252x252"))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("`{text}` is no number above 0"))
}
