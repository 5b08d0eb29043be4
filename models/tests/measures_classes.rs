//! Laws of the class measures, and numbers worked out with scikit-learn and SciPy.

use mmlnb_models::measures::calibration::{self, risk_coverage, temperature, upper_bound};
use mmlnb_models::measures::classes::{ClassMeasures, Predictions, softmax};
use mmlnb_models::measures::intervals::{Units, estimate, of_classes};
use mmlnb_models::measures::paired::{differences, holm, mcnemar};
use mmlnb_models::measures::promise::{Abstention, Answer, abstention, patients_bound};
use mmlnb_models::measures::{MeasureError, auroc, roc};
use proptest::prelude::*;

fn names(classes: usize) -> Vec<String> {
    (0..classes).map(|class| format!("class {class}")).collect()
}

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} instead of {expected}");
}

/// The twelve items of facts/training.md: labels and logits.
fn twelve() -> (Vec<usize>, Vec<Vec<f64>>) {
    let logits = [
        [2.0, 1.0, 0.0],
        [1.0, 1.5, 0.0],
        [0.5, 0.0, -0.5],
        [3.0, 0.0, 0.0],
        [0.0, 2.0, 1.0],
        [1.0, 0.5, 0.0],
        [0.0, 1.0, 1.2],
        [0.2, 1.4, 0.3],
        [0.0, 2.5, 0.5],
        [0.0, 1.0, 2.0],
        [0.3, 0.2, 0.1],
        [-1.0, 0.0, 3.0],
    ];
    (vec![0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2], logits.iter().map(|row| row.to_vec()).collect())
}

#[test]
fn twelve_items_have_the_known_measures() {
    let (labels, logits) = twelve();
    let measures = Predictions::from_logits(&names(3), true, labels.clone(), &logits, 1.0).unwrap().measure();
    let expected = [
        ("accuracy", 0.666667),
        ("balanced_accuracy", 0.672222),
        ("macro_f1", 0.666667),
        ("mcc", 0.5),
        ("kappa", 0.494737),
        ("kappa_linear", 0.508197),
        ("kappa_quadratic", 0.522727),
        ("auroc", 0.928279),
        ("auprc", 0.885278),
        ("brier", 0.340998),
        ("nll", 0.599119),
    ];
    let numbers = measures.numbers();
    for (name, value) in expected {
        let (_, found) = numbers.iter().find(|(one, _)| *one == name).unwrap();
        close(found.unwrap(), value, 1e-6);
    }
    close(measures.ece, 0.2603, 1e-4);
    let fitted = temperature(&logits, &labels).unwrap();
    close(fitted.temperature, 0.470255, 1e-5);
    close(fitted.nll_after, 0.506486, 1e-6);
    // The authors' order PD, D, UD is not ordinal, and gives another quadratic kappa.
    let turned: Vec<usize> = labels.iter().map(|label| (label + 2) % 3).collect();
    let rows: Vec<Vec<f64>> = logits.iter().map(|row| vec![row[1], row[2], row[0]]).collect();
    let other = Predictions::from_logits(&names(3), true, turned, &rows, 1.0).unwrap().measure();
    close(other.kappa_quadratic.unwrap(), 0.449541, 1e-6);
    // By their names the order is known, however they are listed, and whether or not the caller calls the list an order.
    let listed = ["PD", "D", "UD"].map(String::from);
    for listed_in_order in [true, false] {
        let turned: Vec<usize> = labels.iter().map(|label| (label + 2) % 3).collect();
        let graded = Predictions::from_logits(&listed, listed_in_order, turned, &rows, 1.0).unwrap().measure();
        close(graded.kappa_quadratic.unwrap(), 0.522727, 1e-6);
        close(graded.kappa_linear.unwrap(), 0.508197, 1e-6);
    }
    let partly = ["PD", "D", "other"].map(String::from);
    let unknown = Predictions::from_logits(&partly, false, labels.clone(), &logits, 1.0).unwrap().measure();
    assert_eq!((unknown.ordinal, unknown.kappa_quadratic), (false, None));
}

