//! Many images for a command: the next free thread takes the next one, and stderr says how far they are.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::reader::{Reader, Settings};
use crate::error::Failure;

/// Time between two lines of progress away from a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Asks `ask` about every image on `threads` threads, each with a reader of its own, and hands each answer to `take` with the image's place, in the
/// order in which they come. Progress is told on stderr, after the words `what`.
///
/// # Errors
/// The first of `take`; what is not yet asked then stays unasked.
pub fn each<I: Sync, A: Send>(
    what: &str,
    images: &[I],
    threads: usize,
    reading: &Settings,
    ask: impl Fn(&I, &mut Reader) -> A + Sync,
    mut take: impl FnMut(usize, A) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let (sender, answers) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, ask) = (sender.clone(), &next, &ask);
            scope.spawn(move || {
                let mut reader = Reader::new(reading.clone());
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(image) = images.get(at) else { return };
                    if sender.send((at, ask(image, &mut reader))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut progress = Progress::new(what, images.len());
        for (at, answer) in answers {
            take(at, answer)?;
            progress.step();
        }
        Ok(())
    })
}

/// One line that is rewritten on a terminal, a line every ten seconds elsewhere.
struct Progress<'a> {
    what: &'a str,
    total: usize,
    done: usize,
    begun: Instant,
    told: Instant,
}

impl Progress<'_> {
    fn new(what: &str, total: usize) -> Progress<'_> {
        let now = Instant::now();
        Progress { what, total, done: 0, begun: now, told: now }
    }

    fn step(&mut self) {
        self.done += 1;
        let terminal = std::io::stderr().is_terminal();
        if !terminal && self.told.elapsed() < LINE_EVERY && self.done < self.total {
            return;
        }
        self.told = Instant::now();
        let left = self.begun.elapsed().as_secs_f64() / self.done as f64 * (self.total - self.done) as f64;
        let line = format!("{}{} of {} images, {left:.0} s left", self.what, self.done, self.total);
        match terminal {
            true if self.done < self.total => eprint!("\r{line}   "),
            true => eprintln!("\r{line}   "),
            false => eprintln!("{line}"),
        }
    }
}
