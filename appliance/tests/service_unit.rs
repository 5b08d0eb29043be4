//! The shipped unit: systemd understands every line, and the sandbox is as tight as it was measured to be.
#![allow(clippy::disallowed_methods, reason = "tests prepare files by paths")]

use std::path::Path;
use std::process::Command;

const SYSTEMD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd");

/// systemd-analyze, or nothing where it is not installed.
fn analyze(arguments: &[&str], folder: &Path) -> Option<std::process::Output> {
    match Command::new("systemd-analyze").args(arguments).current_dir(folder).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("systemd-analyze is not installed ({error}); the unit is not checked");
            None
        }
    }
}

/// The unit with a program that exists on every machine, and the drop-in if wanted.
fn unit(with_gpu: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(Path::new(SYSTEMD).join("mmlnb-appliance.service")).unwrap();
    let lines = text.lines().map(|line| if line.starts_with("ExecStart=") { "ExecStart=/bin/true" } else { line });
    std::fs::write(folder.path().join("mmlnb-appliance.service"), lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    if with_gpu {
        let dropin = "mmlnb-appliance.service.d";
        std::fs::create_dir(folder.path().join(dropin)).unwrap();
        std::fs::copy(Path::new(SYSTEMD).join(dropin).join("gpu.conf"), folder.path().join(dropin).join("gpu.conf")).unwrap();
    }
    folder
}

#[test]
fn systemd_understands_every_line() {
    for with_gpu in [false, true] {
        let folder = unit(with_gpu);
        let Some(output) = analyze(&["verify", "--man=no", "./mmlnb-appliance.service"], folder.path()) else { return };
        // The exit status is 0 even for unknown keys: only an empty stderr means understood.
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
    }
}

#[test]
fn the_sandbox_is_tight() {
    for (with_gpu, threshold) in [(false, "--threshold=15"), (true, "--threshold=30")] {
        let folder = unit(with_gpu);
        let arguments = ["security", "--offline=true", "--no-pager", threshold, "./mmlnb-appliance.service"];
        let Some(output) = analyze(&arguments, folder.path()) else { return };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_unit_and_the_program_agree() {
    let text = std::fs::read_to_string(Path::new(SYSTEMD).join("mmlnb-appliance.service")).unwrap();
    let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line}");
    has("Type=notify");
    // The brake of a loop of crashes is the program's own: safe mode, which tells why.
    has("StartLimitIntervalSec=0");
    has(&format!("ExecStart=/usr/bin/mmlnb-appliance run --config {}", mmlnb_appliance::config::DEFAULT_FILE));
    has("RestartPreventExitStatus=2 65 77 78");
    has("User=mmlnb");
    has("SystemCallFilter=seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self");
    has("SupplementaryGroups=mmlnb-drop");
}
