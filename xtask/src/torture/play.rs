//! Playing a figure's steps: several beside each other where nothing is timed, each failure with what replays it.

use super::{
    figure::{Figure, Measures, Step},
    record::Record,
};
use anyhow::Result;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// How much is played and what becomes of it.
pub struct Play {
    /// Rounds in all.
    pub rounds: u64,
    /// Steps at the same time.
    pub jobs: usize,
    /// Whether the result is kept.
    pub keep: bool,
}

/// Plays what `record` lacks of a figure; true when nothing failed.
pub fn play(figure: &'static Figure, record: &mut Record, play: &Play) -> Result<bool> {
    let begun = Instant::now();
    let missing: Vec<Step> = steps(figure, play.rounds).filter(|step| !record.steps.contains(&step.first)).collect();
    let jobs = if figure.alone { 1 } else { play.jobs }.min(missing.len());
    eprintln!("== {}: {}; {} of {} {} to play", figure.name, figure.what, rounds(&missing), play.rounds, figure.unit);
    record.failed = None;
    let state = Mutex::new((missing.into_iter(), record, None::<anyhow::Error>));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work(figure, &state, play.keep));
        }
    });
    let (_, record, problem) = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(problem) = problem {
        return Err(problem);
    }
    let seconds = begun.elapsed().as_secs_f64();
    match &record.failed {
        Some((round, why)) => {
            eprintln!("== {}: FAILED after {seconds:.0} s: {why}", figure.name);
            eprintln!("== to see it again: cargo xtask torture {} --replay {round}", figure.name);
        }
        None => eprintln!("== {}: {} {} in {seconds:.0} s: {}", figure.name, record.rounds, figure.unit, record.measures.text()),
    }
    Ok(record.failed.is_none())
}

/// The step that begins with a round.
pub fn step(figure: &Figure, first: u64) -> Step {
    Step { figure: figure.name, first, count: figure.step.min((figure.full)().saturating_sub(first)) }
}

/// The steps that hold the first `rounds` rounds, each whole.
fn steps(figure: &'static Figure, rounds: u64) -> impl Iterator<Item = Step> {
    (0..rounds.min((figure.full)()).div_ceil(figure.step)).map(move |at| step(figure, at * figure.step))
}

fn rounds(steps: &[Step]) -> u64 {
    steps.iter().map(|step| step.count).sum()
}

type State<'a> = Mutex<(std::vec::IntoIter<Step>, &'a mut Record, Option<anyhow::Error>)>;

/// Takes step after step until one fails.
fn work(figure: &Figure, state: &State<'_>, keep: bool) {
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let step = {
            let mut state = lock();
            if state.1.failed.is_some() || state.2.is_some() {
                return;
            }
            let Some(step) = state.0.next() else { return };
            step
        };
        let begun = Instant::now();
        let played = one(figure, &step);
        let mut state = lock();
        match played {
            Ok(measures) => {
                state.1.played(step.first, step.count, &measures);
                eprintln!("{} {}: {:.1} s, {}", figure.name, step.first, begun.elapsed().as_secs_f64(), measures.text());
            }
            // The first failure is told: others may be its consequence.
            Err(why) => drop(state.1.failed.get_or_insert((step.first, why))),
        }
        if keep && let Err(problem) = state.1.keep(figure) {
            state.2 = Some(problem);
        }
    }
}

/// Plays one step; why it failed.
pub fn one(figure: &Figure, step: &Step) -> Result<Measures, String> {
    catch_unwind(AssertUnwindSafe(|| (figure.play)(step))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a thread of the step failed; its words stand above")
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static FIGURE: Figure = Figure {
        name: "F0",
        what: "counts",
        wanted: "all",
        unit: "rounds",
        full: || 15,
        short: None,
        step: 4,
        alone: false,
        hindrance: || None,
        play: |step| {
            let mut measures = Measures::default();
            step.rounds().for_each(|round| assert_ne!(round, 13, "an unlucky round"));
            measures.count("rounds seen", step.count);
            measures
        },
    };

    #[test]
    fn every_round_is_played_once_and_a_failure_names_its_step() {
        let mut record = Record::new("0123456789").unwrap();
        let mut options = Play { rounds: 6, jobs: 2, keep: false };
        for _ in 0..2 {
            assert!(play(&FIGURE, &mut record, &options).unwrap());
            assert_eq!((record.rounds, record.measures.text().as_str()), (8, "8 rounds seen"), "whole steps, each once");
        }
        options.rounds = 99;
        assert!(!play(&FIGURE, &mut record, &options).unwrap());
        assert_eq!(record.rounds, 12);
        let (round, why) = record.failed.clone().unwrap();
        assert!(round == 12 && why.contains("an unlucky round"), "{round}: {why}");
    }
}
