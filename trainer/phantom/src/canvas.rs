//! A field in amounts of stain, and soft-edged shapes painted onto it.

use crate::texture::smooth;

/// Amounts of stain, in the units of [`super::optics`].
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Ink {
    /// Haematoxylin.
    pub blue: f32,
    /// Eosin.
    pub pink: f32,
}

/// Stain at every pixel.
pub struct Canvas {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Micrometres a pixel.
    pub um_per_px: f32,
    /// Row by row.
    pub ink: Vec<Ink>,
    /// What stands at each pixel, by [`super::mask`]'s numbers.
    pub labels: Vec<u8>,
}

/// A wobbly ellipse.
#[derive(Clone, Copy, Debug)]
pub struct Outline {
    /// Centre, um.
    pub x: f32,
    /// Centre, um.
    pub y: f32,
    /// Half the long axis, um.
    pub radius: f32,
    /// Short axis by long axis.
    pub ratio: f32,
    /// Direction of the long axis, radians.
    pub angle: f32,
    /// Amplitude and phase of the second and of the third harmonic.
    pub wobble: [[f32; 2]; 2],
    /// Width of the soft edge, um.
    pub edge: f32,
}

impl Outline {
    /// A disc.
    pub fn disc(x: f32, y: f32, radius: f32) -> Self {
        Self { x, y, radius, ratio: 1.0, angle: 0.0, wobble: [[0.0; 2]; 2], edge: 0.8 }
    }
}

/// An outline with its sines and cosines worked out.
struct Shape {
    outline: Outline,
    direction: [f32; 2],
    /// Amplitude times cosine and sine of the phase, of both harmonics.
    harmonics: [[f32; 2]; 2],
}

impl Shape {
    fn new(outline: &Outline) -> Self {
        let (sin, cos) = outline.angle.sin_cos();
        let harmonics = outline.wobble.map(|[amplitude, phase]| [amplitude * phase.cos(), amplitude * phase.sin()]);
        Self { outline: *outline, direction: [cos, sin], harmonics }
    }

    /// Distance from the centre as a share of the outline's own radius there: below 1 inside.
    fn depth(&self, x: f32, y: f32) -> f32 {
        let [cos, sin] = self.direction;
        let (dx, dy) = (x - self.outline.x, y - self.outline.y);
        let (along, across) = (dx * cos + dy * sin, (dy * cos - dx * sin) / self.outline.ratio);
        let distance = (along * along + across * across).sqrt();
        if distance < 1e-6 {
            return 0.0;
        }
        // cos and sin of twice and three times the direction, without angles.
        let (c, s) = (along / distance, across / distance);
        let (c2, s2) = (c * c - s * s, 2.0 * c * s);
        let (c3, s3) = (c * c2 - s * s2, s * c2 + c * s2);
        let [second, third] = self.harmonics;
        let bulge = 1.0 + second[0] * c2 - second[1] * s2 + third[0] * c3 - third[1] * s3;
        distance / (self.outline.radius * bulge)
    }
}

impl Canvas {
    /// A field of clear glass.
    pub fn new(width: usize, height: usize, um_per_px: f32) -> Self {
        let pixels = width * height;
        Self { width, height, um_per_px, ink: vec![Ink::default(); pixels], labels: vec![0; pixels] }
    }

    /// Fills the field with what `ground(x, y)` gives, x and y in um.
    pub fn fill(&mut self, mut ground: impl FnMut(f32, f32) -> (Ink, u8)) {
        for row in 0..self.height {
            let y = (row as f32 + 0.5) * self.um_per_px;
            for column in 0..self.width {
                let at = row * self.width + column;
                (self.ink[at], self.labels[at]) = ground((column as f32 + 0.5) * self.um_per_px, y);
            }
        }
    }

    /// Paints a shape over what is there; `ink(depth, x, y)` with depth 0 at the centre and 1 at the outline.
    pub fn paint(&mut self, outline: &Outline, label: u8, mut ink: impl FnMut(f32, f32, f32) -> Ink) {
        let reach = outline.radius * 1.2 + outline.edge;
        let shape = Shape::new(outline);
        let columns = self.span(outline.x, reach, self.width);
        for row in self.span(outline.y, reach, self.height) {
            let y = (row as f32 + 0.5) * self.um_per_px;
            for column in columns.clone() {
                let x = (column as f32 + 0.5) * self.um_per_px;
                let depth = shape.depth(x, y);
                let cover = smooth((1.0 - depth) * outline.radius * outline.ratio / outline.edge + 0.5);
                if cover > 0.0 {
                    let at = row * self.width + column;
                    self.ink[at] = mix(self.ink[at], ink(depth.min(1.0), x, y), cover);
                    if cover > 0.5 {
                        self.labels[at] = label;
                    }
                }
            }
        }
    }

    fn span(&self, centre: f32, reach: f32, pixels: usize) -> std::ops::Range<usize> {
        let at = |um: f32| (um / self.um_per_px).clamp(0.0, pixels as f32) as usize;
        at(centre - reach)..(at(centre + reach) + 1).min(pixels)
    }
}

/// Between two inks; share 1 is the second.
pub fn mix(from: Ink, to: Ink, share: f32) -> Ink {
    Ink { blue: from.blue + (to.blue - from.blue) * share, pink: from.pink + (to.pink - from.pink) * share }
}
