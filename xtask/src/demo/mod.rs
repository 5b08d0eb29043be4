//! `cargo xtask demo`: from nothing to reports. Phantoms are drawn, a small describer learns from them, its texts and their images train a small
//! classifier, and the appliance serves both to phantoms of patients that no training saw, and to real tissue, which it must refuse.

mod checks;
mod data;
mod kept;
mod serve;
mod sizes;
mod train;

use crate::{
    appliance::{program_path, say},
    setup, slide,
};
use anyhow::Result;
use kept::Kept;
use std::{path::PathBuf, time::Instant};

/// What `cargo xtask demo` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Fewer phantoms and epochs: under 8 minutes instead of 20, with wider intervals
    #[arg(long)]
    quick: bool,
    /// Take the wheels from this folder and do not use the network
    #[arg(long, value_name = "DIR")]
    offline_dir: Option<PathBuf>,
}

/// Runs the whole demo, and fails when what it serves is not good enough. Everything stays below `demo/`; what was made with the same settings
/// before is used again.
pub fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let sizes = if options.quick { sizes::QUICK } else { sizes::FULL };
    setup::run(&setup::Options { offline_dir: options.offline_dir.clone(), ..Default::default() })?;
    train::build()?;
    let kept = Kept::open()?;
    let data = data::make(&kept, &sizes)?;
    let trained = train::run(&kept, &sizes, &data)?;
    let tissue = data::tissue(&kept, &slide::tiles(options.offline_dir.clone())?)?;
    let served = serve::run(&trained.bundle, &data, &tissue)?;
    serve::print(&served);
    let figures = checks::Figures::of(&served)?;
    println!("{figures}");
    println!("\nOpen this page first:  {}", served.page.display());
    println!("The broken file's note: {}", served.note.display());
    println!("The training's page:   {}", trained.classifier.join("report.html").display());
    println!("The bundle:            {}", served.bundle.display());
    println!("Start it again:        {} run --config {}", program_path("mmlnb-appliance").display(), served.config.display());
    println!(
        "\nPhantoms are drawn, not tissue: this shows that the code learns, splits, calibrates and abstains; it says nothing about patients."
    );
    say(&format!("the whole took {:.0} s", started.elapsed().as_secs_f64()));
    figures.judge()
}
