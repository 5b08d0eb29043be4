//! Two axes with lines, steps and points: losses over time, ROC, reliability, risk against coverage, scatter.

use super::{
    axis::{Axis, Scale},
    canvas::{Anchor, Canvas, GRID, INK, Point, SOFT, Stroke, Svg, fitting, text_width},
};

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 320.0;
const SIZE: f64 = 11.0;
/// Longer lines are averaged to about this many points.
const POINTS: usize = 300;

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Stands above it.
    pub title: String,
    /// From left to right.
    pub x: Axis,
    /// From below to above.
    pub y: Axis,
    /// Drawn one over the other.
    pub series: Vec<Series>,
    /// Areas behind the lines, such as the stages of a curriculum.
    pub stages: Vec<Stage>,
}

/// One line or cloud.
#[derive(Clone, Debug)]
pub struct Series {
    /// In the legend; empty: not there.
    pub name: String,
    /// `[x, y]`; a value that is not finite leaves a gap.
    pub points: Vec<Point>,
    /// How it is drawn.
    pub mark: Mark,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Straight lines between the points.
    Line,
    /// A value holds until the next.
    Steps,
    /// Each point by itself.
    Points,
    /// Points joined by lines.
    Both,
    /// A thin grey dashed line to compare with, such as chance.
    Reference,
}

/// An area from `from` to the next stage, `from` in data of the x axis.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Where it begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// Stands at its upper edge.
    pub name: String,
}

struct Frame {
    x: Scale,
    y: Scale,
}

impl Chart {
    /// A chart without series.
    pub fn new(title: &str, x: Axis, y: Axis) -> Chart {
        Chart { title: title.into(), x, y, series: Vec::new(), stages: Vec::new() }
    }

    /// With one more series.
    pub fn with(mut self, name: &str, mark: Mark, points: Vec<Point>) -> Chart {
        self.series.push(Series { name: name.into(), points, mark });
        self
    }

    /// The figure.
    pub fn svg(&self) -> Svg {
        let mut canvas = Canvas::new(WIDTH, HEIGHT, &self.title);
        canvas.bold((10.0, 13.0), Anchor::Start, 12.5, &fitting(&self.title, 13.5, WIDTH - 20.0));
        let top = self.legend(&mut canvas);
        let frame = self.frame(top);
        self.draw_stages(&mut canvas, &frame);
        self.draw_axes(&mut canvas, &frame);
        for (at, series) in self.series.iter().enumerate() {
            frame.draw(&mut canvas, series, self.look(at));
        }
        if self.series.iter().all(|series| series.points.iter().all(|(x, y)| !x.is_finite() || !y.is_finite())) {
            let middle = ((frame.x.units.0 + frame.x.units.1) / 2.0, (frame.y.units.0 + frame.y.units.1) / 2.0);
            canvas.text(middle, Anchor::Middle, SIZE, SOFT, "no data");
        }
        canvas.finish()
    }

    /// Number of the looks of series `at`: references have none of their own.
    fn look(&self, at: usize) -> usize {
        self.series[..at].iter().filter(|series| series.mark != Mark::Reference).count()
    }

    fn frame(&self, top: f64) -> Frame {
        let all = || self.series.iter().flat_map(thinned).filter(|(x, y)| x.is_finite() && y.is_finite());
        let stages = self.stages.iter().flat_map(|stage| [stage.from, stage.to]);
        let y = Scale::new(&self.y, all().map(|(_, y)| y), (HEIGHT - 44.0, top + 8.0), 5.0);
        let widest = y.ticks.iter().map(|tick| text_width(&y.name(*tick), SIZE)).fold(0.0, f64::max);
        let x = Scale::new(&self.x, all().map(|(x, _)| x).chain(stages), (widest + 32.0, WIDTH - 16.0), 6.0);
        Frame { x, y }
    }

    /// Draws the legend under the title; gives its lower edge.
    fn legend(&self, canvas: &mut Canvas) -> f64 {
        let (mut x, mut y) = (12.0, 32.0);
        let mut any = false;
        for (at, series) in self.series.iter().enumerate().filter(|(_, series)| !series.name.is_empty()) {
            let width = 30.0 + text_width(&series.name, SIZE) + 14.0;
            if any && x + width > WIDTH {
                (x, y) = (12.0, y + 16.0);
            }
            let look = self.look(at);
            if matches!(series.mark, Mark::Points | Mark::Both) {
                canvas.mark((x + 11.0, y), look, false);
            }
            if series.mark != Mark::Points {
                canvas.line(&[(x, y), (x + 23.0, y)], stroke(series.mark, look));
            }
            canvas.text((x + 29.0, y), Anchor::Start, SIZE, INK, &fitting(&series.name, SIZE, WIDTH - 60.0));
            x += width;
            any = true;
        }
        if any { y + 8.0 } else { 22.0 }
    }

    fn draw_stages(&self, canvas: &mut Canvas, frame: &Frame) {
        let (bottom, top) = frame.y.units;
        for (at, stage) in self.stages.iter().enumerate() {
            let (from, to) = (frame.x.at(stage.from), frame.x.at(stage.to));
            canvas.area((from, top), to - from, bottom - top, if at % 2 == 0 { "#f1f4f7" } else { "#e2eaf1" });
            if at > 0 {
                canvas.line(&[(from, bottom), (from, top)], Stroke { dash: "3 3", ..Stroke::thin("#9fb0be") });
            }
            let name = fitting(&stage.name, 9.5, to - from - 4.0);
            canvas.text(((from + to) / 2.0, top + 8.0), Anchor::Middle, 9.5, SOFT, &name);
        }
    }

