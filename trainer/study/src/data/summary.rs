//! What a data set holds, for the eyes of its owner and for the run's card.

use super::{Part, Row, Split, Table, TextLimit};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Fewer patients than this give no interval.
const PATIENTS_FOR_INTERVALS: usize = 10;

/// Smallest, middle and largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Smallest.
    pub least: usize,
    /// Lower median.
    pub median: usize,
    /// Largest.
    pub most: usize,
}

/// Counts of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSummary {
    /// The part.
    pub part: Part,
    /// Rows.
    pub images: usize,
    /// In the order of the classes.
    pub per_class: Vec<usize>,
    /// None: the file names none.
    pub patients: Option<usize>,
    /// Rows of each site.
    pub sites: BTreeMap<String, usize>,
}

/// A data set and its split in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Names of the classes in the order of the logits.
    pub classes: Vec<String>,
    /// Whether that order means something.
    pub ordinal: bool,
    /// Train, validation, test; those that are there.
    pub parts: Vec<PartSummary>,
    /// Patients of all parts together.
    pub patients: Option<usize>,
    /// Images of each patient.
    pub per_patient: Option<Range>,
    /// Pixels, the shorter side.
    pub shorter_side: Option<Range>,
    /// Pixels, the longer side.
    pub longer_side: Option<Range>,
    /// Tokens of the sequences with a text, where there are some.
    pub tokens: Option<Range>,
    /// How many of them the network cuts.
    pub cut: usize,
    /// What the owner has to know.
    pub warnings: Vec<String>,
}

impl Summary {
    /// Counts everything. `text`: how long texts are for the network that reads them.
    pub fn of(table: &Table, split: &Split, text: Option<TextLimit<'_>>) -> Summary {
        let parts: Vec<PartSummary> =
            Part::ALL.into_iter().map(|part| part_summary(table, split, part)).filter(|part| part.images > 0).collect();
        let lengths: Vec<usize> = text.map_or(Vec::new(), |text| {
            table.rows.iter().filter(|row| row.description.is_some()).map(|row| (text.tokens)(row)).collect()
        });
        let cut = text.map_or(0, |text| lengths.iter().filter(|length| **length > text.most).count());
        let side = |side: fn(&Row) -> u32| range(table.rows.iter().map(|row| side(row) as usize).collect());
        let mut summary = Summary {
            classes: table.classes.clone(),
            ordinal: table.ordinal,
            parts,
            patients: table.has_groups().then(|| patients(table.rows.iter()).len()),
            per_patient: table.has_groups().then(|| range(patients(table.rows.iter()).into_values().collect())).flatten(),
            shorter_side: side(|row| row.width.min(row.height)),
            longer_side: side(|row| row.width.max(row.height)),
            tokens: range(lengths),
            cut,
            warnings: Vec::new(),
        };
        summary.warnings = summary.warnings_of(split);
        summary
    }

    fn warnings_of(&self, split: &Split) -> Vec<String> {
        let mut warnings: Vec<String> = split.warnings().into_iter().map(str::to_string).collect();
        if self.classes.len() > 1 && !self.ordinal {
            warnings
                .push("the order of the classes means nothing, so kappa is not weighted; --class-order A,B,C gives one".into());
        }
        for part in &self.parts {
            for (class, _) in self.classes.iter().zip(&part.per_class).filter(|(_, count)| **count == 0) {
                warnings.push(format!("the part {} has no image of the class {class}", part.part));
            }
        }
        let reported = self.parts.iter().find(|part| part.part == split.reported());
        match reported {
            None => warnings.push("there is no test part: nothing will be reported on images that training has not used".into()),
            Some(part) if part.patients.is_some_and(|patients| patients < PATIENTS_FOR_INTERVALS) => warnings.push(format!(
                "the part {} has {} patients; below {PATIENTS_FOR_INTERVALS} no interval can be given",
                part.part,
                part.patients.unwrap_or(0)
            )),
            Some(_) => {}
        }
        warnings
    }
}

fn part_summary(table: &Table, split: &Split, part: Part) -> PartSummary {
    let rows: Vec<&Row> = split.rows(part).into_iter().map(|row| &table.rows[row]).collect();
    let mut per_class = vec![0; table.classes.len()];
    let mut sites = BTreeMap::new();
    for row in &rows {
        row.class.into_iter().for_each(|class| per_class[class] += 1);
        row.site.iter().for_each(|site| *sites.entry(site.clone()).or_insert(0) += 1);
    }
    let patients = table.has_groups().then(|| patients(rows.iter().copied()).len());
    PartSummary { part, images: rows.len(), per_class, patients, sites }
}

