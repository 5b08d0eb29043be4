//! How long to wait for what passes by itself, and how much room a file needs. Pure.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// The wait before try number `tries` (1 is the first repetition): 1 s, doubled up to 5 min, ±20 % by `noise` in 0..=1.
pub fn backoff(tries: u32, noise: f64) -> Duration {
    let doubled = 1u64 << tries.saturating_sub(1).min(20);
    let seconds = doubled.min(300) as f64;
    Duration::from_secs_f64(seconds * (0.8 + 0.4 * noise.clamp(0.0, 1.0)))
}

/// What spreads the waits of files that failed together, from 0 to 1: from the name alone, so that a history can be told again.
pub fn noise(path: &Path, tries: u32) -> f64 {
    let mix = |mixed: u64, byte: u64| (mixed ^ byte).wrapping_mul(0x0100_0000_01b3);
    let bytes = path.as_os_str().as_bytes().iter().map(|byte| u64::from(*byte));
    let mixed = mix(bytes.fold(0xcbf2_9ce4_8422_2325, mix), u64::from(tries) << 8);
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

/// Free bytes that are needed before a file of this size is taken.
pub fn needed_space(min_free: u64, file_size: u64) -> u64 {
    min_free.max(file_size.saturating_mul(4))
}

/// Free bytes at which a pause ends: a quarter more, so that it does not flap.
pub fn resume_space(needed: u64) -> u64 {
    needed.saturating_add(needed / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_minutes() {
        let waits: Vec<u64> = (1..=12).map(|tries| backoff(tries, 0.5).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(backoff(1, 0.0), Duration::from_millis(800));
        assert_eq!(backoff(1, 1.0), Duration::from_millis(1200));
        assert_eq!(backoff(u32::MAX, 0.5).as_secs(), 300);
    }

    #[test]
    fn the_noise_differs_by_name_and_try() {
        let noises: Vec<f64> =
            ["a.png", "b.png", "c/a.png"].iter().flat_map(|path| [1, 2].map(|tries| noise(Path::new(path), tries))).collect();
        assert!(noises.iter().all(|noise| (0.0..=1.0).contains(noise)));
        assert!(noises.windows(2).all(|pair| pair[0] != pair[1]), "{noises:?}");
    }

    #[test]
    fn space_has_a_floor_and_a_margin() {
        assert_eq!(needed_space(100, 10), 100);
        assert_eq!(needed_space(100, 50), 200);
        assert_eq!(resume_space(200), 250);
    }
}
