//! Measures of a classifier: true classes against probabilities.

use super::ranking::{Ranked, auroc_of, average_precision_of};
use super::{MeasureError, same_length};
use serde::{Deserialize, Serialize};

/// Bins of the calibration error.
pub const BINS: usize = 15;
/// A probability below this one counts as this one in the likelihood, which would be infinite otherwise.
const LEAST_PROBABILITY: f64 = 1e-300;

/// Grades of neuroblastoma from undifferentiated to differentiating (INPC): the order that is known by name.
pub const GRADES: [&str; 3] = ["UD", "PD", "D"];

/// Whether all classes are grades of neuroblastoma, at least two of them and none twice; their order among themselves is then that of [`GRADES`],
/// however they are listed.
pub fn are_grades(classes: &[String]) -> bool {
    let twice = classes.iter().enumerate().any(|(at, class)| classes[..at].contains(class));
    classes.len() > 1 && !twice && classes.iter().all(|class| GRADES.contains(&class.as_str()))
}

/// The place of each class in an order that means something: grades by name, others as listed where the caller says that the list is an order.
fn ranks(classes: &[String], listed_in_order: bool) -> Option<Vec<usize>> {
    let grade = |class: &String| GRADES.iter().position(|grade| grade == class);
    match are_grades(classes) {
        true => classes.iter().map(grade).collect(),
        false => listed_in_order.then(|| (0..classes.len()).collect()),
    }
}

/// Items with their true class and their probabilities.
#[derive(Clone, Debug)]
pub struct Predictions {
    classes: Vec<String>,
    /// Places of the classes in their order, where it means something.
    ranks: Option<Vec<usize>>,
    labels: Vec<usize>,
    probabilities: Vec<Vec<f64>>,
    predicted: Vec<usize>,
    /// For each class the items by falling probability.
    order: Vec<Vec<usize>>,
}

/// Everything measured about a set of predictions. Rows of the confusion matrix are the truth, columns the prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMeasures {
    /// Number of items.
    pub items: u64,
    /// Names in the order of rows and columns.
    pub classes: Vec<String>,
    /// Whether the order of the classes means something; without it kappa is not weighted.
    pub ordinal: bool,
    /// Counts, `[truth][prediction]`.
    pub confusion: Vec<Vec<u64>>,
    /// Share of items on the diagonal.
    pub accuracy: f64,
    /// Mean recall of the classes that occur in the truth.
    pub balanced_accuracy: f64,
    /// Mean F1 of the classes that occur in truth or prediction.
    pub macro_f1: f64,
    /// Mean F1, weighted by the truth's counts.
    pub weighted_f1: f64,
    /// Mean precision of the classes that occur in truth or prediction; an undefined precision is 0.
    pub macro_precision: f64,
    /// Mean precision, weighted by the truth's counts.
    pub weighted_precision: f64,
    /// Mean specificity of all classes for which it is defined.
    pub macro_specificity: Option<f64>,
    /// Matthews' correlation coefficient of several classes; 0 when truth or prediction has a single class.
    pub mcc: f64,
    /// Cohen's kappa, every disagreement alike; null when chance alone gives full agreement.
    pub kappa: Option<f64>,
    /// Kappa with disagreement |i - j|; null without an order.
    pub kappa_linear: Option<f64>,
    /// Kappa with disagreement (i - j)^2; null without an order.
    pub kappa_quadratic: Option<f64>,
    /// Mean of the classes' one-against-rest AUROC; null when one is undefined.
    pub auroc: Option<f64>,
    /// The same, weighted by the truth's counts.
    pub auroc_weighted: Option<f64>,
    /// Mean over pairs of classes of the AUROC among the items of these two (Hand and Till 2001).
    pub auroc_pairs: Option<f64>,
    /// Mean of the classes' average precision; null when one is undefined.
    pub auprc: Option<f64>,
    /// Expected calibration error in [`BINS`] equal bins of the top probability.
    pub ece: f64,
    /// Mean over items of the squared distance between probabilities and truth, summed over classes: 0 to 2.
    pub brier: f64,
    /// Mean negative logarithm (natural) of the true class's probability.
    pub nll: f64,
    /// The bins of the calibration error, from (0, 1/15] up.
    pub reliability: Vec<Bin>,
    /// One row a class.
    pub per_class: Vec<ClassRow>,
}

/// One bin of top probabilities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Items in it.
    pub count: u64,
    /// Their mean top probability.
    pub confidence: Option<f64>,
    /// The share of them that is right.
    pub accuracy: Option<f64>,
}

