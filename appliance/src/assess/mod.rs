//! From a file's bytes to a verdict: one way for the daemon, `classify`, `describe`, `qualify` and known answers.
//!
//! ```text
//! file ─► bytes (read once, hashed, sealed) ─► reader ══ socket ══► child (confined): slide? complete? header, pixels, thumbnail
//!                                                    ◄══ bounded answer ══
//!         patch (pixels, appearance) ─► engine ─► verdict
//! ```
//! The program itself parses no byte of a foreign file.

pub mod appearance;
#[cfg(feature = "failpoints")]
mod attempt;
pub mod bytes;
pub mod child;
pub mod each;
pub mod look;
pub mod pipeline;
pub mod reader;
pub mod sandbox;
pub mod wire;
