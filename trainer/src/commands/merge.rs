//! `mmlnb-train merge`

use super::place::Place;
use crate::{error::TrainError, generate::merge};
use std::path::PathBuf;

/// Merges an adapter into its base: a checkpoint that transformers, the exporter and every other program loads as it loads the base.
///
/// Each tensor keeps the base's type; sums are made in f32 and rounded once. Memory does not grow with the model. Before the folder
/// appears, the logits of base with adapter and of the merged checkpoint are compared on a sample, which needs the memory of the model in f32 (--no-check
/// leaves it out).
#[derive(clap::Args)]
pub struct Args {
    /// The Qwen2.5-VL checkpoint that the adapter was trained on
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// The adapter, in PEFT's format
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The folder to be written; it must not exist yet
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Accept an adapter that lacks modules that its configuration names: they stay as in the base
    #[arg(long)]
    allow_partial: bool,
    /// Do not compare logits
    #[arg(long)]
    no_check: bool,
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
///
/// # Errors
/// See [`merge::merge`].
pub fn run(args: Args) -> Result<(), TrainError> {
    let device = args.place.device()?;
    let compared = (!args.no_check).then_some(device);
    let difference = merge::merge(&args.base, &args.adapter, &args.output, args.allow_partial, compared)?;
    println!("{}: {} with {} merged", args.output.display(), args.base.display(), args.adapter.display());
    if let Some(difference) = difference {
        println!(
            "logits on a sample, merged against base with adapter: largest difference {:.3e}, {:.1e} of the largest logit",
            difference.largest, difference.relative
        );
    }
    Ok(())
}
