//! How much of a prompt is read between two steps: so much that those who write wait about twice the time of their own step for it.

use std::time::Duration;

/// Tokens of a piece as long as nothing was measured.
const FIRST: usize = 32;
/// Fewest tokens of a piece: reading fewer costs nearly as much.
const LEAST: usize = 16;
/// Steps that a piece may take.
const STEPS: f64 = 2.0;

/// The latest times.
#[derive(Default)]
pub(super) struct Pace {
    /// Of a step.
    step: Option<Duration>,
    /// Of a piece, and its tokens.
    piece: Option<(Duration, usize)>,
}

impl Pace {
    /// A step took so long.
    pub fn stepped(&mut self, time: Duration) {
        self.step = Some(time);
    }

    /// A piece of so many tokens took so long.
    pub fn read(&mut self, tokens: usize, time: Duration) {
        self.piece = Some((time, tokens));
    }

    /// Tokens of the next piece of a prompt that has so many left. What remains is never a single token: kernels for one row round otherwise, and
    /// an answer must not depend on who else was there.
    pub fn piece(&self, left: usize) -> usize {
        let tokens = match (self.step, self.piece) {
            (Some(step), Some((time, tokens))) => {
                let per_token = time.as_secs_f64().max(1e-9) / tokens as f64;
                ((STEPS * step.as_secs_f64() / per_token) as usize).max(LEAST)
            }
            _ => FIRST,
        };
        if tokens + 1 >= left { left } else { tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_takes_two_steps() {
        let mut pace = Pace::default();
        assert_eq!((pace.piece(200), pace.piece(33), pace.piece(20)), (FIRST, 33, 20));
        pace.stepped(Duration::from_millis(20));
        pace.read(100, Duration::from_millis(80));
        assert_eq!(pace.piece(200), 50);
        assert_eq!(pace.piece(51), 51, "no single token is left over");
        pace.read(100, Duration::from_secs(80));
        assert_eq!(pace.piece(200), LEAST);
        pace.read(100, Duration::ZERO);
        assert_eq!(pace.piece(200), 200);
    }
}
