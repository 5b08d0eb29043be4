//! What goes into the engine and what comes out of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mmlnb_models::prepare::decode::Rgb8Image;
pub use mmlnb_models::prepare::sampling::StopReason;

use super::trace::Trace;

/// How the engine is set up; the numbers decide its memory.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where the graphs run.
    pub provider: ProviderChoice,
    /// CPU threads of ONNX Runtime; `None`: all cores less one, at least one. The first engine of a process decides.
    pub threads: Option<usize>,
    /// Images that are described together.
    pub slots: usize,
    /// Longest prompt and description of one image in tokens; `None`: the room that the bundle's longest prompt and description need.
    pub max_tokens: Option<usize>,
    /// Most memory that the engine may plan for, in bytes; `None`: what the machine has available at the start.
    pub memory_limit: Option<u64>,
    /// The ONNX Runtime library; `None`: `MMLNB_ORT_LIB`, then beside the executable, then `ORT_DYLIB_PATH`.
    pub onnx_runtime: Option<PathBuf>,
    /// Which halves of the bundle to load.
    pub load: Mode,
    /// A lone request's likely tokens are read together where that cannot change its text: with weights in few bits, but for portable graphs.
    pub drafts: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            provider: ProviderChoice::Cpu,
            threads: None,
            slots: 4,
            max_tokens: None,
            memory_limit: None,
            onnx_runtime: None,
            load: Mode::Both,
            drafts: true,
        }
    }
}

/// The provider that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProviderChoice {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU; where it cannot be used the processor takes over and [`Provider::note`] says why.
    Cuda,
}

/// The provider that runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Provider {
    /// `cpu` or `cuda`.
    pub name: &'static str,
    /// Why another provider than the one asked for runs; to be shown wherever results are.
    pub note: Option<String>,
}

/// An image that was decoded, and the hash of the bytes that it came from.
#[derive(Clone, Debug)]
pub struct PatchImage {
    /// SHA-256 of the file's bytes; it seeds the random stream of a sampled description.
    pub sha256: [u8; 32],
    /// The pixels.
    pub rgb: Rgb8Image,
}

/// Which half of the bundle is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A description only.
    Describe,
    /// Classes only, from the text in the request.
    Classify,
    /// A description, unless the request has one, and then classes.
    Both,
}

/// What to do with one image.
#[derive(Clone)]
pub struct Request {
    /// A text to classify with, instead of the describer's.
    pub description: Option<String>,
    /// What is wanted.
    pub mode: Mode,
    /// Set to give the image up; the describer looks at it before each token that it writes.
    pub cancel: Arc<AtomicBool>,
    /// Called at each piece of real progress (a token, a prompt, a classification), from the engine's threads.
    pub beat: Arc<dyn Fn() + Send + Sync>,
    /// Keep the tensors on the way, see [`Trace`].
    pub trace: bool,
    /// Write at most so many tokens, each the likeliest by its raw logit, whatever the bundle's settings: for known answers.
    pub probe: Option<usize>,
    /// Write these tokens of the vocabulary, at least one, instead of choosing (teacher forcing), to the last of them or the first end token.
    pub follow: Option<Arc<[i64]>>,
    /// Called with each token and the raw logits `[vocabulary]` at its place, in order, from the engine's threads.
    pub on_token: Option<OnToken>,
}

/// See [`Request::on_token`].
pub type OnToken = Arc<dyn Fn(i64, &[f32]) + Send + Sync>;

impl Request {
    /// A request that nobody cancels or watches, without a trace.
    pub fn new(mode: Mode) -> Request {
        let cancel = Arc::new(AtomicBool::new(false));
        Request {
            description: None,
            mode,
            cancel,
            beat: Arc::new(|| ()),
            trace: false,
            probe: None,
            follow: None,
            on_token: None,
        }
    }

    /// Whether the describer writes what it would say of a patch, and not what it is given or asked as a probe.
    pub(super) fn is_description(&self) -> bool {
        self.follow.is_none() && self.probe.is_none()
    }

    /// Whether the caller gave the image up.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// What the engine says about one image.
#[derive(Clone, Debug)]
pub struct Assessment {
    /// The describer's text; `None` when it was not asked.
    pub description: Option<Description>,
    /// The classifier's opinion; `None` when it was not asked.
    pub classification: Option<Classification>,
    /// Milliseconds of each part: `prepare`, `vision`, `prefill`, `decode`, `classify`, the waiting for neighbours included.
    pub elapsed: Vec<(&'static str, f64)>,
    /// Tokens of the description, its end included, that were kept of drafts. Depends on what was described before, as time does.
    pub accepted: usize,
    /// The tensors on the way, if the request asked for them.
    pub trace: Option<Trace>,
}

/// A generated description.
#[derive(Clone, PartialEq, Debug)]
pub struct Description {
    /// The text without special tokens.
    pub text: String,
    /// Tokens written, the end token not counted.
    pub tokens: usize,
    /// Mean natural logarithm of the raw probability of the tokens written, the end token included.
    pub mean_token_logprob: f64,
    /// Why it ends.
    pub stop_reason: StopReason,
}

/// The classifier's opinion; all lists are in the order of `classes`.
#[derive(Clone, PartialEq, Debug)]
pub struct Classification {
    /// Names of the classes, from the bundle.
    pub classes: Vec<String>,
    /// Of image and text fused.
    pub logits: Vec<f32>,
    /// softmax(logits / temperature of the bundle's calibration, 1 without one), in f64 as the threshold was fitted.
    pub probabilities: Vec<f64>,
    /// Of the image alone; `None` without an image head.
    pub image_logits: Option<Vec<f32>>,
    /// softmax(image_logits).
    pub image_probabilities: Option<Vec<f64>>,
    /// Distance of the features before the head to the training images'; `None` without a calibration that judges it.
    pub novelty: Option<f64>,
    /// The classifier normalises stains, but this image could not be and was left as it is.
    pub stain_left: bool,
    /// The weight that the text got, 0 to 1; `None` where image and text are not weighed.
    pub alpha_text: Option<f32>,
    /// The fused logits, had the text no weight (alpha = 0).
    pub logits_without_text: Option<Vec<f32>>,
    /// Tokens of the text that the classifier read, its two special tokens not counted.
    pub description_tokens_read: Option<usize>,
    /// Bytes of the text that the classifier read.
    pub description_read_until: Option<usize>,
}

/// Why an image has no assessment, or an engine could not be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EngineError {
    /// The image (or the text given with it) cannot be assessed; others can.
    #[error("{0}")]
    Image(String),
    /// The networks gave numbers that are none.
    #[error("{0}")]
    Numbers(String),
    /// The caller gave the image up.
    #[error("the image was given up before it was finished")]
    Cancelled,
    /// There is too little memory at this moment; others may give some back.
    #[error("{0}")]
    Memory(String),
    /// The plan does not fit into the memory that this machine or the options have.
    #[error("{0}")]
    TooLarge(String),
    /// The GPU failed.
    #[error("{0}")]
    Gpu(String),
    /// The bundle is not one that this engine can run.
    #[error("{0}")]
    Bundle(String),
    /// ONNX Runtime's library is absent, damaged or of another version: a person has to bring it.
    #[error("{0}")]
    Library(String),
    /// Anything else, ONNX Runtime's own errors among it.
    #[error("{0}")]
    Internal(String),
}
