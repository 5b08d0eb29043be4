//! Which libtorch this program needs, and what is wrong with another.

use std::path::PathBuf;

/// The version of libtorch that this program was built for.
pub const TORCH_VERSION: &str = "2.11.0";

/// libtorch cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StartError {
    /// The library is not the one that this program was built for; going on would give wrong numbers.
    #[error(
        "this program needs libtorch {TORCH_VERSION}, but {} is {found}; run `cargo xtask setup`, or point LD_LIBRARY_PATH to libtorch {TORCH_VERSION}",
        library.display()
    )]
    Version {
        /// The library that the loader chose.
        library: PathBuf,
        /// What it says of itself.
        found: String,
    },
    /// The library says the right version and yet cannot make a tensor.
    #[error("libtorch {TORCH_VERSION} in {} fails at the simplest call ({problem}); run `cargo xtask setup` to repair it", library.display())]
    Broken {
        /// The library that the loader chose.
        library: PathBuf,
        /// The first line of its message.
        problem: String,
    },
}
