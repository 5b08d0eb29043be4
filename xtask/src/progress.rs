//! One long action's progress in bytes: a bar on a terminal, a line every few seconds elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// How far a download or an unpacking has come.
pub struct Progress {
    label: String,
    total: u64,
    bar: Option<ProgressBar>,
    started: Instant,
    spoken: Instant,
}

impl Progress {
    /// Starts an action over `total` bytes.
    pub fn start(label: &str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg:44} {bar:28} {bytes:>11}/{total_bytes} {bytes_per_sec:>12}")
                .expect("the template above is well formed");
            ProgressBar::new(total).with_style(style).with_message(label.to_owned())
        });
        if bar.is_none() {
            eprintln!("{label} ({} MB)", total.div_ceil(1_000_000));
        }
        let now = Instant::now();
        Self { label: label.to_owned(), total, bar, started: now, spoken: now }
    }

    /// Tells how many bytes are done.
    pub fn at(&mut self, bytes: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(bytes.min(self.total)),
            None if self.spoken.elapsed() >= Duration::from_secs(10) => {
                self.spoken = Instant::now();
                eprintln!("{}: {} of {} MB", self.label, bytes / 1_000_000, self.total.div_ceil(1_000_000));
            }
            None => {}
        }
    }

    /// Ends the action.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
            eprintln!("{} done in {:.1} s", self.label, self.started.elapsed().as_secs_f64());
        }
    }
}
