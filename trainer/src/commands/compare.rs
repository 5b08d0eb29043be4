//! `mmlnb-train compare`

use crate::{
    compare::{compare, lines, page, read, table},
    error::TrainError,
    run::files,
};
use std::path::PathBuf;

/// Compares runs of `classify` on the same test items: measures with intervals over patients, and each run's difference to the first.
///
/// Differences are paired (the same draws for both runs); McNemar's exact test stands beside them, adjusted for the number of runs (Holm). Runs whose
/// test items, classes or patients differ are refused, with what differs (exit code 2).
#[derive(clap::Args)]
pub struct Args {
    /// Folders of finished runs of classify; the first is what the others are compared with
    #[arg(value_name = "RUN", required = true, num_args = 1..)]
    runs: Vec<PathBuf>,
    /// Lines of JSON instead of a table: one a run, then one a comparison
    #[arg(long)]
    json: bool,
    /// Write a page with plots too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 2024)]
    seed: u64,
}

/// Runs the command.
///
/// # Errors
/// Runs that cannot be compared or read.
pub fn run(args: Args) -> Result<(), TrainError> {
    let (items, runs) = read(&args.runs)?;
    let comparison = compare(&items, &runs, args.seed)?;
    if let Some(file) = &args.html {
        files::replace_file(file, page(&comparison).as_bytes())?;
    }
    if args.json {
        lines(&comparison).iter().for_each(|line| println!("{line}"));
    } else {
        print!("{}", table(&comparison));
    }
    Ok(())
}
