//! The describer: from an image to a text. Prompts are prepared on the caller's thread and answered by the thread behind, which owns the networks.

use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use mmlnb_models::bundle::{self, Bundle};
use mmlnb_models::prepare::sampling::Sampler;
use mmlnb_models::prepare::settings::GenerationSettings;

use super::cache::Cache;
use super::decoder::{Decoder, Room, Sessions};
use super::drafts;
use super::memory::{self, Plan};
use super::pace;
use super::prompt::Prompter;
use super::runtime::{Runtime, joined, rows_are_exact};
use super::slots::{Job, Worker};
use super::table::Table;
use super::vision::Tower;
use super::{Description, EngineError, EngineOptions, Mode, PatchImage, Request, StopReason, Trace};
use crate::clock::milliseconds;

/// The describer's front.
pub(super) struct Describer {
    prompter: Prompter,
    generation: GenerationSettings,
    room: usize,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// What the describer says, and how long its parts took in milliseconds.
pub(super) struct Described {
    pub description: Description,
    pub elapsed: Vec<(&'static str, f64)>,
    pub accepted: usize,
    pub trace: Option<Trace>,
}

/// How a describer is laid out; known before anything is loaded.
pub(super) struct Layout {
    prompter: Prompter,
    room: Room,
}

impl Layout {
    /// Reads the describer's configuration and decides the size of the slots.
    pub fn new(bundle: &Bundle, part: &bundle::Describer, options: &EngineOptions) -> Result<Layout, EngineError> {
        let prompter = Prompter::new(bundle, part)?;
        let answer = part.generation.max_new_tokens;
        let tokens = options.max_tokens.unwrap_or_else(|| prompter.room(answer));
        let least = answer + prompter.shortest();
        if tokens < least {
            return Err(EngineError::Bundle(format!(
                "max_tokens {tokens} leaves no room for the prompt and {answer} new tokens; set it to at least {least}"
            )));
        }
        let vocabulary = prompter.config.text.vocabulary as usize;
        let manifest = &bundle.manifest;
        let draft = if options.drafts && rows_are_exact(manifest.precision, manifest.portable) { drafts::MOST } else { 0 };
        let room = Room { slots: options.slots.max(1), tokens, vocabulary, draft };
        Ok(Layout { prompter, room })
    }

    /// The memory that this describer takes.
    pub fn plan(&self, bundle: &Bundle, part: &bundle::Describer) -> Plan {
        let (text, vision) = (&self.prompter.config.text, &self.prompter.config.vision);
        let Room { slots, tokens, vocabulary, .. } = self.room;
        let image = (tokens - part.generation.max_new_tokens) as u64;
        let patches = image * (vision.merge * vision.merge) as u64;
        let piece = tokens.min(pace::MOST) as u64;
        let prefill = piece * (8 * text.hidden as u64 + 3 * text.inner as u64 + text.heads as u64 * tokens as u64);
        // With operators of the standard alone, attention writes its scores out, and their softmax beside them.
        let scores = if bundle.manifest.portable { 2 * vision.heads as u64 * patches * patches } else { 0 };
        let towers = patches * (12 * vision.hidden + 3 * vision.inner) as u64 + scores;
        let outputs = (self.room.rows() * vocabulary + slots * tokens * text.head_size as usize) as u64;
        Plan {
            weights: memory::weights(bundle, part.served()),
            cache: Cache::bytes(&part.decoder, slots, tokens),
            work: 4 * (prefill.max(towers) + outputs),
        }
    }

    /// Loads the graphs, takes the memory and starts the thread.
    pub fn start(self, bundle: &Bundle, part: &bundle::Describer, runtime: &Runtime) -> Result<Describer, EngineError> {
        let Layout { prompter, room } = self;
        let text = &prompter.config.text;
        let table = Table::open(bundle, &part.table, text.vocabulary as usize, text.hidden as usize)?;
        let load = |graph: &bundle::Graph| runtime.load_decoder(&bundle.path(&graph.file), bundle.manifest.portable);
        // ONNX Runtime prepares the weights of its own kernels with one thread, so the graphs are loaded beside each other.
        let (vision, steps, prompts) = std::thread::scope(|scope| {
            let vision = scope.spawn(|| runtime.load(&bundle.path(&part.vision.file)));
            let prompts = part.decoder.prompts.as_ref().map(|graph| scope.spawn(move || load(graph)));
            let steps = load(&part.decoder.graph);
            (joined(vision), steps, prompts.map(joined).transpose())
        });
        let (tower, sessions) = (Tower::new(vision?), Sessions { steps: steps?, prompts: prompts? });
        let cuda = runtime.provider.name == "cuda";
        let decoder = Decoder::new(sessions, &part.decoder, room, cuda)
            .map_err(|error| runtime.error("cannot allocate the describer's cache", &error))?;
        let (jobs, queue) = channel();
        let mut worker = Worker::new(runtime.clone(), tower, table, decoder, room, prompter.config.image_token);
        worker.warm_up(&prompter.opening())?;
        let thread = std::thread::Builder::new()
            .name("describer".to_string())
            .spawn(move || worker.serve(&queue))
            .map_err(|error| EngineError::Internal(format!("cannot start the describer's thread: {error}")))?;
        Ok(Describer { prompter, generation: part.generation.clone(), room: room.tokens, jobs: Some(jobs), thread: Some(thread) })
    }
}

impl Describer {
    /// Describes one image; blocks.
    pub fn describe(&self, image: &PatchImage, request: &Request) -> Result<Described, EngineError> {
        let given = request.follow.as_ref().map(|tokens| tokens.len());
        self.describe_shortly(image, request, given.or(request.probe).unwrap_or(self.generation.max_new_tokens))
    }

    /// Two tokens for `image`, so that every graph has run.
    pub fn warm_up(&self, image: &PatchImage) -> Result<(), EngineError> {
        self.describe_shortly(image, &Request { probe: Some(2), ..Request::new(Mode::Describe) }, 2).map(|_| ())
    }

    fn describe_shortly(&self, image: &PatchImage, request: &Request, most: usize) -> Result<Described, EngineError> {
        let started = Instant::now();
        let most = most.min(self.generation.max_new_tokens).max(1);
        let prompt = self.prompter.prepare(&image.rgb, most, self.room)?;
        let mut elapsed = vec![("prepare", milliseconds(started))];
        let generation = match request.probe {
            None => self.generation.clone(),
            Some(_) => GenerationSettings { do_sample: false, repetition_penalty: 1.0, ..self.generation.clone() },
        };
        let sampler = Sampler::new(&generation, image.sha256, &prompt.ids);
        let sampler = match &request.follow {
            Some(tokens) => sampler.following(tokens.clone()),
            None => sampler,
        };
        let (reply, answer) = channel();
        let job = Job { prompt, sampler, most, request: request.clone(), reply, queued: Instant::now() };
        let gone = || EngineError::Internal("the describer's thread has ended; restart the program".to_string());
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        let answer = answer.recv().map_err(|_| gone())??;
        elapsed.extend(answer.elapsed);
        let ended = answer.stop == StopReason::EndToken;
        let written = &answer.tokens[..answer.tokens.len() - usize::from(ended)];
        let description = Description {
            text: self.prompter.text(written)?,
            tokens: written.len(),
            mean_token_logprob: answer.logprobs / answer.tokens.len() as f64,
            stop_reason: answer.stop,
        };
        Ok(Described { description, elapsed, accepted: answer.accepted, trace: answer.trace })
    }
}

impl Drop for Describer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already answered its callers by hanging up.
            let _ = thread.join();
        }
    }
}
