//! F23: what the appliance itself takes from drop to report.

use super::figure::{Figure, Measures, Step};
use crate::{
    appliance::Appliance,
    bench::{LIMITS, overhead_of},
};

/// Overhead.
pub static F23: Figure = Figure {
    name: "F23",
    what: "from the rename into the inbox to the report's file, less inference, real tiles of 336 x 336 one after the other (`cargo xtask bench overhead`)",
    wanted: "median at most 35 ms, p99 at most 120 ms, none as long as one of which no event told (2 s)",
    unit: "files",
    full: || 200,
    short: None,
    step: 200,
    alone: true,
    hindrance: || None,
    play,
};

fn play(step: &Step) -> Measures {
    let folder = std::env::temp_dir().join(format!("mmlnb-f23-{}", std::process::id()));
    let appliance = Appliance::of_built(folder.clone()).unwrap_or_else(|problem| panic!("{problem:#}"));
    let [median, p99, largest] = overhead_of(&appliance).unwrap_or_else(|problem| panic!("{problem:#}"));
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
    let mut measures = Measures::default();
    for (what, value) in [("median", median), ("p99", p99), ("largest", largest)] {
        measures.most(what, value, "ms");
    }
    // As long as an untold file has to lie still: the hint that it was renamed in was lost.
    assert!(largest < 2000.0, "{} files: {}", step.count, measures.text());
    assert!(median <= LIMITS[0] && p99 <= LIMITS[1], "{} files: {}", step.count, measures.text());
    measures
}
