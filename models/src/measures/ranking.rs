//! How well a score ranks the items that are meant above the others.

/// An item in a ranking: its score, whether it is meant, and how often it counts.
pub(super) type Ranked = (f64, bool, u32);

/// Area under the ROC curve by midranks: the share of pairs (meant, other) in which the meant item has the higher score, ties counted half.
/// Nothing when one of the two kinds is missing.
pub fn auroc(scores: &[f64], meant: &[bool]) -> Option<f64> {
    auroc_of(&falling(scores.iter().zip(meant).map(|(score, meant)| (*score, *meant, 1))))
}

/// Average precision, the area under the precision-recall curve: sum of (R_i - R_(i-1)) P_i over distinct thresholds, without interpolation.
/// Nothing when no item is meant, or all are.
pub fn average_precision(scores: &[f64], meant: &[bool]) -> Option<f64> {
    average_precision_of(&falling(scores.iter().zip(meant).map(|(score, meant)| (*score, *meant, 1))))
}

/// The ROC curve, (false positive rate, true positive rate) at every distinct threshold, from (0, 0) to (1, 1). Nothing when a kind is missing.
pub fn roc(scores: &[f64], meant: &[bool]) -> Option<Vec<[f64; 2]>> {
    let ranked = falling(scores.iter().zip(meant).map(|(score, meant)| (*score, *meant, 1)));
    let (positives, negatives) = totals(&ranked)?;
    let (mut found, mut wrong) = (0, 0);
    let mut curve = vec![[0.0, 0.0]];
    for (right, other) in ties(&ranked) {
        (found, wrong) = (found + right, wrong + other);
        curve.push([wrong as f64 / negatives as f64, found as f64 / positives as f64]);
    }
    Some(curve)
}

/// Items by falling score.
pub(super) fn falling(items: impl Iterator<Item = Ranked>) -> Vec<Ranked> {
    let mut ranked: Vec<Ranked> = items.collect();
    ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
    ranked
}

/// [`auroc`] of items by falling score.
pub(super) fn auroc_of(ranked: &[Ranked]) -> Option<f64> {
    let (positives, negatives) = totals(ranked)?;
    // In halves of a pair, so that the sum is exact.
    let (mut above, mut halves) = (0_u64, 0_u64);
    for (right, other) in ties(ranked) {
        halves += other * (2 * above + right);
        above += right;
    }
    Some(halves as f64 / 2.0 / (positives as f64 * negatives as f64))
}

/// [`average_precision`] of items by falling score.
pub(super) fn average_precision_of(ranked: &[Ranked]) -> Option<f64> {
    let (positives, _) = totals(ranked)?;
    let (mut found, mut seen, mut sum) = (0, 0, 0.0);
    for (right, other) in ties(ranked) {
        found += right;
        seen += right + other;
        if seen > 0 {
            sum += right as f64 / positives as f64 * (found as f64 / seen as f64);
        }
    }
    Some(sum)
}

/// Numbers of meant and other items; nothing when one is zero.
fn totals(ranked: &[Ranked]) -> Option<(u64, u64)> {
    let count = |kind| ranked.iter().filter(|one| one.1 == kind).map(|one| u64::from(one.2)).sum::<u64>();
    let (positives, negatives) = (count(true), count(false));
    (positives > 0 && negatives > 0).then_some((positives, negatives))
}

/// Numbers of meant and other items at each distinct score, from the highest down.
fn ties(ranked: &[Ranked]) -> impl Iterator<Item = (u64, u64)> {
    ranked.chunk_by(|one, other| one.0 == other.0).map(|tied| {
        let count = |kind| tied.iter().filter(|one| one.1 == kind).map(|one| u64::from(one.2)).sum();
        (count(true), count(false))
    })
}
