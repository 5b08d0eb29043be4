//! What has to happen before the first use of libtorch.
//!
//! The program is linked against libtorch's CPU part only, so that one binary serves machines with and without a GPU; the CUDA part is loaded
//! here when it lies beside it. libtorch caches its first look for CUDA, therefore this comes before every other call.

use crate::error::TrainError;
pub use crate::libtorch::{StartError, TORCH_VERSION};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY, Symbol};
use std::{
    error::Error,
    fs,
    num::NonZeroU16,
    path::{Path, PathBuf},
    sync::OnceLock,
};
use tch::{Device, Tensor};

const CPU_PART: &str = "libtorch_cpu.so";
const CUDA_PART: &str = "libtorch_cuda.so";

/// Whether libtorch can compute on a GPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cuda {
    /// It can, on this many.
    Ready {
        /// Number of GPUs, at least 1.
        devices: i64,
    },
    /// Its CUDA part is loaded, but finds no driver or no GPU.
    NoDevice,
    /// Its CUDA part is not there or cannot be loaded: why.
    Absent(String),
}

/// Checks libtorch and loads its CUDA part. Later calls return the first one's answer.
///
/// # Errors
/// Another version of libtorch than [`TORCH_VERSION`], or a damaged one.
pub fn start() -> Result<Cuda, StartError> {
    static ANSWER: OnceLock<Result<Cuda, StartError>> = OnceLock::new();
    ANSWER.get_or_init(check_and_load).clone()
}

/// The device of this name: `cpu`, `cuda`, `cuda:N`, or `auto`, a GPU where libtorch finds one. Starts libtorch.
///
/// # Errors
/// Another name, a GPU that is not there, and those of [`start`].
pub fn device(name: &str) -> Result<Device, TrainError> {
    let cuda = start()?;
    let number = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" if !matches!(cuda, Cuda::Ready { .. }) => return Ok(Device::Cpu),
        "auto" => 0,
        "cuda" => 0,
        other => match other.strip_prefix("cuda:").and_then(|number| number.parse::<usize>().ok()) {
            Some(number) => number,
            None => return Err(TrainError::Asked(format!("`{other}` is no device; expected auto, cpu, cuda or cuda:N"))),
        },
    };
    match cuda {
        Cuda::Ready { devices } if (number as i64) < devices => Ok(Device::Cuda(number)),
        Cuda::Ready { devices } => Err(TrainError::Asked(format!("there is no GPU {number}, only {devices}; they count from 0"))),
        Cuda::NoDevice => Err(TrainError::Asked("libtorch finds no GPU or no driver; use --device cpu".into())),
        Cuda::Absent(why) => Err(TrainError::Asked(format!("libtorch's CUDA part cannot be used: {why}; use --device cpu"))),
    }
}

/// What a run records of its device: numbers differ between a processor and a GPU, not between two GPUs' places.
pub fn device_kind(device: Device) -> &'static str {
    if device.is_cuda() { "cuda" } else { "cpu" }
}

/// Lets libtorch's operators use this many threads in the whole process.
pub fn set_threads(threads: NonZeroU16) {
    tch::set_num_threads(i32::from(threads.get()));
}

fn check_and_load() -> Result<Cuda, StartError> {
    let library = loaded_from(CPU_PART).unwrap_or_else(|| PathBuf::from(CPU_PART));
    let found = version(&library);
    if found != TORCH_VERSION {
        return Err(StartError::Version { library, found });
    }
    let loaded = load_cuda(&library);
    let probe = Tensor::f_from_slice(&[1i64, 2]).and_then(|t| t.f_int64_value(&[1]));
    match probe {
        Ok(2) => {}
        Ok(other) => return Err(StartError::Broken { library, problem: format!("2 was read back as {other}") }),
        Err(error) => return Err(StartError::Broken { library, problem: crate::torch::first_line(&error) }),
    }
    Ok(match loaded {
        Err(why) => Cuda::Absent(why),
        Ok(()) if !tch::Cuda::is_available() => Cuda::NoDevice,
        Ok(()) => Cuda::Ready { devices: tch::Cuda::device_count() },
    })
}

/// The file from which a library of this process came.
fn loaded_from(name: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    path.into_iter().find(|path| path.file_name().is_some_and(|file| file == name)).map(Path::to_path_buf)
}

/// What libtorch says of itself, by a C function that it has since 2.9.
fn version(library: &Path) -> String {
    // SAFETY: the library is part of this process already, so opening it runs no code.
    let Ok(handle) = (unsafe { Library::open(Some(library), RTLD_LAZY) }) else { return "not to be found".into() };
    // SAFETY: the symbol is declared in torch/csrc/inductor/aoti_torch/c/shim.h as `uint64_t aoti_torch_abi_version()`.
    let symbol: Result<Symbol<unsafe extern "C" fn() -> u64>, _> = unsafe { handle.get(b"aoti_torch_abi_version\0") };
    match symbol {
        // SAFETY: as above; the function only returns a number.
        Ok(function) => spelled(unsafe { function() }),
        Err(_) => "of a version before 2.9".into(),
    }
}

/// Major, minor and patch stand in the three highest bytes.
fn spelled(version: u64) -> String {
    let [major, minor, patch, ..] = version.to_be_bytes();
    format!("{major}.{minor}.{patch}")
}

fn load_cuda(cpu_part: &Path) -> Result<(), String> {
    let file = cpu_part.with_file_name(CUDA_PART);
    if !file.exists() {
        return Err(format!("{} is not there; `cargo xtask setup --gpu` brings it", file.display()));
    }
    // SAFETY: loading runs the library's initialisers, which is what it is for; nothing else of libtorch has been called yet.
    match unsafe { Library::open(Some(&file), RTLD_LAZY | RTLD_GLOBAL) } {
        Ok(handle) => {
            // libtorch registers itself while loading: it must never be unloaded.
            std::mem::forget(handle);
            Ok(())
        }
        Err(error) => {
            let cause = error.source().map_or(String::new(), |source| format!(": {source}"));
            Err(format!("{} cannot be loaded{cause}; `cargo xtask setup --gpu` repairs it", file.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_spelled_from_the_highest_bytes() {
        assert_eq!(spelled(0x020b_0000_0000_0000), "2.11.0");
        assert_eq!(spelled(0x0209_0100_0000_0000), "2.9.1");
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let error = StartError::Version { library: "/somewhere/libtorch_cpu.so".into(), found: "2.13.0".into() };
        let text = error.to_string();
        assert!(text.contains("2.11.0") && text.contains("2.13.0") && text.contains("/somewhere/libtorch_cpu.so"), "{text}");
    }

    #[test]
    fn a_device_is_named_or_found() {
        assert_eq!(device("cpu").unwrap(), Device::Cpu);
        let expected = match start().unwrap() {
            Cuda::Ready { .. } => Device::Cuda(0),
            Cuda::NoDevice | Cuda::Absent(_) => Device::Cpu,
        };
        assert_eq!(device("auto").unwrap(), expected);
        let error = device("tpu").unwrap_err().to_string();
        assert!(error.contains("`tpu` is no device; expected auto, cpu"), "{error}");
    }

    #[test]
    fn the_pinned_libtorch_starts() {
        start().unwrap();
        set_threads(NonZeroU16::new(1).unwrap());
        assert_eq!(tch::get_num_threads(), 1);
    }
}
