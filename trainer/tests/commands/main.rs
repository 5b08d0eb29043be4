//! The program as a user runs it, on the reference data's small networks.

#![allow(missing_docs, reason = "a test")]

mod base;
mod calibrate;
mod evaluate;
mod generate;
mod peft;
mod ranks;
mod tissue;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A family's folder below MMLNB_GOLDEN or the project's own copy; an absent one is reported and skipped.
fn family(name: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let folder = std::env::var_os("MMLNB_GOLDEN").map_or(own, PathBuf::from).join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: {} is absent", folder.display());
    None
}

fn mmlnb_train(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mmlnb-train")).args(arguments).output().unwrap()
}

/// Exit code and standard error.
fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
