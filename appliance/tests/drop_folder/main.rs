//! The drop folder end to end, around a test double of the engine: every file ends exactly once, whatever happens in between.
#![allow(clippy::disallowed_methods, reason = "tests prepare files by paths")]

mod appliance;
mod commands;
mod crashes;
mod double;
mod everyday;
mod safe_mode;
mod wrong_inputs;
