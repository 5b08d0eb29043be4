//! All that decides a run's result, as `run.toml` holds it.

use crate::error::StudyError;
use serde::Serialize;
use std::{collections::BTreeMap, fs, path::Path};
use toml::{Table, Value};

/// The only setting that may change, and only grow.
const MAY_GROW: &str = "recipe.epochs";

/// Runs of earlier versions do not say it: then any number goes on with them.
const MAY_BE_NEW: &str = "recipe.threads";

/// Where things lay; kept for readers of the run, and no part of what decides its result.
const PATHS: &str = "paths";

/// The sections of `run.toml`: `recipe`, `data`, `base`, `device`, `seeds`, `versions`. A section `paths` is written too, but never compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decided(pub Table);

impl Decided {
    /// Adds a section from a struct or a map.
    ///
    /// # Errors
    /// Something that TOML cannot hold.
    pub fn with(mut self, section: &str, content: impl Serialize) -> Result<Decided, StudyError> {
        let table =
            Table::try_from(content).map_err(|error| StudyError::Failed(format!("run.toml, section {section}: {error}")))?;
        self.0.insert(section.into(), Value::Table(table));
        Ok(self)
    }

    /// As `run.toml` has it.
    pub fn to_toml(&self) -> String {
        let head = "# All that decides this run's result; the section `paths` says where it was found.\n\n";
        format!("{head}{}", self.0)
    }

    /// From a run's folder.
    ///
    /// # Errors
    /// A file that is absent or no TOML.
    pub fn read(run: &Path) -> Result<Decided, StudyError> {
        let path = run.join("run.toml");
        let text = fs::read_to_string(&path).map_err(StudyError::io("read", &path))?;
        let table = text.parse().map_err(|error| StudyError::File { path, problem: format!("{error}") })?;
        Ok(Decided(table))
    }

    /// Whether there is more to do than in `before`, whose other settings are the same.
    pub fn goes_further_than(&self, before: &Decided) -> bool {
        let epochs = |decided: &Decided| decided.settings().remove(MAY_GROW);
        epochs(self) != epochs(before)
    }

    /// One line for each setting that is not as it was in `before`.
    pub fn differences(&self, before: &Decided) -> Vec<String> {
        let (was, is) = (before.settings(), self.settings());
        let mut lines = Vec::new();
        for name in was.keys().chain(is.keys().filter(|name| !was.contains_key(*name))) {
            let (was, is) = (was.get(name), is.get(name));
            let new = name == MAY_BE_NEW && was.is_none();
            if was != is && !new && !(name == MAY_GROW && grows(was, is)) {
                let spelled = |value: Option<&Value>| value.map_or("not set".to_string(), Value::to_string);
                lines.push(format!("  {name}: was {}, is {}", spelled(was), spelled(is)));
            }
        }
        lines
    }

    /// Each setting by its dotted name. Written and read once, so that a number compares as its file will.
    fn settings(&self) -> BTreeMap<String, Value> {
        let table = self.to_toml().parse().unwrap_or_else(|_| self.0.clone());
        let mut settings = BTreeMap::new();
        for (section, value) in table.into_iter().filter(|(section, _)| section != PATHS) {
            flatten(section, value, &mut settings);
        }
        settings
    }
}

fn flatten(name: String, value: Value, settings: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => table.into_iter().for_each(|(key, value)| flatten(format!("{name}.{key}"), value, settings)),
        value => {
            settings.insert(name, value);
        }
    }
}

fn grows(was: Option<&Value>, is: Option<&Value>) -> bool {
    match (was, is) {
        (Some(Value::Integer(was)), Some(Value::Integer(is))) => is > was,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(text: &str) -> Decided {
        Decided(text.parse().unwrap())
    }

    #[test]
    fn each_difference_is_named_with_both_values() {
        let before = decided("[recipe]\nrank = 16\nlearning_rate = 0.0001\n[data]\nsha256 = 'aa'\n[paths]\nimages = 'x'");
        let now = decided("[recipe]\nlearning_rate = 0.001\nseed = 3\n[data]\nsha256 = 'aa'\n[paths]\nimages = 'y'");
        let expected = [
            "  recipe.learning_rate: was 0.0001, is 0.001",
            "  recipe.rank: was 16, is not set",
            "  recipe.seed: was not set, is 3",
        ];
        assert_eq!(now.differences(&before), expected);
    }

    #[test]
    fn threads_may_be_said_anew_but_not_changed() {
        let (unsaid, one, two) = (decided("[recipe]"), decided("[recipe]\nthreads = 1"), decided("[recipe]\nthreads = 2"));
        assert_eq!(two.differences(&unsaid), [""; 0]);
        assert_eq!(two.differences(&one), ["  recipe.threads: was 1, is 2"]);
    }

    #[test]
    fn epochs_grow_and_never_shrink() {
        let (five, eight) = (decided("[recipe]\nepochs = 5"), decided("[recipe]\nepochs = 8"));
        assert_eq!(eight.differences(&five), [""; 0]);
        assert_eq!(five.differences(&eight), ["  recipe.epochs: was 8, is 5"]);
    }

    #[test]
    fn what_is_written_compares_equal_when_read() {
        let numbers = [0.1, 1e-8, 1.0 / 3.0, 5e-324, 1e300, 0.30000000000000004];
        let before = Decided::default().with("recipe", BTreeMap::from([("numbers", numbers.to_vec())])).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("run.toml"), before.to_toml()).unwrap();
        assert_eq!(before.differences(&Decided::read(folder.path()).unwrap()), [""; 0]);
    }
}
