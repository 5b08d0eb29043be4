//! ONNX Runtime: which library is loaded, its one environment a process, and sessions with the provider that was chosen.
#![expect(clippy::disallowed_methods, reason = "the kernel's files")]

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;

use mmlnb_models::bundle::Precision;
use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::cuda::{Heard, on_cuda};
use super::{EngineError, EngineOptions, Provider, ProviderChoice, operators};

/// The minor version of ONNX Runtime that this program was built and tested with.
const PINNED_MINOR: u32 = 28;
/// The library's file name in the set-up's folder and in a package.
const LIBRARY: &str = "libonnxruntime.so.1.28.0";
/// Where the set-up puts the library, below the root of the checkout.
const SETUP_FOLDER: &str = "native/site/onnxruntime/capi";
/// Where a package puts it, beside the folder of the executable.
const PACKAGE_FOLDER: &str = "lib/mmlnb/onnxruntime/capi";
/// The same for the build with the GPU's provider.
const SETUP_FOLDER_GPU: &str = "native/site/onnxruntime_gpu/capi";
const PACKAGE_FOLDER_GPU: &str = "lib/mmlnb/onnxruntime_gpu/capi";
/// Versions after the pinned one carry a telemetry client, which this variable keeps silent.
const TELEMETRY_SWITCH: &str = "ORT_DISABLE_TELEMETRY";
/// ONNX Runtime's flash kernel of GroupQueryAttention adds up a piece of a prompt in another order than the whole; it would run in 16 bits, where our
/// own kernels do not.
const ATTENTION_SWITCH: &str = "ORT_GQA_DISABLE_FLASH_ATTENTION";

/// ONNX Runtime with the provider on which sessions are made.
#[derive(Clone)]
pub(super) struct Runtime {
    environment: Environment,
    /// Of its pool.
    pub threads: usize,
    /// The library that was loaded.
    shared_object: PathBuf,
    /// Where sessions run.
    pub provider: Provider,
    /// Of the graphs that are loaded.
    precision: Precision,
}

impl Runtime {
    /// Loads the library (once a process) for graphs at `precision`; sessions are made on the processor until `provider` says otherwise.
    pub fn open(options: &EngineOptions, precision: Precision) -> Result<Runtime, EngineError> {
        let Started { environment, library, threads } = started(options)?;
        let provider = Provider { name: "cpu", note: None };
        Ok(Runtime { environment, threads, shared_object: library, provider, precision })
    }

    /// Loads a graph.
    pub fn load(&self, file: &Path) -> Result<Session, EngineError> {
        let session = || -> ort::Result<Session> {
            let mut builder = self.builder()?;
            if self.provider.name != "cuda" {
                return builder.commit_from_file(file);
            }
            let heard = Heard::default();
            let mut builder = on_cuda(builder, self.precision)?.with_logger(heard.logger())?;
            let session = builder.commit_from_file(file)?;
            heard.tell(file);
            Ok(session)
        };
        session().map_err(|error| self.not_loaded(file, &error))
    }

    /// Loads a language model's graph; on a processor with our own kernels, which are for f32. A portable graph has none of their operators, and does
    /// not import their set: with a set of that name registered, ONNX Runtime refuses what it fuses in it.
    pub fn load_decoder(&self, file: &Path, portable: bool) -> Result<Session, EngineError> {
        let half = matches!(self.precision, Precision::F16 | Precision::Bf16);
        if portable || half || self.provider.name == "cuda" {
            return self.load(file);
        }
        let session = self.with_own_kernels().and_then(|mut builder| builder.commit_from_file(file));
        session.map_err(|error| self.not_loaded(file, &error))
    }

    fn not_loaded(&self, file: &Path, error: &ort::Error) -> EngineError {
        match self.error("", error) {
            EngineError::Memory(_) => EngineError::Memory(format!("no memory to load {}: {error}", file.display())),
            EngineError::Gpu(_) => EngineError::Gpu(format!("cannot load {} on the GPU: {error}", file.display())),
            _ => EngineError::Bundle(format!(
                "ONNX Runtime refuses {}: {error}; export the bundle again with this version of mmlnb-export",
                file.display()
            )),
        }
    }

    /// A session builder on the processor, with our own kernels.
    pub fn with_own_kernels(&self) -> ort::Result<SessionBuilder> {
        Ok(self.builder()?.with_operators(operators::own(self.threads)?)?)
    }

    /// A session builder on the processor.
    pub fn builder(&self) -> ort::Result<SessionBuilder> {
        let builder = Session::builder(&self.environment)?.with_optimization_level(GraphOptimizationLevel::Level3)?;
        // A session keeps a pattern of its memory for each shape that it ever met, for good: images and prompts have many.
        Ok(builder.with_memory_pattern(false)?)
    }

    /// The folder of the library, beside which the GPU's libraries are laid out.
    pub fn folder(&self) -> &Path {
        self.shared_object.parent().unwrap_or(Path::new("/"))
    }

