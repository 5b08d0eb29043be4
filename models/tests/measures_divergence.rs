//! How far distributions of tokens are apart: values worked out by hand, laws, and an independent sum.

use mmlnb_models::measures::MeasureError;
use mmlnb_models::measures::divergence::{Divergences, kl, summary};
use proptest::prelude::*;

/// sum p (ln p - ln q), each probability by itself.
fn plain(reference: &[f32], other: &[f32]) -> f64 {
    let shares = |logits: &[f32]| {
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        logits.iter().map(|logit| f64::from(*logit).exp() / total).collect::<Vec<f64>>()
    };
    shares(reference).iter().zip(shares(other)).map(|(p, q)| p * (p / q).ln()).sum()
}

#[test]
fn known_distributions_have_their_known_divergence() {
    // (1/2, 1/2) from (1/4, 3/4): ln 2 - ln(3) / 2; the other way round 3/4 ln 3 - ln 2.
    let (even, uneven) = ([0.0, 0.0], [0.0, 3f32.ln()]);
    assert!((kl(&even, &uneven).unwrap() - (2f64.ln() - 3f64.ln() / 2.0)).abs() < 1e-7);
    assert!((kl(&uneven, &even).unwrap() - (0.75 * 3f64.ln() - 2f64.ln())).abs() < 1e-7);
    // All on one of four against even: ln 4.
    let sure = [200.0, 0.0, 0.0, 0.0];
    assert!((kl(&sure, &[1.0; 4]).unwrap() - 4f64.ln()).abs() < 1e-12);
    assert!((kl(&[1.0; 4], &sure).unwrap() - (150.0 - 4f64.ln())).abs() < 1e-9, "three quarters of 200, less the entropy");
}

#[test]
fn what_has_no_finite_divergence_has_none() {
    assert_eq!(kl(&[0.0, 1.0], &[0.0]), None);
    assert_eq!(kl(&[], &[]), None);
    assert_eq!(kl(&[0.0, f32::NAN], &[0.0, 1.0]), None);
    assert_eq!(kl(&[0.0, 1.0], &[0.0, f32::NEG_INFINITY]), None, "the other rules out what the reference allows");
    let ruled_out = kl(&[0.0, f32::NEG_INFINITY], &[0.0, 0.0]).unwrap();
    assert!((ruled_out - 2f64.ln()).abs() < 1e-12, "what the reference rules out may be allowed");
    assert_eq!(kl(&[0.0, f32::NEG_INFINITY], &[3.0, f32::NEG_INFINITY]), Some(0.0));
}

#[test]
fn figures_over_positions_are_those_of_the_sorted_values() {
    let shuffled: Vec<f64> = (0..101).map(|at| f64::from(at * 37 % 101)).collect();
    let found = summary(&shuffled).unwrap();
    assert_eq!(found, Divergences { positions: 101, mean: 50.0, median: 50.0, p99: 99.0, largest: 100.0 });
    assert_eq!(summary(&[3.0, 1.0]).unwrap().median, 2.0, "between two neighbours");
    assert_eq!(summary(&[]), Err(MeasureError::Empty));
}

proptest! {
    #[test]
    fn it_is_the_plain_sum_never_negative_and_zero_for_equals(
        pairs in prop::collection::vec((-30f32..30.0, -30f32..30.0), 1..200), shift in -5f32..5.0,
    ) {
        let (reference, other): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        let found = kl(&reference, &other).unwrap();
        let expected = plain(&reference, &other);
        prop_assert!(found >= 0.0 && (found - expected).abs() <= 1e-9 * (1.0 + expected), "{found} {expected}");
        prop_assert_eq!(kl(&reference, &reference), Some(0.0));
        let shifted: Vec<f32> = reference.iter().map(|logit| logit + shift).collect();
        prop_assert!(kl(&reference, &shifted).unwrap() < 1e-10, "a constant added to all logits changes nothing");
    }
}
