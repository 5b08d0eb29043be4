//! Shapes and words as SVG, and the same as PNG.

use crate::error::StudyError;
use resvg::{tiny_skia, usvg};
use std::{fmt::Write, fs, path::Path, sync::Arc};

/// PNGs have this many pixels a unit: a figure of half a page's width is then printed at about 300 dots an inch.
const PIXELS_A_UNIT: f32 = 2.5;
const REGULAR: &[u8] = include_bytes!("../font/DejaVuSans.ttf");
const BOLD: &[u8] = include_bytes!("../font/DejaVuSans-Bold.ttf");

/// Dark text.
pub const INK: &str = "#1c2530";
/// Text of second rank, axes.
pub const SOFT: &str = "#5b6875";
/// Grid lines.
pub const GRID: &str = "#e3e8ec";
/// Colours that people with any colour vision tell apart (Okabe and Ito 2008), without the yellow that vanishes on paper.
pub const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#9a4f86", "#56b4e9", "#7a5c00", "#444444"];
/// Dashes, so that lines differ without colour too.
pub const DASHES: [&str; 7] = ["", "7 3", "2 2.5", "9 3 2 3", "4 2", "12 3", "1 3"];

/// A finished figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Svg {
    text: String,
}

impl Svg {
    /// An `svg` element without script, reference or id, to stand alone or in a page.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The figure on white, drawn with the font that is compiled in, so that it looks the same everywhere.
    pub fn png(&self) -> Result<Vec<u8>, StudyError> {
        let failed = |error: String| StudyError::Failed(format!("a plot could not be drawn: {error}"));
        let mut fonts = usvg::fontdb::Database::new();
        fonts.load_font_data(REGULAR.to_vec());
        fonts.load_font_data(BOLD.to_vec());
        let options = usvg::Options { font_family: "DejaVu Sans".into(), fontdb: Arc::new(fonts), ..usvg::Options::default() };
        let tree = usvg::Tree::from_str(&self.text, &options).map_err(|error| failed(error.to_string()))?;
        let pixels = |units: f32| (units * PIXELS_A_UNIT).ceil() as u32;
        let mut map = tiny_skia::Pixmap::new(pixels(tree.size().width()), pixels(tree.size().height()))
            .ok_or_else(|| failed("it has no size".into()))?;
        map.fill(tiny_skia::Color::WHITE);
        resvg::render(&tree, tiny_skia::Transform::from_scale(PIXELS_A_UNIT, PIXELS_A_UNIT), &mut map.as_mut());
        map.encode_png().map_err(|error| failed(error.to_string()))
    }

    /// Writes `NAME.png` into `folder`.
    pub fn write(&self, folder: &Path, name: &str) -> Result<(), StudyError> {
        let path = folder.join(format!("{name}.png"));
        fs::write(&path, self.png()?).map_err(StudyError::io("write", &path))
    }
}

/// How a text lies about its point.
#[derive(Clone, Copy)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// A line's looks.
#[derive(Clone, Copy)]
pub struct Stroke {
    /// `#rrggbb`.
    pub colour: &'static str,
    /// Units.
    pub width: f64,
    /// SVG's dash array; empty: drawn through.
    pub dash: &'static str,
}

impl Stroke {
    /// A thin line drawn through.
    pub fn thin(colour: &'static str) -> Stroke {
        Stroke { colour, width: 1.0, dash: "" }
    }

    /// The looks of series number `at`: its own colour and its own dash.
    pub fn series(at: usize) -> Stroke {
        Stroke { colour: COLOURS[at % COLOURS.len()], width: 1.8, dash: DASHES[at % DASHES.len()] }
    }
}

/// A point of a figure, units from the upper left.
pub type Point = (f64, f64);

/// A figure in the making.
pub struct Canvas {
    text: String,
}

