//! Random numbers that depend on a key alone: seed, purpose, epoch, item. So order and threads do not matter, and a resumed run draws the same.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// A stream of random numbers.
pub(super) struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream of this key.
    pub fn new(seed: u64, purpose: &str, numbers: &[u64]) -> Draw {
        let text = format!("{seed} {purpose} {numbers:?}");
        let digest = mmlnb_models::hash::sha256_hex(text.as_bytes());
        let mut key = [0; 32];
        // 32 of the 64 hex digits hold 128 bits, which is key enough.
        key.copy_from_slice(&digest.as_bytes()[..32]);
        Draw(ChaCha8Rng::from_seed(key))
    }

    /// In 0 .. 1.
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In 0 .. below; `below` is at least 1.
    pub fn below(&mut self, below: usize) -> usize {
        ((u128::from(self.0.next_u64()) * below as u128) >> 64) as usize
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Brings items into a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_its_whole_key() {
        let first = |seed, purpose: &str, numbers: &[u64]| Draw::new(seed, purpose, numbers).uniform();
        assert_eq!(first(1, "order", &[2, 3]), first(1, "order", &[2, 3]));
        let others =
            [first(2, "order", &[2, 3]), first(1, "weights", &[2, 3]), first(1, "order", &[23]), first(1, "order", &[3, 2])];
        assert!(others.iter().all(|other| *other != first(1, "order", &[2, 3])));
    }

    #[test]
    fn numbers_are_spread_as_they_should() {
        let mut draw = Draw::new(7, "test", &[]);
        let normal: Vec<f64> = (0..4000).map(|_| draw.normal()).collect();
        let mean = normal.iter().sum::<f64>() / 4000.0;
        let variance = normal.iter().map(|x| x * x).sum::<f64>() / 4000.0;
        assert!(mean.abs() < 0.06 && (variance - 1.0).abs() < 0.1, "{mean} {variance}");
        let mut counts = [0; 5];
        (0..5000).for_each(|_| counts[draw.below(5)] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        let mut items: Vec<usize> = (0..20).collect();
        draw.shuffle(&mut items);
        assert_ne!(items, (0..20).collect::<Vec<_>>());
        items.sort();
        assert_eq!(items, (0..20).collect::<Vec<_>>());
    }
}