#[test]
fn what_is_undefined_is_null() {
    let sure = |class: usize| (0..3).map(|one| if one == class { 0.8 } else { 0.1 }).collect::<Vec<f64>>();
    let measures = Predictions::new(&names(3), false, vec![0, 0, 1], vec![sure(0), sure(0), sure(1)]).unwrap().measure();
    assert_eq!((measures.auroc, measures.auprc, measures.auroc_pairs), (None, None, None), "a class has no item");
    assert_eq!((measures.kappa_linear, measures.kappa_quadratic), (None, None), "the classes have no order");
    assert_eq!((measures.macro_f1, measures.balanced_accuracy, measures.kappa), (1.0, 1.0, Some(1.0)));
    assert_eq!(
        (measures.per_class[2].auroc, measures.per_class[2].f1, measures.per_class[2].specificity),
        (None, 0.0, Some(1.0))
    );
    let single = Predictions::new(&names(3), true, vec![1, 1], vec![sure(1), sure(1)]).unwrap().measure();
    assert_eq!((single.mcc, single.kappa, single.accuracy), (0.0, None, 1.0));
    let text = serde_json::to_string(&single).unwrap();
    assert_eq!(serde_json::from_str::<ClassMeasures>(&text).unwrap(), single);
}

#[test]
fn items_that_cannot_be_measured_are_named() {
    let new = |labels: Vec<usize>, rows: Vec<Vec<f64>>| Predictions::new(&names(2), true, labels, rows).unwrap_err().to_string();
    assert!(new(vec![], vec![]).contains("no item"));
    assert!(new(vec![0], vec![]).contains("1 classes of items against 0 rows"));
    assert!(new(vec![0, 2], vec![vec![0.5, 0.5]; 2]).contains("item 1"));
    assert!(new(vec![0], vec![vec![1.0]]).contains("1 probabilities for 2 classes"));
    assert!(new(vec![0], vec![vec![f64::NAN, 0.5]]).contains("between 0 and 1"));
    assert_eq!(temperature(&[], &[]).unwrap_err(), MeasureError::Empty);
    assert!(temperature(&[vec![f64::INFINITY, 0.0]], &[0]).is_err());
}

#[test]
fn the_first_of_equal_classes_is_the_prediction() {
    let predictions = Predictions::new(&names(3), true, vec![1], vec![vec![0.2, 0.4, 0.4]]).unwrap();
    assert_eq!(predictions.predicted(), [1]);
}

#[test]
fn a_temperature_at_its_bound_stays_one() {
    let always_right = temperature(&[vec![1.0, 0.0], vec![0.0, 1.0]], &[0, 1]).unwrap();
    assert_eq!(always_right.temperature, 1.0);
    assert!(always_right.warning.unwrap().contains("0.05"));
    let without_meaning = temperature(&[vec![1.0, 0.0], vec![0.0, 1.0]], &[1, 0]).unwrap();
    assert!(without_meaning.warning.unwrap().contains("20"));
}

#[test]
fn clopper_pearson_and_mcnemar() {
    close(upper_bound(3.0, 100.0, 0.95), 0.075711, 1e-6);
    close(upper_bound(0.0, 59.0, 0.95), 0.049508, 1e-6);
    assert_eq!(upper_bound(5.0, 5.0, 0.95), 1.0);
    let answers = |runs: &[(bool, usize)]| runs.iter().flat_map(|(right, count)| vec![*right; *count]).collect::<Vec<bool>>();
    let first = answers(&[(true, 9), (false, 2), (true, 7)]);
    let second = answers(&[(false, 9), (true, 2), (true, 7)]);
    let test = mcnemar(&first, &second).unwrap();
    assert_eq!((test.only_first, test.only_second), (9, 2));
    close(test.p, 0.06543, 1e-5);
    assert_eq!(mcnemar(&first, &first).unwrap().p, 1.0);
    // statsmodels: multipletests([.01, .04, .03, .005], method="holm").
    let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
    for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
        close(*found, expected, 1e-12);
    }
}