/// One class against the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassRow {
    /// Its name.
    pub class: String,
    /// Items of this class that were found.
    pub true_positive: u64,
    /// Items of other classes taken for this one.
    pub false_positive: u64,
    /// Items of this class taken for another.
    pub false_negative: u64,
    /// Items of other classes not taken for this one.
    pub true_negative: u64,
    /// Items of this class.
    pub support: u64,
    /// True positives among the predicted; 0 when none was predicted.
    pub precision: f64,
    /// True positives among the items of this class; 0 when there is none.
    pub recall: f64,
    /// 2 TP / (support + predicted); 0 when both are 0.
    pub f1: f64,
    /// True negatives among the items of other classes; null when there is none.
    pub specificity: Option<f64>,
    /// Area under the ROC curve; null without items of both kinds.
    pub auroc: Option<f64>,
    /// Average precision; null without items of both kinds.
    pub auprc: Option<f64>,
}

impl Predictions {
    /// `ordinal`: the list of classes is an order that means something; grades of neuroblastoma ([`are_grades`]) are ordered by name in any case.
    /// Checks that every item has a class and as many finite probabilities as there are classes. The prediction is the first largest.
    pub fn new(
        classes: &[String],
        ordinal: bool,
        labels: Vec<usize>,
        probabilities: Vec<Vec<f64>>,
    ) -> Result<Self, MeasureError> {
        same_length("classes of items", labels.len(), "rows of probabilities", probabilities.len())?;
        if labels.is_empty() {
            return Err(MeasureError::Empty);
        }
        for (item, (label, row)) in labels.iter().zip(&probabilities).enumerate() {
            let problem = if *label >= classes.len() {
                format!("class number {label}, but there are {} classes", classes.len())
            } else if row.len() != classes.len() {
                format!("{} probabilities for {} classes", row.len(), classes.len())
            } else if !row.iter().all(|value| (0.0..=1.0).contains(value)) {
                format!("probabilities {row:?} are not all between 0 and 1")
            } else {
                continue;
            };
            return Err(MeasureError::Item { item, problem });
        }
        let predicted = probabilities.iter().map(|row| first_largest(row)).collect();
        let order = (0..classes.len()).map(|class| by_falling(&probabilities, class)).collect();
        Ok(Predictions { classes: classes.to_vec(), ranks: ranks(classes, ordinal), labels, probabilities, predicted, order })
    }

    /// The same from logits: probabilities are softmax(logits / temperature).
    pub fn from_logits(
        classes: &[String],
        ordinal: bool,
        labels: Vec<usize>,
        logits: &[Vec<f64>],
        temperature: f64,
    ) -> Result<Self, MeasureError> {
        Predictions::new(classes, ordinal, labels, logits.iter().map(|row| softmax(row, temperature)).collect())
    }

    /// Number of items, at least one.
    pub fn items(&self) -> usize {
        self.labels.len()
    }

    /// Names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The true classes.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The predicted classes.
    pub fn predicted(&self) -> &[usize] {
        &self.predicted
    }

    /// The probabilities, one row an item.
    pub fn probabilities(&self) -> &[Vec<f64>] {
        &self.probabilities
    }

    /// The probability of each item's predicted class.
    pub fn confidences(&self) -> Vec<f64> {
        self.probabilities.iter().zip(&self.predicted).map(|(row, class)| row[*class]).collect()
    }

    /// For each item whether the prediction is right.
    pub fn correct(&self) -> Vec<bool> {
        self.labels.iter().zip(&self.predicted).map(|(label, predicted)| label == predicted).collect()
    }

    /// Measures all items.
    pub fn measure(&self) -> ClassMeasures {
        self.measure_counted(&vec![1; self.items()])
    }

