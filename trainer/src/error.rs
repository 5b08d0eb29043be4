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

    /// What to do about it, where a device ran out of memory: the words are those of libtorch's allocators.
    pub fn advice(&self) -> Option<&'static str> {
        let words = ["CUDA out of memory", "CUDA error: out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"];
        let text = self.to_string();
        words.iter().any(|words| text.contains(words)).then_some(
            "the device ran out of memory: lower `batch_size` and raise `accumulation` by as much, or set `recompute = true`, a smaller `image_size` or fewer \
             images at once (`--batch` of `generate`); `--dry-run` of `describe` shows what a step takes; `nvidia-smi` shows what else is on a GPU",
        )
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

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn a_device_without_room_gives_advice_and_other_errors_do_not() {
        let all_there_is = Tensor::f_empty([1 << 50], (Kind::Float, Device::Cpu)).unwrap_err();
        let error = TrainError::from(all_there_is);
        assert!(error.advice().is_some_and(|advice| advice.contains("batch_size")), "{error}");
        // As libtorch words it on a GPU.
        let text =
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.02 GiB is free.";
        assert!(TrainError::Torch(TorchError::Backward { part: "head".into(), problem: text.into() }).advice().is_some());
        assert_eq!(TrainError::Asked("`tpu` is no device".into()).advice(), None);
    }
}
