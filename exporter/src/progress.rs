//! Telling how far writing is: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::{
    cell::Cell,
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress of one file, on standard error.
pub struct Progress {
    name: String,
    total: u64,
    done: Cell<u64>,
    told: Cell<Instant>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins a file whose weights take `total` bytes.
    pub fn begin(name: &str, total: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg:12} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
            let bar = ProgressBar::new(total).with_style(style.expect("the template is a constant that indicatif accepts"));
            bar.with_message(name.to_string())
        });
        if bar.is_none() {
            eprintln!("{name}: writing {}", megabytes(total));
        }
        Progress { name: name.to_string(), total, done: Cell::new(0), told: Cell::new(Instant::now()), bar }
    }

    /// `bytes` more were written.
    pub fn advance(&self, bytes: u64) {
        self.done.set(self.done.get() + bytes);
        match &self.bar {
            Some(bar) => bar.inc(bytes),
            None if self.told.get().elapsed() >= LINE_EVERY => {
                self.told.set(Instant::now());
                eprintln!("{}: {} of {}", self.name, megabytes(self.done.get()), megabytes(self.total));
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A size for people.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
