//! What golden tests and laws share.

#![allow(dead_code, missing_docs, reason = "each test binary uses a part of it")]

pub mod compare;
pub mod describer;
