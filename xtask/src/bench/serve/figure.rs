//! What is measured of every side, and what is wanted of ours.

use super::machine::Class;

/// Parts of the bench; `--only` chooses among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Prompt and decoding of the language model, by token ids
    Decode,
    /// Start-up, first token with an image, images an hour of image, description and classes
    Pipeline,
    /// Images a second of VGG16, BERT-base and fusion
    Classifier,
    /// From an image's file to the networks' inputs
    Preparation,
    /// The decoder in int4 from a checkpoint: time and memory
    Export,
    /// Twenty images that are dropped together, beside the describer's own time, of the appliance alone
    Queue,
    /// Drop to report, less inference, of the appliance alone
    Overhead,
}

/// A measured quantity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Its name in scripts and in the table.
    pub name: &'static str,
    pub part: Part,
    pub unit: &'static str,
    /// Whether a larger value is the better one.
    pub more_is_better: bool,
    /// How many times better than the best peer we have to be, with and without VNNI.
    wanted: Option<(f64, f64)>,
}

impl Figure {
    /// How many times better than the best peer we have to be on such a processor; `None`: it is only told.
    pub fn wanted(&self, class: Class) -> Option<f64> {
        self.wanted.map(|(vnni, plain)| if class == Class::Vnni { vnni } else { plain })
    }

    /// How many times better ours is than theirs.
    pub fn ratio(&self, ours: f64, theirs: f64) -> f64 {
        if self.more_is_better { ours / theirs } else { theirs / ours }
    }
}

const fn more(name: &'static str, part: Part, unit: &'static str, wanted: Option<(f64, f64)>) -> Figure {
    Figure { name, part, unit, more_is_better: true, wanted }
}

const fn less(name: &'static str, part: Part, unit: &'static str) -> Figure {
    Figure { name, part, unit, more_is_better: false, wanted: None }
}

/// All of them, in the order of the table.
pub const FIGURES: [Figure; 11] = [
    more("prompt", Part::Decode, "tokens/s", Some((1.2, 1.15))),
    more("decode 1", Part::Decode, "tokens/s", Some((1.2, 1.0))),
    more("decode 4", Part::Decode, "tokens/s", Some((1.3, 1.15))),
    more("decode 16", Part::Decode, "tokens/s", Some((1.05, 1.0))),
    less("start-up", Part::Pipeline, "s"),
    less("first token", Part::Pipeline, "s"),
    more("pipeline", Part::Pipeline, "images/h", Some((4.0, 2.5))),
    more("classifier", Part::Classifier, "images/s", Some((3.0, 1.5))),
    less("preparation", Part::Preparation, "s/image"),
    less("export", Part::Export, "s"),
    less("export memory", Part::Export, "GiB"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_means_that_ours_is_better() {
        let [speed, time] = ["decode 1", "export"].map(|name| FIGURES.into_iter().find(|figure| figure.name == name).unwrap());
        assert_eq!((speed.ratio(30.0, 20.0), time.ratio(10.0, 20.0)), (1.5, 2.0));
        assert_eq!(
            (speed.wanted(Class::Vnni), speed.wanted(Class::Plain), time.wanted(Class::Vnni)),
            (Some(1.2), Some(1.0), None)
        );
    }
}
