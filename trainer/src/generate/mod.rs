//! Descriptions from a describer: base, or base with an adapter, many images together.
//!
//! Prompts of several images are read together and then continued together, one token a step; a row leaves when its description ends and the next
//! image takes its place. Rows do not see each other, and a sampled description depends on the seed and the image's bytes alone, so it does not
//! matter what else is described at the time.

mod cache;
mod files;
pub mod merge;
mod networks;
mod prompt;
mod sequences;
mod sheet;

pub use cache::Cache;
pub use files::{Source, describe_files};
pub use mmlnb_models::prepare::sampling::StopReason;
pub use networks::graphs;
pub use prompt::{Picture, Prompt, Prompter};
pub use sheet::{file_name, image_files, write_descriptions};

use crate::{
    error::TrainError,
    torch::{Adapters, Plan, PlanOptions, Trainable},
};
use mmlnb_models::{
    prepare::sampling::{LogitsError, Sampler},
    weights::{Adapter, Checkpoint, DType, Naming, Weights},
};
use networks::Networks;
use sequences::Sequences;
use serde::{Deserialize, Serialize};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Images that are described together unless told otherwise.
pub const BATCH: usize = 8;

/// A description.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Generated {
    /// The words, without special tokens.
    pub text: String,
    /// All tokens, the end token included if it was reached.
    pub token_ids: Vec<i64>,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// Mean natural logarithm of the tokens' probabilities, before any penalty.
    pub mean_logprob: f64,
}

impl Generated {
    /// Tokens without the end token.
    pub fn written_tokens(&self) -> usize {
        self.token_ids.len() - usize::from(self.stop_reason == StopReason::EndToken)
    }
}

/// A describer that writes.
#[derive(Debug)]
pub struct Generator {
    prompter: Prompter,
    networks: Networks,
    batch: usize,
}

/// A description that is being written.
struct Writing {
    number: usize,
    sampler: Sampler,
    tokens: Vec<i64>,
    logprobs: f64,
}

impl Generator {
    /// Loads a checkpoint, an adapter merged into it. The numbers are f32 on the CPU, as the appliance computes by default, and the checkpoint's type on
    /// a GPU.
    ///
    /// # Errors
    /// Tensors that are not those of the networks, an adapter that does not fit, and what libtorch refuses.
    pub fn new(prompter: Prompter, base: &Path, adapter: Option<&Path>, device: Device) -> Result<Generator, TrainError> {
        Generator::with_adapter(prompter, base, adapter.map(Adapter::open).transpose()?.as_ref(), device)
    }

    /// As [`Generator::new`], for an adapter that is open already.
    ///
    /// # Errors
    /// As [`Generator::new`].
    pub fn with_adapter(
        prompter: Prompter,
        base: &Path,
        adapter: Option<&Adapter>,
        device: Device,
    ) -> Result<Generator, TrainError> {
        let checkpoint = Checkpoint::open(base, Naming::Qwen)?;
        let weights = match adapter {
            Some(adapter) => Weights::with_adapter(&checkpoint, adapter)?,
            None => Weights::new(&checkpoint),
        };
        let graphs = graphs(&prompter.config, &weights, true);
        checkpoint.check_all(graphs.iter().map(|graph| graph.parameters()))?;
        let kind = computed_in(&checkpoint, device);
        let options =
            PlanOptions { device, kind, trainable: Trainable::Nothing, adapters: Adapters::Merged, adapter_dropout: 0.0 };
        Generator::sharing(prompter, &weights, &options, &[])
    }

