//! The figures of a run, each drawn once: as SVG in the page, as PNG in `plots/`.

use super::{
    curves::{add, means, of_steps, of_validations, over_time},
    plot::{Axis, Chart, IntervalRow, Intervals, Mark, Point, StripGroup, Svg, confusion, strip},
    record::Record,
    scores::Scores,
};
use mmlnb_models::measures::roc;

/// A drawn figure.
pub struct Figure {
    /// Of its PNG, without the ending.
    pub name: &'static str,
    /// How to read it.
    pub caption: String,
    /// The drawing.
    pub svg: Svg,
    /// Whether it takes the page's whole width.
    pub wide: bool,
}

fn figure(name: &'static str, caption: &str, svg: Svg) -> Figure {
    Figure { name, caption: caption.into(), svg, wide: false }
}

/// Of a classifier's training.
pub fn training(record: &Record) -> Vec<Figure> {
    vec![loss(record), lambda_alpha(record), accuracy(record)]
}

fn loss(record: &Record) -> Figure {
    let mut chart = over_time(record, "Loss in training", Axis::free("loss"));
    for (name, key) in [("total", "loss"), ("fused head", "loss_fused"), ("image head", "loss_image")] {
        chart = add(chart, name, Mark::Line, of_steps(record, key));
    }
    let chart = add(chart, "validation", Mark::Both, of_validations(record, "nll"));
    figure(
        "loss",
        "Total = \u{3bb} \u{d7} fused + (1 \u{2212} \u{3bb}) \u{d7} image; validation: of the fused head.",
        chart.svg(),
    )
}

fn lambda_alpha(record: &Record) -> Figure {
    let mut chart = over_time(record, "\u{3bb} and \u{3b1} over time", Axis::fixed("\u{3bb}, \u{3b1}", 0.0, 1.0));
    chart = add(chart, "\u{3bb}, weight of the fused loss", Mark::Steps, lambda(record));
    let (mean, spread) = (of_steps(record, "alpha_mean"), of_steps(record, "alpha_std"));
    chart = add(chart, "\u{3b1}, weight of the text", Mark::Line, mean.clone());
    if mean.len() == spread.len() {
        for (sign, name) in [(1.0, "\u{3b1} \u{b1} its spread"), (-1.0, "")] {
            let edge = mean.iter().zip(&spread).map(|((x, mean), (_, spread))| (*x, mean + sign * spread)).collect();
            chart = add(chart, name, Mark::Reference, edge);
        }
    }
    let caption =
        "\u{3b1} is a weight inside the model, not a certainty. At one half without spread, text and image are only averaged.";
    figure("lambda_alpha", caption, chart.svg())
}

/// Lambda of every epoch, held to its end.
fn lambda(record: &Record) -> Vec<Point> {
    let mut points: Vec<Point> = means(record, "lambda").into_iter().map(|(end, value)| (end - 1.0, value)).collect();
    points.extend(points.last().map(|(start, value)| (start + 1.0, *value)));
    points
}

fn accuracy(record: &Record) -> Figure {
    let mut chart = over_time(record, "Accuracy over time", Axis::fixed("accuracy", 0.0, 1.0));
    chart = add(chart, "training", Mark::Line, means(record, "train_accuracy"));
    for (name, key) in [("validation", "accuracy"), ("image alone", "image_accuracy"), ("text alone", "text_accuracy")] {
        chart = add(chart, name, Mark::Line, of_validations(record, key));
    }
    figure("accuracy", "Training: as the items passed. The others: on the validation part, after each epoch.", chart.svg())
}

/// Of a classifier's answers on the reported part.
pub fn answers(record: &Record, scores: &Scores) -> Vec<Figure> {
    let mut figures = vec![
        figure(
            "confusion",
            "Rows: true class; columns: predicted class; percent of the row.",
            confusion("Confusion matrix", &record.classes, &scores.measured.confusion),
        ),
        roc_curves(record, scores),
        reliability(scores),
        risk_coverage(record, scores),
    ];
    figures.extend(alpha_by_class(record, scores));
    figures.push(per_class(record, scores));
    figures
}

fn roc_curves(record: &Record, scores: &Scores) -> Figure {
    let mut chart = Chart::new(
        "ROC, each class against the rest",
        Axis::fixed("1 \u{2212} specificity", 0.0, 1.0),
        Axis::fixed("sensitivity", 0.0, 1.0),
    )
    .with("chance", Mark::Reference, vec![(0.0, 0.0), (1.0, 1.0)]);
    for (class, row) in scores.measured.per_class.iter().enumerate() {
        let values: Vec<f64> = scores.probabilities.iter().map(|row| row[class]).collect();
        let meant: Vec<bool> = scores.truth.iter().map(|truth| *truth == class).collect();
        if let (Some(curve), Some(area)) = (roc(&values, &meant), row.auroc) {
            let points = curve.into_iter().map(|[x, y]| (x, y)).collect();
            chart = chart.with(&format!("{} ({area:.3})", record.classes[class]), Mark::Steps, points);
        }
    }
    figure("roc", "In brackets: area under the curve. A class without items here has no curve.", chart.svg())
}

