//! What a pathologist would say of a patch, read off its truth.

use crate::{
    cells::Kind,
    patient::{Class, Pattern},
    random::Stream,
    truth::Truth,
};

/// How much of something there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Amount {
    /// Below what can be recognised.
    Absent,
    /// A little.
    Scant,
    /// In between.
    Moderate,
    /// Much.
    Abundant,
}

/// How many cells there are, by terciles over phantoms of the standard set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cellularity {
    /// Few.
    Low,
    /// In between.
    Moderate,
    /// Many.
    High,
}

/// Upper bounds of the lower two terciles of cells per mm2.
const TERCILES: [f32; 2] = [3600.0, 5600.0];

/// Everything that a description may speak of.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// The class of the patch.
    pub class: Class,
    /// How cells are arranged.
    pub pattern: Pattern,
    /// How many cells there are.
    pub cellularity: Cellularity,
    /// How much neuropil there is.
    pub neuropil: Amount,
    /// Differentiating neuroblasts in percent of the cells.
    pub differentiating: u32,
    /// Homer Wright rosettes.
    pub rosettes: usize,
    /// Whether some nuclei have a prominent nucleolus.
    pub nucleoli: bool,
    /// Whether there are mitoses.
    pub mitoses: bool,
    /// Whether there are nuclei in fragments.
    pub karyorrhexis: bool,
    /// Whether there is Schwannian stroma.
    pub stroma: bool,
    /// Whether there is blood outside vessels.
    pub haemorrhage: bool,
    /// Whether there is dead tissue.
    pub necrosis: bool,
    /// Whether there are lymphocytes.
    pub lymphocytes: bool,
    /// Whether there is calcium.
    pub calcification: bool,
    /// Whether the image is out of focus.
    pub blurred: bool,
}

impl Findings {
    /// What is to be said of a patch.
    pub fn of(truth: &Truth) -> Self {
        let share = truth.differentiating_share * 100.0;
        Self {
            class: truth.class(),
            pattern: truth.pattern,
            cellularity: match truth.density_per_mm2 {
                density if density < TERCILES[0] => Cellularity::Low,
                density if density < TERCILES[1] => Cellularity::Moderate,
                _ => Cellularity::High,
            },
            neuropil: amount(truth.neuropil_area),
            // Up, so that a cell that is there is never rounded to none.
            differentiating: share.ceil() as u32,
            rosettes: truth.rosettes,
            nucleoli: truth.count(Kind::Differentiating) + truth.count(Kind::Decoy) > 0,
            mitoses: truth.count(Kind::Mitosis) > 0,
            karyorrhexis: truth.count(Kind::Karyorrhexis) > 0,
            stroma: truth.stroma_area >= 0.02,
            haemorrhage: truth.count(Kind::RedCell) >= 5,
            necrosis: truth.necrosis_area >= 0.03,
            lymphocytes: truth.count(Kind::Lymphocyte) >= 3,
            calcification: truth.count(Kind::Calcification) > 0,
            blurred: truth.blurred,
        }
    }

    /// The same with one thing wrong in it.
    pub fn spoiled(mut self, stream: &mut Stream) -> Self {
        match stream.below(6) {
            0 => {
                self.neuropil = match self.neuropil {
                    Amount::Absent | Amount::Scant => Amount::Abundant,
                    Amount::Moderate | Amount::Abundant => Amount::Absent,
                }
            }
            1 => self.differentiating = if self.differentiating > 4 { 0 } else { 12 },
            2 => {
                self.cellularity = match self.cellularity {
                    Cellularity::Low | Cellularity::Moderate => Cellularity::High,
                    Cellularity::High => Cellularity::Low,
                }
            }
            3 => self.rosettes = if self.rosettes > 0 { 0 } else { 2 },
            4 => self.necrosis = !self.necrosis,
            _ => self.haemorrhage = !self.haemorrhage,
        }
        self
    }
}

fn amount(share: f32) -> Amount {
    match share {
        share if share < super::truth::RECOGNISABLE => Amount::Absent,
        share if share < 0.15 => Amount::Scant,
        share if share < 0.35 => Amount::Moderate,
        _ => Amount::Abundant,
    }
}
