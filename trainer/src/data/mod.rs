//! Training data: a CSV file and a folder of images.

mod table;

pub use table::{Part, Row, Table};
