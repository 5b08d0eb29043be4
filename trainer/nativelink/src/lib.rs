//! Nothing but a build script, which finds libtorch in the folder that the set-up filled; crates that use libtorch depend on this one.
