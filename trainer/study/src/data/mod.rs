//! Training data: a CSV file and a folder of images, checked whole before any weight is loaded, and its split into parts.

mod check;
mod classes;
mod images;
mod load;
mod overlap;
mod split;
mod summary;
mod table;

pub use classes::ClassOrder;
pub use load::{Needs, TextLimit, load, tell_unknown};
pub use mmlnb_models::provenance::TrainingData;
pub use mmlnb_models::sheet::{Record, Sheet};
<<<<<<< HEAD:trainer/study/src/data/mod.rs
pub use overlap::{Overlap, TRAINING_DATA, TrainingData, check_overlap};
=======
pub use order::order;
pub use overlap::{Overlap, check_overlap, salt_of, tables_describer, training_data, write_training_data};
>>>>>>> w-tables:trainer/src/data/mod.rs
pub use split::{SPLIT_SEED, Split, SplitBy, SplitOptions, split};
pub use summary::{Range, Summary};
pub use table::{Part, Row, Table};
