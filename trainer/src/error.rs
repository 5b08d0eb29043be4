//! What can go wrong while training, and the exit code that says so.

use crate::{libtorch::StartError, torch::TorchError};
use mmlnb_models::{json::ConfigError, problems::Problems, record::RecordError, sheet::SheetError, weights::WeightError};
use mmlnb_phantom::error::PhantomError;
use mmlnb_study::error::TrainError as StudyError;
use std::path::{Path, PathBuf};

/// Why a command of the trainer stopped.
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
    /// A run was made from other data, another recipe or another base than `--resume` was given.
    #[error("{} cannot be resumed, it was started with other settings; give these, or another --output:\n{}", run.display(), differences.join("\n"))]
    Changed {
        /// The run's folder.
        run: PathBuf,
        /// What it was, and what it is now.
        differences: Vec<String>,
    },
    /// The plan needs more memory than there is.
    #[error("{0}")]
    Memory(String),
    /// Training cannot go on, or what it made must not be used.
    #[error("{0}")]
    Failed(String),
    /// Some items failed, the others are done.
    #[error("{0}")]
    Partly(String),
    /// Ctrl-C or a termination signal; the state is saved.
    #[error("stopped at your wish; the state is saved: run the same command with --resume to go on")]
    Interrupted,
    /// `config.json` or another settings file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A checkpoint's tensors or an adapter.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// libtorch cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A network cannot be loaded or run.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// libtorch refused an operation outside a network.
    #[error("libtorch: {}", crate::torch::first_line(.0))]
    Tensor(#[from] tch::TchError),
    /// A bundle cannot be written.
    #[error(transparent)]
    Export(#[from] mmlnb_exporter::ExportError),
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
        StudyError::from(error).into()
    }
}

impl From<StudyError> for TrainError {
    fn from(error: StudyError) -> TrainError {
        match error {
            StudyError::Asked(problem) => TrainError::Asked(problem),
            StudyError::Data { file, problems, count } => TrainError::Data { file, problems, count },
            StudyError::Failed(problem) => TrainError::Failed(problem),
            StudyError::Config(error) => TrainError::Config(error),
            StudyError::Weights(error) => TrainError::Weights(error),
            StudyError::Io { action, path, source } => TrainError::Io { action, path, source },
            StudyError::File { path, problem } => TrainError::File { path, problem },
        }
    }
}

impl From<PhantomError> for TrainError {
    fn from(error: PhantomError) -> TrainError {
        match error {
            PhantomError::Asked(problem) => TrainError::Asked(problem),
            PhantomError::Io { action, path, source } => TrainError::Io { action, path, source },
            PhantomError::File { path, problem } => TrainError::File { path, problem },
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

    /// 2: what was given is wrong, nothing was started; 3: some items failed; 130: stopped by a signal; 1: the work itself failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            TrainError::Io { action, .. } if *action != "read" => 1,
            TrainError::Torch(TorchError::Weights(_)) => 2,
            TrainError::Failed(_) | TrainError::Torch(_) | TrainError::Tensor(_) | TrainError::Start(_) => 1,
            TrainError::Weights(WeightError::Unwritable { .. }) => 1,
            TrainError::Partly(_) => 3,
            TrainError::Interrupted => 130,
            TrainError::Export(error) => error.exit_code(),
            TrainError::Asked(_)
            | TrainError::Data { .. }
            | TrainError::Changed { .. }
            | TrainError::Memory(_)
            | TrainError::Config(_)
            | TrainError::Weights(_)
            | TrainError::Io { .. }
            | TrainError::File { .. } => 2,
        }
    }
}
