//! Numbers over time, out of `metrics.jsonl`.

use super::{
    plot::{Axis, Chart, Mark, Point, Stage},
    record::{Metric, Record},
};

/// A number of every step against the epoch, as a fraction: the third of ten steps in epoch 4 stands at 4.25.
pub fn of_steps(record: &Record, name: &str) -> Vec<Point> {
    let steps: Vec<&Metric> = record.of_kind("step").collect();
    let mut points = Vec::with_capacity(steps.len());
    for epoch in steps.chunk_by(|one, other| one.epoch == other.epoch) {
        for (at, step) in epoch.iter().enumerate() {
            if let Some(value) = step.number(name) {
                points.push((step.epoch as f64 + (at as f64 + 0.5) / epoch.len() as f64, value));
            }
        }
    }
    points
}

/// The mean of a number over the steps of each epoch, at its end.
pub fn means(record: &Record, name: &str) -> Vec<Point> {
    let steps: Vec<&Metric> = record.of_kind("step").collect();
    let mean = |epoch: &[&Metric]| {
        let values: Vec<f64> = epoch.iter().filter_map(|step| step.number(name)).collect();
        (!values.is_empty()).then(|| (epoch[0].epoch as f64 + 1.0, values.iter().sum::<f64>() / values.len() as f64))
    };
    steps.chunk_by(|one, other| one.epoch == other.epoch).filter_map(mean).collect()
}

/// A number of each validation, at the end of its epoch.
pub fn of_validations(record: &Record, name: &str) -> Vec<Point> {
    let point = |metric: &Metric| Some((metric.epoch as f64 + 1.0, metric.number(name)?));
    record.of_kind("validation").filter_map(point).collect()
}

/// The curriculum's stages as areas; nothing when there is only one. Boundaries stand at a third and two thirds unless the recipe says otherwise.
pub fn stages(record: &Record) -> Vec<Stage> {
    let setting = |key: &str| record.setting("recipe", key).and_then(toml::Value::as_integer);
    let (Some(planned), true) = (setting("epochs"), record.setting("recipe", "lambda_schedule").is_some()) else {
        return Vec::new();
    };
    let unfrozen = setting("text_unfrozen_from_epoch").unwrap_or(planned / 3) as f64;
    let frozen = setting("encoders_frozen_from_epoch").unwrap_or(2 * planned / 3) as f64;
    let end = record.epochs() as f64;
    let stages: Vec<Stage> =
        [(0.0, unfrozen, "1: text frozen"), (unfrozen, frozen, "2: all train"), (frozen, end, "3: encoders frozen")]
            .into_iter()
            .map(|(from, to, name)| Stage { from: f64::min(from, end), to: f64::min(to, end), name: name.into() })
            .filter(|stage| stage.from < stage.to)
            .collect();
    if stages.len() > 1 { stages } else { Vec::new() }
}

/// A chart over epochs with the stages behind it.
pub fn over_time(record: &Record, title: &str, y: Axis) -> Chart {
    let x = Axis { label: "epoch".into(), range: Some((0.0, record.epochs().max(1) as f64)) };
    Chart { stages: stages(record), ..Chart::new(title, x, y) }
}

/// `chart` with one more line, if there is any point to draw.
pub fn add(chart: Chart, name: &str, mark: Mark, points: Vec<Point>) -> Chart {
    if points.is_empty() { chart } else { chart.with(name, mark, points) }
}
