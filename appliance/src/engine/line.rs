//! The line of those that wait for a slot. Waiting is not hanging: as long as the engine goes on, whoever stands in line shows life.

use std::collections::VecDeque;

use super::Request;

/// Something that carries a request.
pub trait Asks {
    /// The request.
    fn request(&self) -> &Request;
}

/// Requests without a slot, the first one first.
pub struct Line<T>(VecDeque<T>);

impl<T> Default for Line<T> {
    fn default() -> Self {
        Line(VecDeque::new())
    }
}

impl<T: Asks> Line<T> {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Others join at the end.
    pub fn join(&mut self, more: impl IntoIterator<Item = T>) {
        self.0.extend(more);
    }

    /// The first one leaves for a free slot; the others see that it goes on.
    pub fn take_first(&mut self) -> Option<T> {
        let first = self.0.pop_front();
        self.show_life();
        first
    }

    /// The engine is at work: everyone in line shows life.
    pub fn show_life(&self) {
        self.0.iter().for_each(|waiting| (waiting.request().beat)());
    }

    /// Those whose callers have given them up leave the line.
    pub fn leave_cancelled(&mut self) -> Vec<T> {
        let (cancelled, waiting): (Vec<T>, Vec<T>) = self.0.drain(..).partition(|waiting| waiting.request().is_cancelled());
        self.0 = waiting.into();
        cancelled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::Mode;
    use super::*;

    impl Asks for Request {
        fn request(&self) -> &Request {
            self
        }
    }

    #[test]
    fn who_waits_shows_life_and_who_is_given_up_leaves() {
        let beats = Arc::new(AtomicUsize::new(0));
        let count = beats.clone();
        let beat: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let ask = || Request { beat: beat.clone(), ..Request::new(Mode::Both) };
        let (first, given_up, last) = (ask(), ask(), ask());
        let mut line = Line::default();
        line.join([first, given_up.clone(), last]);
        assert!(line.take_first().is_some_and(|request| !request.is_cancelled()));
        assert_eq!(beats.load(Ordering::Relaxed), 2, "the two that are left");
        given_up.cancel.store(true, Ordering::Relaxed);
        assert_eq!(line.leave_cancelled().len(), 1);
        line.show_life();
        assert_eq!(beats.load(Ordering::Relaxed), 3);
        assert!(line.take_first().is_some() && line.is_empty());
    }
}
