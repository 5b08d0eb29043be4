//! Every item of several groups on one axis: alpha by class, right and wrong answers told apart by shape.

use super::{
    axis::{Axis, Scale},
    canvas::{Anchor, Canvas, GRID, INK, SOFT, Stroke, Svg, fitting, text_width},
};

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 320.0;
const SIZE: f64 = 11.0;
/// More items than this in a group are drawn as an even sample of them.
const MOST: usize = 250;

/// Items of one group.
#[derive(Clone, Debug)]
pub struct StripGroup {
    /// Stands under it.
    pub name: String,
    /// A value, and which of the `marks` it has.
    pub items: Vec<(f64, usize)>,
}

/// A strip a group with every item, its mean as a line; `marks`: what each mark means.
pub fn strip(title: &str, axis: &Axis, groups: &[StripGroup], marks: &[&str]) -> Svg {
    let mut canvas = Canvas::new(WIDTH, HEIGHT, title);
    canvas.bold((10.0, 13.0), Anchor::Start, 12.5, &fitting(title, 13.5, WIDTH - 20.0));
    let mut x = 12.0;
    for (at, name) in marks.iter().enumerate() {
        canvas.mark((x + 4.0, 32.0), at, true);
        canvas.text((x + 13.0, 32.0), Anchor::Start, SIZE, INK, name);
        x += 30.0 + text_width(name, SIZE);
    }
    canvas.line(&[(x, 32.0), (x + 20.0, 32.0)], mean_stroke());
    canvas.text((x + 26.0, 32.0), Anchor::Start, SIZE, INK, "mean");

    let values = groups.iter().flat_map(|group| group.items.iter().map(|(value, _)| *value));
    let scale = Scale::new(axis, values, (HEIGHT - 36.0, 48.0), 5.0);
    let (left, right) = (54.0, WIDTH - 14.0);
    for tick in &scale.ticks {
        let y = scale.at(*tick);
        canvas.line(&[(left, y), (right, y)], Stroke::thin(GRID));
        canvas.text((left - 6.0, y), Anchor::End, SIZE, SOFT, &scale.name(*tick));
    }
    canvas.line(&[(left, 48.0), (left, HEIGHT - 36.0), (right, HEIGHT - 36.0)], Stroke::thin(SOFT));
    canvas.upright((11.0, HEIGHT / 2.0), SIZE, INK, &axis.label);
    let width = (right - left) / groups.len().max(1) as f64;
    for (at, group) in groups.iter().enumerate() {
        let middle = left + width * (at as f64 + 0.5);
        let name = format!("{} ({})", group.name, group.items.len());
        canvas.text((middle, HEIGHT - 20.0), Anchor::Middle, SIZE, INK, &fitting(&name, SIZE, width - 4.0));
        draw(&mut canvas, group, &scale, middle, width);
    }
    canvas.finish()
}

fn draw(canvas: &mut Canvas, group: &StripGroup, scale: &Scale, middle: f64, width: f64) {
    let every = group.items.len().div_ceil(MOST).max(1);
    for (at, (value, mark)) in group.items.iter().enumerate().step_by(every) {
        // Multiples of the golden ratio spread neighbours over the strip without any chance in it.
        let aside = (at as f64 * 0.618_034).fract() - 0.5;
        canvas.mark((middle + aside * width * 0.6, scale.at(*value)), *mark, true);
    }
    if !group.items.is_empty() {
        let y = scale.at(group.items.iter().map(|(value, _)| value).sum::<f64>() / group.items.len() as f64);
        canvas.line(&[(middle - width * 0.36, y), (middle + width * 0.36, y)], mean_stroke());
    }
}

fn mean_stroke() -> Stroke {
    Stroke { width: 2.4, ..Stroke::thin(INK) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_of_a_small_group_is_drawn_and_a_mean_a_group() {
        let group = |name: &str, items| StripGroup { name: name.into(), items };
        let groups = [group("UD", vec![(0.2, 0), (0.4, 1)]), group("PD", vec![(0.9, 0)]), group("D", vec![])];
        let svg = strip("Alpha", &Axis::fixed("alpha_text", 0.0, 1.0), &groups, &["right", "wrong"]);
        assert_eq!(svg.as_str().matches("<path").count(), 5, "three items, two marks in the legend");
        assert_eq!(svg.as_str().matches("stroke-width=\"2.4\"").count(), 3, "two means and the legend's");
        assert!(svg.as_str().contains("UD (2)") && svg.as_str().contains("D (0)"));
    }
}
