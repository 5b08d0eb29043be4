//! MMLNB: models.

pub mod base64;
pub mod bundle;
pub mod config;
pub mod cost;
pub mod graph;
pub mod hash;
pub mod json;
pub mod measures;
pub mod networks;
pub mod prepare;
pub mod random;
pub mod record;
pub mod sheet;
pub mod spelling;
pub mod verdict;
pub mod weights;
