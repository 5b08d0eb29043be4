//! Trained models on other data than their own run's.

mod blind;
mod describer;
mod page;

pub use blind::{Blind, write_blind};
pub use describer::{Compared, DescriberMeasures, Pair, Side, compare_descriptions};
pub use page::write_page;