/// Answers of one confidence each, from confidences, what is right and patients.
fn promised(confidences: &[f64], correct: &[bool], groups: &[Option<&str>], risk: f64) -> Abstention {
    let answers: Vec<Answer<'_>> = (0..confidences.len())
        .map(|item| Answer { confidence: confidences[item], correct: correct[item], patient: groups[item], declined: false })
        .collect();
    abstention(&answers, risk, 0.95).unwrap()
}

#[test]
fn a_threshold_needs_enough_right_answers() {
    let right = |items: usize| promised(&vec![0.9; items], &vec![true; items], &vec![None; items], 0.10);
    // ln 0.05 / ln 0.9 = 28.4.
    let enough = right(29);
    assert_eq!(enough.threshold, Some(0.40));
    let guarantee = enough.guarantee.unwrap();
    assert_eq!((guarantee.items, guarantee.groups, guarantee.errors, guarantee.effective_items), (29, None, 0, 29.0));
    let few = right(28);
    assert_eq!((few.threshold, few.guarantee.is_none(), few.grid.len()), (None, true, 30));
    assert!(few.reason.unwrap().contains("at least 29 independent patients"));
    let stricter = promised(&[0.9; 58], &[true; 58], &[None; 58], 0.05);
    assert!(stricter.threshold.is_none() && stricter.reason.unwrap().contains("59"));
}

#[test]
fn a_threshold_leaves_the_wrong_answers_below() {
    let confidences: Vec<f64> = (0..400).map(|item| 0.5 + 0.49 * f64::from(item) / 400.0).collect();
    let correct: Vec<bool> = (0..400).map(|item| item >= 200 || item % 2 == 0).collect();
    let found = promised(&confidences, &correct, &[None; 400], 0.10);
    let threshold = found.threshold.unwrap();
    assert!((0.64..0.78).contains(&threshold), "{threshold}");
    let tried = found.grid.iter().find(|one| one.threshold == threshold).unwrap();
    assert!(tried.bound <= 0.10 && found.grid.iter().filter(|one| one.threshold < threshold).all(|one| one.bound > 0.10));
}

/// 20 patients with 12 items each; the errors sit in three of them. The bound by 20,000,000 Dirichlet draws in NumPy (standard error 4e-5).
#[test]
fn items_of_one_patient_count_less() {
    let patients: Vec<String> = (0..240).map(|item| format!("{:02}", item / 12)).collect();
    let groups: Vec<Option<&str>> = patients.iter().map(|patient| Some(patient.as_str())).collect();
    let correct: Vec<bool> = (0..240).map(|item| !(item / 12 % 7 == 3 && item % 12 < 4)).collect();
    let found = promised(&[0.9; 240], &correct, &groups, 0.25);
    let tried = found.grid[0];
    assert_eq!((tried.items, tried.errors, tried.effective_items), (240, 12, 20.0));
    close(tried.bound, 0.189_869, 1e-4);
    assert_eq!(found.guarantee.unwrap().groups, Some(20));
    let faultless = promised(&[0.9; 240], &[true; 240], &groups, 0.2);
    close(faultless.grid[0].bound, 1.0 - 0.05_f64.powf(1.0 / 20.0), 1e-9);
    let alone = promised(&[0.9; 240], &correct, &[Some("one"); 240], 0.2);
    assert!(alone.threshold.is_none() && alone.grid[0].bound > 0.9, "one patient says nothing about others");
    // Twenty faultless patients, and one error more: 0.274 and 0.023 with the bound before this one.
    let bound = |errors: u64| patients_bound(&[20; 20], &[[errors].as_slice(), &[0; 19]].concat(), 0.95).unwrap();
    assert!(bound(0) < bound(1) && bound(1) < bound(20));
}

