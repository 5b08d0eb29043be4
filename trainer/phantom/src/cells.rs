//! The objects of a field, and how each is painted. Lengths in um.

use crate::{
    canvas::{Canvas, Ink, Outline},
    mask,
    random::{Purpose, Stream},
    texture::Noise,
};
use serde::Serialize;
use std::f32::consts::TAU;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Small round neuroblast without visible cytoplasm.
    Small,
    /// Differentiating neuroblast: large pale eccentric nucleus with a nucleolus in much pink cytoplasm.
    Differentiating,
    /// Enlarged nucleus with a nucleolus, but no cytoplasm: does not count as differentiating.
    Decoy,
    /// A plate of chromosomes.
    Mitosis,
    /// A nucleus in fragments.
    Karyorrhexis,
    /// A small, very dark nucleus.
    Lymphocyte,
    /// The spindle-shaped nucleus of a Schwann cell.
    Spindle,
    /// An erythrocyte.
    RedCell,
    /// The shadow of a dead cell.
    Ghost,
    /// A clot of calcium.
    Calcification,
}

impl Kind {
    /// Whether it is one of the cells of which the share of differentiating ones is taken.
    pub fn is_tumour_cell(self) -> bool {
        matches!(self, Kind::Small | Kind::Differentiating | Kind::Decoy | Kind::Mitosis)
    }
}

/// One object.
#[derive(Clone, Debug)]
pub struct Cell {
    /// What it is.
    pub kind: Kind,
    /// Centre.
    pub x: f32,
    /// Centre.
    pub y: f32,
    /// Half the long axis of the nucleus.
    pub radius: f32,
    /// Short axis by long axis of the nucleus.
    pub ratio: f32,
    /// Direction of the long axis.
    pub angle: f32,
    /// Half the long axis of the cytoplasm; 0 when there is none to see.
    pub body: f32,
    /// Decides everything else about its looks.
    pub key: u64,
}

impl Cell {
    /// How much room it takes: other objects keep away by this radius.
    pub fn reach(&self) -> f32 {
        self.body.max(self.radius * (1.0 + self.ratio) / 2.0)
    }

    fn nucleus(&self, details: &mut Stream) -> Outline {
        let wobble = [2, 3].map(|_| [details.uniform(0.02..0.05), details.uniform(0.0..TAU)]);
        let &Cell { x, y, radius, ratio, angle, .. } = self;
        Outline { x, y, radius, ratio, angle, wobble, edge: 0.8 }
    }

    /// Paints it; `chromatin` is the contrast of salt and pepper in the patient's nuclei.
    pub fn paint(&self, canvas: &mut Canvas, chromatin: f32) {
        let mut details = Stream::new(self.key, 0, 0, Purpose::Object);
        match self.kind {
            Kind::Small => paint_small(self, canvas, &mut details, chromatin),
            Kind::Differentiating => paint_differentiating(self, canvas, &mut details),
            Kind::Decoy => {
                let nucleus = self.nucleus(&mut details);
                paint_vesicular(canvas, &nucleus, &mut details, 0.36, mask::OTHER_NUCLEUS);
            }
            Kind::Mitosis => paint_mitosis(self, canvas, &mut details),
            Kind::Karyorrhexis => paint_fragments(self, canvas, &mut details),
            Kind::Lymphocyte => paint_plain(self, canvas, &mut details, Ink { blue: 0.88, pink: 0.12 }, 0.06),
            Kind::Spindle => paint_plain(self, canvas, &mut details, Ink { blue: 0.5, pink: 0.2 }, 0.05),
            Kind::Ghost => paint_plain(self, canvas, &mut details, Ink { blue: 0.1, pink: 0.42 }, 0.04),
            Kind::RedCell => paint_red_cell(self, canvas),
            Kind::Calcification => paint_plain(self, canvas, &mut details, Ink { blue: 1.0, pink: 0.25 }, 0.3),
        }
    }
}

fn paint_small(cell: &Cell, canvas: &mut Canvas, details: &mut Stream, chromatin: f32) {
    let outline = cell.nucleus(details);
    let (blue, pink) = (details.uniform(0.46..0.72), details.uniform(0.16..0.28));
    let grains = Noise::new(details.key(), 1.5, 2);
    canvas.paint(&outline, mask::NUCLEUS, |depth, x, y| {
        let grain = (grains.at(x, y) - 0.5) * 6.0 * chromatin;
        Ink { blue: (blue + grain + 0.12 * depth.powi(4)).max(0.1), pink }
    });
}

