//! `cargo xtask bench growth`: whether a piece of work costs more the more work there is.
//!
//! Each kind of work is done at three sizes, n, 4n and 16n, and the processor time of the processes that do it is divided by the items. Processor time, not
//! seconds: it says the same beside other work. What a program takes to start is measured with a few items and left out, so that it hides nothing.

mod drops;
mod grown;
mod processor;
mod tables;

use crate::{
    appliance::{finish, program, say},
    checkout, setup,
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What is measured, and at which sizes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only these kinds of work [default: all]
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = KINDS.map(|kind| kind.name))]
    only: Vec<String>,
    /// Multiplies all sizes
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    scale: f64,
}

/// Every size of a kind, as multiples of its smallest.
const SIZES: [usize; 3] = [1, 4, 16];

/// Cost of an item at the largest size, at most so many times that at the smallest.
const LIMIT: f64 = 2.0;

/// The kernel counts in hundredths of a second: less than this is not told from nothing.
const LEAST: Duration = Duration::from_millis(50);

/// Items with which a program's start is measured.
const START: usize = 16;

/// A kind of work.
struct Kind {
    name: &'static str,
    /// What one item is.
    item: &'static str,
    /// Items at the smallest size.
    smallest: usize,
    /// Whether a process of its own does it, whose start is left out.
    starts: bool,
    measure: Measure,
}

type Measure = fn(&Ground, usize) -> Result<Cost>;

impl Kind {
    const fn of_daemon(name: &'static str, item: &'static str, smallest: usize, measure: Measure) -> Kind {
        Kind { name, item, smallest, starts: false, measure }
    }

    const fn of_program(name: &'static str, item: &'static str, smallest: usize, measure: Measure) -> Kind {
        Kind { starts: true, ..Kind::of_daemon(name, item, smallest, measure) }
    }
}

const KINDS: [Kind; 13] = [
    Kind::of_daemon("drops", "different image dropped, in one case", 100, drops::different),
    Kind::of_daemon("sidecars", "image dropped with a sidecar, in one case", 100, drops::with_sidecars),
    Kind::of_daemon("copies", "copy of one image, in one case", 100, drops::copies),
    Kind::of_daemon("cases", "case that holds a copy of one image", 100, drops::cases),
    Kind::of_daemon("old-folders", "drop in a new case, beside so many emptied cases", 500, drops::beside_old_folders),
    Kind::of_program("start", "report in the ledger at a start after kill -9", 4000, grown::start),
    Kind::of_program("reports", "report that `reports --json` lists", 1000, grown::reports),
    Kind::of_program("verify", "filed image that `verify` reads", 1000, grown::verify),
    Kind::of_program("describe-rows", "row that `describe --dry-run` checks", 500, tables::describe),
    Kind::of_program("classify-rows", "row that `classify --dry-run` checks", 500, tables::classify),
    Kind::of_program("repeated-rows", "row that names the image of the first one, `classify --dry-run`", 4000, tables::repeated),
    Kind::of_program("qualify-rows", "row that `qualify` checks", 500, tables::qualify),
    Kind::of_program("qualify-repeated", "row that names the image of the first one, `qualify`", 4000, tables::qualify_repeated),
];

/// What a size of a kind took.
struct Cost {
    /// Processor time, in user mode and in the kernel.
    processor: Duration,
    /// What it is divided by.
    items: usize,
    /// The largest resident memory of the process.
    peak: u64,
}

/// Where it all takes place.
struct Ground {
    /// Emptied before each measurement.
    folder: PathBuf,
    /// A small describer and classifier.
    bundle: PathBuf,
}

impl Ground {
    /// An empty folder for one measurement.
    fn fresh(&self) -> Result<PathBuf> {
        let folder = self.folder.join("now");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        Ok(folder)
    }
}

/// Measures, prints the table, writes it to `target/growth.csv` and fails where a kind grows.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.scale > 0.0, "--scale multiplies the sizes: give a number above 0");
    let wanted = |kind: &&Kind| options.only.is_empty() || options.only.iter().any(|name| name == kind.name);
    let kinds: Vec<&Kind> = KINDS.iter().filter(wanted).collect();
    build(kinds.iter().any(|kind| kind.name.ends_with("-rows") || kind.name.ends_with("-repeated")))?;
    let folder = std::env::temp_dir().join(format!("mmlnb-growth-{}", std::process::id()));
    let ground = Ground { bundle: export(&folder)?, folder };
    let mut lines = Vec::new();
    for kind in kinds {
        lines.push(measure(kind, &ground, options.scale)?);
        println!("{}", lines[lines.len() - 1].shown());
        write(&lines)?;
    }
    fs::remove_dir_all(&ground.folder).with_context(|| format!("{} cannot be removed", ground.folder.display()))?;
    report(&lines)
}

