//! `cargo xtask boot`: the service where it lives. A Debian is booted as a container, the product is installed into it as a package
//! would, and ordinary users drop files while the service is killed, stopped and starved under its own unit.

mod container;
mod drops;
mod journal;
mod root;
mod scenario;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use std::{path::PathBuf, time::Instant};

/// A release of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Debian 12, systemd 252
    Bookworm,
    /// Debian 13, systemd 257
    Trixie,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
        }
    }
}

/// What to boot.
#[derive(Args)]
pub struct Options {
    /// The Debian to boot
    #[arg(long, value_enum, default_value = "bookworm")]
    suite: Suite,
    /// Where debootstrap takes packages from; its own default where this is absent
    #[arg(long, value_name = "URL", env = "MMLNB_DEBIAN_MIRROR")]
    mirror: Option<String>,
    /// Leave the container's root where it is, to look at it
    #[arg(long)]
    keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { suite: Suite::Bookworm, mirror: None, keep: false }
    }
}

/// Why no container can be booted on this machine.
pub fn hindrance() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("booting a container needs root".into());
    }
    let absent = |program: &&str| !on_path(program);
    let missing: Vec<&str> = ["systemd-nspawn", "debootstrap", "nsenter"].into_iter().filter(absent).collect();
    (!missing.is_empty()).then(|| {
        format!("{} not installed: sudo apt-get install --yes systemd-container debootstrap util-linux", missing.join(" and "))
    })
}

/// Whether a program is installed.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(program).is_file())
}

/// Boots, installs, tries everything; fails at the first thing that is not as it should be.
pub fn run(options: &Options) -> Result<()> {
    if let Some(reason) = hindrance() {
        bail!("{reason}");
    }
    play(options, &root::Product::make(false)?)
}

/// [`run`] in the gate, with the programs that it has built; where nothing can be booted it says so.
pub fn in_gate() -> Result<()> {
    match hindrance() {
        Some(reason) => eprintln!("== boot: SKIPPED, {reason}"),
        None => play(&Options::default(), &root::Product::make(true)?)?,
    }
    Ok(())
}

fn play(options: &Options, product: &root::Product) -> Result<()> {
    let started = Instant::now();
    let root = root::Root::make(options.suite.name(), options.mirror.as_deref())?;
    root.install(product)?;
    let result = scenario::play(&root);
    if options.keep || result.is_err() {
        eprintln!("the container's root: {}", root.path().display());
    } else {
        root.remove()?;
    }
    result?;
    eprintln!("the service is right in a booted {} ({:.0} s)", options.suite.name(), started.elapsed().as_secs_f64());
    Ok(())
}

/// The folder for everything of this command.
fn folder() -> PathBuf {
    crate::checkout().join("target/boot")
}