    /// ONNX Runtime's error while `doing`: on the GPU it may have been lost, on the processor it is internal.
    pub fn error(&self, doing: &str, error: &ort::Error) -> EngineError {
        use ort::ErrorCode::{DeviceReset, EngineError as Engine, ExecutionProviderFailure};
        let lost = matches!(error.code(), DeviceReset | Engine | ExecutionProviderFailure) || error.message().contains("CUDA");
        let text = format!("{doing}: {error}");
        if wants_memory(error.message()) {
            return EngineError::Memory(text);
        }
        if self.provider.name == "cuda" && lost { EngineError::Gpu(text) } else { EngineError::Internal(text) }
    }
}

/// Whether a language model's numbers for a token are the same to the bit, however many others are read in the same call: with weights in few bits, which
/// run on processors alone ([`super::provider`]). Sums of products are exact there (int8) or made row by row by our own kernels (int4), as attention is;
/// portable graphs have ONNX Runtime's attention, and its products of f32 and f16 take one row otherwise than several.
pub(super) fn rows_are_exact(precision: Precision, portable: bool) -> bool {
    match precision {
        Precision::Int8 | Precision::Int4 | Precision::Int4Int8 => !portable,
        Precision::F32 | Precision::F16 | Precision::Bf16 => false,
    }
}

/// What a thread of a scope comes to; its panic is passed on.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether an error says that memory was not to be had, which is no fault of the image and may pass. The words are those of ONNX
/// Runtime's allocators, of the C++ library and of CUDA's.
fn wants_memory(message: &str) -> bool {
    let words = [
        "Failed to allocate memory",
        "bad_alloc",
        "bad allocation",
        "out of memory",
        "ALLOC_FAILED",
        "cudaErrorMemoryAllocation",
    ];
    words.iter().any(|word| message.contains(word))
}

/// The process's environment; ONNX Runtime allows one, so the first engine decides about library and threads.
static STARTED: Mutex<Option<Started>> = Mutex::new(None);

/// What the first engine of a process decided.
#[derive(Clone)]
struct Started {
    environment: Environment,
    library: PathBuf,
    threads: usize,
}

fn started(options: &EngineOptions) -> Result<Started, EngineError> {
    let mut known = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(started) = known.as_ref() {
        return Ok(started.clone());
    }
    check_environment()?;
    let library = find_library(options)?;
    check_version(&library)?;
    let threads = options.threads.unwrap_or_else(default_threads).max(1);
    let create = || -> Result<Environment, String> {
        let builder = ort::init_from(&library).map_err(|error| with_source(&error))?;
        // A step is some hundred short pieces of work: a thread that has to be woken for each makes it a fifth longer. One that finds none goes to sleep
        // after a moment.
        let pool =
            || GlobalThreadPoolOptions::default().with_intra_threads(threads)?.with_inter_threads(1)?.with_spin_control(true);
        let pool = pool().map_err(|error: ort::Error| error.to_string())?;
        let builder = builder.with_name("mmlnb").with_telemetry(false).with_global_thread_pool(pool);
        builder.build().map_err(|error| error.to_string())
    };
    let environment = create().map_err(|error| {
        EngineError::Library(format!("cannot start ONNX Runtime from {}: {error}; run the set-up again", library.display()))
    })?;
    tracing::info!(library = %library.display(), threads, "onnx_runtime_loaded");
    let started = Started { environment, library, threads };
    *known = Some(started.clone());
    Ok(started)
}

/// All cores less one, which is left to decoding, reports and the system; at least one.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1)).max(1)
}

/// The first library that exists. A path that somebody named must exist itself.
fn find_library(options: &EngineOptions) -> Result<PathBuf, EngineError> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = named("MMLNB_ORT_LIB").or_else(|| options.onnx_runtime.clone()) {
        return if path.is_file() { Ok(path) } else { Err(absent(&[path])) };
    }
    let executable = std::env::current_exe().and_then(|path| path.canonicalize()).ok();
    let candidates =
        executable.map_or_else(Vec::new, |executable| candidates(&executable, options.provider, named("ORT_DYLIB_PATH")));
    candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| absent(&candidates))
}

/// Where the library may lie, seen from the program's own file, the likeliest first.
fn candidates(executable: &Path, provider: ProviderChoice, configured: Option<PathBuf>) -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    let folders: Vec<&Path> = executable.ancestors().skip(1).collect();
    // The build with the GPU's provider runs on processors too; it is taken where the GPU is asked for and it was brought.
    if provider == ProviderChoice::Cuda {
        candidates.extend(folders.iter().skip(1).take(1).map(|prefix| prefix.join(PACKAGE_FOLDER_GPU).join(LIBRARY)));
        candidates.extend(folders.iter().skip(1).map(|root| root.join(SETUP_FOLDER_GPU).join(LIBRARY)));
    }
    candidates.extend(folders.iter().take(1).map(|folder| folder.join(LIBRARY)));
    candidates.extend(folders.iter().skip(1).take(1).map(|prefix| prefix.join(PACKAGE_FOLDER).join(LIBRARY)));
    candidates.extend(configured);
    candidates.extend(folders.iter().skip(1).map(|root| root.join(SETUP_FOLDER).join(LIBRARY)));
    candidates
}

