//! Which classes there are, and in which order.

use super::check::Problems;
use mmlnb_models::measures::classes::{GRADES, are_grades};
use std::collections::BTreeMap;

/// Where the order of the classes comes from.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum ClassOrder<'a> {
    /// UD, PD, D when no other names are there, and then the order means something; else the order in which the file names them, which means nothing.
    #[default]
    FromData,
    /// As the user gives it: the order means something.
    Ordinal(&'a [String]),
    /// Those of a classifier from which training starts, in its order; grades are ordered by their names.
    Fixed(&'a [String]),
}

/// Names in the order of the logits, and whether that order means something. `named`: line and class of each row that has one.
pub(super) fn classes(order: ClassOrder<'_>, named: &[(u64, &str)], problems: &mut Problems) -> (Vec<String>, bool) {
    let (names, ordinal) = match order {
        ClassOrder::FromData => return from_data(named, problems),
        ClassOrder::Ordinal(names) => (names, true),
        ClassOrder::Fixed(names) => (names, are_grades(names)),
    };
    for (line, class) in named {
        if !names.iter().any(|name| name == class) {
            problems.at(*line, format!("unknown class `{class}`; known are {}", names.join(", ")));
        }
    }
    if let ClassOrder::Ordinal(names) = order {
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                problems.whole(format!("--class-order names {name} twice"));
            } else if !named.iter().any(|(_, class)| class == name) {
                problems.whole(format!("--class-order names {name}, and no row has this class"));
            }
        }
    }
    (names.to_vec(), ordinal)
}

fn from_data(named: &[(u64, &str)], problems: &mut Problems) -> (Vec<String>, bool) {
    let mut names: Vec<&str> = Vec::new();
    let mut spellings: BTreeMap<String, (&str, u64)> = BTreeMap::new();
    for (line, class) in named {
        let (first, at) = *spellings.entry(class.to_lowercase()).or_insert((class, *line));
        if first != *class {
            problems.at(*line, format!("class `{class}` is spelled `{first}` in line {at}"));
        } else if !names.contains(class) {
            names.push(class);
        }
    }
    let ordinal = !names.is_empty() && names.iter().all(|name| GRADES.contains(name));
    if ordinal {
        names = GRADES.into_iter().filter(|name| names.contains(name)).collect();
    }
    (names.into_iter().map(str::to_string).collect(), ordinal)
}