fn build(trainer: bool) -> Result<()> {
    setup::run(&setup::Options { appliance_only: !trainer, ..Default::default() })?;
    say("building");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--bin", "mmlnb-appliance", "--bin", "mmlnb-export"]);
    if trainer {
        build.args(["--bin", "mmlnb-train"]);
    }
    finish(build.current_dir(checkout()))
}

/// A file or folder of the golden data.
fn golden(name: &str) -> PathBuf {
    checkout().join("tests/golden").join(name)
}

/// The smallest networks and texts of one token: what is measured is everything around them.
fn export(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let (bundle, settings) = (folder.join("bundle"), folder.join("settings.toml"));
    fs::write(&settings, "max_new_tokens = 1\n")?;
    let mut export = program("mmlnb-export");
    export.arg("bundle").arg("--output").arg(&bundle).arg("--vlm").arg(golden("qwen2_5_vl"));
    export.arg("--classifier").arg(golden("curriculum/checkpoint")).arg("--settings").arg(&settings);
    finish(export.args(["--image-size", "56x56"]))?;
    Ok(bundle)
}

/// One kind at its three sizes.
struct Line {
    kind: &'static Kind,
    /// The size and the processor time of each item, the start left out.
    sizes: [(usize, Duration); 3],
    /// The largest resident memory at the largest size.
    peak: u64,
    /// Cost of an item at the largest size by that at the smallest.
    growth: f64,
}

impl Line {
    fn grows(&self) -> bool {
        self.growth > LIMIT
    }

    fn shown(&self) -> String {
        let sizes = self.sizes.map(|(size, each)| format!("{size}: {:.3} ms", each.as_secs_f64() * 1e3)).join("  ");
        let verdict = if self.grows() { "GROWS" } else { "ok" };
        format!("{:17} {sizes}  x{:.2}  {} MiB  {verdict}", self.kind.name, self.growth, self.peak >> 20)
    }
}

fn measure(kind: &'static Kind, ground: &Ground, scale: f64) -> Result<Line> {
    let start = if kind.starts { (kind.measure)(ground, START)?.processor } else { Duration::ZERO };
    let left_out = if kind.starts { START } else { 0 };
    let (mut sizes, mut peak) = ([(0, Duration::ZERO); 3], 0);
    for (place, times) in SIZES.into_iter().enumerate() {
        let size = (kind.smallest as f64 * scale).round() as usize * times;
        ensure!(size > 2 * START, "{}: {size} items are too few to measure; choose a larger --scale", kind.name);
        say(&format!("{} at {size} ({})", kind.name, kind.item));
        let cost = (kind.measure)(ground, size).with_context(|| format!("{} at {size}", kind.name))?;
        sizes[place] = (size, each(cost.processor.saturating_sub(start), cost.items - left_out));
        peak = cost.peak;
    }
    let growth = sizes[2].1.as_secs_f64() / sizes[0].1.as_secs_f64();
    Ok(Line { kind, sizes, peak, growth })
}

/// The time of one of so many items; all together take at least what can be told from nothing.
fn each(all: Duration, items: usize) -> Duration {
    all.max(LEAST).div_f64(items.max(1) as f64)
}

fn write(lines: &[Line]) -> Result<()> {
    let path = checkout().join("target/growth.csv");
    let of_size = |line: &Line, (size, each): (usize, Duration)| {
        format!("{},{size},{:.6},{:.3},{}\n", line.kind.name, each.as_secs_f64() * 1e3, line.growth, line.peak)
    };
    let rows: String = lines.iter().flat_map(|line| line.sizes.map(|size| of_size(line, size))).collect();
    let text = format!("kind,size,processor_ms_an_item,growth,peak_bytes_at_largest\n{rows}");
    fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
}

fn report(lines: &[Line]) -> Result<()> {
    println!("\nprocessor time an item; growth from n to 16n, limit {LIMIT}; every value stands in target/growth.csv");
    lines.iter().for_each(|line| println!("{}", line.shown()));
    let growing: Vec<&str> = lines.iter().filter(|line| line.grows()).map(|line| line.kind.name).collect();
    if !growing.is_empty() {
        bail!("the cost of an item grows with the work: {}", growing.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_a_start_is_smaller_than_any_size() {
        let names: std::collections::BTreeSet<&str> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        assert!(KINDS.iter().all(|kind| kind.smallest > 2 * START));
    }

    #[test]
    fn a_cost_that_follows_the_square_grows_and_a_steady_one_does_not() {
        let line = |cost: fn(u64) -> Duration| {
            let sizes = [100, 400, 1600].map(|size| (size, each(cost(size as u64), size)));
            Line { kind: &KINDS[0], sizes, peak: 0, growth: sizes[2].1.as_secs_f64() / sizes[0].1.as_secs_f64() }
        };
        assert!(line(|size| Duration::from_micros(size * size * 10)).grows());
        assert!(line(|size| Duration::from_micros(1000 * size + size * size)).grows());
        assert!(!line(|size| Duration::from_millis(2 * size)).grows());
        assert!(!line(|_| Duration::from_millis(1)).grows(), "what cannot be measured does not grow");
    }
}
