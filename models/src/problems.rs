//! Everything that is wrong with a file, collected until all of it has been looked at.

use std::collections::BTreeMap;

/// So many of a kind are listed; the others are counted.
pub const LISTED: usize = 100;

/// Problems by line; those of the file as a whole come first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problems {
    listed: Vec<(u64, String)>,
    kinds: BTreeMap<&'static str, usize>,
}

impl Problems {
    /// A problem of a line; `kind` names in a few words what it shares with others of its kind.
    pub fn at(&mut self, line: u64, kind: &'static str, problem: String) {
        let count = self.kinds.entry(kind).or_insert(0);
        *count += 1;
        if *count <= LISTED {
            self.listed.push((line, problem));
        }
    }

    /// A problem of the file as a whole.
    pub fn whole(&mut self, problem: String) {
        self.at(0, "the file as a whole", problem);
    }

    /// All of them, those that are not listed too.
    pub fn count(&self) -> usize {
        self.kinds.values().sum()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// One line each, indented, in the order of the file; at the end how many more there are of each kind.
    pub fn lines(mut self) -> Vec<String> {
        self.listed.sort_by_key(|(line, _)| *line);
        let spelled = |(line, problem)| if line == 0 { format!("  {problem}") } else { format!("  line {line}: {problem}") };
        let more = self.kinds.iter().filter(|(_, count)| **count > LISTED);
        let more = more.map(|(kind, count)| format!("  and {} more of this kind: {kind}", count - LISTED));
        self.listed.into_iter().map(spelled).chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_after_a_hundred_of_a_kind_with_the_count() {
        let mut problems = Problems::default();
        (1..=400_000).rev().for_each(|line| problems.at(line, "empty names", format!("{line} is empty")));
        problems.at(7, "wrong dates", "no date".into());
        problems.whole("no rows".into());
        assert_eq!(problems.count(), 400_002);
        let lines = problems.lines();
        assert_eq!(lines.len(), LISTED + 3);
        assert_eq!(lines[..2], ["  no rows", "  line 7: no date"]);
        assert_eq!(lines[LISTED + 2], "  and 399900 more of this kind: empty names");
    }
}
