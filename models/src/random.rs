//! Random numbers that depend on a key alone: seed, purpose, epoch, item. So order and threads do not matter, and a resumed run draws the same.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use crate::hash;

/// A stream of random numbers.
pub struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream of this key.
    pub fn new(seed: u64, purpose: &str, numbers: &[u64]) -> Draw {
        Draw::named(&format!("{seed} {purpose} {numbers:?}"))
    }

    /// The stream of a text.
    pub fn named(key: &str) -> Draw {
        let mut bytes = [0; 32];
        // 32 of the 64 hex digits hold 128 bits, which is key enough.
        bytes.copy_from_slice(&hash::sha256_hex(key.as_bytes()).as_bytes()[..32]);
        Draw::keyed(bytes)
    }

    /// The stream of a key of 256 bits.
    pub fn keyed(key: [u8; 32]) -> Draw {
        Draw(ChaCha8Rng::from_seed(key))
    }

    /// One of the 2^64 streams of a seed.
    pub fn numbered(seed: u64, number: u64) -> Draw {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(number);
        Draw(random)
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// 32 random bits.
    #[inline]
    pub fn half_bits(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// In 0 .. 1.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In 0 .. below; `below` is at least 1.
    pub fn below(&mut self, below: usize) -> usize {
        scaled(self.bits(), below)
    }

    /// In 0 .. below as a remainder: what `describe`'s orders, phantoms and blind pages were drawn with from the start. Its bias is below 2^-40 for any
    /// list that fits into memory.
    pub fn remainder(&mut self, below: usize) -> usize {
        (self.bits() % below as u64) as usize
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Brings items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        shuffle(items, |count| self.below(count));
    }

    /// As [`Draw::shuffle`], with [`Draw::remainder`].
    pub fn shuffle_by_remainder<T>(&mut self, items: &mut [T]) {
        shuffle(items, |count| self.remainder(count));
    }
}

/// Fisher and Yates' shuffle, from the last place to the second; `below` draws a place of so many.
fn shuffle<T>(items: &mut [T], mut below: impl FnMut(usize) -> usize) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(last + 1));
    }
}

/// 64 random bits as a number below `below`.
fn scaled(bits: u64, below: usize) -> usize {
    ((u128::from(bits) * below as u128) >> 64) as usize
}

/// A permutation of `0..count` that depends on seed and epoch alone, so that a resumed run needs only its position in it; each place is drawn with the
/// head of SHA-256 over (seed, epoch, place).
pub fn order(seed: u64, epoch: u64, count: usize) -> Vec<usize> {
    let mut items: Vec<usize> = (0..count).collect();
    shuffle(&mut items, |count| {
        let place = count - 1;
        let digest = hash::sha256_hex(format!("order {seed} {epoch} {place}").as_bytes());
        scaled(u64::from_str_radix(&digest[..16], 16).expect("a digest is hexadecimal"), count)
    });
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn every_item_comes_once_and_seeds_and_epochs_differ(seed: u64, epoch in 0u64..1000, count in 0usize..200) {
            let one = order(seed, epoch, count);
            let mut sorted = one.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            prop_assert_eq!(&one, &order(seed, epoch, count));
            if count > 30 {
                prop_assert_ne!(&one, &order(seed, epoch + 1, count));
                prop_assert_ne!(&one, &order(seed ^ 1, epoch, count));
            }
        }
    }

    #[test]
    fn every_permutation_is_about_as_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..6000 {
            *counts.entry(order(7, epoch, 3)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (880..1120).contains(count)), "{counts:?}");
    }

    /// Orders of runs that were begun with earlier versions: `--resume` goes on in them. Found by an implementation of ChaCha8 and PCG32 in Python.
    #[test]
    fn orders_are_those_of_earlier_versions() {
        assert_eq!(order(7, 3, 10), [5, 9, 8, 1, 6, 0, 3, 4, 2, 7]);
        let shuffled = |by: &dyn Fn(&mut Draw, &mut Vec<u8>)| {
            let (mut draw, mut items) = (Draw::numbered(7, 3), (0..10).collect::<Vec<u8>>());
            by(&mut draw, &mut items);
            items
        };
        assert_eq!(shuffled(&|draw, items| draw.shuffle(items)), [4, 5, 8, 3, 9, 6, 2, 7, 0, 1]);
        assert_eq!(shuffled(&|draw, items| draw.shuffle_by_remainder(items)), [1, 6, 3, 5, 0, 4, 7, 2, 8, 9]);
        assert_eq!(Draw::new(1, "order", &[2, 3]).bits(), 0x65f0_ce56_84ed_ef07);
    }
}