fn reliability(scores: &Scores) -> Figure {
    let bins = scores.measured.reliability.iter();
    let points = bins.filter_map(|bin| Some((bin.confidence?, bin.accuracy?))).collect();
    let chart = Chart::new("Reliability", Axis::fixed("confidence", 0.0, 1.0), Axis::fixed("share that is right", 0.0, 1.0))
        .with("as promised", Mark::Reference, vec![(0.0, 0.0), (1.0, 1.0)])
        .with("15 bins of confidence", Mark::Both, points);
    let caption =
        format!("Below the dashed line: too sure. Expected calibration error {:.3}, after the temperature.", scores.measured.ece);
    figure("reliability", &caption, chart.svg())
}

fn risk_coverage(record: &Record, scores: &Scores) -> Figure {
    let mut chart = Chart::new(
        "Risk against coverage",
        Axis::fixed("coverage (share answered)", 0.0, 1.0),
        Axis::free("error among answered"),
    );
    chart.y.range = Some((0.0, scores.risks.iter().map(|(_, risk)| *risk).fold(0.1, f64::max)));
    if let Some(guarantee) = record.calibration.as_ref().and_then(|calibration| calibration.guarantee.as_ref()) {
        let name = format!("promised limit {:.2}", guarantee.risk);
        chart = chart.with(&name, Mark::Reference, vec![(0.0, guarantee.risk), (1.0, guarantee.risk)]);
    }
    chart = chart.with("most confident first", Mark::Steps, scores.risks.clone());
    let caption = format!("How often the surest answers are wrong. Area under it (AURC): {:.3}.", scores.aurc());
    figure("risk_coverage", &caption, chart.svg())
}

fn alpha_by_class(record: &Record, scores: &Scores) -> Option<Figure> {
    let mut groups: Vec<StripGroup> =
        record.classes.iter().map(|name| StripGroup { name: name.clone(), items: Vec::new() }).collect();
    for (at, item) in scores.items.iter().enumerate() {
        let wrong = scores.predicted[at] != scores.truth[at];
        groups[scores.truth[at]].items.push((item.alpha_text?, usize::from(wrong)));
    }
    let axis = Axis::fixed("\u{3b1}, weight of the text", 0.0, 1.0);
    let svg = strip("\u{3b1} by true class", &axis, &groups, &["answer right", "answer wrong"]);
    Some(figure("alpha_by_class", "One mark an image.", svg))
}

fn per_class(record: &Record, scores: &Scores) -> Figure {
    let mut rows = Vec::new();
    for (class, numbers) in scores.per_class.iter().enumerate() {
        for (name, number) in ["recall", "precision", "F1"].into_iter().zip(numbers) {
            let value = number.value.unwrap_or(f64::NAN);
            rows.push(IntervalRow { name: format!("{}, {name}", record.classes[class]), value, interval: number.interval });
        }
    }
    let axis = Axis::fixed("value, with its 95 % interval", 0.0, 1.0);
    let plot = Intervals { title: "Each class".into(), axis, rows, line: None };
    Figure { wide: true, ..figure("per_class", "", plot.svg()) }
}

/// Of a describer's training.
pub fn describing(record: &Record) -> Vec<Figure> {
    let mut loss = over_time(record, "Loss a token", Axis::free("loss"));
    loss = add(loss, "training", Mark::Line, of_steps(record, "loss"));
    loss = add(loss, "validation", Mark::Both, of_validations(record, "nll"));
    let mut texts = over_time(record, "Generated texts against references", Axis::fixed("0 to 1", 0.0, 1.0));
    for (name, key) in [("ROUGE-1", "rouge1"), ("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeL"), ("facts F1", "facts_f1")] {
        texts = add(texts, name, Mark::Both, of_validations(record, key));
    }
    let mut scores = over_time(record, "BLEU and chrF", Axis::free("0 to 100"));
    for (name, key) in [("BLEU", "bleu"), ("chrF", "chrf")] {
        scores = add(scores, name, Mark::Both, of_validations(record, key));
    }
    let mut behaviour = over_time(record, "How the texts behave", Axis::fixed("share", 0.0, 1.0));
    for (name, key) in [("stop by themselves", "stopped"), ("distinct", "distinct"), ("repeated 4-grams", "repetition")] {
        behaviour = add(behaviour, name, Mark::Both, of_validations(record, key));
    }
    let mut rate = over_time(record, "Learning rate", Axis::free("learning rate"));
    rate = add(rate, "learning rate", Mark::Line, of_steps(record, "learning_rate"));
    let mut gradient = over_time(record, "Length of the gradient", Axis::free("norm, before clipping"));
    gradient = add(gradient, "norm", Mark::Line, of_steps(record, "gradient_norm"));
    vec![
        figure("loss", "Negative log-likelihood of answer tokens, natural logarithm.", loss.svg()),
        figure("texts", "On the fixed validation subset, after each epoch.", texts.svg()),
        figure("bleu_chrf", "On the same texts.", scores.svg()),
        figure(
            "behaviour",
            "Texts that do not stop, repeat themselves or are all alike cannot help a classifier.",
            behaviour.svg(),
        ),
        figure("learning_rate", "", rate.svg()),
        figure("gradient", "", gradient.svg()),
    ]
}
