//! How far one distribution of the next token lies from another: the divergence of Kullback and Leibler (1951), and its figures over many positions.

use super::MeasureError;
use super::intervals::percentile;
use serde::{Deserialize, Serialize};

/// Divergences of many positions, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergences {
    /// Number of positions.
    pub positions: u64,
    /// Their mean.
    pub mean: f64,
    /// Half of them lie below.
    pub median: f64,
    /// 99 of 100 lie below, between neighbours in proportion.
    pub p99: f64,
    /// The largest.
    pub largest: f64,
}

/// KL(P || Q) = sum p ln(p / q) in nats, with P = softmax(`reference`) and Q = softmax(`other`) of raw logits, in f64. Equal logits give exactly 0.
/// Nothing where the lists differ in length or the sum is no finite number: a logit is none, or Q rules out what P allows.
pub fn kl(reference: &[f32], other: &[f32]) -> Option<f64> {
    let most = |logits: &[f32]| f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let (most_p, most_q) = (most(reference), most(other));
    let (mut sum_p, mut sum_q, mut apart) = (0.0, 0.0, 0.0);
    for (p, q) in reference.iter().zip(other) {
        let (p, q) = (f64::from(*p) - most_p, f64::from(*q) - most_q);
        let power = p.exp();
        sum_p += power;
        sum_q += q.exp();
        if power != 0.0 {
            apart += power * (p - q);
        }
    }
    let divergence = apart / sum_p - (sum_p.ln() - sum_q.ln());
    // Rounding can bring the divergence of nearly equal distributions below 0, where no divergence is.
    (reference.len() == other.len() && divergence.is_finite()).then(|| divergence.max(0.0))
}

/// Figures over the divergences of all positions.
pub fn summary(divergences: &[f64]) -> Result<Divergences, MeasureError> {
    let mut sorted = divergences.to_vec();
    sorted.sort_by(f64::total_cmp);
    let largest = *sorted.last().ok_or(MeasureError::Empty)?;
    Ok(Divergences {
        positions: sorted.len() as u64,
        mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
        median: percentile(&sorted, 0.5),
        p99: percentile(&sorted, 0.99),
        largest,
    })
}
