//! The named sets: what makes phantoms easy or hard.

use clap::ValueEnum;
use serde::Serialize;
use std::ops::Range;

/// A named set of phantoms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Set {
    /// Wide gaps between the classes, little else: a test of code
    Easy,
    /// Gaps as tumours have them, look-alikes, stains and scanners that differ
    Standard,
    /// The share of differentiating cells runs through the 5 % border; the test part comes from a scanner that training never saw
    Hard,
    /// Nothing of it is like training: blank, blurred, wrong scale, brown stain, lymphocytes only, noise, a photograph's gradients
    Ood,
}

/// What a set draws its patients from.
#[derive(Clone, Debug)]
pub struct Difficulty {
    /// Share of differentiating cells in patients of class PD.
    pub poorly_share: Range<f32>,
    /// The same in class D (as many small as large ones, by ratio).
    pub differentiating_share: Range<f32>,
    /// Share of the field that is neuropil in class PD.
    pub poorly_neuropil: Range<f32>,
    /// The same in class D.
    pub differentiating_neuropil: Range<f32>,
    /// Large nuclei with a nucleolus but without cytoplasm: at most this share of the cells.
    pub decoys: f32,
    /// Factor on how often stroma, haemorrhage, necrosis and the like are there.
    pub distractors: f32,
    /// Pale pink areas without fibres: at most this share of the field.
    pub oedema: f32,
    /// How far stains differ between patients; 1 as between laboratories.
    pub stain_spread: f32,
    /// How far scanners differ; 1 as they do.
    pub scanner_spread: f32,
    /// The last scanner takes the test part, and nothing else.
    pub unseen_scanner: bool,
}

impl Set {
    /// What its patients are drawn from.
    pub fn difficulty(self) -> Difficulty {
        let standard = Difficulty {
            poorly_share: 0.0..0.035,
            differentiating_share: 0.065..0.30,
            poorly_neuropil: 0.12..0.55,
            differentiating_neuropil: 0.2..0.6,
            decoys: 0.06,
            distractors: 1.0,
            oedema: 0.3,
            stain_spread: 1.0,
            scanner_spread: 1.0,
            unseen_scanner: false,
        };
        match self {
            Set::Easy => Difficulty {
                poorly_share: 0.0..0.0,
                differentiating_share: 0.18..0.40,
                poorly_neuropil: 0.25..0.55,
                decoys: 0.0,
                distractors: 0.4,
                oedema: 0.1,
                stain_spread: 0.3,
                scanner_spread: 0.3,
                ..standard
            },
            Set::Standard | Set::Ood => standard,
            Set::Hard => Difficulty {
                poorly_share: 0.02..0.05,
                differentiating_share: 0.05..0.09,
                decoys: 0.1,
                unseen_scanner: true,
                ..standard
            },
        }
    }
}

/// What is wrong with a phantom of [`Set::Ood`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Clear glass.
    Blank,
    /// Far out of focus.
    Blurred,
    /// Half the magnification that the size says.
    HalfScale,
    /// Twice the magnification.
    DoubleScale,
    /// A brown stain in place of eosin.
    Brown,
    /// A lymph node: lymphocytes and nothing else.
    Lymphocytes,
    /// No picture at all.
    Noise,
    /// Smooth colours as in a photograph.
    Gradients,
}

impl Fault {
    /// All of them, in the order in which patches of the set get them.
    pub const ALL: [Fault; 8] = [
        Fault::Blank,
        Fault::Blurred,
        Fault::HalfScale,
        Fault::DoubleScale,
        Fault::Brown,
        Fault::Lymphocytes,
        Fault::Noise,
        Fault::Gradients,
    ];

    /// Whether there is a tumour in the image at all.
    pub fn shows_tumour(self) -> bool {
        matches!(self, Fault::Blurred | Fault::HalfScale | Fault::DoubleScale | Fault::Brown)
    }
}
