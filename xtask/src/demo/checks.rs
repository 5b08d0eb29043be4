//! What the demo must show, with intervals, or it fails.

use super::{
    serve::{Item, Served},
    train::RISK,
};
use anyhow::{Context, Result, ensure};
use mmlnb_models::measures::{calibration::upper_bound, facts};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    of: usize,
    count: usize,
}

impl Share {
    fn new(items: &[&Item], holds: impl Fn(&Item) -> bool) -> Self {
        Self { of: items.len(), count: items.iter().filter(|item| holds(item)).count() }
    }

    fn value(self) -> f64 {
        self.count as f64 / self.of.max(1) as f64
    }

    /// Two-sided, 95 % (Clopper-Pearson). Every item is a patient of its own, so they are independent.
    fn interval(self) -> [f64; 2] {
        let (count, of) = (self.count as f64, self.of as f64);
        [1.0 - upper_bound(of - count, of, 0.975), upper_bound(count, of, 0.975)]
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, high] = self.interval();
        write!(f, "{:.3} [{low:.3}, {high:.3}] ({} of {})", self.value(), self.count, self.of)
    }
}

/// Everything that is judged.
pub struct Figures {
    accuracy: Share,
    commonest: f64,
    accepted: Share,
    wrong_accepted: Share,
    facts: f64,
    facts_shuffled: f64,
    distinct: Share,
    foreign_abstained: Share,
    tissue_abstained: Share,
}

impl Figures {
    /// Measures what was served.
    pub fn of(served: &Served) -> Result<Self> {
        let all: Vec<&Item> = served.phantoms.iter().collect();
        let right = |item: &Item| item.report["leading_class"] == item.class.as_str();
        let is_accepted = |item: &Item| item.report["verdict"] == "accepted";
        let abstained = |item: &Item| item.report["verdict"] == "abstain";
        let accepted: Vec<&Item> = all.iter().copied().filter(|item| is_accepted(item)).collect();
        let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
        all.iter().for_each(|item| *classes.entry(&item.class).or_default() += 1);
        let commonest = classes.values().max().copied().unwrap_or(0) as f64 / all.len().max(1) as f64;
        let texts: Vec<&str> = all.iter().map(|item| item.report["description"].as_str().unwrap_or("")).collect();
        let references: Vec<&str> = all.iter().map(|item| item.description.as_str()).collect();
        let distinct = texts.iter().collect::<BTreeSet<_>>().len();
        Ok(Self {
            accuracy: Share::new(&all, right),
            commonest,
            accepted: Share::new(&all, is_accepted),
            wrong_accepted: Share::new(&accepted, |item| !right(item)),
            facts: facts_f1(&texts, &references)?,
            facts_shuffled: shuffled(&texts, &references)?,
            distinct: Share { of: texts.len(), count: distinct },
            foreign_abstained: Share::new(&served.foreign.iter().collect::<Vec<_>>(), abstained),
            tissue_abstained: Share::new(&served.tissue.iter().collect::<Vec<_>>(), abstained),
        })
    }

