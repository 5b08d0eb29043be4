//! What was found on held-out data about a classifier's answers, and decides whether a report is accepted.

use crate::{
    measures::novelty::Mahalanobis,
    prepare::colours::{self, MEASURES},
};
use serde::{Deserialize, Serialize};

/// Probabilities are softmax(logits / temperature); [`crate::verdict::verdict`] decides with the rest.
///
/// Only temperature and threshold are required; what is absent is not judged.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Divides the logits.
    pub temperature: f64,
    /// Least top probability of an accepted report; null: none could be found, everything abstains.
    pub threshold: Option<f64>,
    /// What the threshold promises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<Guarantee>,
    /// How far from the training data is too far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub novelty: Option<NoveltyLimit>,
    /// How the training images were stained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colours: Option<ColourLimit>,
    /// What the training images were like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Ranges>,
    /// Descriptions written for many training images of differing classes, which therefore say nothing about one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generic_texts: Vec<String>,
    /// Whether the parts of the data were split by patient; null: not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient_split: Option<bool>,
    /// How the data were split, e.g. `default`, `column`, `paper` (best epoch chosen on the part that is reported), `leave-out SITE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Whether the describer was tuned on images that are reported on here, so that the figures are too good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub describer_overlap: bool,
    /// Whether nobody knows what the describer of the texts was tuned on: images that are reported on may be among it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub describer_unknown: bool,
}

impl Default for Calibration {
    /// Temperature 1 and no threshold.
    fn default() -> Self {
        Calibration {
            temperature: 1.0,
            threshold: None,
            guarantee: None,
            novelty: None,
            colours: None,
            ranges: None,
            generic_texts: Vec::new(),
            patient_split: None,
            protocol: None,
            describer_overlap: false,
            describer_unknown: false,
        }
    }
}

impl Calibration {
    /// What is impossible in it, if anything.
    pub fn problem(&self) -> Option<String> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Some(format!("the temperature {} is not above zero", self.temperature));
        }
        if let Some(threshold) = self.threshold.filter(|threshold| !(0.0..=1.0).contains(threshold)) {
            return Some(format!("the threshold {threshold} is no probability"));
        }
        match &self.novelty {
            Some(limit) if limit.neighbours == 0 => return Some("novelty needs at least one neighbour".to_string()),
            _ => {}
        }
        let wrong = self.colours.as_ref().filter(|limit| !limit.distance.measures(MEASURES) || !limit.threshold.is_finite());
        wrong.map(|_| format!("`colours` does not measure {MEASURES} numbers of an image"))
    }

    /// What it says, a line each, for a model card.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![match self.threshold {
            Some(threshold) => format!("temperature {:.4}, accepted from probability {threshold} on", self.temperature),
            None => format!("temperature {:.4}, no threshold: every verdict is an abstention", self.temperature),
        }];
        lines.extend(self.guarantee.as_ref().map(Guarantee::line));
        lines.extend(self.novelty.as_ref().map(|limit| {
            format!(
                "far from training: distance to neighbour {} above {:.4}; false alarms at most {:.0} % on images like the training's",
                limit.neighbours,
                limit.threshold,
                100.0 * limit.false_alarm
            )
        }));
        lines.extend(self.colours.as_ref().map(|limit| {
            format!(
                "unusual colours: distance of the staining above {:.2}; false alarms at most {:.0} % on images like the training's",
                limit.threshold,
                100.0 * limit.false_alarm
            )
        }));
        let ranges = self.ranges.iter().flat_map(|ranges| {
            [("sides of the training images, pixels", ranges.image_side), ("micrometres a pixel", ranges.microns_per_pixel)]
        });
        lines.extend(ranges.filter_map(|(name, range)| range.map(|[least, most]| format!("{name}: {least} to {most}"))));
        if !self.generic_texts.is_empty() {
            lines.push(format!("generic descriptions known: {}", self.generic_texts.len()));
        }
        lines.extend(self.protocol.as_ref().map(|protocol| format!("protocol: {protocol}")));
        lines.extend(self.patient_split.map(|by_patient| {
            if by_patient { "split by patient" } else { "NOT split by patient: the figures are too good" }.to_string()
        }));
        if self.describer_overlap {
            lines.push("the describer was tuned on images that are reported on: the figures are too good".to_string());
        }
        if self.describer_unknown {
            lines.push(
                "unknown: what the describer of the texts was tuned on; images that are reported on may be among it".to_string(),
            );
        }
        lines
    }
}

/// "Of the accepted reports at most a share `risk` is wrong, with this confidence, for patients like the calibration patients."
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Guarantee {
    /// Largest share of errors among accepted reports.
    pub risk: f64,
    /// Probability with which the bound holds over draws of the calibration data.
    pub confidence: f64,
    /// Calibration items whose top probability reaches the threshold, and that no other reason declines.
    pub items: u64,
    /// Patients of the calibration part; null: without patients the items were taken as independent.
    pub groups: Option<u64>,
    /// Patients of equal weight that the accepted items are worth (Kish); equals `items` without patients.
    pub effective_items: f64,
    /// Errors among the accepted calibration items.
    pub errors: u64,
}

/// An image is far from the training data when its novelty, the distance of its fused features to the stored ones, exceeds the threshold.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct NoveltyLimit {
    /// Largest novelty of a familiar image.
    pub threshold: f64,
    /// Share of images like the training's that exceed it, at most.
    pub false_alarm: f64,
    /// The novelty is the distance to this many-th nearest stored feature.
    pub neighbours: usize,
}

/// An image's colours are unusual when its staining ([`colours::measures`]) lies farther from that of the training images than the threshold.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ColourLimit {
    /// Squared distance to the training images' mean, in their own spread.
    pub distance: Mahalanobis,
    /// Largest distance of a familiar image.
    pub threshold: f64,
    /// Share of images like the training's that exceed it, at most.
    pub false_alarm: f64,
}

impl ColourLimit {
    /// Whether colours are unlike the training images'.
    pub fn is_exceeded(&self, colours: &[f64; colours::MEASURES]) -> bool {
        self.score(colours) > self.threshold
    }

    /// The distance.
    pub fn score(&self, colours: &[f64; colours::MEASURES]) -> f64 {
        self.distance.score(&colours.map(|value| value as f32))
    }
}

/// Sides and scales of the training images, smallest and largest.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Ranges {
    /// Shortest and longest side, in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_side: Option<[f64; 2]>,
    /// Micrometres a pixel, of the images that state them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub microns_per_pixel: Option<[f64; 2]>,
}

impl Guarantee {
    /// The promise in words.
    fn line(&self) -> String {
        let by = match self.groups {
            Some(groups) => format!("{groups} patients, who count for {:.1} of equal weight", self.effective_items),
            None => "no patients known, items taken as independent".to_string(),
        };
        format!(
            "promise: at most {:.0} % of accepted answers are wrong, with confidence {:.0} %, for patients like the calibration patients \
             ({} errors among {} accepted items, {by})",
            100.0 * self.risk,
            100.0 * self.confidence,
            self.errors,
            self.items
        )
    }
}