    fn draw_axes(&self, canvas: &mut Canvas, frame: &Frame) {
        let (left, right) = frame.x.units;
        let (bottom, top) = frame.y.units;
        for tick in &frame.y.ticks {
            let y = frame.y.at(*tick);
            canvas.line(&[(left, y), (right, y)], Stroke::thin(GRID));
            canvas.text((left - 6.0, y), Anchor::End, SIZE, SOFT, &frame.y.name(*tick));
        }
        for tick in &frame.x.ticks {
            let x = frame.x.at(*tick);
            canvas.line(&[(x, bottom), (x, bottom + 4.0)], Stroke::thin(SOFT));
            canvas.text((x, bottom + 12.0), Anchor::Middle, SIZE, SOFT, &frame.x.name(*tick));
        }
        canvas.line(&[(left, top), (left, bottom), (right, bottom)], Stroke::thin(SOFT));
        canvas.text(((left + right) / 2.0, HEIGHT - 11.0), Anchor::Middle, SIZE, INK, &self.x.label);
        canvas.upright((11.0, (top + bottom) / 2.0), SIZE, INK, &self.y.label);
    }
}

impl Frame {
    fn draw(&self, canvas: &mut Canvas, series: &Series, look: usize) {
        let points = thinned(series);
        let placed: Vec<Option<Point>> =
            points.iter().map(|(x, y)| (x.is_finite() && y.is_finite()).then(|| (self.x.at(*x), self.y.at(*y)))).collect();
        if series.mark != Mark::Points {
            for piece in placed.split(Option::is_none) {
                let piece: Vec<Point> = piece.iter().flatten().copied().collect();
                let piece = if series.mark == Mark::Steps { stepped(&piece) } else { piece };
                canvas.line(&piece, stroke(series.mark, look));
            }
        }
        if matches!(series.mark, Mark::Points | Mark::Both) {
            for point in placed.into_iter().flatten() {
                canvas.mark(point, look, series.mark == Mark::Points);
            }
        }
    }
}

fn stroke(mark: Mark, look: usize) -> Stroke {
    match mark {
        Mark::Reference => Stroke { dash: "4 4", ..Stroke::thin("#8b98a5") },
        _ => Stroke::series(look),
    }
}

fn stepped(points: &[Point]) -> Vec<Point> {
    let corner = points.windows(2).flat_map(|pair| [pair[0], (pair[1].0, pair[0].1)]);
    corner.chain(points.last().copied()).collect()
}

/// Means of neighbours, so that a line of many thousand steps stays a line; only of plain lines.
fn thinned(series: &Series) -> Vec<Point> {
    let size = series.points.len().div_ceil(POINTS);
    if series.mark != Mark::Line || size <= 1 {
        return series.points.clone();
    }
    let mean = |points: &[Point]| {
        let count = points.len() as f64;
        (points.iter().map(|(x, _)| x).sum::<f64>() / count, points.iter().map(|(_, y)| y).sum::<f64>() / count)
    };
    series.points.chunks(size).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        Chart::new("Loss", Axis::free("epoch"), Axis::free("loss"))
    }

    #[test]
    fn a_gap_in_the_data_is_a_gap_in_the_line() {
        let svg = chart().with("loss", Mark::Line, vec![(0.0, 1.0), (1.0, 0.5), (2.0, f64::NAN), (3.0, 0.4), (4.0, 0.3)]).svg();
        let lines = svg.as_str().matches("stroke-width=\"1.8\"").count();
        assert_eq!(lines, 3, "two pieces and the legend's sample");
        assert!(!svg.as_str().contains("NaN"));
    }

    #[test]
    fn series_differ_in_dash_and_reference_has_none_of_theirs() {
        let svg = chart()
            .with("chance", Mark::Reference, vec![(0.0, 0.0), (1.0, 1.0)])
            .with("one", Mark::Line, vec![(0.0, 0.0), (1.0, 1.0)])
            .with("two", Mark::Line, vec![(0.0, 0.5), (1.0, 1.0)])
            .svg();
        assert_eq!(svg.as_str().matches("stroke-dasharray=\"7 3\"").count(), 2, "the second series and its sample in the legend");
        assert!(svg.as_str().contains("chance"));
    }

    #[test]
    fn many_steps_become_few_points_with_the_same_mean() {
        let points: Vec<Point> = (0..10_200).map(|step| (step as f64, (step % 7) as f64)).collect();
        let series = Series { name: "loss".into(), points: points.clone(), mark: Mark::Line };
        let thin = thinned(&series);
        assert!(thin.len() <= POINTS);
        assert!(thin.iter().all(|(_, y)| (y - 3.0).abs() < 0.3));
        assert_eq!(thinned(&Series { mark: Mark::Points, ..series }).len(), points.len());
    }

    #[test]
    fn a_chart_without_data_says_so() {
        assert!(chart().svg().as_str().contains("no data"));
        assert!(chart().with("x", Mark::Line, vec![(f64::NAN, 1.0)]).svg().as_str().contains("no data"));
    }

    #[test]
    fn steps_hold_their_value_until_the_next() {
        assert_eq!(stepped(&[(0.0, 1.0), (2.0, 3.0)]), [(0.0, 1.0), (2.0, 1.0), (2.0, 3.0)]);
        assert_eq!(stepped(&[]), []);
    }
}
