//! What the scanner sees, for the status.

/// The inbox as the last look found it.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Files that are still being written.
    pub settling: usize,
    /// Why nothing can be seen.
    pub blind: Option<String>,
    /// Anything that is not as it should be.
    pub notices: Vec<String>,
    /// Whether the first scan is done.
    pub ready: bool,
}
