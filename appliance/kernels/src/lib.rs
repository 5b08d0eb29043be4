//! What a describer spends its time with on a processor: products with weights in few bits, and attention on a cache.
//!
//! Numbers are the same to the bit on every processor and for every number of threads and of rows: each number is made of the same operations in the same
//! order, wherever it stands in a batch, and whatever instructions make it.

#![allow(clippy::needless_range_loop, reason = "registers are arrays that only loops over places keep apart")]

pub mod attention;
mod lanes;
mod processor;
pub mod products;
mod rows;

pub use processor::Processor;
pub use rows::Rows;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Numbers of a row that share a scale.
pub const BLOCK: usize = 128;

/// What is added to a small f32 pushes its fraction out, rounding to nearest, ties to even.
const ROUND: f32 = 12_582_912.0;

/// Threads that work is given to.
pub trait Workers {
    /// How many there are.
    fn count(&self) -> usize;

    /// Calls `work` with every number below `parts`, each on any thread, and waits for all.
    fn each(&self, parts: usize, work: &(dyn Fn(usize) + Sync));
}

/// So many threads, started for each call, the calling one among them; fewer where the system gives no more.
pub struct Spawned(pub usize);

impl Workers for Spawned {
    fn count(&self) -> usize {
        self.0.max(1)
    }

    fn each(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let take = || {
            let parts = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed)).take_while(|part| *part < parts);
            parts.for_each(work);
        };
        std::thread::scope(|scope| {
            (1..self.count().min(parts)).for_each(|_| drop(std::thread::Builder::new().spawn_scoped(scope, take)));
            take();
        });
    }
}

/// Calls `work` with each part, one alone on the calling thread.
pub fn each_part<T: Send>(mut parts: Vec<T>, workers: &dyn Workers, work: impl Fn(T) + Sync) {
    if parts.len() < 2 {
        return parts.drain(..).for_each(work);
    }
    let parts: Vec<Mutex<Option<T>>> = parts.into_iter().map(|part| Mutex::new(Some(part))).collect();
    workers.each(parts.len(), &|index| {
        let part = parts[index].lock().unwrap_or_else(PoisonError::into_inner).take();
        work(part.expect("each part is worked on once"));
    });
}
