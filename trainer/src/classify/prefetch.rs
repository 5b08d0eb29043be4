//! Preparation beside compute: another thread makes what the next steps need.

use crate::error::TrainError;
use std::{
    ops::ControlFlow,
    sync::mpsc::sync_channel,
    thread::{available_parallelism, scope},
};

/// Items that are made ahead.
const AHEAD: usize = 2;
/// Most threads that prepare.
const THREADS: usize = 8;

/// `make`s each item on another thread, in order, and gives it to `take`, until that breaks.
///
/// # Errors
/// The first error of either.
pub(super) fn prefetch<P: Sync, T: Send>(
    plans: &[P],
    make: impl Fn(&P) -> Result<T, TrainError> + Sync,
    mut take: impl FnMut(&P, T) -> Result<ControlFlow<()>, TrainError>,
) -> Result<(), TrainError> {
    scope(|threads| {
        let (sender, receiver) = sync_channel(AHEAD);
        let make = &make;
        threads.spawn(move || {
            for plan in plans {
                let made = make(plan);
                let failed = made.is_err();
                // The other side hangs up when it breaks.
                if sender.send(made).is_err() || failed {
                    return;
                }
            }
        });
        for plan in plans {
            let Ok(made) = receiver.recv() else { break };
            if take(plan, made?)?.is_break() {
                break;
            }
        }
        Ok(())
    })
}

/// `make` of every item, several at a time, in order.
///
/// # Errors
/// The first item's error.
pub(super) fn all<P: Sync, T: Send>(
    items: &[P],
    make: impl Fn(&P) -> Result<T, TrainError> + Sync,
) -> Result<Vec<T>, TrainError> {
    let threads = available_parallelism().map_or(1, usize::from).min(THREADS);
    let each = items.len().div_ceil(threads).max(1);
    let make = &make;
    scope(|scope| {
        let parts: Vec<_> = items
            .chunks(each)
            .map(|part| scope.spawn(move || part.iter().map(make).collect::<Result<Vec<T>, TrainError>>()))
            .collect();
        let mut made = Vec::with_capacity(items.len());
        for part in parts {
            match part.join() {
                Ok(part) => made.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(made)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_until_one_breaks_or_fails() {
        let plans: Vec<usize> = (0..50).collect();
        let run = |fails: usize, breaks: usize| {
            let mut taken = Vec::new();
            let make = |plan: &usize| match *plan == fails {
                true => Err(TrainError::Failed("made".into())),
                false => Ok(plan * 2),
            };
            let outcome = prefetch(&plans, make, |plan, made| {
                assert_eq!(made, plan * 2);
                taken.push(*plan);
                Ok(if *plan == breaks { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            });
            (outcome.is_ok(), taken)
        };
        assert_eq!(run(99, 99), (true, (0..50).collect()));
        assert_eq!(run(99, 6), (true, (0..=6).collect()));
        assert_eq!(run(9, 99), (false, (0..9).collect()));
    }

    #[test]
    fn all_keeps_the_order() {
        let items: Vec<usize> = (0..37).collect();
        assert_eq!(all(&items, |x| Ok(x + 1)).unwrap(), (1..38).collect::<Vec<_>>());
        assert!(all(&items, |x| if *x == 20 { Err(TrainError::Failed("twenty".into())) } else { Ok(()) }).is_err());
    }
}