    /// Measures a draw in which item i occurs `counts[i]` times; at least one item must occur.
    pub fn measure_counted(&self, counts: &[u32]) -> ClassMeasures {
        let confusion = self.confusion(counts);
        let table = Marginals::of(&confusion);
        let per_class: Vec<ClassRow> = (0..self.classes.len()).map(|class| self.row(class, &confusion, &table, counts)).collect();
        let seen: Vec<usize> = (0..self.classes.len()).filter(|&k| table.truth[k] + table.predicted[k] > 0).collect();
        let weighted = |value: fn(&ClassRow) -> f64| {
            per_class.iter().map(|row| row.support as f64 * value(row)).sum::<f64>() / table.items as f64
        };
        let present: Vec<f64> = per_class.iter().filter(|row| row.support > 0).map(|row| row.recall).collect();
        let reliability = self.reliability(counts, BINS);
        ClassMeasures {
            items: table.items,
            classes: self.classes.clone(),
            ordinal: self.ranks.is_some(),
            accuracy: table.agreed as f64 / table.items as f64,
            balanced_accuracy: mean(present),
            macro_f1: mean(seen.iter().map(|&k| per_class[k].f1)),
            weighted_f1: weighted(|row| row.f1),
            macro_precision: mean(seen.iter().map(|&k| per_class[k].precision)),
            weighted_precision: weighted(|row| row.precision),
            macro_specificity: mean_of_all(per_class.iter().filter(|row| row.specificity.is_some()).map(|row| row.specificity)),
            mcc: table.mcc(),
            kappa: table.kappa(&confusion, |one, other| if one == other { 0.0 } else { 1.0 }),
            kappa_linear: self.weighted_kappa(&table, &confusion, |distance| distance),
            kappa_quadratic: self.weighted_kappa(&table, &confusion, |distance| distance * distance),
            auroc: mean_of_all(per_class.iter().map(|row| row.auroc)),
            auroc_weighted: mean_of_all(per_class.iter().map(|row| row.auroc)).map(|_| weighted(|row| row.auroc.unwrap_or(0.0))),
            auroc_pairs: self.auroc_pairs(counts),
            auprc: mean_of_all(per_class.iter().map(|row| row.auprc)),
            ece: calibration_error(&reliability),
            brier: self.mean_over_items(counts, |item| self.squared_distance(item)),
            nll: self.mean_over_items(counts, |item| -self.probabilities[item][self.labels[item]].max(LEAST_PROBABILITY).ln()),
            reliability,
            confusion,
            per_class,
        }
    }

    /// Top probabilities in `bins` equal bins, bin k = (k / bins, (k + 1) / bins].
    pub fn reliability(&self, counts: &[u32], bins: usize) -> Vec<Bin> {
        let mut sums = vec![(0_u64, 0.0, 0_u64); bins];
        for (item, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let predicted = self.predicted[item];
            let confidence = self.probabilities[item][predicted];
            let place = ((confidence * bins as f64).ceil() as usize).clamp(1, bins) - 1;
            let right = if predicted == self.labels[item] { u64::from(count) } else { 0 };
            let bin = &mut sums[place];
            *bin = (bin.0 + u64::from(count), bin.1 + confidence * f64::from(count), bin.2 + right);
        }
        let bin = |(count, confidence, right): (u64, f64, u64)| Bin {
            count,
            confidence: (count > 0).then(|| confidence / count as f64),
            accuracy: (count > 0).then(|| right as f64 / count as f64),
        };
        sums.into_iter().map(bin).collect()
    }

    fn confusion(&self, counts: &[u32]) -> Vec<Vec<u64>> {
        let mut confusion = vec![vec![0; self.classes.len()]; self.classes.len()];
        for ((label, predicted), count) in self.labels.iter().zip(&self.predicted).zip(counts) {
            confusion[*label][*predicted] += u64::from(*count);
        }
        confusion
    }

    fn row(&self, class: usize, confusion: &[Vec<u64>], table: &Marginals, counts: &[u32]) -> ClassRow {
        let hit = confusion[class][class];
        let (support, predicted) = (table.truth[class], table.predicted[class]);
        let true_negative = table.items + hit - support - predicted;
        let ranked = self.ranked(class, counts, |label| Some(label == class));
        ClassRow {
            class: self.classes[class].clone(),
            true_positive: hit,
            false_positive: predicted - hit,
            false_negative: support - hit,
            true_negative,
            support,
            precision: share(hit, predicted).unwrap_or(0.0),
            recall: share(hit, support).unwrap_or(0.0),
            f1: share(2 * hit, support + predicted).unwrap_or(0.0),
            specificity: share(true_negative, table.items - support),
            auroc: auroc_of(&ranked),
            auprc: average_precision_of(&ranked),
        }
    }

    /// Items of a draw by the falling probability of `class`; `meant` leaves items out by answering nothing.
    fn ranked(&self, class: usize, counts: &[u32], meant: impl Fn(usize) -> Option<bool>) -> Vec<Ranked> {
        let drawn = self.order[class].iter().filter(|item| counts[**item] > 0);
        drawn.filter_map(|&item| Some((self.probabilities[item][class], meant(self.labels[item])?, counts[item]))).collect()
    }

    fn auroc_pairs(&self, counts: &[u32]) -> Option<f64> {
        let among = |class: usize, other: usize| {
            auroc_of(&self.ranked(class, counts, |label| [class, other].contains(&label).then_some(label == class)))
        };
        let classes = self.classes.len();
        let pairs = (0..classes).flat_map(|one| (one + 1..classes).map(move |other| (one, other)));
        mean_of_all(pairs.map(|(one, other)| Some((among(one, other)? + among(other, one)?) / 2.0)))
    }

