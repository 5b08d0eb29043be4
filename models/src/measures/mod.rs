//! What is measured about classes and texts, once for the trainer's reports and for `qualify` on the machine that serves.
//!
//! [`classes`] measures probabilities against true classes, [`intervals`] says how far such a number can be trusted, and [`paired`] whether two
//! models differ. [`calibration`] turns logits into confidences, [`promise`] chooses the threshold of abstention; [`novelty`] says how far an
//! input lies from the training data, [`divergence`] how far one distribution of tokens lies from another. [`texts`] compares words, [`facts`]
//! compares what the words say, and [`generated`] how a set of texts behaves.

mod beta;
pub mod calibration;
pub mod classes;
pub mod divergence;
pub mod facts;
pub mod generated;
pub mod intervals;
pub mod novelty;
pub mod paired;
pub mod promise;
mod ranking;
pub mod texts;

pub use ranking::{auroc, average_precision, roc};

/// Items that cannot be measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    /// There is nothing to measure.
    #[error("there is no item to measure; give a part of the data that holds at least one")]
    Empty,
    /// Two lists that belong together have different lengths.
    #[error("{left} {left_name} against {right} {right_name}; each item needs one of both")]
    Lengths {
        /// What the first list holds.
        left_name: &'static str,
        /// Its length.
        left: usize,
        /// What the second list holds.
        right_name: &'static str,
        /// Its length.
        right: usize,
    },
    /// A number of an item is not usable.
    #[error("item {item} (counted from 0): {problem}")]
    Item {
        /// Its place.
        item: usize,
        /// What is wrong.
        problem: String,
    },
}

/// Checks that two lists have one entry an item.
fn same_length(left_name: &'static str, left: usize, right_name: &'static str, right: usize) -> Result<(), MeasureError> {
    if left == right { Ok(()) } else { Err(MeasureError::Lengths { left_name, left, right_name, right }) }
}
