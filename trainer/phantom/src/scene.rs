//! One field: its areas and where its cells lie.

use crate::{
    cells::{Cell, Kind},
    patient::{Patient, Pattern},
    random::{Purpose, Stream},
    sets::Fault,
    texture::{Noise, Region},
};
use std::f32::consts::TAU;

/// How far outside the field objects are still placed, um: their parts reach into it.
const MARGIN: f32 = 6.0;

/// Tries to find room for one object.
const TRIES: usize = 10;

/// Neighbours may overlap by a fifth: nuclei mould each other.
const OVERLAP: f32 = 0.8;

/// Everything in a field, in um from its upper left corner.
pub struct Scene {
    /// Width and height.
    pub side_um: [f32; 2],
    /// How its cells are arranged.
    pub pattern: Pattern,
    /// Fibrils.
    pub neuropil: Option<Region>,
    /// Pale pink without fibres.
    pub oedema: Option<Region>,
    /// Schwannian stroma.
    pub stroma: Option<Region>,
    /// Dead tissue.
    pub necrosis: Option<Region>,
    /// Where cells lie, when the pattern is nests.
    pub nests: Option<Region>,
    /// Septa run where this is 0.5, when the pattern is lobules.
    pub septa: Option<Noise>,
    /// Centre and radius of the fibrils in Homer Wright rosettes.
    pub rosettes: Vec<[f32; 3]>,
    /// Direction of the stroma's fibres, radians.
    pub fibres: f32,
    /// All objects.
    pub cells: Vec<Cell>,
    /// Decides the textures.
    pub key: u64,
}

impl Scene {
    /// The field of this patch of a patient.
    pub fn draw(seed: u64, patient: &Patient, patch: u64, side_um: [f32; 2], fault: Option<Fault>) -> Self {
        // Patch 0 is the patient's own stream.
        let stream = &mut Stream::new(seed, patient.number, patch + 1, Purpose::Layout);
        let mut scene = Self::areas(stream, patient, side_um);
        if fault == Some(Fault::Lymphocytes) {
            scene = Self { neuropil: None, stroma: None, necrosis: None, nests: None, septa: None, ..scene };
            scene.scatter(stream, Kind::Lymphocyte, area(side_um) * 0.012, patient);
            return scene;
        }
        scene.place_rosettes(stream, patient);
        scene.place_tumour(stream, patient);
        scene.place_findings(stream, patient);
        scene
    }

    fn areas(stream: &mut Stream, patient: &Patient, side_um: [f32; 2]) -> Self {
        let pattern = if stream.chance(0.8) {
            patient.pattern
        } else {
            stream.choose(&[Pattern::Sheets, Pattern::Nests, Pattern::Lobules, Pattern::Loose])
        };
        let neuropil =
            if patient.neuropil > 0.0 { (patient.neuropil * stream.uniform(0.75..1.25)).clamp(0.06, 0.75) } else { 0.0 };
        let mut cover =
            |share: f32, cell: f32, edge: f32| Region::covering(share, Noise::new(stream.key(), cell, 3), edge, side_um);
        let neuropil = cover(neuropil, 30.0, 0.06);
        let oedema = cover(patient.oedema, 34.0, 0.1);
        let nests = cover(if pattern == Pattern::Nests { 0.62 } else { 0.0 }, 32.0, 0.04);
        let fibres = stream.uniform(0.0..TAU);
        let stroma = if stream.chance(0.7) { (patient.stroma * stream.uniform(0.6..1.6)).min(0.25) } else { 0.0 };
        let stroma = Region::covering(stroma, Noise::fibres(stream.key(), 16.0, 6.0, fibres), 0.05, side_um);
        let necrosis = if stream.chance(patient.findings[0]) { stream.uniform(0.1..0.3) } else { 0.0 };
        let necrosis = Region::covering(necrosis, Noise::new(stream.key(), 45.0, 3), 0.05, side_um);
        let septa = (pattern == Pattern::Lobules).then(|| Noise::new(stream.key(), 42.0, 2));
        let (rosettes, cells, key) = (Vec::new(), Vec::new(), stream.key());
        Self { side_um, pattern, neuropil, oedema, stroma, necrosis, nests, septa, rosettes, fibres, cells, key }
    }

