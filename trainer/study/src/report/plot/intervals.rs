//! Values with their intervals, one a row: measures of classes, differences between models (a forest plot).

use super::{
    axis::{Axis, Scale},
    canvas::{Anchor, Canvas, GRID, INK, SOFT, Stroke, Svg, fitting, text_width},
};

const WIDTH: f64 = 640.0;
const SIZE: f64 = 11.0;
const ROW: f64 = 22.0;

/// A plot of intervals.
#[derive(Clone, Debug)]
pub struct Intervals {
    /// Stands above it.
    pub title: String,
    /// The values' axis.
    pub axis: Axis,
    /// From above to below.
    pub rows: Vec<IntervalRow>,
    /// A line to compare with: no difference, chance.
    pub line: Option<f64>,
}

/// One row.
#[derive(Clone, Debug)]
pub struct IntervalRow {
    /// What it is about.
    pub name: String,
    /// The value.
    pub value: f64,
    /// The interval's ends; `None`: no interval could be given.
    pub interval: Option<(f64, f64)>,
}

impl Intervals {
    /// The figure.
    pub fn svg(&self) -> Svg {
        let height = 40.0 + ROW * self.rows.len() as f64 + 44.0;
        let mut canvas = Canvas::new(WIDTH, height, &self.title);
        canvas.bold((10.0, 13.0), Anchor::Start, 12.5, &fitting(&self.title, 13.5, WIDTH - 20.0));
        let left = self.rows.iter().map(|row| text_width(&row.name, SIZE)).fold(40.0, f64::max).min(230.0) + 18.0;
        let (top, bottom) = (34.0, height - 44.0);
        let ends =
            self.rows.iter().flat_map(|row| [Some(row.value), row.interval.map(|ends| ends.0), row.interval.map(|ends| ends.1)]);
        let scale = Scale::new(&self.axis, ends.flatten().chain(self.line), (left, WIDTH - 150.0), 6.0);
        for tick in &scale.ticks {
            let x = scale.at(*tick);
            canvas.line(&[(x, top), (x, bottom)], Stroke::thin(GRID));
            canvas.text((x, bottom + 12.0), Anchor::Middle, SIZE, SOFT, &scale.name(*tick));
        }
        if let Some(line) = self.line {
            canvas.line(&[(scale.at(line), top), (scale.at(line), bottom)], Stroke { dash: "4 3", ..Stroke::thin(INK) });
        }
        canvas.line(&[(left, bottom), (WIDTH - 150.0, bottom)], Stroke::thin(SOFT));
        canvas.text(((left + WIDTH - 150.0) / 2.0, height - 11.0), Anchor::Middle, SIZE, INK, &self.axis.label);
        for (at, row) in self.rows.iter().enumerate() {
            row.draw(&mut canvas, &scale, left, top + ROW * (at as f64 + 0.5));
        }
        canvas.finish()
    }
}

impl IntervalRow {
    fn draw(&self, canvas: &mut Canvas, scale: &Scale, left: f64, y: f64) {
        canvas.text((left - 8.0, y), Anchor::End, SIZE, INK, &fitting(&self.name, SIZE, left - 14.0));
        let stroke = Stroke { width: 2.0, ..Stroke::series(0) };
        let mut words = number(self.value);
        if let Some((low, high)) = self.interval {
            let (from, to) = (scale.at(low), scale.at(high));
            canvas.line(&[(from, y), (to, y)], stroke);
            for end in [from, to] {
                canvas.line(&[(end, y - 4.0), (end, y + 4.0)], stroke);
            }
            words += &format!(" [{}, {}]", number(low), number(high));
        }
        if self.value.is_finite() {
            canvas.mark((scale.at(self.value), y), 0, false);
        }
        canvas.text((WIDTH - 140.0, y), Anchor::Start, 10.0, SOFT, &words);
    }
}

fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.3}").replace('-', "\u{2212}") } else { "not defined".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_its_interval_in_lines_and_words() {
        let row = |name: &str, value, interval| IntervalRow { name: name.into(), value, interval };
        let rows =
            vec![row("against no-prmf", -0.02, Some((-0.05, 0.01))), row("few patients", 0.1, None), row("null", f64::NAN, None)];
        let plot = Intervals { title: "Differences".into(), axis: Axis::free("difference of accuracy"), rows, line: Some(0.0) };
        let svg = plot.svg();
        assert!(svg.as_str().contains("\u{2212}0.020 [\u{2212}0.050, 0.010]"));
        assert!(svg.as_str().contains("not defined") && !svg.as_str().contains("NaN"));
        assert!(svg.as_str().contains("stroke-dasharray=\"4 3\""), "the line of no difference");
    }
}
