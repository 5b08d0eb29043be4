//! Distances to the training data: scikit-learn's numbers, the file, and the promise of the threshold.

use mmlnb_models::measures::auroc;
use mmlnb_models::measures::novelty::{MOST_OF_A_PATIENT, MOST_STORED, Mahalanobis, Neighbours, threshold};

/// Forty items of six features, made from sines so that every program makes the same ones.
fn features() -> Vec<Vec<f32>> {
    let value = |i: usize, j: usize| {
        let (i, j) = (i as f64, j as f64);
        ((1.7 * i * i + 2.3 * j).sin() * (1.0 + j) + 0.3 * (i * j).cos()) as f32
    };
    (0..40).map(|i| (0..6).map(|j| value(i, j)).collect()).collect()
}

fn queries() -> [Vec<f32>; 2] {
    [(0..6).map(|j| -1.0 + 0.4 * j as f32).collect(), (0..6).map(|j| j as f32).collect()]
}

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} instead of {expected}");
}

#[test]
fn the_tenth_neighbour_is_scikit_learns() {
    let stored = Neighbours::fit(&features(), &vec![None; 40], 0).unwrap();
    assert_eq!((stored.stored(), stored.hidden(), stored.neighbours()), (40, 6, 10));
    for (query, expected) in queries().iter().zip([1.292_913_586_248_370_7, 1.268_209_763_005_951_2]) {
        close(stored.score(query), expected, 1e-5);
        let longer: Vec<f32> = query.iter().map(|value| value * 8.0).collect();
        close(stored.score(&longer), expected, 1e-5);
    }
}

#[test]
fn mahalanobis_is_scikit_learns() {
    let labels: Vec<usize> = (0..40).map(|item| item % 3).collect();
    let fitted = Mahalanobis::fit(&features(), &labels).unwrap();
    close(fitted.shrinkage(), 0.041_123_932_730_377_46, 1e-9);
    for (query, expected) in queries().iter().zip([9.514_389_114_175_225, 138.060_573_568_135_28]) {
        close(fitted.score(query), expected, 1e-4);
    }
    assert!(Mahalanobis::fit(&[vec![1.0, 2.0], vec![1.0, 2.0]], &[0, 0]).unwrap_err().to_string().contains("do not vary"));
}

#[test]
fn a_file_gives_the_same_scores() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("novelty.safetensors");
    let stored = Neighbours::fit(&features(), &vec![None; 40], 0).unwrap();
    stored.write(&file).unwrap();
    assert_eq!(Neighbours::read(&file, 10).unwrap(), stored);
    assert!(Neighbours::read(&file, 1).unwrap().score(&queries()[0]) < stored.score(&queries()[0]));
    assert!(Neighbours::read(&folder.path().join("absent"), 10).is_err());
    std::fs::write(&file, b"no tensors").unwrap();
    assert!(Neighbours::read(&file, 10).unwrap_err().to_string().contains("novelty.safetensors"));
}

#[test]
fn patients_share_the_places() {
    // One patient with 3,000 items and 150 with 30: 20 of each would be 3,020, so each gives 13 or 14.
    let names: Vec<String> =
        (0..7500).map(|item| if item < 3000 { "big".into() } else { format!("{}", (item - 3000) / 30) }).collect();
    let groups: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
    let rows: Vec<Vec<f32>> = (0..7500).map(|item| vec![1.0, item as f32]).collect();
    let stored = Neighbours::fit(&rows, &groups, 4).unwrap();
    assert_eq!(stored.stored(), MOST_STORED);
    assert_eq!(Neighbours::fit(&rows, &groups, 4).unwrap(), stored);
    assert_ne!(Neighbours::fit(&rows, &groups, 5).unwrap(), stored);
    let alone = Neighbours::fit(&rows[..3000], &groups[..3000], 4).unwrap();
    assert_eq!(alone.stored(), MOST_OF_A_PATIENT);
    let few = Neighbours::fit(&rows[..3], &groups[..3], 4).unwrap();
    assert!(few.score(&rows[0]) > 0.0, "with three items the third is the last");
}

#[test]
fn a_threshold_is_a_rank() {
    let scores: Vec<f64> = (1..=100).map(f64::from).collect();
    assert_eq!(threshold(&scores, 0.05), Some(96.0));
    assert_eq!(threshold(&scores[..19], 0.05), Some(19.0));
    assert_eq!(threshold(&scores[..18], 0.05), None, "eighteen scores cannot promise 5 %");
    let strange: Vec<f64> = (90..110).map(f64::from).collect();
    let all: Vec<f64> = scores.iter().chain(&strange).copied().collect();
    let kinds: Vec<bool> = (0..120).map(|item| item >= 100).collect();
    assert!(auroc(&all, &kinds).unwrap() > 0.95);
}
