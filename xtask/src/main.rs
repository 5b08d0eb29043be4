//! `cargo xtask`: the one entrance for people who work on MMLNB or try it.

mod appliance;
mod bench;
mod boot;
mod checkpoint;
mod demo;
mod dist;
mod gpu;
mod licences;
mod progress;
mod setup;
mod slide;
mod test;
mod torture;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Set-up, demo, tests and benches of MMLNB", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Draw phantoms, train both stages on them, serve unseen ones and real tissue; fails if the answers are not good enough
    Demo(demo::Options),
    /// Bring the native libraries into native/; a second run does nothing
    Setup(setup::Options),
    /// Write a Qwen2.5-VL checkpoint of random weights in the hub's layout
    Checkpoint(checkpoint::DescriberOptions),
    /// Write a classifier's folder of random weights
    Classifier(checkpoint::ClassifierOptions),
    /// Measure the appliance
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Try everything on a machine with an NVIDIA GPU and write the table of docs/gpu.md; without one it says so and does nothing
    Gpu(gpu::Options),
    /// Try the service in a booted Debian under its own unit (root, systemd-nspawn, debootstrap)
    Boot(boot::Options),
    /// Make the Debian package, its bill of materials and checksums (docs/operations.md)
    #[command(hide = true)]
    Dist(dist::Options),
    /// Play the figures of docs/reliability.md: kills, faults of disk and system, damaged files, bursts
    Torture(torture::Options),
    /// Cut real H&E tiles from a public slide into native/tiles
    Tiles {
        /// Take the slide's wheel from this folder and do not use the network
        #[arg(long, value_name = "DIR")]
        offline_dir: Option<PathBuf>,
    },
    /// Set up, then check format, lints, tests, documentation and licences
    Test,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup(options) => setup::run(&options),
        Command::Checkpoint(options) => checkpoint::write_describer(&options),
        Command::Classifier(options) => checkpoint::write_classifier(&options),
        Command::Bench { bench } => bench::run(&bench),
        Command::Demo(options) => demo::run(&options),
        Command::Gpu(options) => gpu::run(&options),
        Command::Boot(options) => boot::run(&options),
        Command::Dist(options) => dist::run(&options),
        Command::Torture(options) => torture::run(&options),
        Command::Tiles { offline_dir } => {
            println!("{}", slide::tiles(offline_dir)?.display());
            Ok(())
        }
        Command::Test => test::run(),
    }
}

/// The root of the checkout that this program was built from.
fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the checkout")
}
