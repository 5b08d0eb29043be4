//! Which modules an adapter stands beside, and with which rank and scale: PEFT's rules on module paths.

use super::adapter_config::{AdapterConfig, Targets};
use fancy_regex::Regex;

/// The rules of an [`AdapterConfig`] with their regular expressions compiled.
#[derive(Debug)]
pub(super) struct Selector {
    targets: Paths,
    exclude: Option<Paths>,
    layers: Option<(Vec<i64>, Vec<Regex>)>,
    ranks: Vec<(Regex, i64)>,
    alphas: Vec<(Regex, f64)>,
    rank: i64,
    alpha: f64,
    rslora: bool,
}

#[derive(Debug)]
enum Paths {
    Names(Vec<String>),
    Pattern(Regex),
    AllLinear,
}

impl Selector {
    /// # Errors
    /// Every regular expression that is none.
    pub fn new(config: &AdapterConfig) -> Result<Selector, Vec<String>> {
        let mut compile = Compiler::default();
        let any = ["[^.]*".to_string()];
        let layers = config.layers.as_ref().map(|layers| {
            let patterns = if layers.patterns.is_empty() { any.as_slice() } else { layers.patterns.as_slice() };
            let numbered = patterns.iter().filter_map(|pattern| compile.regex(&format!(r"^.*\.(?:{pattern})\.(?<number>\d+)\.")));
            (layers.numbers.clone(), numbered.collect())
        });
        let targets = compile.paths(&config.targets);
        let exclude = config.exclude.as_ref().map(|exclude| compile.paths(exclude));
        let ranks = config.rank_pattern.iter().filter_map(|(key, rank)| Some((compile.ending(key)?, *rank))).collect();
        let alphas = config.alpha_pattern.iter().filter_map(|(key, alpha)| Some((compile.ending(key)?, *alpha))).collect();
        match targets {
            Some(targets) if compile.problems.is_empty() => {
                let (rank, alpha, rslora) = (config.rank, config.alpha, config.rslora);
                Ok(Selector { targets, exclude: exclude.flatten(), layers, ranks, alphas, rank, alpha, rslora })
            }
            _ => Err(compile.problems),
        }
    }

    /// Whether PEFT would put the adapter beside the module with this path.
    pub fn targets(&self, path: &str) -> bool {
        let excluded = self.exclude.as_ref().is_some_and(|exclude| exclude.contain(path));
        !excluded
            && self.targets.contain(path)
            && self.layers.as_ref().is_none_or(|(numbers, patterns)| in_layers(numbers, patterns, path))
    }

    /// Rank and scale of the module with this path.
    pub fn rank_and_scale(&self, path: &str) -> (i64, f64) {
        let rank = first(&self.ranks, path).unwrap_or(self.rank);
        let alpha = first(&self.alphas, path).unwrap_or(self.alpha);
        (rank, if self.rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 })
    }
}

impl Paths {
    fn contain(&self, path: &str) -> bool {
        let ends = |name: &String| path.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        match self {
            Paths::Names(names) => names.iter().any(ends),
            Paths::Pattern(regex) => matches(regex, path),
            Paths::AllLinear => path != "lm_head",
        }
    }
}

/// Whether the number that the first fitting pattern finds is listed.
fn in_layers(numbers: &[i64], patterns: &[Regex], path: &str) -> bool {
    let number = patterns.iter().find_map(|regex| regex.captures(path).ok()??.name("number")?.as_str().parse().ok());
    number.is_some_and(|number: i64| numbers.contains(&number))
}

fn first<T: Copy>(patterns: &[(Regex, T)], path: &str) -> Option<T> {
    patterns.iter().find(|(regex, _)| matches(regex, path)).map(|(_, value)| *value)
}

/// An expression that gives up on a path (too much backtracking) does not match it; the module then counts as not named, which is an error.
fn matches(regex: &Regex, path: &str) -> bool {
    regex.is_match(path).unwrap_or(false)
}

/// Compiles expressions and collects what is wrong with them.
#[derive(Default)]
struct Compiler {
    problems: Vec<String>,
}

impl Compiler {
    fn regex(&mut self, expression: &str) -> Option<Regex> {
        let compiled = Regex::new(expression);
        compiled.map_err(|error| self.problems.push(format!("`{expression}` is no regular expression: {error}"))).ok()
    }

    /// PEFT's expression for the end of a module's path.
    fn ending(&mut self, key: &str) -> Option<Regex> {
        self.regex(&format!(r"^(?:.*\.)?(?:{key})$"))
    }

    fn paths(&mut self, targets: &Targets) -> Option<Paths> {
        match targets {
            Targets::Names(names) => Some(Paths::Names(names.clone())),
            Targets::Pattern(pattern) => self.regex(&format!("^(?:{pattern})$")).map(Paths::Pattern),
            Targets::AllLinear => Some(Paths::AllLinear),
        }
    }
}