    /// A ring of nuclei about a disc of fibrils, in tumours with neuropil.
    fn place_rosettes(&mut self, stream: &mut Stream, patient: &Patient) {
        let count = if patient.neuropil > 0.0 && stream.chance(0.35) { 1 + stream.below(2) } else { 0 };
        for _ in 0..count {
            let ring = stream.uniform(12.0..16.0);
            let [x, y] = self.side_um.map(|side| stream.uniform(ring.min(side / 2.0)..(side - ring).max(side / 2.0)));
            let apart = |other: &[f32; 3]| (other[0] - x).hypot(other[1] - y) > 2.0 * ring + 8.0;
            if !self.rosettes.iter().all(apart) {
                continue;
            }
            self.rosettes.push([x, y, ring - 3.0]);
            let nuclei = 8 + stream.below(7);
            for nucleus in 0..nuclei {
                let turn = TAU * (nucleus as f32 + stream.uniform(-0.2..0.2)) / nuclei as f32;
                let away = ring + stream.normal(0.0, 0.8);
                let mut cell = small(stream, patient);
                (cell.x, cell.y, cell.angle) = (x + away * turn.cos(), y + away * turn.sin(), turn);
                self.cells.push(cell);
            }
        }
    }

    fn place_tumour(&mut self, stream: &mut Stream, patient: &Patient) {
        let loose = if self.pattern == Pattern::Loose { 0.6 } else { 1.0 };
        let density = patient.density_per_mm2 * 1e-6 * loose * stream.uniform(0.85..1.15);
        let share = patient.differentiating_share * stream.uniform(0.8..1.25);
        // Large cells need room: about the area of their cytoplasm.
        let room = share * 480.0 + (1.0 - share) / density;
        let free = self.side_um.map(|side| side + 2.0 * MARGIN).into_iter().product::<f32>();
        let for_large = free * (1.0 - 0.75 * patient.neuropil) * if self.nests.is_some() { 0.65 } else { 1.0 };
        let large = share * for_large / room;
        for _ in 0..whole(stream, large) {
            let cell = differentiating(stream);
            self.try_place(stream, cell, false);
        }
        let others = (1.0 - share) * free / room;
        let kinds = [Kind::Decoy, Kind::Mitosis, Kind::Karyorrhexis];
        for (kind, odd) in kinds.into_iter().zip(patient.odd_cells) {
            for _ in 0..whole(stream, odd * others * 0.6) {
                let cell = odd_cell(stream, kind, patient);
                self.try_place(stream, cell, true);
            }
        }
        for _ in 0..whole(stream, others) {
            let cell = small(stream, patient);
            self.try_place(stream, cell, true);
        }
    }

    fn place_findings(&mut self, stream: &mut Stream, patient: &Patient) {
        let [_, haemorrhage, lymphocytes, calcification] = patient.findings;
        if stream.chance(haemorrhage) {
            let centre = self.side_um.map(|side| stream.uniform(0.15..0.85) * side);
            let spread = stream.uniform(9.0..16.0);
            for _ in 0..15 + stream.below(46) {
                let place = centre.map(|at| stream.normal(at, spread));
                let cell = object(stream, Kind::RedCell, 3.4, 0.85..1.0);
                self.cells.push(Cell { x: place[0], y: place[1], ..cell });
            }
        }
        if stream.chance(lymphocytes) {
            let count = stream.uniform(6.0..20.0);
            self.scatter(stream, Kind::Lymphocyte, count, patient);
        }
        if stream.chance(calcification) {
            for _ in 0..1 + stream.below(3) {
                let radius = stream.uniform(4.0..9.0);
                let cell = object(stream, Kind::Calcification, radius, 0.7..1.0);
                self.try_place(stream, cell, false);
            }
        }
    }

    fn scatter(&mut self, stream: &mut Stream, kind: Kind, count: f32, patient: &Patient) {
        for _ in 0..whole(stream, count) {
            let cell = odd_cell(stream, kind, patient);
            self.try_place(stream, cell, false);
        }
    }

    /// Puts a cell where there is room for it. A cell that may be thinned is lost when it falls into an area that has few cells.
    fn try_place(&mut self, stream: &mut Stream, mut cell: Cell, thinned: bool) {
        for _ in 0..TRIES {
            [cell.x, cell.y] = self.side_um.map(|side| stream.uniform(-MARGIN..side + MARGIN));
            if thinned && !self.kept(stream, &mut cell) {
                return;
            }
            let suits =
                thinned || (!self.inside(self.stroma, &cell) && !self.inside(self.necrosis, &cell) && self.in_nest(&cell));
            if suits && self.has_room(&cell) {
                self.cells.push(cell);
                return;
            }
        }
    }

