//! How much of a prompt is read between two steps: so much that those who write wait about twice the time of their own step for it.

use std::time::Duration;

/// Tokens of a piece as long as nothing was measured.
const FIRST: usize = 32;
/// A piece is a multiple of so many tokens: kernels take rows in blocks and round those that are left over otherwise, and an answer must not depend
/// on who else was there. Reading fewer would cost nearly as much.
const BLOCK: usize = 16;
/// Most tokens of a piece: attention takes memory for each of them with each token before.
pub(super) const MOST: usize = 512;
/// Steps that a piece may take.
const STEPS: f64 = 2.0;

/// The latest times.
pub(super) struct Pace {
    /// Prompts are always cut at the same places: on a GPU kernels are chosen by the number of rows, so the cuts must not depend on the time.
    fixed: bool,
    /// Of a step.
    step: Option<Duration>,
    /// Of a piece, and its tokens.
    piece: Option<(Duration, usize)>,
}

impl Pace {
    /// Nothing is measured yet; `fixed`: nothing ever decides.
    pub fn new(fixed: bool) -> Pace {
        Pace { fixed, step: None, piece: None }
    }

    /// A step took so long.
    pub fn stepped(&mut self, time: Duration) {
        self.step = Some(time);
    }

    /// A piece of so many tokens took so long.
    pub fn read(&mut self, tokens: usize, time: Duration) {
        self.piece = Some((time, tokens));
    }

    /// Tokens of the next piece of a prompt that has so many left, while others write or alone. What remains is never a single token, for which
    /// kernels have a way of their own.
    pub fn piece(&self, left: usize, alone: bool) -> usize {
        let tokens = match (self.step, self.piece) {
            _ if alone || self.fixed => MOST,
            (Some(step), Some((time, tokens))) => {
                let per_token = time.as_secs_f64().max(1e-9) / tokens as f64;
                (STEPS * step.as_secs_f64() / per_token) as usize
            }
            _ => FIRST,
        };
        let blocks = (tokens.min(MOST) / BLOCK).max(1) * BLOCK;
        if blocks + 1 >= left { left } else { blocks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_takes_two_steps() {
        let mut pace = Pace::new(false);
        let others = |pace: &Pace, left| pace.piece(left, false);
        assert_eq!([200, 33, 20].map(|left| others(&pace, left)), [FIRST, 33, 20], "no single token is left over");
        pace.stepped(Duration::from_millis(20));
        pace.read(100, Duration::from_millis(80));
        assert_eq!(others(&pace, 200), 48, "whole blocks");
        pace.read(100, Duration::from_secs(80));
        assert_eq!(others(&pace, 200), BLOCK);
        pace.read(100, Duration::ZERO);
        assert_eq!((others(&pace, 200), others(&pace, 2000)), (200, MOST));
        assert_eq!((pace.piece(200, true), pace.piece(MOST + 1, true), pace.piece(2000, true)), (200, MOST + 1, MOST));
        pace.read(100, Duration::from_secs(80));
        assert_eq!(others(&Pace { fixed: true, ..pace }, 2000), MOST);
    }
}
