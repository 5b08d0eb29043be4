//! Telling how far deciding and writing are: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::{
    cell::Cell,
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Matrices of which it is decided how they come into few bits.
    Deciding,
    /// Bytes of weights that are written.
    Writing,
}

impl Work {
    fn told(self) -> &'static str {
        match self {
            Work::Deciding => "deciding",
            Work::Writing => "writing",
        }
    }

    fn amount(self, count: u64) -> String {
        match self {
            Work::Deciding => format!("{count} matrices"),
            Work::Writing => megabytes(count),
        }
    }

    fn bar(self) -> &'static str {
        match self {
            Work::Deciding => "{msg:12} {wide_bar} {pos}/{len} {eta}",
            Work::Writing => "{msg:12} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        }
    }
}

/// Progress of one graph's decisions or file, on standard error.
pub struct Progress {
    name: String,
    work: Work,
    total: u64,
    done: Cell<u64>,
    told: Cell<Instant>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins `total` matrices of a graph, or a file whose weights take so many bytes.
    pub fn begin(name: &str, work: Work, total: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(work.bar());
            let bar = ProgressBar::new(total).with_style(style.expect("the template is a constant that indicatif accepts"));
            bar.with_message(name.to_string())
        });
        if bar.is_none() {
            eprintln!("{name}: {} {}", work.told(), work.amount(total));
        }
        Progress { name: name.to_string(), work, total, done: Cell::new(0), told: Cell::new(Instant::now()), bar }
    }

    /// So many more are done.
    pub fn advance(&self, more: u64) {
        self.done.set(self.done.get() + more);
        match &self.bar {
            Some(bar) => bar.inc(more),
            None if self.told.get().elapsed() >= LINE_EVERY => {
                self.told.set(Instant::now());
                let [done, total] = [self.done.get(), self.total].map(|count| self.work.amount(count));
                eprintln!("{}: {done} of {total}", self.name);
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
