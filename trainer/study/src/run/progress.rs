//! How far a long command is: a bar on a terminal, a line a minute elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::{
    fs,
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

const PAUSE: Duration = Duration::from_secs(60);

/// Steps done and to come, with figures, rate, time left and memory, on standard error.
#[derive(Debug)]
pub struct Progress {
    label: String,
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    before: u64,
    started: Instant,
    line_at: Instant,
}

impl Progress {
    /// `done` of `total` items or steps lie behind already, from an earlier process.
    pub fn new(label: &str, total: u64, done: u64) -> Progress {
        let bar = stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg}").expect("the template is well formed");
            ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(label.to_string()).with_position(done)
        });
        let now = Instant::now();
        Progress { label: label.into(), bar, total, done, before: done, started: now, line_at: now }
    }

    /// `by` more are done; `figures` are shown by name.
    pub fn advance(&mut self, by: u64, figures: &[(&str, f64)]) {
        self.done += by;
        let message = self.message(figures);
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done);
                bar.set_message(message);
            }
            None if self.line_at.elapsed() >= PAUSE || self.done == self.total => {
                self.line_at = Instant::now();
                eprintln!("{} {}/{} {message}", self.label, self.done, self.total);
            }
            None => {}
        }
    }

    /// A line that stays, above the bar: the end of an epoch, for instance.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Takes the bar away.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn message(&self, figures: &[(&str, f64)]) -> String {
        let mut parts: Vec<String> = figures.iter().map(|(name, value)| format!("{name} {}", short(*value))).collect();
        let rate = (self.done - self.before) as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        if rate > 0.0 {
            parts.push(if rate < 1.0 { format!("{:.1} s each", 1.0 / rate) } else { format!("{rate:.1}/s") });
            let left = self.total.saturating_sub(self.done) as f64 / rate;
            parts.push(format!("{} left", spelled(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX))));
        }
        parts.extend(memory_used().map(|bytes| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)));
        parts.join(", ")
    }
}

/// Four significant digits.
fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        0.0 => "0".into(),
        1e-3..1e5 => format!("{value:.*}", (3 - size.log10().floor() as i32).max(0) as usize),
        _ => format!("{value:.2e}"),
    }
}

/// Bytes of main memory that this process occupies.
pub fn memory_used() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A duration as people say it: `40 s`, `12 min`, `3 h 20 min`, `2 d 4 h`.
pub fn spelled(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = ((seconds + 30) / 60, (seconds + 30) / 3600);
    match seconds {
        0..90 => format!("{seconds} s"),
        90..3570 => format!("{minutes} min"),
        3570..172_770 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// Says before the start how long `steps` of `each` will take.
pub fn announce(steps: u64, each: Duration) {
    let all = each.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX));
    eprintln!("about {} for {steps} steps of {:.2} s, as measured on the first", spelled(all), each.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spelled_in_two_units_at_most() {
        let cases = [
            (0, "0 s"),
            (89, "89 s"),
            (90, "2 min"),
            (3569, "59 min"),
            (3570, "1 h 0 min"),
            (12_000, "3 h 20 min"),
            (187_200, "2 d 4 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(spelled(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn figures_have_four_digits() {
        for (value, text) in
            [(0.31234, "0.3123"), (12.3456, "12.35"), (0.0, "0"), (1e-5, "1.00e-5"), (-2.5, "-2.500"), (4321.9, "4322")]
        {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn the_time_left_counts_only_what_this_process_did() {
        let mut progress = Progress::new("training", 100, 90);
        progress.started = Instant::now() - Duration::from_secs(50);
        progress.bar = None;
        progress.advance(5, &[("loss", 0.5)]);
        let message = progress.message(&[("loss", 0.5)]);
        assert!(message.starts_with("loss 0.5000, 10.0 s each, 50 s left") && message.ends_with("GiB"), "{message}");
    }

    #[test]
    fn memory_is_that_of_this_process() {
        assert!(memory_used().unwrap() > 1 << 20);
    }
}
