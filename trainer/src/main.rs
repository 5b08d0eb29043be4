//! `mmlnb-train`: describers and classifiers are trained, measured and compared.

use std::process::ExitCode;

fn main() -> ExitCode {
    mmlnb_trainer::commands::main()
}
