//! What a field truly holds, computed from what was drawn, and the class that follows.

use crate::{
    cells::Kind,
    patient::{Class, Pattern},
    scene::Scene,
    texture::sample_points,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// INPC: from this share of differentiating neuroblasts on, a tumour is differentiating.
pub const DIFFERENTIATING: f32 = 0.05;

/// From this share of the field on, neuropil is recognisable.
pub const RECOGNISABLE: f32 = 0.03;

/// The truth of one patch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Truth {
    /// Differentiating cells among all tumour cells whose centre lies in the field.
    pub differentiating_share: f32,
    /// Share of the field covered by neuropil and rosettes.
    pub neuropil_area: f32,
    /// Objects of each kind whose centre lies in the field.
    pub counts: BTreeMap<Kind, usize>,
    /// Share of the field covered by Schwannian stroma.
    pub stroma_area: f32,
    /// Share of the field that is dead.
    pub necrosis_area: f32,
    /// Share of the field that is oedema.
    pub oedema_area: f32,
    /// Homer Wright rosettes.
    pub rosettes: usize,
    /// How cells are arranged.
    pub pattern: Pattern,
    /// Tumour cells per mm2 of the whole field.
    pub density_per_mm2: f32,
    /// Whether the image is far out of focus.
    pub blurred: bool,
}

impl Truth {
    /// Counts and measures a scene.
    pub fn of(scene: &Scene) -> Self {
        let inside = |x: f32, y: f32| (0.0..scene.side_um[0]).contains(&x) && (0.0..scene.side_um[1]).contains(&y);
        let mut counts = BTreeMap::new();
        for cell in scene.cells.iter().filter(|cell| inside(cell.x, cell.y)) {
            *counts.entry(cell.kind).or_insert(0) += 1;
        }
        let tumour: usize = counts.iter().filter(|(kind, _)| kind.is_tumour_cell()).map(|(_, count)| count).sum();
        let differentiating = counts.get(&Kind::Differentiating).copied().unwrap_or(0);
        let points: Vec<[f32; 2]> = sample_points(scene.side_um).collect();
        let share = |is_there: &dyn Fn(f32, f32) -> bool| {
            points.iter().filter(|[x, y]| is_there(*x, *y)).count() as f32 / points.len() as f32
        };
        let dead = |x, y| scene.necrosis.is_some_and(|region| region.at(x, y) > 0.5);
        let stroma = |x, y| !dead(x, y) && scene.stroma.is_some_and(|region| region.at(x, y) > 0.5);
        let fibrils = |x, y| !dead(x, y) && !stroma(x, y) && scene.fibrils(x, y) > 0.5;
        Self {
            differentiating_share: differentiating as f32 / tumour.max(1) as f32,
            neuropil_area: share(&fibrils),
            stroma_area: share(&stroma),
            necrosis_area: share(&dead),
            oedema_area: share(&|x, y| {
                !dead(x, y) && !stroma(x, y) && !fibrils(x, y) && scene.oedema.is_some_and(|region| region.at(x, y) > 0.5)
            }),
            counts,
            rosettes: scene.rosettes.len(),
            pattern: scene.pattern,
            density_per_mm2: tumour as f32 / (scene.side_um[0] * scene.side_um[1]) * 1e6,
            blurred: false,
        }
    }

    /// The class of the patch: D, else PD, else UD.
    pub fn class(&self) -> Class {
        if self.differentiating_share >= DIFFERENTIATING {
            Class::Differentiating
        } else if self.neuropil_area >= RECOGNISABLE {
            Class::PoorlyDifferentiated
        } else {
            Class::Undifferentiated
        }
    }

    /// Objects of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.counts.get(&kind).copied().unwrap_or(0)
    }
}
