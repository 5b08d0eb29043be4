//! Which items an epoch shows, and in which order.

use super::recipe::Sampling;
use mmlnb_models::random::{self, Draw};

/// Items of one epoch in order; `items` are rows with their classes. The same for the same seed and epoch.
pub(super) fn order(items: &[(usize, usize)], sampling: Sampling, seed: u64, epoch: u64) -> Vec<usize> {
    let rows: Vec<usize> = match sampling {
        Sampling::InOrder => return items.iter().map(|(row, _)| *row).collect(),
        Sampling::Shuffled => items.iter().map(|(row, _)| *row).collect(),
        Sampling::Balanced => balanced(items, &mut Draw::new(seed, "balanced order", &[epoch])),
    };
    random::order(seed, epoch, rows.len()).into_iter().map(|place| rows[place]).collect()
}

/// As many rows as there are items, each class as often as the others (but for the remainder); rows of a class repeat only after all were there.
fn balanced(items: &[(usize, usize)], draw: &mut Draw) -> Vec<usize> {
    let mut classes: Vec<usize> = items.iter().map(|(_, class)| *class).collect();
    classes.sort();
    classes.dedup();
    draw.shuffle(&mut classes);
    let mut rows = Vec::with_capacity(items.len());
    for (place, class) in classes.iter().enumerate() {
        let of_class: Vec<usize> = items.iter().filter(|(_, other)| other == class).map(|(row, _)| *row).collect();
        let share = items.len() / classes.len() + usize::from(place < items.len() % classes.len());
        let mut left = share;
        while left > 0 {
            let mut round = of_class.clone();
            draw.shuffle(&mut round);
            round.truncate(left);
            left -= round.len();
            rows.extend(round);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<(usize, usize)> {
        (0..20).map(|row| (row + 100, usize::from(row >= 16))).collect()
    }

    #[test]
    fn every_item_comes_once_in_an_order_of_the_epoch() {
        let all = items();
        let first = order(&all, Sampling::Shuffled, 1, 0);
        assert_ne!(first, order(&all, Sampling::Shuffled, 1, 1));
        assert_eq!(first, order(&all, Sampling::Shuffled, 1, 0));
        let mut sorted = first.clone();
        sorted.sort();
        assert_eq!(sorted, order(&all, Sampling::InOrder, 1, 0));
        assert_eq!(sorted, (100..120).collect::<Vec<_>>());
    }

    #[test]
    fn balanced_epochs_show_each_class_alike() {
        let rows = order(&items(), Sampling::Balanced, 1, 0);
        let rare: Vec<&usize> = rows.iter().filter(|row| **row >= 116).collect();
        assert_eq!((rows.len(), rare.len()), (20, 10));
        let each = (116..120).map(|row| rare.iter().filter(|other| ***other == row).count());
        assert!(each.clone().all(|count| count == 2 || count == 3), "{:?}", each.collect::<Vec<_>>());
    }
}