#[test]
fn risk_and_coverage() {
    let found = risk_coverage(&[0.9, 0.8, 0.7, 0.6], &[true, false, true, false]).unwrap();
    assert_eq!(found.curve, [[0.25, 0.0], [0.5, 0.5], [0.75, 1.0 / 3.0], [1.0, 0.5]]);
    close(found.aurc, (0.0 + 0.5 + 1.0 / 3.0 + 0.5) / 4.0, 1e-12);
    let tied = risk_coverage(&[0.5, 0.5], &[false, true]).unwrap();
    assert_eq!(tied.curve, [[0.5, 0.5], [1.0, 0.5]]);
}

/// Answers of patients who are right in four of five cases as a whole.
fn clustered(patients: usize, items: usize) -> (Predictions, Vec<String>) {
    let count = patients * items;
    let right = |item: usize| !(item / items).is_multiple_of(5);
    let row = |item: usize| {
        let class = if right(item) { item % 2 } else { 1 - item % 2 };
        vec![if class == 0 { 0.8 } else { 0.2 }, if class == 1 { 0.8 } else { 0.2 }]
    };
    let predictions = Predictions::new(&names(2), true, (0..count).map(|item| item % 2).collect(), (0..count).map(row).collect());
    (predictions.unwrap(), (0..count).map(|item| format!("{:03}", item / items)).collect())
}

fn some(groups: &[String]) -> Vec<Option<&str>> {
    groups.iter().map(|group| Some(group.as_str())).collect()
}

#[test]
fn intervals_are_of_patients() {
    let (predictions, groups) = clustered(40, 10);
    let by_patient = of_classes(&predictions, &Units::new(&some(&groups)), 7);
    let by_item = of_classes(&predictions, &Units::new(&vec![None; 400]), 7);
    let width = |one: &mmlnb_models::measures::intervals::Estimates| {
        let estimate = one.measures["accuracy"];
        let interval = estimate.interval.unwrap();
        assert!(interval.low < 0.8 && 0.8 < interval.high && estimate.value == Some(0.8));
        interval.high - interval.low
    };
    // Patients right as a whole: the standard error is that of 40 coins, sqrt(.16 / 40), not of 400.
    close(width(&by_patient), 2.0 * 1.96 * (0.16_f64 / 40.0).sqrt(), 0.03);
    close(width(&by_item), 2.0 * 1.96 * (0.16_f64 / 400.0).sqrt(), 0.01);
    assert_eq!((by_patient.draws.unit.as_str(), by_patient.draws.units, by_patient.draws.draws), ("patients", 40, 2000));
    assert!(by_patient.draws.warning.is_none() && by_item.draws.warning.as_ref().unwrap().contains("group"));
    assert_eq!(of_classes(&predictions, &Units::new(&some(&groups)), 7), by_patient, "same seed, same intervals");
    assert_ne!(of_classes(&predictions, &Units::new(&some(&groups)), 8), by_patient, "the seed matters");
}

#[test]
fn few_patients_give_no_interval() {
    let (predictions, groups) = clustered(9, 10);
    let found = of_classes(&predictions, &Units::new(&some(&groups)), 1);
    assert!(found.measures.values().all(|one| one.interval.is_none()));
    assert!(found.draws.no_interval.unwrap().contains("9 patients are too few"));
}