    /// A generator on weights that other plans hold, for instance those of a describer that is being trained: what they hold is not loaded again, and
    /// the descriptions are those of the weights at the time. `options` must be theirs.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn sharing(
        prompter: Prompter,
        weights: &Weights<'_>,
        options: &PlanOptions,
        others: &[&Plan],
    ) -> Result<Generator, TrainError> {
        let networks = Networks::new(&prompter.config, weights, options, others, true)?;
        Ok(Generator { prompter, networks, batch: BATCH })
    }

    /// As [`Generator::sharing`] without the vision tower: every prompt brings its image's rows ([`Prompter::with_rows`]).
    ///
    /// # Errors
    /// As [`Generator::sharing`].
    pub fn without_vision(
        prompter: Prompter,
        weights: &Weights<'_>,
        options: &PlanOptions,
        others: &[&Plan],
    ) -> Result<Generator, TrainError> {
        let networks = Networks::new(&prompter.config, weights, options, others, false)?;
        Ok(Generator { prompter, networks, batch: BATCH })
    }

    /// How many images are described together.
    pub fn with_batch(self, batch: usize) -> Generator {
        Generator { batch: batch.max(1), ..self }
    }

    /// What prepares the images; to be cloned for other threads.
    pub fn prompter(&self) -> &Prompter {
        &self.prompter
    }

    /// Logits `[tokens, vocabulary]` at every token of a prompt, in f32 on the CPU.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn logits(&self, prompt: &Prompt) -> Result<Tensor, TrainError> {
        self.networks.all_logits(prompt)
    }

    /// Describes images; the descriptions in their order.
    ///
    /// # Errors
    /// An image that cannot be prepared, a model whose numbers are none, and what libtorch refuses.
    pub fn describe_batch(&self, pictures: &[Picture]) -> Result<Vec<Generated>, TrainError> {
        let prepared: Result<Vec<Prompt>, TrainError> = pictures
            .iter()
            .enumerate()
            .map(|(n, picture)| self.prompter.prepare(picture).map_err(|e| TrainError::Failed(format!("image {}: {e}", n + 1))))
            .collect();
        let mut descriptions: Vec<Option<Generated>> = vec![None; pictures.len()];
        self.describe(prepared?, |number, description| {
            descriptions[number] = Some(description);
            Ok(())
        })?;
        Ok(descriptions.into_iter().map(|one| one.expect("describe gives each prompt's description or fails")).collect())
    }

    /// Describes prompts as they come; `done` gets each description, with its prompt's number from 0, as soon as it ends.
    ///
    /// # Errors
    /// A model whose numbers are none, what libtorch refuses, and what `done` returns.
    pub fn describe(
        &self,
        prompts: impl IntoIterator<Item = Prompt>,
        mut done: impl FnMut(usize, Generated) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let mut waiting = prompts.into_iter().enumerate();
        let mut sequences = Sequences::none();
        let mut writing: Vec<Writing> = Vec::new();
        loop {
            // Reading prompts stops the rows that are being continued: only when half of the places are free.
            let free = self.batch - writing.len();
            if free >= self.batch.div_ceil(2) {
                let next: Vec<(usize, Prompt)> = waiting.by_ref().take(free).collect();
                self.admit(next, &mut sequences, &mut writing, &mut done)?;
            }
            if writing.is_empty() {
                return Ok(());
            }
            let tokens: Vec<i64> = writing.iter().map(|row| row.tokens[row.tokens.len() - 1]).collect();
            let logits = self.networks.step(&mut sequences, &tokens)?;
            self.choose(&logits, &mut sequences, &mut writing, &mut done)?;
        }
    }

    /// Reads prompts and writes their first tokens.
    fn admit(
        &self,
        next: Vec<(usize, Prompt)>,
        sequences: &mut Sequences,
        writing: &mut Vec<Writing>,
        done: &mut impl FnMut(usize, Generated) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        if next.is_empty() {
            return Ok(());
        }
        let settings = &self.prompter.settings.generation;
        let prompts: Vec<&Prompt> = next.iter().map(|(_, prompt)| prompt).collect();
        let (mut new, logits) = self.networks.prefill(&prompts, settings.max_new_tokens as i64)?;
        let mut begun: Vec<Writing> = next
            .iter()
            .map(|(number, prompt)| Writing {
                number: *number,
                sampler: Sampler::new(settings, prompt.sha256, &prompt.ids),
                tokens: Vec::new(),
                logprobs: 0.0,
            })
            .collect();
        self.choose(&logits, &mut new, &mut begun, done)?;
        if !begun.is_empty() {
            sequences.join(new)?;
            writing.extend(begun);
        }
        Ok(())
    }

    /// Chooses each row's next token; rows that end are given away and leave the cache.
    fn choose(
        &self,
        logits: &Tensor,
        sequences: &mut Sequences,
        writing: &mut Vec<Writing>,
        done: &mut impl FnMut(usize, Generated) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let (rows, width) = logits.size2()?;
        let logits = Vec::<f32>::try_from(logits.f_reshape([rows * width])?)?;
        let mut staying = Vec::new();
        let mut left = Vec::new();
        for (row, (mut one, logits)) in std::mem::take(writing).into_iter().zip(logits.chunks_exact(width as usize)).enumerate() {
            match one.push(logits, self.prompter.settings.generation.max_new_tokens).map_err(|e| no_number(&one, &e))? {
                None => {
                    staying.push(row);
                    writing.push(one);
                }
                Some(stop) => left.push((one, stop)),
            }
        }
        if !left.is_empty() {
            sequences.keep(&staying)?;
        }
        left.into_iter().try_for_each(|(one, stop)| done(one.number, self.finished(one, stop)?))
    }

    fn finished(&self, one: Writing, stop_reason: StopReason) -> Result<Generated, TrainError> {
        let written = &one.tokens[..one.tokens.len() - usize::from(stop_reason == StopReason::EndToken)];
        let mean_logprob = one.logprobs / one.tokens.len() as f64;
        Ok(Generated { text: self.prompter.text(written)?, token_ids: one.tokens, stop_reason, mean_logprob })
    }
}

impl Writing {
    /// Chooses the next token; says whether it was the last.
    fn push(&mut self, logits: &[f32], most: usize) -> Result<Option<StopReason>, LogitsError> {
        let choice = self.sampler.next(logits)?;
        self.tokens.push(choice.id);
        self.logprobs += choice.logprob;
        Ok(if self.sampler.ends(choice.id) {
            Some(StopReason::EndToken)
        } else if self.tokens.len() == most {
            Some(StopReason::MaxTokens)
        } else {
            None
        })
    }
}

fn no_number(one: &Writing, error: &LogitsError) -> TrainError {
    TrainError::Failed(format!("the description of image {} stopped after {} tokens: {error}", one.number + 1, one.tokens.len()))
}

/// What a describer computes in: f32 on the CPU, as the appliance does by default, and the checkpoint's type, that of its token embedding, on a GPU.
pub fn computed_in(checkpoint: &Checkpoint, device: Device) -> Kind {
    if device == Device::Cpu {
        return Kind::Float;
    }
    match checkpoint.tensor("model.embed_tokens.weight").map(|tensor| tensor.dtype) {
        Some(DType::BF16) => Kind::BFloat16,
        Some(DType::F16) => Kind::Half,
        Some(DType::F32) | None => Kind::Float,
    }
}
