//! The networks of a bundle, running on ONNX Runtime: image in, description and classes out.
//!
//! ```text
//! callers' threads        engine's threads
//! decode, resize, ids ──► describer: vision ─► prompt ─► tokens, all requests in one batch ─┐
//!        text ◄────────────────────────────────────────────────────────────────────────────┘
//! resize, ids ──────────► classifier: image encoder, text encoder, fusion, what waits in one batch ──► opinion
//! ```

mod cache;
mod classifier;
mod cuda;
mod decoder;
mod describer;
mod drafts;
mod integers;
mod line;
mod memory;
mod operators;
mod pace;
mod pages;
mod prompt;
mod provider;
mod runtime;
mod slots;
mod table;
mod trace;
mod types;
mod vision;

pub use line::{Asks, Line};
pub use runtime::set_environment;
pub use trace::{Trace, Values};
pub use types::{
    Assessment, Classification, Description, EngineError, EngineOptions, Mode, OnToken, PatchImage, Provider, ProviderChoice,
    Request, StopReason,
};

use mmlnb_models::bundle::Bundle;
use mmlnb_models::prepare::decode::Rgb8Image;

use classifier::{Classified, Classifier};
use describer::{Described, Describer};
use memory::{Plan, Room};
use runtime::{Runtime, joined};

/// A loaded bundle. Its worker threads own the networks; callers may come from several threads at once and are then batched together.
pub struct Engine {
    describer: Option<Describer>,
    classifier: Option<Classifier>,
    provider: Provider,
    slots: usize,
}

impl Engine {
    /// Plans the memory, loads the graphs that `options.load` asks for, and runs each once.
    pub fn open(bundle: &Bundle, options: &EngineOptions) -> Result<Engine, EngineError> {
        let describe = wanted(&bundle.manifest.describer, options.load != Mode::Classify, "describer", options.load)?;
        let classify = wanted(&bundle.manifest.classifier, options.load != Mode::Describe, "classifier", options.load)?;
        let describer = describe.map(|part| Ok((part, describer::Layout::new(bundle, part, options)?))).transpose()?;
        let classifier = classify.map(|part| Ok((part, classifier::Layout::new(bundle, options)?))).transpose()?;
        let mut runtime = Runtime::open(options, bundle.manifest.precision)?;
        runtime.provider = provider::choose(&runtime, options.provider, bundle.manifest.precision, describer.is_some())?;
        let plans = describer.iter().map(|(part, layout)| layout.plan(bundle, part));
        let plans = plans.chain(classifier.iter().map(|(part, layout)| layout.plan(bundle, part)));
        check_memory(plans.fold(Plan::default(), Plan::plus), options, &runtime.provider)?;
        integers::check(&runtime, bundle.manifest.precision)?;
        let (describer, classifier) = std::thread::scope(|scope| {
            let describer = describer.map(|(part, layout)| scope.spawn(|| layout.start(bundle, part, &runtime)));
            let classifier = classifier.map(|(part, layout)| layout.start(bundle, part, &runtime));
            (describer.map(joined).transpose(), classifier.transpose())
        });
        let (describer, classifier) = (describer?, classifier?);
        let engine = Engine { describer, classifier, provider: runtime.provider, slots: options.slots.max(1) };
        engine.warm_up()?;
        Ok(engine)
    }

    /// Assesses one image; blocks until the answer is there.
    pub fn assess(&self, image: PatchImage, request: &Request) -> Result<Assessment, EngineError> {
        let mut assessment =
            Assessment { description: None, classification: None, elapsed: Vec::new(), accepted: 0, trace: None };
        let given = request.description.as_deref();
        if request.mode == Mode::Describe || (request.mode == Mode::Both && given.is_none()) {
            let described = self.describer()?.describe(&image, request)?;
            assessment.take_description(described);
        }
        if request.mode != Mode::Describe {
            let written = assessment.description.as_ref().map(|description| description.text.as_str());
            let classified = self.classifier()?.classify(&image.rgb, given.or(written), request)?;
            assessment.take_classification(classified);
        }
        Ok(assessment)
    }

    /// Where the graphs run.
    pub fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Images that are described together.
    pub fn slots(&self) -> usize {
        self.slots
    }

    fn describer(&self) -> Result<&Describer, EngineError> {
        self.describer.as_ref().ok_or_else(|| EngineError::Bundle("this engine has no describer loaded".to_string()))
    }

    fn classifier(&self) -> Result<&Classifier, EngineError> {
        self.classifier.as_ref().ok_or_else(|| EngineError::Bundle("this engine has no classifier loaded".to_string()))
    }

    /// Describes a grey image, so that the first patch does not wait for it and a bundle that cannot run is found at the start; the classifier
    /// has run already.
    fn warm_up(&self) -> Result<(), EngineError> {
        crate::failpoint::pass("engine.warm_up").map_err(|error| EngineError::Internal(error.to_string()))?;
        let side = 56;
        let rgb = Rgb8Image { width: side, height: side, pixels: vec![200; side * side * 3] };
        let image = PatchImage { sha256: [0; 32], rgb };
        if let Some(describer) = &self.describer {
            describer.warm_up(&image)?;
        }
        Ok(())
    }
}

impl Assessment {
    fn take_description(&mut self, described: Described) {
        self.description = Some(described.description);
        self.elapsed.extend(described.elapsed);
        self.accepted = described.accepted;
        self.trace = described.trace;
    }

    /// Adds the opinion; the times of preparation add up, the describer's tensors get a prefix.
    fn take_classification(&mut self, classified: Classified) {
        self.classification = Some(classified.classification);
        for (name, time) in classified.elapsed {
            match self.elapsed.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += time,
                None => self.elapsed.push((name, time)),
            }
        }
        if let Some(mut trace) = classified.trace {
            trace.absorb("describe.", self.trace.take().unwrap_or_default());
            self.trace = Some(trace);
        }
    }
}

/// A half of the bundle, `None` if it was not asked for; one that only [`Mode::Both`] asks for must be there too.
fn wanted<'b, T>(part: &'b Option<T>, asked: bool, name: &str, load: Mode) -> Result<Option<&'b T>, EngineError> {
    match part {
        _ if !asked => Ok(None),
        Some(part) => Ok(Some(part)),
        None => Err(EngineError::Bundle(format!(
            "this bundle has no {name}, which {} needs; export one with mmlnb-export bundle",
            match load {
                Mode::Describe => "describing",
                Mode::Classify => "classifying",
                Mode::Both => "describing and classifying",
            }
        ))),
    }
}

/// Checks the plan against the limit of the options or the memory that is available, the processor's or the card's.
fn check_memory(plan: Plan, options: &EngineOptions, provider: &Provider) -> Result<(), EngineError> {
    let cuda = provider.name == "cuda";
    let plan = plan.on(cuda);
    let set = options.memory_limit.map(|limit| Room { now: limit, ever: limit });
    let there = || match cuda {
        false => memory::available(),
        true => memory::card(memory::CUDA_RUNTIME)
            .inspect_err(|reason| tracing::warn!(event = "card_memory_unknown", reason, "the plan is not checked"))
            .ok(),
    };
    let room = set.or_else(there);
    let available = room.map(|room| room.now);
    tracing::info!(event = "memory_planned", weights = plan.weights, cache = plan.cache, work = plan.work, available);
    room.map_or(Ok(()), |room| plan.check(&room))
}
