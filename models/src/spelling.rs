//! How far names are apart, to guess which one a person meant.

/// Insertions, deletions and exchanges that make one of the other (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_insertion_deletion_and_exchange_counts_once() {
        let known = [("", "abc", 3), ("abc", "", 3), ("settle_ms", "setle_ms", 1), ("kitten", "sitting", 3), ("same", "same", 0)];
        assert!(known.iter().all(|(a, b, expected)| distance(a, b) == *expected));
    }
}