/// Images of each patient.
fn patients<'t>(rows: impl Iterator<Item = &'t Row>) -> BTreeMap<&'t str, usize> {
    let mut counts = BTreeMap::new();
    rows.filter_map(|row| row.group.as_deref()).for_each(|group| *counts.entry(group).or_insert(0) += 1);
    counts
}

fn range(mut values: Vec<usize>) -> Option<Range> {
    values.sort_unstable();
    Some(Range { least: *values.first()?, median: values[(values.len() - 1) / 2], most: *values.last()? })
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.least == self.most {
            true => write!(f, "{}", self.least),
            false => write!(f, "{} to {}, half of them up to {}", self.least, self.most, self.median),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sites: BTreeSet<&String> = self.parts.iter().flat_map(|part| part.sites.keys()).collect();
        write!(f, "{:<12}{:>8}{:>10}", "part", "images", "patients")?;
        self.classes.iter().try_for_each(|class| write!(f, "  {class:>6}"))?;
        sites.iter().try_for_each(|site| write!(f, "  site {site}"))?;
        writeln!(f)?;
        for part in &self.parts {
            let patients = part.patients.map_or("-".to_string(), |count| count.to_string());
            write!(f, "{:<12}{:>8}{patients:>10}", part.part, part.images)?;
            self.classes
                .iter()
                .zip(&part.per_class)
                .try_for_each(|(class, count)| write!(f, "{count:>width$}", width = class.len().max(6) + 2))?;
            sites
                .iter()
                .try_for_each(|site| write!(f, "{:>width$}", part.sites.get(*site).unwrap_or(&0), width = site.len() + 7))?;
            writeln!(f)?;
        }
        let mut lines = Vec::new();
        lines.extend(self.per_patient.map(|range| format!("images of a patient: {range}")));
        lines.extend(self.shorter_side.map(|range| format!("shorter side in pixels: {range}")));
        lines.extend(self.longer_side.map(|range| format!("longer side in pixels: {range}")));
        lines.extend(self.tokens.map(|range| format!("tokens of a text with its frame: {range}")));
        if self.cut > 0 {
            lines.push(format!("{} texts are longer than the network reads and lose their ends", self.cut));
        }
        lines.extend(self.warnings.iter().map(|warning| format!("WARNING: {warning}")));
        lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::split::tests::table, *};
    use crate::data::{SplitBy, SplitOptions, split};

    #[test]
    fn counts_add_up_and_can_be_read() {
        let mut table = table(40, 8, true);
        table.rows[0].description = Some("three short words".into());
        table.rows[1].description = Some("one".into());
        let split = split(&table, &SplitOptions::usual(&table, 1)).unwrap();
        let tokens = |row: &Row| row.description.as_deref().unwrap_or("").split(' ').count();
        let summary = Summary::of(&table, &split, Some(TextLimit { tokens: &tokens, most: 2, cut: true }));
        assert_eq!(summary.parts.iter().map(|part| part.images).sum::<usize>(), table.rows.len());
        assert_eq!(summary.parts.iter().flat_map(|part| &part.per_class).sum::<usize>(), table.rows.len());
        assert_eq!(summary.parts.iter().flat_map(|part| part.sites.values()).sum::<usize>(), table.rows.len());
        assert_eq!(summary.parts.iter().map(|part| part.patients.unwrap()).sum::<usize>(), 40);
        assert_eq!((summary.tokens, summary.cut), (Some(Range { least: 1, median: 1, most: 3 }), 1));
        let text = summary.to_string();
        for part in ["train", "validation", "test", "UD", "site S2", "shorter side in pixels: 224\n", "1 texts are longer"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn warnings_name_what_the_figures_will_lack() {
        let warnings = |table: &Table, by| {
            let split = split(table, &SplitOptions { seed: 1, fractions: [0.6, 0.2, 0.2], by }).unwrap();
            Summary::of(table, &split, None).warnings.join("\n")
        };
        let mut few = table(12, 8, true);
        assert!(warnings(&few, SplitBy::Patient).contains("no interval can be given"));
        few.ordinal = false;
        assert!(warnings(&few, SplitBy::Patient).contains("kappa is not weighted"));
        few.rows.iter_mut().for_each(|row| row.split = Some(Part::Validation));
        few.rows[0].split = Some(Part::Train);
        let text = warnings(&few, SplitBy::Column);
        assert!(text.contains("no test part") && text.contains("train has no image of the class"), "{text}");
        assert_eq!(warnings(&table(150, 2, true), SplitBy::Patient), "");
        assert!(warnings(&table(60, 2, false), SplitBy::Patient).contains("NOT SPLIT BY PATIENT"));
    }
}
