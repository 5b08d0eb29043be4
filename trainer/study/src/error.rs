//! What can go wrong with a run's data and files.

use mmlnb_models::{json::ConfigError, problems::Problems, record::RecordError, sheet::SheetError, weights::WeightError};
use std::path::{Path, PathBuf};

/// Why data, an import or a report is refused; the trainer's own error takes each of these over.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A wrong combination of what was asked for.
    #[error("{0}")]
    Asked(String),
    /// Everything that is wrong with the data, each with its line.
    #[error("{} in {}; nothing was started:\n{}", counted(*count), file.display(), problems.join("\n"))]
    Data {
        /// The CSV file.
        file: PathBuf,
        /// One line each, at most a hundred of a kind.
        problems: Vec<String>,
        /// All of them, those that are not listed too.
        count: usize,
    },
    /// What was made must not be used.
    #[error("{0}")]
    Failed(String),
    /// `config.json` or another settings file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A checkpoint's tensors.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// read, write, create, rename, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and how to mend it.
        problem: String,
    },
}

fn counted(problems: usize) -> String {
    if problems == 1 { "1 problem".into() } else { format!("{problems} problems") }
}

impl From<RecordError> for TrainError {
    fn from(RecordError { file, problem }: RecordError) -> TrainError {
        TrainError::File { path: file, problem }
    }
}

impl From<SheetError> for TrainError {
    fn from(error: SheetError) -> TrainError {
        match error {
            SheetError::Io { file, source } => TrainError::io("read", &file)(source),
            SheetError::Lines { file, problems, count } => TrainError::Data { file, problems, count },
        }
    }
}

impl TrainError {
    /// An error when something is wrong with a CSV file.
    ///
    /// # Errors
    /// [`TrainError::Data`] with everything that is wrong.
    pub fn data(file: &Path, problems: Problems) -> Result<(), TrainError> {
        match problems.count() {
            0 => Ok(()),
            count => Err(TrainError::Data { file: file.into(), problems: problems.lines(), count }),
        }
    }

    /// An operating system's error about a path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
        move |source| TrainError::Io { action, path: path.to_path_buf(), source }
    }

    /// 2: what was given is wrong; 1: the work itself failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            TrainError::Io { action, .. } if *action != "read" => 1,
            TrainError::Failed(_) | TrainError::Weights(WeightError::Unwritable { .. }) => 1,
            TrainError::Asked(_)
            | TrainError::Data { .. }
            | TrainError::Config(_)
            | TrainError::Weights(_)
            | TrainError::Io { .. }
            | TrainError::File { .. } => 2,
        }
    }
}
