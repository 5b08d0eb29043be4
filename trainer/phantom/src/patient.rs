//! A patient: one tumour, one stain, one scanner.

use crate::{
    optics::{Scanner, Stain},
    random::{Purpose, Stream},
    sets::Difficulty,
};
use serde::Serialize;
use std::ops::RangeInclusive;

/// The classes of neuroblastoma by the INPC, from the least to the most differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Class {
    /// Undifferentiated.
    #[serde(rename = "UD")]
    Undifferentiated,
    /// Poorly differentiated.
    #[serde(rename = "PD")]
    PoorlyDifferentiated,
    /// Differentiating.
    #[serde(rename = "D")]
    Differentiating,
}

impl Class {
    /// All, in order.
    pub const ALL: [Class; 3] = [Class::Undifferentiated, Class::PoorlyDifferentiated, Class::Differentiating];

    /// As it stands in the CSV.
    pub fn name(self) -> &'static str {
        ["UD", "PD", "D"][self as usize]
    }

    /// In words.
    pub fn words(self) -> &'static str {
        ["undifferentiated", "poorly differentiated", "differentiating"][self as usize]
    }
}

/// How tumour cells are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Evenly everywhere.
    Sheets,
    /// In islands between pale stroma.
    Nests,
    /// In large lobes between thin septa.
    Lobules,
    /// Far apart.
    Loose,
}

/// What is the same in all patches of one patient.
#[derive(Clone, Debug, Serialize)]
pub struct Patient {
    /// From 0.
    pub number: u64,
    /// The class that was meant; a patch's own class is computed from what was drawn.
    pub patient_class: Class,
    /// Share of differentiating cells that was meant.
    pub differentiating_share: f32,
    /// Share of neuropil that was meant.
    pub neuropil: f32,
    /// Small cells per mm2 where there are only such cells.
    pub density_per_mm2: f32,
    /// Mean radius of small nuclei, um.
    pub radius_um: f32,
    /// Contrast of salt and pepper chromatin.
    pub chromatin: f32,
    /// The usual arrangement.
    pub pattern: Pattern,
    /// Share of cells that are decoys, mitoses, karyorrhexis.
    pub odd_cells: [f32; 3],
    /// Share of Schwannian stroma.
    pub stroma: f32,
    /// Share of pale pink areas without fibres.
    pub oedema: f32,
    /// Probability of necrosis, haemorrhage, lymphocytes, calcification in a patch.
    pub findings: [f32; 4],
    /// Number of the scanner, from 0.
    pub scanner: usize,
    /// How the slide was stained.
    pub stain: Stain,
    /// Patches that are drawn.
    pub patches: u32,
}

impl Patient {
    /// The patient of this number.
    pub fn draw(seed: u64, number: u64, class: Class, scanner: usize, patches: &RangeInclusive<u32>, set: &Difficulty) -> Self {
        let stream = &mut Stream::new(seed, number, 0, Purpose::Patient);
        let (differentiating_share, neuropil) = match class {
            Class::Undifferentiated => (0.0, 0.0),
            Class::PoorlyDifferentiated => {
                (stream.uniform(set.poorly_share.clone()), stream.uniform(set.poorly_neuropil.clone()))
            }
            Class::Differentiating => {
                (stream.log_uniform(set.differentiating_share.clone()), stream.uniform(set.differentiating_neuropil.clone()))
            }
        };
        let mut often = |probability: f32, within: f32| if stream.chance(probability * set.distractors) { within } else { 0.02 };
        let findings = [often(0.15, 0.5), often(0.3, 0.5), often(0.25, 0.5), often(0.1, 0.4)];
        Self {
            number,
            patient_class: class,
            differentiating_share,
            neuropil,
            density_per_mm2: stream.uniform(5500.0..11_000.0),
            radius_um: stream.normal(3.9, 0.35).clamp(3.0, 4.9) * 0.9,
            chromatin: stream.uniform(0.06..0.14),
            pattern: stream.choose(&[Pattern::Sheets, Pattern::Nests, Pattern::Lobules, Pattern::Loose]),
            odd_cells: [set.decoys, 0.02, 0.03].map(|most| stream.uniform(0.0..most)),
            stroma: if stream.chance(0.4 * set.distractors) { stream.uniform(0.03..0.12) } else { 0.0 },
            oedema: stream.uniform(0.0..set.oedema),
            findings: findings.map(|probability| probability * set.distractors.min(1.0)),
            scanner,
            stain: Stain::draw(stream, set.stain_spread),
            patches: patches.start() + stream.below((patches.end() - patches.start() + 1) as usize) as u32,
        }
    }
}

/// The scanner of this number.
pub fn scanner(seed: u64, number: usize, spread: f32) -> Scanner {
    Scanner::draw(&mut Stream::new(seed, number as u64, 0, Purpose::Scanner), spread)
}