    fn weighted_kappa(&self, table: &Marginals, confusion: &[Vec<u64>], weight: fn(f64) -> f64) -> Option<f64> {
        let ranks = self.ranks.as_ref()?;
        table.kappa(confusion, |one, other| weight(ranks[one].abs_diff(ranks[other]) as f64))
    }

    fn squared_distance(&self, item: usize) -> f64 {
        let label = self.labels[item];
        let distance = |(class, p): (usize, &f64)| (p - if class == label { 1.0 } else { 0.0 }).powi(2);
        self.probabilities[item].iter().enumerate().map(distance).sum()
    }

    fn mean_over_items(&self, counts: &[u32], value: impl Fn(usize) -> f64) -> f64 {
        let drawn = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let (sum, items) = drawn
            .fold((0.0, 0_u64), |(sum, items), (item, &count)| (sum + value(item) * f64::from(count), items + u64::from(count)));
        sum / items as f64
    }
}

impl ClassMeasures {
    /// Every single number by its name, as intervals and comparisons list them.
    pub fn numbers(&self) -> Vec<(&'static str, Option<f64>)> {
        vec![
            ("accuracy", Some(self.accuracy)),
            ("balanced_accuracy", Some(self.balanced_accuracy)),
            ("macro_f1", Some(self.macro_f1)),
            ("weighted_f1", Some(self.weighted_f1)),
            ("mcc", Some(self.mcc)),
            ("kappa", self.kappa),
            ("kappa_linear", self.kappa_linear),
            ("kappa_quadratic", self.kappa_quadratic),
            ("auroc", self.auroc),
            ("auprc", self.auprc),
            ("ece", Some(self.ece)),
            ("brier", Some(self.brier)),
            ("nll", Some(self.nll)),
        ]
    }
}

/// Row and column sums of a confusion matrix.
struct Marginals {
    items: u64,
    agreed: u64,
    truth: Vec<u64>,
    predicted: Vec<u64>,
}

impl Marginals {
    fn of(confusion: &[Vec<u64>]) -> Self {
        let truth: Vec<u64> = confusion.iter().map(|row| row.iter().sum()).collect();
        let predicted = (0..confusion.len()).map(|column| confusion.iter().map(|row| row[column]).sum()).collect();
        let agreed = (0..confusion.len()).map(|class| confusion[class][class]).sum();
        Marginals { items: truth.iter().sum(), agreed, truth, predicted }
    }

    /// (n tr C - sum t s) / sqrt((n^2 - sum s^2)(n^2 - sum t^2)).
    fn mcc(&self) -> f64 {
        let items = self.items as f64;
        let dot = |one: &[u64], other: &[u64]| one.iter().zip(other).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
        let spread = |sums: &[u64]| items * items - dot(sums, sums);
        let root = (spread(&self.predicted) * spread(&self.truth)).sqrt();
        if root > 0.0 { (items * self.agreed as f64 - dot(&self.truth, &self.predicted)) / root } else { 0.0 }
    }

    /// 1 - sum w C / (sum w t s / n).
    fn kappa(&self, confusion: &[Vec<u64>], weight: impl Fn(usize, usize) -> f64) -> Option<f64> {
        let (mut observed, mut expected) = (0.0, 0.0);
        for (one, row) in confusion.iter().enumerate() {
            for (other, count) in row.iter().enumerate() {
                observed += weight(one, other) * *count as f64;
                expected += weight(one, other) * self.truth[one] as f64 * self.predicted[other] as f64;
            }
        }
        (expected > 0.0).then(|| 1.0 - observed * self.items as f64 / expected)
    }
}

/// softmax(logits / temperature).
pub fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let raised: Vec<f64> = logits.iter().map(|logit| ((logit - most) / temperature).exp()).collect();
    let sum: f64 = raised.iter().sum();
    raised.into_iter().map(|value| value / sum).collect()
}

fn first_largest(row: &[f64]) -> usize {
    row.iter().enumerate().fold(0, |best, (class, value)| if *value > row[best] { class } else { best })
}

fn by_falling(probabilities: &[Vec<f64>], class: usize) -> Vec<usize> {
    let mut items: Vec<usize> = (0..probabilities.len()).collect();
    items.sort_by(|one, other| probabilities[*other][class].total_cmp(&probabilities[*one][class]));
    items
}

/// Sum over bins of their share of the items times |accuracy - confidence|.
pub fn calibration_error(bins: &[Bin]) -> f64 {
    let items: u64 = bins.iter().map(|bin| bin.count).sum();
    let gap = |bin: &Bin| Some(bin.count as f64 * (bin.accuracy? - bin.confidence?).abs());
    bins.iter().filter_map(gap).sum::<f64>() / items as f64
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean, or nothing when a value is undefined or there is none.
fn mean_of_all(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| mean(values))
}
