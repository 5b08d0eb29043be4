//! The appliance: a drop folder in, reports in SQLite and beside the images out.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests prepare files by paths"))]

mod accounts;
pub mod assess;
pub mod bench;
pub mod bundle;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod compare;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod error;
pub mod failpoint;
pub mod files;
pub mod intake;
pub mod ledger;
pub mod progress;
pub mod qualify;
pub mod report;
pub mod verdict;
pub mod world;
