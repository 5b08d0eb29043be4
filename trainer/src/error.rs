//! What can go wrong while training, and the exit code that says so.

use crate::{libtorch::StartError, torch::TorchError};
use mmlnb_models::{json::ConfigError, record::RecordError, sheet::SheetError, weights::WeightError};
use mmlnb_phantom::error::PhantomError;
use mmlnb_study::error::StudyError;
use std::path::{Path, PathBuf};

/// Why a command of the trainer stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A wrong combination of what was asked for.
    #[error("{0}")]
    Asked(String),
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
    /// Data, settings, weights or a file.
    #[error(transparent)]
    Study(#[from] StudyError),
    /// Phantoms cannot be written.
    #[error(transparent)]
    Phantom(#[from] PhantomError),
}

/// What a run's data and files can be refused for comes as [`StudyError`] also where a library says it.
macro_rules! through_study {
    ($($error:ty),*) => {$(
        impl From<$error> for TrainError {
            fn from(error: $error) -> TrainError {
                StudyError::from(error).into()
            }
        }
    )*};
}
through_study!(ConfigError, WeightError, RecordError, SheetError);

impl TrainError {
    /// A file that does not hold what it should; the problem says how to mend it.
    pub fn file(path: impl Into<PathBuf>, problem: impl ToString) -> TrainError {
        StudyError::File { path: path.into(), problem: problem.to_string() }.into()
    }

    /// An operating system's error about a path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
        move |source| StudyError::io(action, path)(source).into()
    }

    /// 2: what was given is wrong, nothing was started; 3: some items failed; 130: stopped by a signal; 1: the work itself failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            TrainError::Study(error) => error.exit_code(),
            TrainError::Phantom(PhantomError::Asked(_)) => 2,
            TrainError::Export(error) => error.exit_code(),
            TrainError::Torch(TorchError::Weights(_)) => 2,
            TrainError::Asked(_) | TrainError::Changed { .. } | TrainError::Memory(_) => 2,
            TrainError::Partly(_) => 3,
            TrainError::Interrupted => 130,
            TrainError::Failed(_)
            | TrainError::Torch(_)
            | TrainError::Tensor(_)
            | TrainError::Start(_)
            | TrainError::Phantom(PhantomError::Io { .. } | PhantomError::File { .. }) => 1,
        }
    }
}
