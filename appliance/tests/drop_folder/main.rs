//! The drop folder end to end, around a test double of the engine: every file ends exactly once, whatever happens in between.

mod appliance;
mod commands;
mod crashes;
mod double;
mod everyday;
mod wrong_inputs;