#[test]
fn draws_without_a_class_are_drawn_again() {
    let rows: Vec<Vec<f64>> = (0..20).map(|item| if item == 0 { vec![0.9, 0.1] } else { vec![0.3, 0.7] }).collect();
    let predictions = Predictions::new(&names(2), true, (0..20).map(|item| usize::from(item > 0)).collect(), rows).unwrap();
    let found = of_classes(&predictions, &Units::new(&[None; 20]), 3);
    let redraws = |name: &str| found.measures[name].interval.unwrap().redraws;
    // The one item is missing in (1 - 1/20)^20 = 36 % of the draws, so 0.36 / 0.64 * 2000 draws are repeated.
    assert!((1000..1260).contains(&redraws("auroc")), "{}", redraws("auroc"));
    assert_eq!((redraws("auroc"), redraws("accuracy")), (redraws("balanced_accuracy"), 0));
}

#[test]
fn a_number_that_no_draw_defines_has_no_interval() {
    let units = Units::new(&[None; 12]);
    let only_whole =
        |counts: &[u32]| vec![("whole", counts.iter().all(|count| *count == 1).then_some(1.0)), ("always", Some(2.0))];
    let found = estimate(&units, 0, only_whole);
    assert_eq!((found.measures["whole"].value, found.measures["whole"].interval), (Some(1.0), None));
    assert_eq!(found.measures["always"].interval.unwrap().low, 2.0);
}

#[test]
fn a_model_does_not_differ_from_itself() {
    let (predictions, groups) = clustered(40, 5);
    let units = Units::new(&some(&groups));
    for row in differences(&predictions, &predictions, &units, 5).unwrap() {
        if row.first.is_some() {
            let interval = row.interval.unwrap();
            assert_eq!(
                (row.difference, interval.low, interval.high, row.not_above),
                (Some(0.0), 0.0, 0.0, Some(1.0)),
                "{}",
                row.measure
            );
        }
    }
    let better = Predictions::new(
        &names(2),
        true,
        predictions.labels().to_vec(),
        predictions.labels().iter().map(|label| if *label == 0 { vec![0.8, 0.2] } else { vec![0.2, 0.8] }).collect(),
    );
    let rows = differences(&predictions, &better.unwrap(), &units, 5).unwrap();
    let accuracy = rows.iter().find(|row| row.measure == "accuracy").unwrap();
    close(accuracy.difference.unwrap(), 0.2, 1e-12);
    assert!(accuracy.interval.unwrap().low > 0.05 && accuracy.not_above == Some(0.0));
}

/// Items with tied and untied probabilities, three classes.
fn items() -> impl Strategy<Value = (Vec<usize>, Vec<Vec<f64>>)> {
    let item = (0..3_usize, prop::collection::vec(-6..6_i32, 3));
    prop::collection::vec(item, 1..40).prop_map(|items| {
        let logits = |row: &Vec<i32>| row.iter().map(|value| f64::from(*value) / 2.0).collect::<Vec<f64>>();
        items.iter().map(|(label, row)| (*label, softmax(&logits(row), 1.0))).unzip()
    })
}

fn pairs(measures: &ClassMeasures) -> Vec<f64> {
    measures.numbers().into_iter().map(|(_, value)| value.unwrap_or(-9.0)).collect()
}

