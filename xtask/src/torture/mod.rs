//! `cargo xtask torture`: the figures of docs/reliability.md, played on the built daemon.

mod arena;
mod bursts;
mod clock;
mod copies;
mod failpoints;
mod figure;
mod injection;
mod kills;
mod large;
mod limits;
mod migration;
mod mutants;
mod names;
mod order;
mod overhead;
mod play;
mod poison;
mod presence;
mod record;
mod stops;
mod strace;
mod table;
mod writers;

use crate::{boot, checkout, setup};
use anyhow::{Result, bail, ensure};
use clap::Args;
use figure::Figure;
use play::Play;
use record::Record;
use std::{path::Path, process::Command, time::Instant};

/// All figures, in the order of the page.
static FIGURES: [&Figure; 21] = [
    &kills::F1,
    &failpoints::F2,
    &injection::F3,
    &order::F4,
    &mutants::F5,
    &mutants::F5_INBOX,
    &bursts::F6,
    &writers::F7,
    &presence::F8,
    &bursts::F10,
    &limits::F11,
    &limits::F13,
    &stops::F14,
    &copies::F15,
    &poison::F16,
    &stops::F17,
    &clock::F18,
    &names::F19,
    &migration::F22,
    &overhead::F23,
    &large::F24,
];

/// What to play.
#[derive(Args)]
pub struct Options {
    /// Figures such as F1; none: all of them
    #[arg(value_name = "FIGURE")]
    figures: Vec<String>,
    /// Rounds of each figure, as whole steps; its own number where absent
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Steps at the same time, where nothing is timed; as many as there are processors where absent
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// A few rounds of what takes seconds; nothing is kept
    #[arg(long, conflicts_with_all = ["rounds", "replay"])]
    short: bool,
    /// The step of this round once more; nothing is kept
    #[arg(long, value_name = "ROUND", requires = "figures")]
    replay: Option<u64>,
    /// Write docs/reliability.md from what is kept, and play nothing
    #[arg(long, conflicts_with_all = ["rounds", "replay", "short"])]
    page: bool,
}

/// Plays what is asked for and writes the page; fails when a figure did.
pub fn run(options: &Options) -> Result<()> {
    let figures = chosen(&options.figures)?;
    if options.page {
        return table::write();
    }
    setup::run(&setup::Options { appliance_only: true, ..Default::default() })?;
    build()?;
    if let Some(round) = options.replay {
        return figures.into_iter().try_for_each(|figure| replay(figure, round));
    }
    if options.short {
        return short(&figures, jobs(options)?);
    }
    let mut failed = Vec::new();
    let commit = record::commit()?;
    for figure in figures {
        let kept = Record::kept(figure)?.filter(|record| record.commit == commit && !commit.ends_with('+'));
        let mut record = kept.map_or_else(|| Record::new(&commit), Ok)?;
        record.skipped = (figure.hindrance)();
        match &record.skipped {
            Some(why) => eprintln!("== {}: SKIPPED, {why}", figure.name),
            None => {
                let rounds = options.rounds.unwrap_or_else(|| (figure.full)());
                if !play::play(figure, &mut record, &Play { rounds, jobs: jobs(options)?, keep: true })? {
                    failed.push(figure.name);
                }
            }
        }
        record.keep(figure)?;
        table::write()?;
    }
    ensure!(failed.is_empty(), "{} failed: what replays it stands above", failed.join(", "));
    Ok(())
}

/// [`run`] with `--short`, in the gate, with the programs that it has built.
pub fn in_gate() -> Result<()> {
    short(&FIGURES, std::thread::available_parallelism()?.get())
}

fn short(figures: &[&'static Figure], jobs: usize) -> Result<()> {
    let begun = Instant::now();
    let mut failed = Vec::new();
    for figure in figures {
        let Some(rounds) = figure.short else { continue };
        if let Some(why) = (figure.hindrance)() {
            eprintln!("== {}: SKIPPED, {why}", figure.name);
        } else if !play::play(figure, &mut Record::new("short")?, &Play { rounds, jobs, keep: false })? {
            failed.push(figure.name);
        }
    }
    ensure!(failed.is_empty(), "{} failed: what replays it stands above", failed.join(", "));
    eprintln!("the short form of the figures passed in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn replay(figure: &'static Figure, round: u64) -> Result<()> {
    ensure!(round < (figure.full)(), "{} has {} {} only", figure.name, (figure.full)(), figure.unit);
    if let Some(why) = (figure.hindrance)() {
        bail!("{} cannot be played here: {why}", figure.name);
    }
    match play::one(figure, &play::step(figure, round / figure.step * figure.step)) {
        Ok(measures) => eprintln!("== {}: {}", figure.name, measures.text()),
        Err(why) => bail!("{}: {why}", figure.name),
    }
    Ok(())
}

/// The figures of these names; `F5` means `F5-inbox` too.
fn chosen(names: &[String]) -> Result<Vec<&'static Figure>> {
    let means = |name: &String, figure: &Figure| {
        let name = name.to_uppercase();
        let figure = figure.name.to_uppercase();
        figure.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let unknown = names.iter().filter(|name| !FIGURES.iter().any(|figure| means(name, figure)));
    let unknown: Vec<&str> = unknown.map(String::as_str).collect();
    let all: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
    ensure!(unknown.is_empty(), "no figure {}; there are {}", unknown.join(", "), all.join(" "));
    let wanted = |figure: &&&Figure| names.is_empty() || names.iter().any(|name| means(name, figure));
    Ok(FIGURES.iter().filter(wanted).copied().collect())
}

fn jobs(options: &Options) -> Result<usize> {
    Ok(options.jobs.unwrap_or(std::thread::available_parallelism()?.get()).max(1))
}

/// The programs as the gate builds them.
fn build() -> Result<()> {
    let words = ["build", "--bin", "mmlnb-appliance", "--bin", "mmlnb-export", "--features", "mmlnb-appliance/failpoints"];
    let status = Command::new(env!("CARGO")).args(words).current_dir(checkout()).status()?;
    ensure!(status.success(), "the programs cannot be built: cargo's messages stand above");
    Ok(())
}

/// Why a figure that needs these programs cannot be played.
fn absent(programs: &[&str]) -> Option<String> {
    let missing: Vec<&str> = programs.iter().filter(|program| !boot::on_path(program)).copied().collect();
    (!missing.is_empty()).then(|| format!("{} not installed", missing.join(" and ")))
}

/// A folder of the sources.
fn source(path: &str) -> std::path::PathBuf {
    Path::join(checkout(), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_chosen_by_name() {
        let of = |names: &[&str]| -> Vec<&str> {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            chosen(&names).unwrap().iter().map(|figure| figure.name).collect()
        };
        assert_eq!(of(&["f5", "F1"]), ["F1", "F5", "F5-inbox"]);
        assert_eq!(of(&[]).len(), FIGURES.len());
        assert!(chosen(&["F99".to_owned()]).is_err() && chosen(&["F".to_owned()]).is_err());
    }
}
