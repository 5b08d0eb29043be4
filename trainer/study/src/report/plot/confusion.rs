//! The confusion matrix as a picture.

use super::canvas::{Anchor, Canvas, INK, SOFT, Svg, fitting, text_width};

const WIDTH: f64 = 440.0;
const SIZE: f64 = 11.0;

/// `counts[truth][prediction]`, each row shaded by its share of the row, with count and percent in every cell.
pub fn confusion(title: &str, classes: &[String], counts: &[Vec<u64>]) -> Svg {
    let left = classes.iter().map(|name| text_width(name, SIZE)).fold(30.0, f64::max).min(130.0) + 34.0;
    let side = ((WIDTH - left - 14.0) / classes.len().max(1) as f64).min(78.0);
    let (top, height) = (62.0, side * 0.82);
    let mut canvas = Canvas::new(WIDTH, (top + height * classes.len() as f64 + 22.0).max(320.0), title);
    canvas.bold((10.0, 13.0), Anchor::Start, 12.5, &fitting(title, 13.5, WIDTH - 20.0));
    let middle = left + side * classes.len() as f64 / 2.0;
    canvas.text((middle, 34.0), Anchor::Middle, SIZE, INK, "predicted class");
    canvas.upright((11.0, top + height * classes.len() as f64 / 2.0), SIZE, INK, "true class");
    for (at, name) in classes.iter().enumerate() {
        canvas.text((left + side * (at as f64 + 0.5), 51.0), Anchor::Middle, SIZE, SOFT, &fitting(name, SIZE, side - 4.0));
        canvas.text((left - 6.0, top + height * (at as f64 + 0.5)), Anchor::End, SIZE, SOFT, &fitting(name, SIZE, left - 30.0));
    }
    for (row, counts) in counts.iter().enumerate() {
        let all: u64 = counts.iter().sum();
        for (column, count) in counts.iter().enumerate() {
            let share = *count as f64 / all.max(1) as f64;
            let (x, y) = (left + side * column as f64, top + height * row as f64);
            canvas.area((x + 1.0, y + 1.0), side - 2.0, height - 2.0, &shade(share));
            let ink = if share > 0.5 { "#ffffff" } else { INK };
            canvas.text((x + side / 2.0, y + height / 2.0 - 6.0), Anchor::Middle, 13.0, ink, &count.to_string());
            let percent = if all == 0 { "\u{2013}".into() } else { format!("{:.0} %", 100.0 * share) };
            canvas.text((x + side / 2.0, y + height / 2.0 + 9.0), Anchor::Middle, 9.5, ink, &percent);
        }
    }
    canvas.finish()
}

/// From nearly white to dark blue.
fn shade(share: f64) -> String {
    let mix = |from: f64, to: f64| (from + share * (to - from)).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(240.0, 9.0), mix(245.0, 74.0), mix(249.0, 128.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_holds_count_and_share_of_its_row() {
        let classes = ["UD", "PD", "D"].map(String::from);
        let svg = confusion("Confusion", &classes, &[vec![8, 2, 0], vec![1, 3, 0], vec![0, 0, 0]]);
        for wanted in [">8<", ">80 %<", ">2<", ">20 %<", ">3<", ">75 %<", ">\u{2013}<", "predicted class", "true class"] {
            assert!(svg.as_str().contains(wanted), "{wanted}");
        }
    }
}
