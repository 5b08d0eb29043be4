//! Everything that touches files below inbox, done and failed. Others can write there, so no path is ever resolved as a whole: each
//! step goes through the handle of an open folder and follows no symbolic link. The lint of disallowed methods keeps the standard
//! library's path-taking calls out of the rest of the crate.

mod dir;
pub mod names;
mod shift;
mod stamp;
mod write;

pub use dir::Dir;
pub use shift::{Moved, Source, candidates, choose, choose_among, is_regular, marks, relocate, remove, state};
pub use stamp::Stamp;
pub use write::{Points, both, write, write_for_all};
