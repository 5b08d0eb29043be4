//! What can go wrong with a run's data and files.

use mmlnb_models::{json::ConfigError, problems::Problems, record::RecordError, sheet::SheetError, weights::WeightError};
use std::path::{Path, PathBuf};

/// Why data, an import or a report is refused; the trainer's own error takes each of these over.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
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

impl From<RecordError> for StudyError {
    fn from(RecordError { file, problem }: RecordError) -> StudyError {
        StudyError::File { path: file, problem }
    }
}

impl From<SheetError> for StudyError {
    fn from(error: SheetError) -> StudyError {
        match error {
            SheetError::Io { file, source } => StudyError::io("read", &file)(source),
            SheetError::Lines { file, problems, count } => StudyError::Data { file, problems, count },
        }
    }
}

impl StudyError {
    /// An error when something is wrong with a CSV file.
    ///
    /// # Errors
    /// [`StudyError::Data`] with everything that is wrong.
    pub fn data(file: &Path, problems: Problems) -> Result<(), StudyError> {
        match problems.count() {
            0 => Ok(()),
            count => Err(StudyError::Data { file: file.into(), problems: problems.lines(), count }),
        }
    }

    /// An operating system's error about a path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StudyError {
        move |source| StudyError::Io { action, path: path.to_path_buf(), source }
    }

    /// 2: what was given is wrong; 1: the work itself failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            StudyError::Io { action, .. } if *action != "read" => 1,
            StudyError::Failed(_) | StudyError::Weights(WeightError::Unwritable { .. }) => 1,
            StudyError::Asked(_)
            | StudyError::Data { .. }
            | StudyError::Config(_)
            | StudyError::Weights(_)
            | StudyError::Io { .. }
            | StudyError::File { .. } => 2,
        }
    }
}