    /// An error that lists everything that is not met.
    pub fn judge(&self) -> Result<()> {
        let low = self.accuracy.interval()[0];
        let wanted = [
            (self.accuracy.of >= 20, "at least 20 phantoms are served".to_owned()),
            (self.accuracy.value() >= 0.70, format!("accuracy {:.3} is at least 0.70", self.accuracy.value())),
            (
                low > self.commonest,
                format!("accuracy's lower bound {low:.3} is above the commonest class's share {:.3}", self.commonest),
            ),
            (self.accepted.value() >= 0.5, format!("at least half are accepted, not {:.3}", self.accepted.value())),
            (
                self.accepted.count > 0 && self.wrong_accepted.value() <= RISK,
                format!("at most {RISK} of the accepted are wrong, not {:.3}", self.wrong_accepted.value()),
            ),
            (
                self.facts >= self.facts_shuffled + 0.2,
                format!("facts F1 {:.3} is 0.2 above that of shuffled texts, {:.3}", self.facts, self.facts_shuffled),
            ),
            (
                self.distinct.value() > 0.25,
                format!("more than a quarter of the texts are distinct, not {:.3}", self.distinct.value()),
            ),
            (self.tissue_abstained.of >= 10, "at least 10 tiles of real tissue are served".to_owned()),
            (
                self.tissue_abstained.value() > 0.5,
                format!("more than half of the real tissue is abstained from, not {:.3}", self.tissue_abstained.value()),
            ),
        ];
        let missed: Vec<String> =
            wanted.into_iter().filter(|(met, _)| !met).map(|(_, what)| format!("  not met: {what}")).collect();
        ensure!(missed.is_empty(), "the demo does not show what it should:\n{}", missed.join("\n"));
        Ok(())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "phantoms of unseen patients, with 95 % intervals")?;
        writeln!(f, "  accuracy                {}; commonest class {:.3}", self.accuracy, self.commonest)?;
        writeln!(f, "  accepted                {}", self.accepted)?;
        writeln!(f, "  wrong among accepted    {}", self.wrong_accepted)?;
        writeln!(f, "  facts F1 of the texts   {:.3}; of shuffled texts {:.3}", self.facts, self.facts_shuffled)?;
        writeln!(f, "  distinct texts          {:.3} ({} of {})", self.distinct.value(), self.distinct.count, self.distinct.of)?;
        writeln!(f, "  foreign phantoms: abstained {}", self.foreign_abstained)?;
        write!(f, "  real tissue: abstained      {}", self.tissue_abstained)
    }
}

fn facts_f1(texts: &[&str], references: &[&str]) -> Result<f64> {
    facts::measure(texts, references)?.f1.context("neither texts nor references state a fact")
}

/// The mean over all ways of handing every image the text of the one some places on.
fn shuffled(texts: &[&str], references: &[&str]) -> Result<f64> {
    let mut sum = 0.0;
    for shift in 1..texts.len() {
        let mut moved = texts.to_vec();
        moved.rotate_left(shift);
        sum += facts_f1(&moved, references)?;
    }
    Ok(sum / (texts.len().max(2) - 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(class: &str, says: &str, verdict: &str, description: &str, text: &str) -> Item {
        let report = json!({"leading_class": says, "verdict": verdict, "description": text});
        Item { name: String::new(), class: class.into(), description: description.into(), report }
    }

    fn served(error: bool) -> Served {
        let texts = ["Neuropil is absent. No rosettes are seen.", "Neuropil is abundant; rosettes are present."];
        let phantoms = (0..40)
            .map(|number| {
                let kind = number % 2;
                let class = ["UD", "PD"][kind];
                let says = if error { "UD" } else { class };
                item(class, says, "accepted", texts[kind], &format!("{} This is patch {number}.", texts[kind]))
            })
            .collect();
        let tissue = (0..12).map(|_| item("", "UD", if error { "accepted" } else { "abstain" }, "", "")).collect();
        let [page, note, bundle, config] = [(); 4].map(|()| std::path::PathBuf::new());
        Served { phantoms, foreign: Vec::new(), tissue, page, note, bundle, config }
    }

    #[test]
    fn a_demo_that_is_right_passes() {
        Figures::of(&served(false)).unwrap().judge().unwrap();
    }

    #[test]
    fn a_demo_that_answers_one_class_and_accepts_tissue_fails_and_says_why() {
        let error = Figures::of(&served(true)).unwrap().judge().unwrap_err().to_string();
        for part in ["accuracy 0.500", "lower bound", "accepted are wrong", "real tissue"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
    }

    #[test]
    fn intervals_are_clopper_and_pearsons() {
        let [low, high] = Share { of: 20, count: 18 }.interval();
        assert!((low - 0.683).abs() < 1e-3 && (high - 0.988).abs() < 1e-3, "{low} {high}");
    }
}
