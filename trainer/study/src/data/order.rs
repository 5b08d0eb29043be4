//! The order in which an epoch sees its items.

use mmlnb_models::hash;

/// A permutation of `0..count` that depends on seed and epoch alone, so that a resumed run needs only its position in it.
///
/// Fisher and Yates' shuffle; each draw is the head of SHA-256 over (seed, epoch, place).
pub fn order(seed: u64, epoch: u64, count: usize) -> Vec<usize> {
    let mut items: Vec<usize> = (0..count).collect();
    for place in (1..count).rev() {
        let digest = hash::sha256_hex(format!("order {seed} {epoch} {place}").as_bytes());
        let draw = u64::from_str_radix(&digest[..16], 16).expect("a digest is hexadecimal");
        items.swap(place, ((u128::from(draw) * (place as u128 + 1)) >> 64) as usize);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
}
