//! Phantoms: procedural patches that look like H&E, with known truth, descriptions from the same truth, patients and scanners.
//!
//! No labelled neuroblastoma may be shipped, so the project makes its own test object, as medical imaging does. Phantoms prove that code
//! learns, splits, calibrates and abstains; they say nothing about accuracy on patients. Figures without a source come from a prototype that was
//! looked at beside real tissue.

pub mod canvas;
pub mod cells;
pub mod error;
pub mod findings;
pub mod grammar;
pub mod mask;
pub mod optics;
pub mod patch;
pub mod patient;
pub mod plan;
pub mod random;
pub mod scene;
pub mod sets;
pub mod texture;
pub mod truth;
pub mod write;
