use super::*;
use crate::classify::{NullText, recipe_names};
use mmlnb_models::measures::intervals::Interval;

fn named(names: &[&str], config: &str) -> Result<Vec<Variation>, TrainError> {
    variations(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>(), &config.parse().unwrap())
}

#[test]
fn every_recipe_and_null_is_a_variation() {
    let nulls = NULLS.map(|(name, ..)| name);
    let all: Vec<&str> = recipe_names().chain(nulls).collect();
    let found = named(&all, "").unwrap();
    assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), all);
    assert!(USUAL.iter().all(|name| all.contains(name)) && USUAL[0] == "paper");
    let of = |name: &str| found.iter().find(|one| one.name == name).unwrap().recipe.null_text;
    assert_eq!((of("paper"), of("shuffled-text"), of("masked-text")), (NullText::None, NullText::Shuffled, NullText::Masked));
    let percent = |name: &str| published(name).map(|accuracy| format!("{:.2}", 100.0 * accuracy));
    assert_eq!(["paper", "no-curriculum", "slow"].map(percent), [Some("80.73".into()), Some("78.67".into()), None]);
}

#[test]
fn a_table_changes_one_variation_alone() {
    let found = named(&["paper", "shuffled-text"], "epochs = 7\n[shuffled-text]\nepochs = 9\nnull_text = 'none'").unwrap();
    assert_eq!((found[0].recipe.epochs, found[1].recipe.epochs), (7, 9));
    assert_eq!(found[1].recipe.null_text, NullText::Shuffled, "a null stays one");
}

#[test]
fn everything_wrong_with_the_names_and_keys_is_listed() {
    let error = named(&["paper", "papper", "paper"], "[swin]\nepochs = 3").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("papper") && text.contains("did you mean") && text.contains("paper is named twice"), "{text}");
    assert!(text.contains("[swin] in --config") && error.exit_code() == 2, "{text}");
    assert!(named(&["paper"], "epoch = 3").unwrap_err().to_string().contains("`epoch` is no key"));
}

fn difference(not_above: f64, not_below: f64) -> Difference {
    Difference {
        measure: "accuracy".into(),
        first: Some(0.8),
        second: Some(0.7),
        difference: Some(-0.1),
        interval: Some(Interval { low: -0.2, high: 0.0, redraws: 0 }),
        not_above: Some(not_above),
        not_below: Some(not_below),
    }
}

#[test]
fn p_is_two_sided_and_never_zero() {
    assert_eq!(two_sided(&[difference(0.975, 0.025)]), Some(0.05));
    assert_eq!(two_sided(&[difference(1.0, 0.0)]), Some(0.001));
    assert_eq!(two_sided(&[difference(1.0, 1.0)]), Some(1.0), "two models that never differ");
    assert_eq!(two_sided(&[]), None);
}

/// Predictions of two classes on forty items, of which the first `right` are right.
fn predicted(right: usize) -> Predictions {
    let row = |item: usize| if item < right { vec![0.9, 0.1] } else { vec![0.1, 0.9] };
    Predictions::new(&["A".into(), "B".into()], false, vec![0; 40], (0..40).map(row).collect()).unwrap()
}

#[test]
fn seeds_are_drawn_too() {
    let seeds: Vec<Predictions> = [28, 40].map(predicted).to_vec();
    let accuracy = |counts: &[u32], place: u64| over_seeds(&seeds, counts, place)[0].1.unwrap();
    assert_eq!(over_seeds(&seeds, &[1; 40], 0)[0].0, "accuracy");
    assert!((accuracy(&[1; 40], 0) - 0.85).abs() < 1e-12, "no draw: every seed once");
    // The same items each time, so that only the seeds differ: 0.7, 0.85 or 1.
    let drawn: std::collections::BTreeSet<u64> =
        (0..40).map(|place| (100.0 * accuracy(&[2; 40], place)).round() as u64).collect();
    assert_eq!(drawn, [70, 85, 100].into());
    assert_eq!(accuracy(&[2; 40], 3), accuracy(&[2; 40], 3));
}