fn absent(candidates: &[PathBuf]) -> EngineError {
    let places: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    EngineError::Library(format!(
        "ONNX Runtime was not found; looked for {}; run `cargo xtask setup`, or name the library in MMLNB_ORT_LIB",
        places.join(", ")
    ))
}

/// Refuses an older library, which lacks kernels, and a newer one that could send telemetry.
fn check_version(library: &Path) -> Result<(), EngineError> {
    let refuse = |why: String| Err(EngineError::Library(format!("the ONNX Runtime library {} {why}", library.display())));
    let silenced = matches!(std::env::var(TELEMETRY_SWITCH).as_deref(), Ok("1" | "true"));
    match ort::util::probe(library) {
        None => refuse("cannot be loaded, or is not version 1.x; run the set-up again".to_string()),
        Some(minor) if minor < PINNED_MINOR => {
            refuse(format!("is version 1.{minor}, but 1.{PINNED_MINOR} is needed; run the set-up again or correct MMLNB_ORT_LIB"))
        }
        Some(minor) if minor > PINNED_MINOR && !silenced => refuse(format!(
            "is version 1.{minor} and may send telemetry; set {TELEMETRY_SWITCH}=1, or use the pinned version 1.{PINNED_MINOR}"
        )),
        Some(minor) if minor > PINNED_MINOR => {
            tracing::warn!(library = %library.display(), minor, pinned = PINNED_MINOR, "onnx_runtime_not_pinned");
            Ok(())
        }
        Some(_) => Ok(()),
    }
}

/// Sets what ONNX Runtime reads from the environment: no telemetry, and the attention whose numbers do not depend on how a prompt is cut. To be
/// called first thing in `main`.
///
/// # Panics
/// If other threads run already: then the environment must not be changed.
pub fn set_environment() {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    assert!(threads == 1, "the environment must be set before any thread is started");
    for switch in [TELEMETRY_SWITCH, ATTENTION_SWITCH] {
        // SAFETY: no other thread exists, so none reads the environment meanwhile.
        unsafe { std::env::set_var(switch, "1") };
    }
}

/// Refuses to run where a description could depend on what else runs.
fn check_environment() -> Result<(), EngineError> {
    match std::env::var(ATTENTION_SWITCH).as_deref() {
        Ok("1") => Ok(()),
        _ => Err(EngineError::Internal(format!("{ATTENTION_SWITCH}=1 is not set, which the program does at its start"))),
    }
}

/// An error with its causes: the loader's Display alone does not name the missing file.
fn with_source(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_memory_is_told_from_other_errors() {
        let cpu = "Non-zero status code returned while running MatMul node. Status Message: bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1073741824";
        for message in
            [cpu, "std::bad_alloc", "CUDA failure 2: out of memory ; GPU=0", "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"]
        {
            assert!(wants_memory(message), "{message}");
        }
        assert!(!wants_memory("CUDA failure 700: an illegal memory access was encountered"));
    }

    #[test]
    fn a_named_library_that_is_absent_is_an_error_with_its_path() {
        let options =
            EngineOptions { onnx_runtime: Some(PathBuf::from("/absent/libonnxruntime.so")), ..EngineOptions::default() };
        if std::env::var_os("MMLNB_ORT_LIB").is_none() {
            let error = find_library(&options).unwrap_err().to_string();
            assert!(error.contains("/absent/libonnxruntime.so") && error.contains("MMLNB_ORT_LIB"), "{error}");
        }
    }

    #[test]
    fn the_build_for_gpus_is_taken_where_it_was_brought_and_a_gpu_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let place = |folder: &str| root.path().join(folder).join(LIBRARY);
        let executable = root.path().join("target/release/mmlnb-appliance");
        let configured = place(SETUP_FOLDER);
        let found = |provider| {
            let candidates = candidates(&executable, provider, Some(configured.clone()));
            candidates.into_iter().find(|path| path.is_file())
        };
        let bring = |folder: &str| {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
            std::fs::write(place(folder), "").unwrap();
        };
        bring(SETUP_FOLDER);
        assert_eq!(found(ProviderChoice::Cuda), Some(configured.clone()), "without it, the other one");
        bring(SETUP_FOLDER_GPU);
        assert_eq!(found(ProviderChoice::Cuda), Some(place(SETUP_FOLDER_GPU)));
        assert_eq!(found(ProviderChoice::Cpu), Some(configured.clone()));
    }

    #[test]
    fn a_file_that_is_no_library_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = check_version(file.path()).unwrap_err().to_string();
        assert!(error.contains("cannot be loaded"), "{error}");
    }
}