fn paint_differentiating(cell: &Cell, canvas: &mut Canvas, details: &mut Stream) {
    let turn = details.uniform(0.0..TAU);
    let body = Outline {
        x: cell.x - 0.28 * cell.body * turn.cos(),
        y: cell.y - 0.28 * cell.body * turn.sin(),
        radius: cell.body,
        ratio: details.uniform(0.7..0.95),
        angle: turn,
        wobble: [2, 3].map(|_| [details.uniform(0.03..0.07), details.uniform(0.0..TAU)]),
        edge: 1.5,
    };
    let (blue, pink) = (details.uniform(0.05..0.1), details.uniform(0.30..0.46));
    let grains = Noise::new(details.key(), 1.8, 2);
    canvas.paint(&body, mask::DIFFERENTIATING_BODY, |depth, x, y| {
        let grain = grains.at(x, y) - 0.5;
        Ink { blue: blue + 0.06 * grain, pink: pink + 0.12 * grain - 0.05 * depth }
    });
    let nucleus = cell.nucleus(details);
    paint_vesicular(canvas, &nucleus, details, 0.3, mask::DIFFERENTIATING_NUCLEUS);
}

/// A pale nucleus with a dark rim and one nucleolus.
fn paint_vesicular(canvas: &mut Canvas, outline: &Outline, details: &mut Stream, blue: f32, label: u8) {
    let grains = Noise::new(details.key(), 1.5, 2);
    let (turn, away) = (details.uniform(0.0..TAU), outline.radius * details.uniform(0.0..0.3));
    let (nucleolus_x, nucleolus_y) = (outline.x + away * turn.cos(), outline.y + away * turn.sin());
    canvas.paint(outline, label, |depth, x, y| {
        let from_nucleolus = (x - nucleolus_x).powi(2) + (y - nucleolus_y).powi(2);
        let nucleolus = (-from_nucleolus / (2.0 * 0.75 * 0.75)).exp();
        Ink {
            blue: blue + 0.28 * depth.powi(4) + 0.55 * nucleolus + 0.1 * (grains.at(x, y) - 0.5),
            pink: 0.12 + 0.15 * nucleolus,
        }
    });
}

fn paint_mitosis(cell: &Cell, canvas: &mut Canvas, details: &mut Stream) {
    let clearing = Outline::disc(cell.x, cell.y, cell.radius * 1.25);
    canvas.paint(&clearing, mask::OTHER_NUCLEUS, |_, _, _| Ink { blue: 0.08, pink: 0.16 });
    let plate = Outline { radius: cell.radius, ratio: 0.3, ..cell.nucleus(details) };
    canvas.paint(&plate, mask::OTHER_NUCLEUS, |_, _, _| Ink { blue: 1.05, pink: 0.15 });
}

fn paint_fragments(cell: &Cell, canvas: &mut Canvas, details: &mut Stream) {
    let shrunken = Outline::disc(cell.x, cell.y, cell.radius * 1.1);
    canvas.paint(&shrunken, mask::OTHER_NUCLEUS, |_, _, _| Ink { blue: 0.08, pink: 0.42 });
    for fragment in 0..4 {
        let turn = TAU * (fragment as f32 + details.uniform(-0.2..0.2)) / 4.0;
        let away = cell.radius * details.uniform(0.4..0.7);
        let dot = Outline::disc(cell.x + away * turn.cos(), cell.y + away * turn.sin(), details.uniform(0.8..1.3));
        canvas.paint(&dot, mask::OTHER_NUCLEUS, |_, _, _| Ink { blue: 1.0, pink: 0.15 });
    }
}

fn paint_plain(cell: &Cell, canvas: &mut Canvas, details: &mut Stream, ink: Ink, contrast: f32) {
    let outline = cell.nucleus(details);
    let grains = Noise::new(details.key(), 1.3, 2);
    canvas.paint(&outline, mask::OTHER_NUCLEUS, |_, x, y| {
        let grain = (grains.at(x, y) - 0.5) * 2.0 * contrast;
        Ink { blue: (ink.blue + grain).max(0.0), pink: ink.pink }
    });
}

fn paint_red_cell(cell: &Cell, canvas: &mut Canvas) {
    let outline = Outline { ratio: cell.ratio, angle: cell.angle, edge: 0.6, ..Outline::disc(cell.x, cell.y, cell.radius) };
    canvas.paint(&outline, mask::OTHER_NUCLEUS, |depth, _, _| Ink { blue: 0.0, pink: 0.52 + 0.12 * depth * depth });
}
