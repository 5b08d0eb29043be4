//! How both stages read recipes: TOML files that are compiled in, with the keys of `--config` over them.

use crate::error::TrainError;
use mmlnb_models::spelling::distance;
use serde::de::DeserializeOwned;
use std::path::Path;
use toml::Table;

/// A recipe as it is compiled in.
pub struct Compiled<'c> {
    /// TOML files; keys of later ones go over those of earlier ones.
    pub texts: &'c [&'c str],
    /// Keys that none of them needs to set.
    pub optional: &'c [&'c str],
}

impl Compiled<'_> {
    /// The recipe with the keys of `changes` over it; `problems` lists values that make no sense.
    ///
    /// # Errors
    /// Keys that no recipe has (with those that look like it), values of another type, and all of `problems`.
    pub fn with<R: DeserializeOwned>(&self, changes: Table, problems: fn(&R) -> Vec<String>) -> Result<R, TrainError> {
        let mut table = Table::new();
        for text in self.texts {
            table.extend(parsed(text).map_err(TrainError::Asked)?);
        }
        let known: Vec<&str> = table.keys().map(String::as_str).chain(self.optional.iter().copied()).collect();
        let unknown = changes.keys().filter(|key| !known.contains(&key.as_str()));
        let unknown: Vec<String> =
            unknown.map(|key| format!("`{key}` is no key of a recipe{}", near(key, known.iter().copied()))).collect();
        if !unknown.is_empty() {
            return Err(TrainError::Asked(unknown.join("; ")));
        }
        table.extend(changes);
        let recipe: R = table.try_into().map_err(|error: toml::de::Error| TrainError::Asked(error.message().to_string()))?;
        let problems = problems(&recipe);
        if problems.is_empty() { Ok(recipe) } else { Err(TrainError::Asked(problems.join("; "))) }
    }

    /// As [`Compiled::with`], the changes in a file.
    ///
    /// # Errors
    /// A file that cannot be read, and what is wrong in it, with its name.
    pub fn changed_by<R: DeserializeOwned>(&self, config: &Path, problems: fn(&R) -> Vec<String>) -> Result<R, TrainError> {
        changes_of(config, |changes| self.with(changes, problems))
    }
}

/// What is made of the changes in a file.
///
/// # Errors
/// A file that cannot be read, and what is wrong in it, with its name.
pub fn changes_of<R>(config: &Path, made: impl FnOnce(Table) -> Result<R, TrainError>) -> Result<R, TrainError> {
    let text = std::fs::read_to_string(config).map_err(TrainError::io("read", config))?;
    let in_file = |problem| TrainError::file(config, problem);
    made(parsed(&text).map_err(in_file)?).map_err(|error| match error {
        TrainError::Asked(problem) => in_file(problem),
        error => error,
    })
}

fn parsed(text: &str) -> Result<Table, String> {
    text.parse().map_err(|error: toml::de::Error| error.to_string())
}

/// `; did you mean ..` with the known names that differ in a few letters.
pub fn near<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let close = |other: &&str| {
        let (a, b) = (plain(name), plain(other));
        distance(&a, &b) <= 1 + a.len() / 4 || b.contains(&a) || (b.len() > 3 && a.contains(&b))
    };
    let found: Vec<String> = known.filter(close).map(|name| format!("`{name}`")).collect();
    if found.is_empty() { String::new() } else { format!("; did you mean {}?", found.join(" or ")) }
}
