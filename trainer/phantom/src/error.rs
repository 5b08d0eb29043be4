//! What can go wrong while phantoms are written.

use std::path::{Path, PathBuf};

/// Why phantoms were not written.
#[derive(Debug, thiserror::Error)]
pub enum PhantomError {
    /// A wrong combination of what was asked for.
    #[error("{0}")]
    Asked(String),
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// write, create, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file's content cannot be made.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl PhantomError {
    /// An operating system's error about a path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PhantomError {
        move |source| PhantomError::Io { action, path: path.to_path_buf(), source }
    }
}
