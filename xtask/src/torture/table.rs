//! docs/reliability.md, made from what is kept.

use super::{
    FIGURES,
    figure::{Figure, thousands},
    record::Record,
};
use crate::checkout;
use anyhow::{Context, Result};
use std::fs;

const PAGE: &str = "docs/reliability.md";

const HEAD: &str = "\
# Reliability

This page is written by `cargo xtask torture`; its rows are what that command measured. Every figure runs the built `mmlnb-appliance` (F5 its confined child alone, in a test) on a
small bundle of random weights, in a folder of its own, and fails at the first thing that is not as it should be.

Invariant I, checked by every figure that names it: every dropped file ends exactly once, as filed with exactly one report or as failed with a reason;
no byte of an image is lost; nothing half written lies about; `verify` finds the ledger whole.

    cargo xtask torture                      all figures, those aside that were played with this commit
    cargo xtask torture F1 F5                these
    cargo xtask torture F1 --rounds 100      not more rounds than these
    cargo xtask torture F1 --replay 350      the step of this round again, as a failure says
    cargo xtask torture --short              minutes: what the gate runs

Rounds that were played are kept in `target/torture`, by commit: a run that was ended goes on where it was. All that is drawn by chance depends on figure and round alone (but for the moments of F22's kills, which are
shares of a measured time). A `+` behind a commit: files were altered. Figures that need root, `strace`, `setpriv` or mounting are skipped where these are absent, and say so.

";

const TAIL: &str = "
## What it does not cover
- Power cuts: F4 shows that the order of system calls is the right one, not what a disk does that lies about having written.
- Network file systems, whose events and locks differ; a booted service under its unit is tried by `cargo xtask boot`.
- GPUs: the figures run on processors. Weeks of running: F10 is thousands of images, not days.
- Faults of the models themselves: the bundle's weights are random, only the way of a file is tried.
";

/// Writes the page. Rows of figures that were never played here stay as the page has them: their results are kept elsewhere. What was reached of
/// a figure that has changed since says nothing about what it is now, and goes.
pub fn write() -> Result<()> {
    let path = checkout().join(PAGE);
    let before = if path.is_file() { fs::read_to_string(&path)? } else { String::new() };
    let records = FIGURES.iter().map(|figure| Record::kept(figure)).collect::<Result<Vec<_>>>()?;
    fs::write(&path, page(&before, &records)).with_context(|| format!("{} cannot be written", path.display()))
}

fn page(before: &str, records: &[Option<Record>]) -> String {
    let mut text = HEAD.to_owned();
    text += "| figure | what | wanted | reached | command | commit, date, machine |\n|---|---|---|---|---|---|\n";
    for (figure, record) in FIGURES.iter().zip(records) {
        let [reached, place] = match record {
            Some(record) => [reached(figure, record), format!("{}, {}, {}", record.commit, record.date, record.machine)],
            None => earlier(before, figure).unwrap_or_else(|| ["not run as it is now".to_owned(), "-".to_owned()]),
        };
        text += &row(figure, &reached, &place);
    }
    text + TAIL
}

fn wanted(figure: &Figure) -> String {
    format!("{} {}: {}", thousands((figure.full)()), figure.unit, figure.wanted)
}

fn row(figure: &Figure, reached: &str, place: &str) -> String {
    let wanted = wanted(figure);
    format!("| {} | {} | {wanted} | {reached} | `cargo xtask torture {}` | {place} |\n", figure.name, figure.what, figure.name)
}

/// What the page says so far of this figure: what was reached, and where; nothing of one that was another then.
fn earlier(page: &str, figure: &Figure) -> Option<[String; 2]> {
    let row = page.lines().find(|line| line.starts_with(&format!("| {} |", figure.name)))?;
    let cells: Vec<&str> = row.trim_matches(['|', ' ']).split(" | ").collect();
    if *cells.get(1)? != figure.what || *cells.get(2)? != wanted(figure) {
        return None;
    }
    Some([cells.get(3)?.to_string(), cells.get(5)?.to_string()])
}

fn reached(figure: &Figure, record: &Record) -> String {
    if let Some(why) = &record.skipped {
        return format!("skipped: {why}");
    }
    let full = (figure.full)();
    let rounds = match record.rounds {
        rounds if rounds >= full => format!("{} {}", thousands(rounds), figure.unit),
        rounds => format!("**{} of {} {}**", thousands(rounds), thousands(full), figure.unit),
    };
    let measured = format!("{rounds}: {}", record.measures.text());
    match &record.failed {
        Some((round, why)) => format!("**FAILED** in the step of round {round}: {}; before it {measured}", cell(why)),
        None => measured,
    }
}

/// The first line of a message, fit for a cell.
fn cell(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect::<String>().replace('|', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_command_writes() {
        let written = fs::read_to_string(checkout().join(PAGE)).unwrap();
        assert!(page(&written, &vec![None; FIGURES.len()]) == written, "run `cargo xtask torture --page`");
    }

    #[test]
    fn what_was_not_reached_is_said() {
        let figure = FIGURES[0];
        let of = |record: &Record| page("", &[vec![Some(record.clone())], vec![None; FIGURES.len() - 1]].concat());
        let mut record = Record::new("0123456789").unwrap();
        assert!(page("", &vec![None; FIGURES.len()]).contains("| not run as it is now | `cargo xtask torture F1` | - |"));
        record.played(0, 25, &Default::default());
        assert!(of(&record).contains("| **25 of 2,000 rounds**"));
        record.failed = Some((25, "lost | a\nfile".into()));
        assert!(of(&record).contains("| **FAILED** in the step of round 25: lost / a;"));
        record.skipped = Some("no root".into());
        assert!(of(&record).contains("| skipped: no root |"));
        assert_eq!(earlier(&of(&record), figure).unwrap()[0], "skipped: no root");
    }

    #[test]
    fn results_that_were_kept_elsewhere_stay() {
        let nothing = vec![None; FIGURES.len()];
        let mut record = Record::new("0123456789").unwrap();
        record.played(0, 25, &Default::default());
        let mut one = nothing.clone();
        one[0] = Some(record);
        let first = page("", &one);
        assert_eq!(page(&first, &nothing), first);
        assert_ne!(page("", &nothing), first);
        let other = first.replacen(FIGURES[0].wanted, "something else", 1);
        assert_ne!(other, first);
        assert_eq!(page(&other, &nothing), page("", &nothing), "a figure that was another then has not been run");
    }

    #[test]
    fn no_cell_is_split_in_two() {
        assert!(FIGURES.iter().all(|figure| ![figure.what, figure.wanted].concat().contains('|')));
    }
}
