//! Which classes there are, and in which order.

use mmlnb_models::{
    measures::classes::{GRADES, are_grades},
    problems::Problems,
    spelling::folded,
};
use std::collections::{BTreeMap, BTreeSet};

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
        ClassOrder::FromData => return from_data(named),
        ClassOrder::Ordinal(names) => (names, true),
        ClassOrder::Fixed(names) => (names, are_grades(names)),
    };
    let known: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let spellings: BTreeMap<String, &String> = names.iter().map(|name| (folded(name), name)).collect();
    for (line, class) in named.iter().filter(|(_, class)| !known.contains(class)) {
        let hint = spellings.get(&folded(class)).map_or(String::new(), |name| format!("; spell it `{name}`"));
        problems.at(*line, "unknown classes", format!("unknown class `{class}`; known are {}{hint}", names.join(", ")));
    }
    let found: BTreeSet<&str> = named.iter().map(|(_, class)| *class).collect();
    if let ClassOrder::Ordinal(names) = order {
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                problems.whole(format!("--class-order names {name} twice"));
            } else if !found.contains(name.as_str()) {
                problems.whole(format!("--class-order names {name}, and no row has this class"));
            }
        }
    }
    (names.to_vec(), ordinal)
}

/// What a row calls a class first is its name; other spellings of it are told elsewhere ([`mmlnb_models::sheet::Sheet::identities`]).
fn from_data(named: &[(u64, &str)]) -> (Vec<String>, bool) {
    let mut names: Vec<&str> = Vec::new();
    let (mut exact, mut spellings) = (BTreeSet::new(), BTreeSet::new());
    for (_, class) in named {
        if exact.insert(*class) && spellings.insert(folded(class)) {
            names.push(class);
        }
    }
    let ordinal = !names.is_empty() && names.iter().all(|name| GRADES.contains(name));
    if ordinal {
        names = GRADES.into_iter().filter(|name| names.contains(name)).collect();
    }
    (names.into_iter().map(str::to_string).collect(), ordinal)
}
