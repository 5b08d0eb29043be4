//! What can be wrong with weights.

use super::DType;
use std::{fmt, path::PathBuf};

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}; check that the path is right and readable", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file or folder cannot be written.
    #[error("cannot write {}: {source}; check the free space and the permissions", path.display())]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A folder holds no weights, or several files without an index.
    #[error("{}: {problem}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// Weights are in a form that is not read.
    #[error("{}: {problem}", path.display())]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// What it is and what to give instead.
        problem: String,
    },
    /// A tensor holds a number that is none.
    #[error(
        "{}: the tensor `{tensor}` holds {value} (number {place} of it); the training that wrote it diverged, or the file is damaged: give \
         an earlier or an undamaged one",
        path.display()
    )]
    NotFinite {
        /// The file or folder.
        path: PathBuf,
        /// Its name in the file.
        tensor: String,
        /// NaN or an infinity.
        value: f32,
        /// How many numbers of the tensor come before it.
        place: usize,
    },
    /// A number that was computed is not finite in the type that it is kept in.
    #[error(
        "the weight `{weight}` becomes {value} when it is kept as {dtype}; the numbers of base and adapter are too large for that type, or \
         the adapter is damaged or belongs to another base"
    )]
    Overflow {
        /// The tensor.
        weight: String,
        /// NaN or an infinity.
        value: f32,
        /// The type.
        dtype: DType,
    },
    /// A file is damaged or not in the format that its name promises.
    #[error("{}: {problem}; fetch or write the file again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A checkpoint's tensors are not those that the network needs.
    #[error("{}: the tensors do not fit the network{mismatch}", path.display())]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// All that does not fit.
        mismatch: Box<Mismatch>,
    },
    /// An adapter's settings are not supported, or they contradict its tensors.
    #[error("{}: {}", path.display(), problems.join("; "))]
    Adapter {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<String>,
    },
    /// An adapter names modules that the base does not have or that cannot carry it.
    #[error("the adapter {} does not fit the base {}:{}", adapter.display(), base.display(), listed(problems))]
    Unmatched {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The base checkpoint.
        base: PathBuf,
        /// One line a module.
        problems: Vec<String>,
    },
    /// An adapter lacks modules that its configuration names.
    #[error(
        "the adapter {} has no tensors for {} of the modules that its adapter_config.json names:{}\nIt was saved incompletely, or trained on a \
         part of them: save it again, or accept that these stay as in the base with --allow-partial (graph, bundle, merge, generate)",
        adapter.display(), modules.len(), shortened(modules)
    )]
    Partial {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The modules without tensors.
        modules: Vec<String>,
    },
    /// A weight was asked for that does not exist in this form.
    #[error("cannot evaluate the weight {weight}: {problem}")]
    Evaluation {
        /// The expression.
        weight: String,
        /// What is wrong.
        problem: String,
    },
    /// Merging left weights as they were.
    #[error("merging the adapter {} changed nothing in: {}; the adapter is damaged or belongs to another base", adapter.display(), modules.join(", "))]
    Unchanged {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The modules.
        modules: Vec<String>,
    },
}

/// All tensors of a checkpoint that do not fit a network, sorted by key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mismatch {
    /// `key [shape]` of each tensor that the network needs and the checkpoint lacks.
    pub missing: Vec<String>,
    /// `key [shape]` of each tensor that no network uses.
    pub surplus: Vec<String>,
    /// `key: found [shape], expected [shape]`.
    pub misshapen: Vec<String>,
    /// `key: type` of each tensor whose numbers are neither F32, F16 nor BF16.
    pub untyped: Vec<String>,
    /// Further contradictions, a sentence each.
    pub others: Vec<String>,
}

impl Mismatch {
    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        *self == Mismatch::default()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("missing (is config.json that of these weights?)", &self.missing),
            ("surplus (no network uses them)", &self.surplus),
            ("of another shape", &self.misshapen),
            ("of a type that is not supported (F32, F16 and BF16 are)", &self.untyped),
            ("contradictory", &self.others),
        ];
        for (title, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            write!(f, "\n{} {title}:{}", list.len(), listed(list))?;
        }
        Ok(())
    }
}

/// The first of a long list, and how many more there are.
fn shortened(lines: &[String]) -> String {
    const MOST: usize = 20;
    let more = lines.len().saturating_sub(MOST);
    let rest = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    listed(&lines[..lines.len() - more]) + &rest
}

fn listed(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}
