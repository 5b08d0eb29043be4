//! What the machine itself must have, and the line that installs what it lacks.

use anyhow::{Result, bail};
use std::process::{Command, Stdio};

/// Checks the processor, the system and the compilers; every problem is named at once.
pub fn check(with_libtorch: bool) -> Result<()> {
    let mut problems = Vec::new();
    if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        problems.push("the pinned libraries are for x86-64 Linux with glibc; this is another machine".to_owned());
    }
    if let Some(version) = glibc().filter(|version| *version < (2, 28)) {
        problems.push(format!("glibc {}.{} is too old: 2.28 is needed (Debian 10 or newer)", version.0, version.1));
    }
    if !runs(&std::env::var("CC").unwrap_or("cc".to_owned())) {
        problems.push(format!("a C compiler is missing: {}", install_line("gcc")));
    }
    if with_libtorch && !runs(&std::env::var("CXX").unwrap_or("c++".to_owned())) {
        problems.push(format!("a C++ compiler is missing: {}", install_line("g++")));
    }
    if !problems.is_empty() {
        bail!("this machine is not ready:\n  {}", problems.join("\n  "));
    }
    Ok(())
}

/// A warning when the CUDA libraries will find no driver new enough for them.
pub fn warn_about_driver() {
    let version = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    let branch = version.as_deref().and_then(driver_branch);
    match branch {
        Some(580..) => {}
        Some(old) => {
            eprintln!("warning: the NVIDIA driver is of branch {old}; CUDA 13 needs 580 or newer, until then the CPU is used")
        }
        None => eprintln!(
            "warning: no NVIDIA driver is loaded; the CUDA libraries are brought all the same, CUDA 13 needs driver 580 or newer"
        ),
    }
}

fn driver_branch(text: &str) -> Option<u32> {
    text.split_whitespace()
        .find_map(|word| word.split_once('.').and_then(|(major, _)| major.parse().ok()).filter(|major| *major > 100))
}

fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

fn runs(program: &str) -> bool {
    let status = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn install_line(package: &str) -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    install_line_on(&release, package)
}

fn install_line_on(release: &str, package: &str) -> String {
    let names: Vec<&str> = release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .collect();
    let is = |name: &str| names.contains(&name);
    let cpp = package == "g++";
    match () {
        () if is("debian") || is("ubuntu") => format!("sudo apt-get install --yes {package} libc6-dev"),
        () if is("fedora") || is("rhel") => format!("sudo dnf install --assumeyes {}", if cpp { "gcc-c++" } else { "gcc" }),
        () if is("suse") || is("opensuse") => format!("sudo zypper install {}", if cpp { "gcc-c++" } else { "gcc" }),
        () if is("arch") => "sudo pacman -S gcc".to_owned(),
        () => format!("install {package} with this system's package manager"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_has_its_line() {
        assert_eq!(install_line_on("NAME=x\nID=debian\n", "g++"), "sudo apt-get install --yes g++ libc6-dev");
        assert_eq!(
            install_line_on("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "g++"),
            "sudo dnf install --assumeyes gcc-c++"
        );
        assert!(install_line_on("", "g++").contains("g++"));
    }

    #[test]
    fn driver_branch_is_read() {
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  Wed Aug 27\nGCC version:  gcc version 12.2.0\n";
        assert_eq!(driver_branch(text), Some(580));
        assert_eq!(driver_branch("nothing"), None);
    }
}
