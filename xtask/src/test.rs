//! `cargo xtask test`: set-up, then everything that must hold before a change is kept.

use crate::{boot, checkout, licences, setup, slide, torture};
use anyhow::{Context, Result, bail};
use std::{
    process::{Command, Stdio},
    time::Instant,
};

/// Failpoints do nothing unless the environment names one, so the tests' binaries are also the ones that a developer starts.
const FAILPOINTS: [&str; 2] = ["--features", "mmlnb-appliance/failpoints"];

/// Runs all checks in turn and stops at the first that fails.
pub fn run() -> Result<()> {
    let started = Instant::now();
    setup::run(&setup::Options::default())?;
    slide::tiles(None)?;
    step("format", &mut cargo(["fmt", "--all", "--check"]))?;
    step("lints", cargo(["clippy", "--workspace", "--all-targets"]).args(FAILPOINTS).args(["--", "-D", "warnings"]))?;
    step("build", cargo(["build", "--workspace"]).args(FAILPOINTS))?;
    tests()?;
    eprintln!("== boot");
    boot::in_gate()?;
    eprintln!("== torture, short");
    torture::in_gate()?;
    step("documentation", cargo(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    eprintln!("== licences");
    licences::check()?;
    eprintln!("all checks passed in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn tests() -> Result<()> {
    if !has("nextest") {
        return step("tests", cargo(["test", "--workspace"]).args(FAILPOINTS));
    }
    step("tests", cargo(["nextest", "run", "--workspace", "--no-fail-fast"]).args(FAILPOINTS))?;
    // nextest does not run the examples in the documentation.
    step("documentation's examples", cargo(["test", "--workspace", "--doc"]).args(FAILPOINTS))
}

fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(checkout());
    command
}

fn has(subcommand: &str) -> bool {
    let run = Command::new(env!("CARGO")).args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}

fn step(name: &str, command: &mut Command) -> Result<()> {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    eprintln!("== {name}: cargo {}", words.join(" "));
    let started = Instant::now();
    let status = command.status().with_context(|| format!("{name}: cargo cannot be started"))?;
    eprintln!("== {name}: {} in {:.1} s", if status.success() { "passed" } else { "FAILED" }, started.elapsed().as_secs_f64());
    if !status.success() {
        bail!("{name} failed: its messages stand above");
    }
    Ok(())
}
