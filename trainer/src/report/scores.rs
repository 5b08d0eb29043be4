//! The reported part's predictions with what follows from them.

use super::{measured::Number, plot::Point, record::Record};
use crate::{error::TrainError, run::predictions::Prediction};
use mmlnb_models::measures::classes::{ClassMeasures, ClassRow, Predictions, softmax};

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
    pub fn new(record: &'a Record) -> Result<Scores<'a>, TrainError> {
        let items = record.part(record.reported());
        let truth: Vec<usize> =
            items.iter().filter_map(|item| record.classes.iter().position(|class| *class == item.class)).collect();
        let probabilities: Vec<Vec<f64>> = items.iter().map(|item| softmax(&item.logits, record.temperature())).collect();
        let predictions = Predictions::new(&record.classes, false, truth.clone(), probabilities.clone())
            .map_err(|error| TrainError::Failed(format!("the predictions cannot be measured: {error}")))?;
        let confidence = predictions.confidences();
        let risks = risks(&confidence, &predictions.correct());
        let measured = predictions.measure();
        let per_class = per_class(&measured);
        Ok(Scores {
            items,
            truth,
            predicted: predictions.predicted().to_vec(),
            probabilities,
            confidence,
            measured,
            per_class,
            risks,
        })
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

fn per_class(measured: &ClassMeasures) -> Vec<[Number; 3]> {
    let numbers = |row: &ClassRow| [row.recall, row.precision, row.f1].map(|value| Number { value: Some(value), interval: None });
    measured.per_class.iter().map(numbers).collect()
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
    fn risk_grows_with_the_errors_met_by_falling_confidence() {
        let points = risks(&[0.6, 0.9, 0.8, 0.7], &[false, true, false, true]);
        assert_eq!(points, [(0.25, 0.0), (0.5, 0.5), (0.75, 1.0 / 3.0), (1.0, 0.5)]);
    }
}
