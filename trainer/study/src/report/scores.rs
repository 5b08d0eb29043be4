//! The reported part's predictions with what follows from them.

use super::{
    measured::{self, Number},
    plot::Point,
    record::Record,
};
use crate::{error::StudyError, run::predictions::Prediction};
use mmlnb_models::measures::{
    classes::{ClassMeasures, Predictions, softmax},
    intervals::{Units, estimate},
};

/// One entry an item in every list.
pub struct Scores<'a> {
    /// The predictions.
    pub items: Vec<&'a Prediction>,
    /// Number of the true class.
    pub truth: Vec<usize>,
    /// Number of the predicted class.
    pub predicted: Vec<usize>,
    /// After the temperature.
    pub probabilities: Vec<Vec<f64>>,
    /// Of the predicted class.
    pub confidence: Vec<f64>,
    /// Everything about classes, without intervals.
    pub measured: ClassMeasures,
    /// Recall, precision and F1 of every class.
    pub per_class: Vec<[Number; 3]>,
    /// Coverage and error among the answered, the most confident first.
    pub risks: Vec<Point>,
}

impl<'a> Scores<'a> {
    /// Of the reported part.
    pub fn new(record: &'a Record) -> Result<Scores<'a>, StudyError> {
        let items = record.part(record.reported());
        let truth: Vec<usize> =
            items.iter().filter_map(|item| record.classes.iter().position(|class| *class == item.class)).collect();
        let probabilities: Vec<Vec<f64>> = items.iter().map(|item| softmax(&item.logits, record.temperature())).collect();
        let predictions = Predictions::new(&record.classes, false, truth.clone(), probabilities.clone())
            .map_err(|error| StudyError::Failed(format!("the predictions cannot be measured: {error}")))?;
        let confidence = predictions.confidences();
        let risks = risks(&confidence, &predictions.correct());
        let measured = predictions.measure();
        let groups: Vec<Option<&str>> = items.iter().map(|item| item.group.as_deref()).collect();
        let (units, predicted) = (Units::new(&groups), predictions.predicted().to_vec());
        let class =
            |class: usize| of_class(&units, measured::seed(record), |item| (truth[item] == class, predicted[item] == class));
        let per_class = (0..record.classes.len()).map(class).collect();
        Ok(Scores { items, truth, predicted, probabilities, confidence, measured, per_class, risks })
    }

    /// Mean of the errors among the first 1, 2, .. n answers by falling confidence.
    pub fn aurc(&self) -> f64 {
        self.risks.iter().map(|(_, risk)| risk).sum::<f64>() / self.risks.len() as f64
    }

    /// Whether the answer to an item is right.
    pub fn right(&self, item: usize) -> bool {
        self.predicted[item] == self.truth[item]
    }
}

/// Recall, precision and F1 of one class with intervals; `meant`: whether an item is of the class, and is given to it.
fn of_class(units: &Units, seed: u64, meant: impl Fn(usize) -> (bool, bool)) -> [Number; 3] {
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let numbers = |counts: &[u32]| {
        let (mut right, mut support, mut given) = (0.0, 0.0, 0.0);
        for (item, count) in counts.iter().enumerate() {
            let (is, said) = meant(item);
            let count = f64::from(*count);
            right += if is && said { count } else { 0.0 };
            support += if is { count } else { 0.0 };
            given += if said { count } else { 0.0 };
        }
        let recall = (support > 0.0).then(|| right / support);
        vec![("recall", recall), ("precision", Some(share(right, given))), ("f1", Some(share(2.0 * right, support + given)))]
    };
    let found = estimate(units, seed, numbers);
    ["recall", "precision", "f1"].map(|name| {
        let one = found.measures.get(name);
        let interval = one.and_then(|one| one.interval).map(|interval| (interval.low, interval.high));
        Number { value: one.and_then(|one| one.value), interval }
    })
}

fn risks(confidence: &[f64], correct: &[bool]) -> Vec<Point> {
    let mut order: Vec<usize> = (0..confidence.len()).collect();
    order.sort_by(|one, other| confidence[*other].total_cmp(&confidence[*one]));
    let mut wrong = 0;
    let point = |(at, item): (usize, usize)| {
        wrong += usize::from(!correct[item]);
        ((at + 1) as f64 / confidence.len() as f64, wrong as f64 / (at + 1) as f64)
    };
    order.into_iter().enumerate().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_classs_numbers_have_intervals_over_patients() {
        let patients: Vec<String> = (0..60).map(|item| format!("p{}", item % 15)).collect();
        let groups: Vec<Option<&str>> = patients.iter().map(|patient| Some(patient.as_str())).collect();
        let meant = |item: usize| (item.is_multiple_of(2), item.is_multiple_of(2) && !item.is_multiple_of(6));
        let [recall, precision, f1] = of_class(&Units::new(&groups), 1, meant);
        assert_eq!((recall.value, precision.value, f1.value), (Some(20.0 / 30.0), Some(1.0), Some(0.8)));
        let (low, high) = recall.interval.unwrap();
        assert!(low < 20.0 / 30.0 && high > 20.0 / 30.0 && low > 0.2 && high <= 1.0, "{low} to {high}");
        let few = of_class(&Units::new(&groups[..9]), 1, meant);
        assert!(few.iter().all(|number| number.value.is_some() && number.interval.is_none()), "nine patients are too few");
    }

    #[test]
    fn risk_grows_with_the_errors_met_by_falling_confidence() {
        let points = risks(&[0.6, 0.9, 0.8, 0.7], &[false, true, false, true]);
        assert_eq!(points, [(0.25, 0.0), (0.5, 0.5), (0.75, 1.0 / 3.0), (1.0, 0.5)]);
    }
}
