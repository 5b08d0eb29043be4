//! What a figure of reliability is: rounds that are played, and what they measured.

use mmlnb_models::random::Draw;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// All that is drawn by chance begins here.
const SEED: u64 = 13;

/// One figure.
pub struct Figure {
    /// `F1`, ..
    pub name: &'static str,
    /// What is done, in one line.
    pub what: &'static str,
    /// What must come out.
    pub wanted: &'static str,
    /// What a round is, in the plural.
    pub unit: &'static str,
    /// Rounds of the whole figure.
    pub full: fn() -> u64,
    /// Rounds in the short form, where it has one.
    pub short: Option<u64>,
    /// Rounds that are played together, on one appliance.
    pub step: u64,
    /// Whether nothing may run beside it: it measures time or memory.
    pub alone: bool,
    /// Why it cannot be played on this machine.
    pub hindrance: fn() -> Option<String>,
    /// Plays a step. Written as a test is: it panics at the first thing that is not as it should be.
    pub play: fn(&Step) -> Measures,
}

/// Rounds that are played together.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The figure's name.
    pub figure: &'static str,
    /// The first round: the step's seed.
    pub first: u64,
    /// How many rounds.
    pub count: u64,
}

impl Step {
    /// The rounds.
    pub fn rounds(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.count
    }

    /// The random numbers of a round.
    pub fn draw(&self, round: u64) -> Draw {
        Draw::new(SEED, self.figure, &[round])
    }
}

/// What was measured: counts that add up, and largest values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measures {
    counts: BTreeMap<String, u64>,
    largest: BTreeMap<String, (f64, String)>,
}

impl Measures {
    /// Adds to a count, such as `kills`.
    pub fn count(&mut self, what: &str, number: u64) {
        *self.counts.entry(what.to_owned()).or_default() += number;
    }

    /// Notes a value, such as `longest start` in `s`, of which the largest is kept.
    pub fn most(&mut self, what: &str, value: f64, unit: &str) {
        let kept = self.largest.entry(what.to_owned()).or_insert((value, unit.to_owned()));
        kept.0 = kept.0.max(value);
    }

    /// Takes those of more rounds in.
    pub fn add(&mut self, other: &Measures) {
        other.counts.iter().for_each(|(what, number)| self.count(what, *number));
        other.largest.iter().for_each(|(what, (value, unit))| self.most(what, *value, unit));
    }

    /// In words.
    pub fn text(&self) -> String {
        let counts = self.counts.iter().map(|(what, number)| format!("{} {what}", thousands(*number)));
        let largest = self.largest.iter().map(|(what, (value, unit))| {
            let digits = if *value < 10.0 && value.fract() != 0.0 { 2 } else { 0 };
            format!("{what} {value:.digits$} {unit}").trim_end().to_owned()
        });
        counts.chain(largest).collect::<Vec<_>>().join(", ")
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let largest: Map<String, Value> =
            self.largest.iter().map(|(what, kept)| (what.clone(), json!([kept.0, kept.1]))).collect();
        json!({ "counts": self.counts, "largest": largest })
    }

    /// From [`Measures::json`]; nothing where it is something else.
    pub fn read(value: &Value) -> Option<Measures> {
        let counts = value["counts"].as_object()?.iter().map(|(what, number)| Some((what.clone(), number.as_u64()?)));
        let largest = value["largest"].as_object()?.iter();
        let largest = largest.map(|(what, kept)| Some((what.clone(), (kept[0].as_f64()?, kept[1].as_str()?.to_owned()))));
        Some(Measures { counts: counts.collect::<Option<_>>()?, largest: largest.collect::<Option<_>>()? })
    }
}

/// A number with a comma after every third digit.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Brings the numbers below `total` into an order in which any first few are spread over the whole.
pub fn spread(round: u64, total: u64) -> u64 {
    // Near total / golden ratio, and without a common divisor.
    let common = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let near = (total as f64 * 0.618_034) as u64;
    let stride = (near.max(1)..).find(|stride| common(*stride, total) == 1).unwrap_or(1);
    (round % total) * stride % total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_add_up_and_come_back_from_json() {
        let mut measures = Measures::default();
        measures.count("kills", 1_999);
        measures.most("longest start", 1.25, "s");
        let mut more = Measures::default();
        more.count("kills", 1);
        more.most("longest start", 0.5, "s");
        measures.add(&more);
        assert_eq!(measures.text(), "2,000 kills, longest start 1.25 s");
        assert_eq!(Measures::read(&measures.json()), Some(measures));
        assert_eq!(Measures::read(&json!({"counts": 1})), None);
    }

    #[test]
    fn spreading_meets_each_number_once() {
        for total in [1, 2, 7, 216, 1400] {
            let mut met: Vec<u64> = (0..total).map(|round| spread(round, total)).collect();
            met.sort_unstable();
            assert_eq!(met, (0..total).collect::<Vec<_>>(), "{total}");
        }
    }
}
