//! Which patients there are, with their classes, scanners and parts.

use crate::{
    findings::Findings,
    grammar::{self, Description},
    optics::Scanner,
    patch::{self, Patch},
    patient::{Class, Patient, scanner},
    random::{Purpose, Stream},
    sets::{Difficulty, Fault, Set},
    truth::Truth,
};
use clap::ValueEnum;
use mmlnb_models::{measures::facts, rows::Part};
use std::ops::RangeInclusive;

/// Everything that decides a set of phantoms.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Another seed gives other patients and scanners.
    pub seed: u64,
    /// Number of patients.
    pub patients: u64,
    /// Patches of each patient.
    pub patches: RangeInclusive<u32>,
    /// Number of scanners.
    pub sites: usize,
    /// Width and height in pixels.
    pub size: u32,
    /// Micrometres a pixel.
    pub um_per_px: f32,
    /// How hard it is.
    pub set: Set,
    /// Patients of each class, as shares of any sum.
    pub class_shares: [f32; 3],
    /// What is done to the descriptions.
    pub texts: Texts,
}

/// Probabilities that decide the descriptions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Texts {
    /// Four findings in one fixed wording: for describers too small to learn a language beside the findings.
    pub plain: bool,
    /// The class is named.
    pub class_words: f32,
    /// The text is that of another patient's patch.
    pub swapped: f32,
    /// The text says nothing about the patch.
    pub generic: f32,
    /// The text breaks off.
    pub truncated: f32,
    /// One finding is wrong.
    pub wrong: f32,
}

impl Default for Texts {
    fn default() -> Self {
        Self { plain: false, class_words: 0.2, swapped: 0.0, generic: 0.0, truncated: 0.0, wrong: 0.0 }
    }
}

/// A patient with the part of the data that it belongs to.
pub struct Planned {
    /// The patient.
    pub patient: Patient,
    /// Its part.
    pub part: Part,
}

impl Plan {
    /// A patient's name in tables and file names. It holds set and seed: two sets name no two patients alike, so that one can be held back while
    /// the other trains.
    pub fn name_of(&self, patient: &Patient) -> String {
        let set = self.set.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        format!("phantom-{set}-{}-{:04}", self.seed, patient.number + 1)
    }

    /// All patients. A larger number of them only adds patients.
    pub fn draw_patients(&self) -> Vec<Planned> {
        let set = self.set.difficulty();
        let mut members = [0_u64; 3];
        (0..self.patients)
            .map(|number| {
                let class = self.next_class(&members, number);
                let member = members[class as usize];
                members[class as usize] += 1;
                let part = part(member);
                let scanner = self.site(number, part, &set);
                Planned { patient: Patient::draw(self.seed, number, class, scanner, &self.patches, &set), part }
            })
            .collect()
    }

    /// The class that is furthest behind its share.
    fn next_class(&self, members: &[u64; 3], drawn: u64) -> Class {
        let sum: f32 = self.class_shares.iter().sum();
        let behind =
            |class: &Class| self.class_shares[*class as usize] / sum * (drawn + 1) as f32 - members[*class as usize] as f32;
        // Among equals the first.
        Class::ALL.into_iter().rev().max_by(|one, other| behind(one).total_cmp(&behind(other))).unwrap_or(Class::Undifferentiated)
    }

    fn site(&self, number: u64, part: Part, set: &Difficulty) -> usize {
        let drawn = Stream::new(self.seed, number, u64::MAX, Purpose::Scanner).key() as usize;
        match (set.unseen_scanner && self.sites > 1, part) {
            (true, Part::Test) => self.sites - 1,
            (true, _) => drawn % (self.sites - 1),
            (false, _) => drawn % self.sites,
        }
    }

    /// All scanners.
    pub fn scanners(&self) -> Vec<Scanner> {
        let spread = self.set.difficulty().scanner_spread;
        (0..self.sites).map(|number| scanner(self.seed, number, spread)).collect()
    }

    /// What is wrong with a patch, in the set where something is.
    pub fn fault(&self, patient: u64, patch: u32) -> Option<Fault> {
        (self.set == Set::Ood).then(|| Fault::ALL[(patient as usize * 3 + patch as usize) % Fault::ALL.len()])
    }

    /// One patch.
    pub fn draw_patch(&self, patient: &Patient, scanner: &Scanner, patch: u32) -> Patch {
        let fault = self.fault(patient.number, patch);
        patch::draw(self.seed, patient, scanner, u64::from(patch), self.size, self.um_per_px, fault)
    }

    /// The text of a patch before it is swapped for another's.
    pub fn describe(&self, truth: &Truth, patient: u64, patch: u32) -> (Description, Spoiling) {
        let words = &mut Stream::new(self.seed, patient, u64::from(patch), Purpose::Words);
        let spoiling = &mut Stream::new(self.seed, patient, u64::from(patch), Purpose::Spoiling);
        let mut findings = Findings::of(truth);
        let wrong = spoiling.chance(self.texts.wrong);
        if wrong {
            findings = findings.spoiled(spoiling);
        }
        let description = match self.texts.plain {
            true => grammar::describe_plainly(&findings),
            false => grammar::describe(&findings, self.texts.class_words, words),
        };
        if spoiling.chance(self.texts.generic) {
            return (grammar::generic(), Spoiling::Generic);
        }
        if spoiling.chance(self.texts.truncated) {
            let all: Vec<&str> = description.text.split_whitespace().collect();
            let text = all[..(all.len() as f32 * spoiling.uniform(0.3..0.6)) as usize].join(" ");
            return (Description { facts: facts::read(&text), text }, Spoiling::Truncated);
        }
        (description, if wrong { Spoiling::Wrong } else { Spoiling::None })
    }
}

/// What was done to a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spoiling {
    /// Nothing.
    None,
    /// It is another patient's.
    Swapped,
    /// It says nothing.
    Generic,
    /// It breaks off.
    Truncated,
    /// One finding is wrong.
    Wrong,
}

/// Of five patients of a class three train, one validates, one tests.
fn part(member: u64) -> Part {
    match member % 5 {
        1 => Part::Validation,
        3 => Part::Test,
        _ => Part::Train,
    }
}
