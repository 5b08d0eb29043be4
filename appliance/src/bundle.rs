//! Opening a bundle for the daemon and for single images, and turning what can go wrong into sentences.

use std::path::Path;

use mmlnb_models::bundle::{Bundle, BundleError, Distrust, Precision, Standing, Standings, Trust, Unchecked};

use crate::engine::{EngineError, EngineOptions, Mode, ProviderChoice};
use crate::error::{Exit, Failure};

/// Opens and checks a bundle, whoever signed it: commands that are told no keys judge nobody.
///
/// # Errors
/// [`Exit::Configuration`] with the file that is wrong.
pub fn open(dir: &Path) -> Result<Bundle, Failure> {
    Bundle::open(dir).map_err(|error| refused(&error, dir))
}

/// Opens a bundle that is signed as `trust` wants it, and whose weights are still to be checked, by [`checked`].
///
/// # Errors
/// As [`open`].
pub fn begin(dir: &Path, trust: &Trust) -> Result<(Bundle, Unchecked), Failure> {
    Bundle::begin(dir, trust).map_err(|error| refused(&error, dir))
}

/// Loads a bundle while its weights are checked: nothing is given back that was loaded from others than the bundle's, nor if a file was touched
/// between the look at its hash and now.
///
/// # Errors
/// Those of `load`; [`Exit::Configuration`] with the file that was changed, before them; [`Exit::Internal`] with one that was touched meanwhile, as the
/// next start looks at its hash again.
pub fn checked<T: Send>(
    bundle: &Bundle,
    unchecked: Unchecked,
    load: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let check = scope.spawn(|| unchecked.check());
        let loaded = load();
        let checked = check.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        checked.and_then(|()| bundle.check_untouched()).map_err(|error| refused(&error, &bundle.dir))?;
        loaded
    })
}

/// A bundle that cannot be opened, as a sentence.
pub fn refused(error: &BundleError, dir: &Path) -> Failure {
    let exit = if matches!(error, BundleError::Touched { .. }) { Exit::Internal } else { Exit::Configuration };
    let mend = match error {
        BundleError::Io { .. } => "check the path of the bundle, or export it with `mmlnb-export bundle`",
        BundleError::Unlisted { .. } => "remove the files that were added, or export or copy the bundle again",
        BundleError::Manifest { .. } | BundleError::Changed { .. } | BundleError::Record { .. } => {
            "export or copy the bundle again"
        }
        BundleError::Qualification { .. } => "qualify the bundle again with `mmlnb-appliance qualify`, or copy it again",
        BundleError::Touched { .. } => "leave the bundle alone while it is loaded; a restart looks at every file anew",
        BundleError::Untrusted { reason, .. } => distrusted(reason),
    };
    Failure::new(exit, error.to_string(), dir.display().to_string(), mend)
}

/// What to do about a bundle that is not to be trusted.
fn distrusted(reason: &Distrust) -> &'static str {
    match reason {
        Distrust::Unsigned => {
            "get a signed bundle from its maker, or sign it with `mmlnb-export sign`; `allow_unsigned = true` takes it as it is"
        }
        Distrust::Unreadable | Distrust::Altered(_) => {
            "copy the bundle again from its maker and compare; if it stays so, do not use it and tell the maker"
        }
        Distrust::UnknownKey(_) => {
            "if the key is the maker's or your site's, put its public key into `public_keys`; else do not use the bundle"
        }
        Distrust::Legacy(_) => "have it signed again, with `mmlnb-export sign` or a minisign of today",
        Distrust::Revoked(_) => "do not use the bundle; get one that is signed with a key in use",
    }
}

/// The bundle in a line: which it is, and who signed it.
pub fn line(bundle: &Bundle) -> String {
    named(&bundle.sha256[..12], bundle.qualification_sha256().map(|sha256| &sha256[..12]), Some(&bundle.standings()))
}

