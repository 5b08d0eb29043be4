//! What can be asked for.

use std::path::PathBuf;

use clap::Args;

/// `bench`.
#[derive(Args, Clone, Debug)]
pub struct Bench {
    /// The bundle that mmlnb-export wrote.
    #[arg(long, value_name = "DIR", env = "MMLNB_BUNDLE")]
    pub bundle: PathBuf,
    /// The image that is described over and over; without it one is drawn.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// How many images write together, one measurement of the decoder for each.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [1, 4, 16],
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub rows: Vec<u16>,
    /// Images that are in work at any time where images an hour are counted.
    #[arg(long, default_value_t = 4, env = "MMLNB_SLOTS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub slots: u16,
    /// Tokens of every description; 0: as many as the bundle allows.
    #[arg(long, default_value_t = 0)]
    pub tokens: usize,
    /// How often each measurement is made.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// auto, cpu or cuda.
    #[arg(long, value_parser = ["auto", "cpu", "cuda"], default_value = "auto", env = "MMLNB_PROVIDER")]
    pub provider: String,
    /// Threads for computing; 0: all cores less one.
    #[arg(long, default_value_t = 0, env = "MMLNB_THREADS")]
    pub threads: usize,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}