proptest! {
    #[test]
    fn measures_stay_in_their_bounds((labels, rows) in items()) {
        let measures = Predictions::new(&names(3), true, labels, rows).unwrap().measure();
        for value in [measures.accuracy, measures.balanced_accuracy, measures.macro_f1, measures.weighted_f1, measures.ece] {
            prop_assert!((0.0..=1.0).contains(&value));
        }
        prop_assert!((0.0..=2.0).contains(&measures.brier) && measures.nll >= 0.0);
        prop_assert!((-1.0..=1.0).contains(&measures.mcc) && measures.auroc.is_none_or(|value| (0.0..=1.0).contains(&value)));
        prop_assert_eq!(measures.items, measures.confusion.iter().flatten().sum::<u64>());
        prop_assert_eq!(measures.items, measures.reliability.iter().map(|bin| bin.count).sum::<u64>());
    }

    #[test]
    fn the_order_of_items_does_not_matter((labels, rows) in items(), turn in 0..40_usize) {
        let one = Predictions::new(&names(3), true, labels.clone(), rows.clone()).unwrap();
        let turn = turn % labels.len();
        let turned = |mut rows: Vec<Vec<f64>>, mut labels: Vec<usize>| {
            rows.rotate_left(turn);
            labels.rotate_left(turn);
            (rows, labels)
        };
        let (rows, labels) = turned(rows, labels);
        let other = Predictions::new(&names(3), true, labels, rows).unwrap();
        for (one, other) in pairs(&one.measure()).into_iter().zip(pairs(&other.measure())) {
            prop_assert!((one - other).abs() < 1e-12);
        }
        let aurc = |one: &Predictions| risk_coverage(&one.confidences(), &one.correct()).unwrap().aurc;
        prop_assert!((aurc(&one) - aurc(&other)).abs() < 1e-12);
    }

    #[test]
    fn an_item_counted_twice_is_two_items((labels, rows) in items()) {
        let counts: Vec<u32> = (0..labels.len()).map(|item| [1, 0, 3][item % 3]).collect();
        let counted = Predictions::new(&names(3), true, labels.clone(), rows.clone()).unwrap().measure_counted(&counts);
        let repeat = |item: usize| std::iter::repeat_n(item, counts[item] as usize);
        let chosen: Vec<usize> = (0..labels.len()).flat_map(repeat).collect();
        let spelled = Predictions::new(
            &names(3), true, chosen.iter().map(|item| labels[*item]).collect(), chosen.iter().map(|item| rows[*item].clone()).collect(),
        );
        for (one, other) in pairs(&counted).into_iter().zip(pairs(&spelled.unwrap().measure())) {
            prop_assert!((one - other).abs() < 1e-12);
        }
    }

    #[test]
    fn a_monotone_change_of_scores_keeps_the_ranking(scores in prop::collection::vec(-20..20_i32, 2..30), kinds in prop::collection::vec(any::<bool>(), 30)) {
        let kinds = &kinds[..scores.len()];
        let plain: Vec<f64> = scores.iter().map(|score| f64::from(*score)).collect();
        let raised: Vec<f64> = plain.iter().map(|score| score.exp()).collect();
        let turned: Vec<f64> = plain.iter().map(|score| -score).collect();
        prop_assert_eq!(auroc(&plain, kinds), auroc(&raised, kinds));
        if let (Some(one), Some(other), Some(curve)) = (auroc(&plain, kinds), auroc(&turned, kinds), roc(&plain, kinds)) {
            prop_assert!((one + other - 1.0).abs() < 1e-12);
            let area: f64 = curve.windows(2).map(|two| (two[1][0] - two[0][0]) * (two[0][1] + two[1][1]) / 2.0).sum();
            prop_assert!((area - one).abs() < 1e-12, "the curve's area is the same number");
        }
    }

    #[test]
    fn a_temperature_never_makes_the_likelihood_worse((labels, rows) in items()) {
        let logits: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().map(|p| p.ln()).collect()).collect();
        let found = temperature(&logits, &labels).unwrap();
        prop_assert!(found.nll_after <= found.nll_before + 1e-9);
        let leading = |row: &Vec<f64>| calibration::confidence(row, found.temperature);
        prop_assert!(logits.iter().map(leading).all(|confidence| (1.0 / 3.0 - 1e-9..=1.0).contains(&confidence)));
    }
}

#[test]
fn a_softmax_divides_by_the_temperature_and_bears_large_logits() {
    let cold = softmax(&[2.0, 0.0], 2.0);
    assert!((cold[0] - 1.0 / (1.0 + (-1.0f64).exp())).abs() < 1e-15);
    let large = softmax(&[1000.0, 1001.0], 1.0);
    assert!((large.iter().sum::<f64>() - 1.0).abs() < 1e-12 && (large[1] - 0.731_058_578_630_0).abs() < 1e-9);
}
