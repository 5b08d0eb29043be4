//! In which order samples are seen: shuffled, but with neighbours of like length, so that little is padding.

use mmlnb_models::random::Draw;

/// Windows whose samples are sorted by length together.
const BUCKET: usize = 8;

/// A micro-batch: numbers of samples.
pub type Micro = Vec<usize>;

/// The windows of an epoch, each of at most `accumulation` micro-batches of at most `batch` samples. Follows from the seed, the epoch and the lengths
/// alone, and which samples make a step from `batch * accumulation` alone, so that less memory need not mean other steps. Every sample comes once; a
/// last window that is not full takes random samples.
pub fn windows(lengths: &[usize], (seed, epoch): (u64, u64), batch: usize, accumulation: usize) -> Vec<Vec<Micro>> {
    let mut draw = Draw::numbered(seed, epoch);
    let mut numbers: Vec<usize> = (0..lengths.len()).collect();
    draw.shuffle_by_remainder(&mut numbers);
    let size = batch * accumulation;
    let rest = numbers.split_off(numbers.len() - numbers.len() % size);
    numbers.chunks_mut(BUCKET * size).for_each(|bucket| bucket.sort_by_key(|number| lengths[*number]));
    let mut windows: Vec<&[usize]> = numbers.chunks(size).collect();
    draw.shuffle_by_remainder(&mut windows);
    windows.extend(Some(rest.as_slice()).filter(|rest| !rest.is_empty()));
    windows.into_iter().map(|window| window.chunks(batch).map(<[usize]>::to_vec).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_comes_once_and_neighbours_are_alike() {
        let lengths: Vec<usize> = (0..1003).map(|n| 10 + n * 7919 % 400).collect();
        let windows = windows(&lengths, (1, 0), 4, 3);
        let mut seen: Vec<usize> = windows.iter().flatten().flatten().copied().collect();
        seen.sort();
        assert_eq!(seen, (0..1003).collect::<Vec<_>>());
        assert!(windows.iter().rev().skip(1).all(|window| window.len() == 3));
        let spread = |micro: &Micro| {
            let own = micro.iter().map(|number| lengths[*number]);
            own.clone().max().unwrap() - own.min().unwrap()
        };
        let micros: Vec<&Micro> = windows.iter().flatten().collect();
        let mean = micros.iter().map(|micro| spread(micro)).sum::<usize>() / micros.len();
        assert!(mean < 40, "lengths within a batch differ by {mean} on average");
    }

    #[test]
    fn a_step_has_the_same_samples_however_it_is_cut() {
        let lengths: Vec<usize> = (0..203).map(|n| 10 + n * 7919 % 400).collect();
        let steps = |batch, accumulation| -> Vec<Vec<usize>> {
            windows(&lengths, (3, 1), batch, accumulation).into_iter().map(|window| window.concat()).collect()
        };
        assert_eq!(steps(8, 1), steps(1, 8));
        assert_eq!(steps(8, 1), steps(4, 2));
    }

    #[test]
    fn the_order_follows_from_seed_and_epoch() {
        let lengths = vec![5; 50];
        let order = |seed, epoch| windows(&lengths, (seed, epoch), 4, 2);
        assert_eq!(order(1, 2), order(1, 2));
        assert_ne!(order(1, 2), order(1, 3));
        assert_ne!(order(1, 2), order(2, 2));
    }
}
