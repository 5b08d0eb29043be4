//! What golden tests and laws share.

#![allow(dead_code, missing_docs, reason = "each test binary uses a part of it")]

pub mod compare;
pub mod describer;

/// Where the golden tests compute: `MMLNB_DEVICE`, a name as `--device` takes it, else the processor.
pub fn device() -> tch::Device {
    let name = std::env::var("MMLNB_DEVICE").unwrap_or_else(|_| "cpu".to_string());
    mmlnb_trainer::start::device(&name).unwrap_or_else(|error| panic!("MMLNB_DEVICE={name}: {error}"))
}