impl Canvas {
    /// An empty figure of that size; `title` is what a screen reader says.
    pub fn new(width: f64, height: f64, title: &str) -> Canvas {
        Canvas {
            text: format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
                 role=\"img\" aria-label=\"{}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">",
                escaped(title)
            ),
        }
    }

    /// The finished figure.
    pub fn finish(mut self) -> Svg {
        self.text += "</svg>\n";
        Svg { text: self.text }
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        self.text.write_fmt(element).expect("a String takes everything");
    }

    /// A chain of straight lines.
    pub fn line(&mut self, points: &[Point], stroke: Stroke) {
        let Stroke { colour, width, dash } = stroke;
        let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ");
        let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        self.add(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"{dash}/>"
        ));
    }

    /// A filled rectangle without border.
    pub fn area(&mut self, (x, y): Point, width: f64, height: f64, colour: &str) {
        self.add(format_args!("<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"));
    }

    /// A small mark of the shape (circle, square, triangle, diamond, cross) and colour of series number `series`.
    pub fn mark(&mut self, at: Point, series: usize, hollow: bool) {
        let colour = COLOURS[series % COLOURS.len()];
        let fill = if hollow { "none" } else { colour };
        let path = mark_path(at, series);
        self.add(format_args!("<path d=\"{path}\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.2\"/>"));
    }

    /// One line of text whose middle height lies at the point's.
    pub fn text(&mut self, (x, y): Point, anchor: Anchor, size: f64, colour: &str, text: &str) {
        self.write(x, y + 0.36 * size, anchor, size, &format!("fill=\"{colour}\""), text);
    }

    /// The same in bold.
    pub fn bold(&mut self, (x, y): Point, anchor: Anchor, size: f64, text: &str) {
        self.write(x, y + 0.36 * size, anchor, size, &format!("fill=\"{INK}\" font-weight=\"bold\""), text);
    }

    /// Read from below to above, its middle at the point.
    pub fn upright(&mut self, (x, y): Point, size: f64, colour: &str, text: &str) {
        let more = format!("fill=\"{colour}\" transform=\"rotate(-90 {x:.1} {y:.1})\"");
        self.write(x, y + 0.36 * size, Anchor::Middle, size, &more, text);
    }

    fn write(&mut self, x: f64, y: f64, anchor: Anchor, size: f64, more: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" {more}>{text}</text>"
        ));
    }
}

fn mark_path((x, y): Point, series: usize) -> String {
    let r = 3.2;
    match series % 5 {
        0 => format!("M{:.1} {y:.1}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z", x - r, d = 2.0 * r),
        1 => format!("M{:.1} {:.1}h5.6v5.6h-5.6z", x - 2.8, y - 2.8),
        2 => format!("M{:.1} {:.1}l3.6 6.2h-7.2z", x, y - 3.9),
        3 => format!("M{x:.1} {:.1}l4 4l-4 4l-4 -4z", y - 4.0),
        _ => format!("M{:.1} {:.1}l6 6m0 -6l-6 6", x - 3.0, y - 3.0),
    }
}

fn escaped(text: &str) -> String {
    let plain: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    plain.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// About how wide a text is: the font's widths in four groups.
pub fn text_width(text: &str, size: f64) -> f64 {
    let width = |letter: char| match letter {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | '(' | ')' | ' ' | '-' | '/' => 0.36,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.94,
        'A'..='Z' => 0.7,
        _ => 0.62,
    };
    size * text.chars().map(width).sum::<f64>()
}

/// `text` cut so that it is at most about `room` wide.
pub fn fitting(text: &str, size: f64, room: f64) -> String {
    if text_width(text, size) <= room {
        return text.to_owned();
    }
    let mut cut: String = text.to_owned();
    while !cut.is_empty() && text_width(&cut, size) + size > room {
        cut.pop();
    }
    cut + "\u{2026}"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text() {
        let mut canvas = Canvas::new(100.0, 50.0, "\"><script>");
        canvas.text((10.0, 10.0), Anchor::Start, 10.0, INK, "</text><image href=\"http://x\"/>\u{0}&");
        let svg = canvas.finish();
        assert!(svg.as_str().contains("&quot;&gt;&lt;script&gt;"));
        assert!(!svg.as_str().contains("<image") && !svg.as_str().contains("<script"));
        assert!(svg.png().unwrap().starts_with(b"\x89PNG"));
    }

    /// Without the font, words would leave the picture white.
    #[test]
    fn words_are_drawn_with_the_font_inside() {
        let mut canvas = Canvas::new(60.0, 20.0, "words");
        canvas.text((5.0, 10.0), Anchor::Start, 12.0, INK, "\u{3bb} \u{3b1} \u{2264} D");
        let svg = canvas.finish();
        let picture = image::load_from_memory(&svg.png().unwrap()).unwrap().to_luma8();
        assert_eq!(picture.dimensions(), (150, 50));
        let dark = picture.pixels().filter(|pixel| pixel.0[0] < 100).count();
        assert!(dark > 150, "{dark} dark pixels");
        assert_eq!(svg.png().unwrap(), svg.png().unwrap());
    }

    #[test]
    fn long_names_are_cut_to_their_room() {
        assert_eq!(fitting("short", 10.0, 100.0), "short");
        let cut = fitting("a very long name of a class that nobody needs", 10.0, 100.0);
        assert!(cut.ends_with('\u{2026}') && text_width(&cut, 10.0) <= 100.0, "{cut}");
    }
}
