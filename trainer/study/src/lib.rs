//! What a training run starts from and what is made of it, without libtorch: data checks and splits, released weights, the files of a run's folder, its
//! page and card, diagnostics, and comparisons of runs.

pub mod compare;
pub mod data;
pub mod diagnostics;
pub mod error;
pub mod import;
pub mod report;
pub mod run;
pub mod spelling;