    /// Whether a small cell is kept here; in stroma it becomes a spindle, in necrosis a ghost.
    fn kept(&self, stream: &mut Stream, cell: &mut Cell) -> bool {
        if self.inside(self.necrosis, cell) {
            cell.kind = Kind::Ghost;
            return stream.chance(0.6);
        }
        if self.inside(self.stroma, cell) {
            let angle = self.fibres + stream.normal(0.0, 0.2);
            *cell = Cell { kind: Kind::Spindle, radius: stream.uniform(5.0..7.5), ratio: 0.26, angle, ..*cell };
            return stream.chance(0.3);
        }
        let fibrils = self.rosettes.iter().any(|[x, y, radius]| (cell.x - x).hypot(cell.y - y) < radius + 5.0);
        let share = match () {
            () if fibrils => 0.0,
            () if self.inside(self.neuropil, cell) => 0.15,
            () if !self.in_nest(cell) => 0.06,
            () if self.on_septum(cell.x, cell.y) > 0.3 => 0.1,
            () => 1.0,
        };
        stream.chance(share)
    }

    fn inside(&self, region: Option<Region>, cell: &Cell) -> bool {
        region.is_some_and(|region| region.at(cell.x, cell.y) > 0.5)
    }

    fn in_nest(&self, cell: &Cell) -> bool {
        self.nests.is_none_or(|nests| nests.at(cell.x, cell.y) > 0.5)
    }

    fn has_room(&self, cell: &Cell) -> bool {
        let clear = |x: f32, y: f32, distance: f32| (x - cell.x).powi(2) + (y - cell.y).powi(2) > distance * distance;
        self.cells.iter().all(|other| clear(other.x, other.y, OVERLAP * (other.reach() + cell.reach())))
            && self.rosettes.iter().all(|[x, y, radius]| clear(*x, *y, radius + cell.reach()))
    }

    /// 1 in the middle of a septum, 0 away from it.
    pub fn on_septum(&self, x: f32, y: f32) -> f32 {
        self.septa.map_or(0.0, |noise| (1.0 - (noise.at(x, y) - 0.5).abs() / 0.035).clamp(0.0, 1.0))
    }

    /// Fibrils at a place, 0..1: neuropil and the inside of rosettes.
    pub fn fibrils(&self, x: f32, y: f32) -> f32 {
        let disc =
            |[centre_x, centre_y, radius]: &[f32; 3]| ((radius - (x - centre_x).hypot(y - centre_y)) / 2.0 + 0.5).clamp(0.0, 1.0);
        let region = self.neuropil.map_or(0.0, |region| region.at(x, y));
        self.rosettes.iter().map(disc).fold(region, f32::max)
    }
}

fn area(side_um: [f32; 2]) -> f32 {
    side_um[0] * side_um[1]
}

/// A whole number whose mean is `count`.
fn whole(stream: &mut Stream, count: f32) -> usize {
    count as usize + usize::from(stream.chance(count.fract()))
}

fn object(stream: &mut Stream, kind: Kind, radius: f32, ratio: std::ops::Range<f32>) -> Cell {
    let (ratio, angle, key) = (stream.uniform(ratio), stream.uniform(0.0..TAU), stream.key());
    Cell { kind, x: 0.0, y: 0.0, radius, ratio, angle, body: 0.0, key }
}

fn small(stream: &mut Stream, patient: &Patient) -> Cell {
    let radius = patient.radius_um * stream.normal(0.0, 0.13).clamp(-0.35, 0.35).exp();
    object(stream, Kind::Small, radius, 0.72..1.0)
}

fn differentiating(stream: &mut Stream) -> Cell {
    let radius = stream.normal(5.4, 0.6).clamp(4.2, 6.8);
    let body = radius * stream.uniform(1.9..2.6);
    Cell { body, ..object(stream, Kind::Differentiating, radius, 0.8..1.0) }
}

fn odd_cell(stream: &mut Stream, kind: Kind, patient: &Patient) -> Cell {
    let radius = match kind {
        Kind::Decoy => patient.radius_um * 1.35 * stream.uniform(0.95..1.1),
        Kind::Mitosis => stream.uniform(3.8..4.8),
        Kind::Lymphocyte => stream.normal(3.0, 0.2).clamp(2.4, 3.6),
        _ => 3.6,
    };
    object(stream, kind, radius, 0.8..1.0)
}
