//! A figure of several runs, and what the system says meanwhile: how long others waited for a core, how much memory was taken.

use std::fs;
use std::time::Instant;

use serde::Serialize;

/// A measured quantity in the unit of its name.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Figure {
    /// The middle one of the runs.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
    /// Largest share of a run's time in which some process of the machine waited for a core; `None` where the kernel does not say.
    pub waited: Option<f64>,
}

/// A run's value with what disturbed it.
pub type Run = (f64, Option<f64>);

impl Figure {
    /// Of runs; `None` without any.
    pub fn of(runs: &[Run]) -> Option<Figure> {
        let mut sorted: Vec<f64> = runs.iter().map(|(value, _)| *value).collect();
        sorted.sort_by(f64::total_cmp);
        let waited = runs.iter().filter_map(|(_, waited)| *waited).max_by(f64::total_cmp);
        Some(Figure { median: *sorted.get(sorted.len() / 2)?, least: *sorted.first()?, most: *sorted.last()?, waited })
    }
}

/// What is done, and the share of its time in which some process waited for a core.
pub fn watched<T>(work: impl FnOnce() -> T) -> (T, Option<f64>) {
    let (before, begun) = (stalled(), Instant::now());
    let done = work();
    let seconds = begun.elapsed().as_secs_f64();
    let waited = before.zip(stalled()).map(|(before, after)| after.saturating_sub(before) as f64 / 1e6 / seconds.max(1e-6));
    // The kernel's own count may end a little after ours.
    let waited = waited.map(|share| share.min(1.0));
    (done, waited)
}

/// Microseconds since the machine's start in which some process waited for a core.
fn stalled() -> Option<u64> {
    let text = fs::read_to_string("/proc/pressure/cpu").ok()?;
    text.lines().find(|line| line.starts_with("some"))?.rsplit_once("total=")?.1.trim().parse().ok()
}

/// Most memory that this process has had at once, in bytes.
pub fn peak_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_middle_run_and_tells_the_worst_disturbance() {
        let figure = Figure::of(&[(3.0, Some(0.1)), (1.0, None), (2.0, Some(0.4))]).expect("three runs");
        assert_eq!(figure, Figure { median: 2.0, least: 1.0, most: 3.0, waited: Some(0.4) });
        assert_eq!(Figure::of(&[]), None);
    }
}
