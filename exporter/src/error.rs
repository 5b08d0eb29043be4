//! What can go wrong while exporting.

use mmlnb_models::{bundle::BundleError, json::ConfigError, weights::WeightError};
use std::path::{Path, PathBuf};

/// Why a graph or bundle cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Several things at once.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<ExportError>),
    /// `config.json` or another settings file of the checkpoint.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The checkpoint's tensors or the adapter.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The bundle's manifest or files.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A bundle was read and is not as it was written.
    #[error(transparent)]
    Altered(BundleError),
    /// A wrong combination of what was asked for.
    #[error("{0}")]
    Asked(String),
    /// The checkpoint's folder lacks a file or holds one that does not fit.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// The output holds something that this program did not write.
    #[error("{}: {problem}", path.display())]
    Occupied {
        /// The file or folder.
        path: PathBuf,
        /// What is there and what to do.
        problem: String,
    },
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
    /// A file is not an ONNX graph.
    #[error("{} is not an ONNX graph: {problem}", path.display())]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The type that it is to be stored in cannot hold a weight.
    #[error(
        "the weight {weight} holds {value}, which {into} cannot hold (the largest number of f16 is 65504); export with --precision f32"
    )]
    Overflow {
        /// The type's name.
        into: &'static str,
        /// Its name.
        weight: String,
        /// The number.
        value: f32,
    },
    /// An operator in a form that has no ONNX reading yet.
    #[error("the node `{node}` cannot be written as ONNX: {problem}")]
    Unsupported {
        /// The node.
        node: String,
        /// Why.
        problem: String,
    },
    /// The lowering made a graph that is not well formed: a bug.
    #[error("the ONNX graph `{graph}` is not well formed (a bug of mmlnb-export, please report it): {}", problems.join("; "))]
    Malformed {
        /// The graph.
        graph: String,
        /// All that is wrong.
        problems: Vec<String>,
    },
}

impl ExportError {
    /// An operating system's error about a path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ExportError {
        move |source| ExportError::Io { action, path: path.to_path_buf(), source }
    }

    /// All of these problems as one error; none is no error.
    pub(crate) fn all(mut problems: Vec<ExportError>) -> Result<(), ExportError> {
        match problems.len() {
            0 => Ok(()),
            1 => Err(problems.remove(0)),
            _ => Err(ExportError::Several(problems)),
        }
    }

    /// The exit code: 2 where the input is wrong, 1 where the work itself failed or a bundle was checked and is not right.
    pub fn exit_code(&self) -> u8 {
        match self {
            ExportError::Io { action, .. } if !matches!(*action, "read" | "copy") => 1,
            ExportError::Malformed { .. } | ExportError::Altered(_) => 1,
            ExportError::Weights(WeightError::Unwritable { .. }) => 1,
            _ => 2,
        }
    }
}