/// A bundle's hash, and that of its qualification, each with who signed it.
pub fn named(sha256: &str, qualification_sha256: Option<&str>, standings: Option<&Standings>) -> String {
    let of = |standing: Option<&Standing>| standing.map_or_else(String::new, |standing| format!(", {standing}"));
    let qualified = qualification_sha256.map(|sha256| {
        format!("; qualification {sha256}{}", of(standings.and_then(|standings| standings.qualification.as_ref())))
    });
    format!("{sha256}{}{}", of(standings.map(|standings| &standings.bundle)), qualified.unwrap_or_default())
}

/// Refuses a bundle that cannot classify by itself.
///
/// # Errors
/// [`Exit::Configuration`] with the half that is missing.
pub fn require_classifier(bundle: &Bundle) -> Result<(), Failure> {
    let manifest = &bundle.manifest;
    let (what, mend) = match &manifest.classifier {
        None => (
            "the bundle has no classifier, and the daemon needs one",
            "export with --classifier; a describer alone serves `mmlnb-appliance describe`",
        ),
        Some(classifier) if classifier.text.is_some() && manifest.describer.is_none() => (
            "the bundle has no describer, and its classifier reads descriptions",
            "export with --vlm; a classifier alone serves `mmlnb-appliance classify --description TEXT`",
        ),
        Some(_) => return Ok(()),
    };
    Err(Failure::new(Exit::Configuration, what, bundle.dir.display().to_string(), mend))
}

/// Whether the bundle's describer is in f16, which processors compute slowly.
pub fn is_half(bundle: &Bundle) -> bool {
    bundle.manifest.describer.is_some() && bundle.manifest.precision == Precision::F16
}

/// What to know of a describer in f16 on a processor.
pub const HALF_ON_CPU: &str =
    "the describer of this bundle is in f16, which runs several times slower on a processor than in f32 and takes more memory";

/// A GPU that is on the bus and that this process cannot reach, in words.
pub fn hidden_gpu() -> Option<String> {
    let present = Path::new("/proc/driver/nvidia/version").exists();
    (present && !Path::new(DEVICE).exists()).then(|| {
        format!("an NVIDIA card is there, but {DEVICE} is not visible to the service, so the processor is used; install the unit's drop-in gpu.conf")
    })
}

const DEVICE: &str = "/dev/nvidiactl";

/// The engine's options. `auto` asks for the GPU where the system shows one.
pub fn options(provider: &str, threads: usize, slots: usize, load: Mode, bundle: &Bundle) -> EngineOptions {
    let has_gpu = Path::new(DEVICE).exists();
    let provider = match provider {
        "cuda" => ProviderChoice::Cuda,
        "auto" if has_gpu => ProviderChoice::Cuda,
        _ => ProviderChoice::Cpu,
    };
    let load = match (bundle.manifest.describer.is_some(), bundle.manifest.classifier.is_some()) {
        (true, true) => load,
        (true, false) => Mode::Describe,
        (false, _) => Mode::Classify,
    };
    EngineOptions { provider, threads: (threads > 0).then_some(threads), slots, load, ..EngineOptions::default() }
}

/// An error of the engine at start.
pub fn failure(error: &EngineError, dir: &Path) -> Failure {
    let place = dir.display().to_string();
    match error {
        EngineError::Bundle(message) => Failure::new(Exit::Configuration, message, place, "export the bundle again"),
        EngineError::TooLarge(message) => {
            Failure::new(Exit::Configuration, message, place, "set fewer `slots`, or export with a smaller --precision")
        }
        // It may pass: whoever starts it tries again.
        EngineError::Memory(message) => {
            Failure::new(Exit::Internal, message, place, "free memory, or set fewer `slots`; a restart may help")
        }
        EngineError::Library(message) => {
            Failure::new(Exit::Configuration, message, place, "run the set-up or install the package again")
        }
        EngineError::Gpu(message) => Failure::new(Exit::Internal, message, place, "see the kernel's log; a restart may help"),
        other => Failure::internal("the bundle cannot be loaded", other),
    }
}
