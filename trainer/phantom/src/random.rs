//! Random numbers that depend on what they are for and on nothing else, so that any number of threads draws the same phantoms.

use mmlnb_models::random::Draw;
use std::{f32::consts::TAU, ops::Range};

/// What a stream is drawn for; a part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A scanner's colours and sharpness.
    Scanner,
    /// A patient's tumour and stain.
    Patient,
    /// Where the objects of one patch lie.
    Layout,
    /// How one object looks.
    Object,
    /// The sensor's noise.
    Sensor,
    /// The words of a description.
    Words,
    /// What is done to spoil a description.
    Spoiling,
}

/// A ChaCha stream whose key is (seed, patient, patch, purpose).
pub struct Stream(Draw);

impl Stream {
    /// The stream of one purpose; patient or patch is 0 where there is none.
    pub fn new(seed: u64, patient: u64, patch: u64, purpose: Purpose) -> Self {
        let mut key = [0; 32];
        for (place, part) in [seed, patient, patch, purpose as u64].into_iter().enumerate() {
            key[place * 8..place * 8 + 8].copy_from_slice(&part.to_le_bytes());
        }
        Self(Draw::keyed(key))
    }

    /// A key for something that draws by itself.
    pub fn key(&mut self) -> u64 {
        self.0.bits()
    }

    /// In 0..1.
    pub fn unit(&mut self) -> f32 {
        (self.0.half_bits() >> 8) as f32 / (1 << 24) as f32
    }

    /// In the range; its start when it is empty.
    pub fn uniform(&mut self, range: Range<f32>) -> f32 {
        range.start + self.unit() * (range.end - range.start)
    }

    /// In the range, small values as often as large ones by their ratio.
    pub fn log_uniform(&mut self, range: Range<f32>) -> f32 {
        self.uniform(range.start.ln()..range.end.ln()).exp()
    }

    /// Normally distributed (Box-Muller).
    pub fn normal(&mut self, mean: f32, deviation: f32) -> f32 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        mean + deviation * radius * (TAU * self.unit()).cos()
    }

    /// About normal with mean 0 and deviation 1, cheaply: a sum of four bytes. For the noise of each pixel.
    pub fn rough_normal(&mut self) -> f32 {
        let [a, b, c, d] = self.0.half_bits().to_le_bytes();
        let sum = u32::from(a) + u32::from(b) + u32::from(c) + u32::from(d);
        // The variance of a byte is (256^2 - 1) / 12.
        (sum as f32 - 510.0) / 147.8
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// A whole number below `count`, which is not 0.
    pub fn below(&mut self, count: usize) -> usize {
        self.0.remainder(count)
    }

    /// One of these, which are not none.
    pub fn choose<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Any order of them.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        self.0.shuffle_by_remainder(items);
    }
}
