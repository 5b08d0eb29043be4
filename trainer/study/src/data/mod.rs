//! Training data: a CSV file and a folder of images, checked whole before any weight is loaded, and its split into parts.

mod classes;
mod images;
mod load;
mod overlap;
mod roles;
mod split;
mod summary;
mod table;

pub use classes::ClassOrder;
pub use load::{Needs, TextLimit, load, tell_unknown};
pub use mmlnb_models::provenance::TrainingData;
pub use mmlnb_models::rows::Part;
pub use mmlnb_models::sheet::{Record, Sheet};
pub use overlap::{Overlap, Who, check_overlap, salt_of, seen_rows, tables_describer, training_data, write_training_data};
pub use roles::{RoleCounts, Roles};
pub use split::{SPLIT_SEED, Split, SplitBy, SplitOptions, split};
pub use summary::{Range, Summary};
pub use table::{Row, Table};
