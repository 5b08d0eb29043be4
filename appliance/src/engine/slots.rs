//! The describer's thread: it decodes all requests together, one token a step.
//!
//! Requests join whenever a slot is free and leave when they end; active slots stay in front, the last one moves into a gap. The rows of a batch
//! do not see each other, so the tokens of a request do not depend on what else runs.

use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use mmlnb_models::prepare::sampling::Sampler;

use super::decoder::Decoder;
use super::line::{Asks, Line};
use super::prompt::Prompt;
use super::runtime::Runtime;
use super::vision::Embedder;
use super::{EngineError, Request, StopReason, Trace};
use crate::clock::milliseconds;

/// One prompt on its way through the thread.
pub(super) struct Job {
    pub prompt: Prompt,
    pub sampler: Sampler,
    /// Most tokens of the answer, the end token included.
    pub most: usize,
    pub request: Request,
    pub reply: Sender<Result<Answer, EngineError>>,
    pub queued: Instant,
}

impl Asks for Job {
    fn request(&self) -> &Request {
        &self.request
    }
}

/// The tokens of a description.
pub(super) struct Answer {
    /// Ids, the end token included.
    pub tokens: Vec<i64>,
    /// Sum of their log-probabilities.
    pub logprobs: f64,
    pub stop: StopReason,
    /// Milliseconds of each part.
    pub elapsed: Vec<(&'static str, f64)>,
    pub trace: Option<Trace>,
}

/// The networks and the requests in their slots; `active[i]` has slot i.
pub(super) struct Worker {
    runtime: Runtime,
    embedder: Embedder,
    decoder: Decoder,
    slots: usize,
    waiting: Line<Job>,
    active: Vec<Row>,
}

/// A request in a slot.
struct Row {
    job: Job,
    /// Tokens in the cache.
    length: usize,
    tokens: Vec<i64>,
    logprobs: f64,
    elapsed: Vec<(&'static str, f64)>,
    /// When decoding began.
    decoding: Instant,
    /// Kept for the trace only.
    image_embeds: Vec<f32>,
    /// Kept for the trace only.
    logits: Vec<f32>,
}

/// A prompt that has been read into a slot.
struct Reading {
    image_embeds: Vec<f32>,
    logits: Vec<f32>,
    elapsed: [(&'static str, f64); 3],
}

impl Worker {
    /// A thread's state without requests.
    pub fn new(runtime: Runtime, embedder: Embedder, decoder: Decoder, slots: usize) -> Worker {
        Worker { runtime, embedder, decoder, slots, waiting: Line::default(), active: Vec::new() }
    }

    /// One step with every slot taken: the memory for it is there from the start on, and does not have to be found once all slots meet.
    pub fn warm_up(&mut self) -> Result<(), EngineError> {
        let rows = self.decoder.rows(self.slots);
        let step = self.embedder.tokens(vec![0; rows]).and_then(|embeds| {
            let lengths = vec![1; rows];
            self.decoder.step(&embeds, &lengths).map(|_| ())
        });
        step.map_err(|error| self.runtime.error("the language model failed", &error))
    }

    /// Serves requests until nobody can send any more.
    pub fn serve(mut self, queue: &Receiver<Job>) {
        loop {
            if self.active.is_empty() && self.waiting.is_empty() {
                match queue.recv() {
                    Ok(job) => self.waiting.join([job]),
                    Err(_) => return,
                }
            }
            self.waiting.join(queue.try_iter());
            while self.active.len() < self.slots {
                self.dismiss();
                let Some(job) = self.waiting.take_first() else { break };
                self.admit(job);
                self.waiting.join(queue.try_iter());
            }
            self.dismiss();
            self.waiting.show_life();
            for slot in (0..self.active.len()).rev() {
                if self.active[slot].job.request.is_cancelled() {
                    self.leave(slot, Err(EngineError::Cancelled));
                }
            }
            if !self.active.is_empty() {
                self.step();
            }
        }
    }

    /// Answers those in line that were given up.
    fn dismiss(&mut self) {
        let cancelled = self.waiting.leave_cancelled();
        cancelled.into_iter().for_each(|job| Row::new(job).answer(Err(EngineError::Cancelled)));
    }

    /// Reads the prompt of a job into the next slot and writes its first token.
    fn admit(&mut self, job: Job) {
        let read = self.read(self.active.len(), &job);
        let mut row = Row::new(job);
        match read.and_then(|reading| row.begin(reading)) {
            Ok(None) => self.active.push(row),
            Ok(Some(stop)) => row.answer(Ok(stop)),
            Err(error) => row.answer(Err(error)),
        }
    }

    fn read(&mut self, slot: usize, job: &Job) -> Result<Reading, EngineError> {
        let Job { prompt, request, .. } = job;
        if request.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let waited = milliseconds(job.queued);
        let started = Instant::now();
        let image = self.embedder.image(prompt).map_err(|error| self.runtime.error("the vision tower failed", &error))?;
        check_numbers(&image)?;
        let vision = milliseconds(started);
        (request.beat)();
        let started = Instant::now();
        let embeds = self.embedder.prompt(prompt, &image).map_err(|error| self.runtime.error("the embedding failed", &error))?;
        let logits = self.decoder.prefill(slot, embeds, prompt.ids.len(), &prompt.angles);
        let logits = logits.map_err(|error| self.runtime.error("the language model failed on the prompt", &error))?.to_vec();
        let elapsed = [("queue", waited), ("vision", vision), ("prefill", milliseconds(started))];
        Ok(Reading { image_embeds: image, logits, elapsed })
    }

    /// One more token for every active request.
    fn step(&mut self) {
        let rows = self.decoder.rows(self.active.len());
        let mut ids: Vec<i64> = self.active.iter().map(Row::last).collect();
        let mut lengths: Vec<usize> = self.active.iter().map(|row| row.length).collect();
        ids.resize(rows, 0);
        lengths.resize(rows, 0);
        let logits = self.embedder.tokens(ids).and_then(|embeds| self.decoder.step(&embeds, &lengths));
        let logits = match logits {
            Ok(logits) => logits,
            Err(error) => {
                let error = self.runtime.error("the language model failed", &error);
                self.active.drain(..).for_each(|row| row.answer(Err(error.clone())));
                return;
            }
        };
        let width = logits.len() / lengths.len();
        let mut ended = Vec::new();
        for (slot, (row, logits)) in self.active.iter_mut().zip(logits.chunks_exact(width)).enumerate() {
            row.length += 1;
            match row.write(logits) {
                Ok(None) => {}
                Ok(Some(stop)) => ended.push((slot, Ok(stop))),
                Err(error) => ended.push((slot, Err(error))),
            }
        }
        for (slot, outcome) in ended.into_iter().rev() {
            self.leave(slot, outcome);
        }
    }

    /// Answers the request of a slot and moves the last request into the gap.
    fn leave(&mut self, slot: usize, outcome: Result<StopReason, EngineError>) {
        self.active.swap_remove(slot).answer(outcome);
        let last = self.active.len();
        if slot < last {
            let moved = self.decoder.relocate(last, slot, self.active[slot].length);
            if let Err(error) = moved {
                let error = self.runtime.error("a request could not be moved to another slot", &error);
                self.leave(slot, Err(error));
            }
        }
    }
}

impl Row {
    fn new(job: Job) -> Row {
        Row {
            length: job.prompt.ids.len(),
            job,
            tokens: Vec::new(),
            logprobs: 0.0,
            elapsed: Vec::new(),
            decoding: Instant::now(),
            image_embeds: Vec::new(),
            logits: Vec::new(),
        }
    }

    fn begin(&mut self, reading: Reading) -> Result<Option<StopReason>, EngineError> {
        self.elapsed.extend(reading.elapsed);
        if self.job.request.trace {
            self.image_embeds = reading.image_embeds;
        }
        self.write(&reading.logits)
    }

    /// Chooses the next token; says whether it was the last.
    fn write(&mut self, logits: &[f32]) -> Result<Option<StopReason>, EngineError> {
        let choice = self.job.sampler.next(logits).map_err(|error| {
            let place = match self.tokens.len() {
                0 => "after the prompt".to_string(),
                count => format!("after {count} tokens"),
            };
            EngineError::Numbers(format!("the language model gave no usable numbers {place}: {error}"))
        })?;
        self.tokens.push(choice.id);
        self.logprobs += choice.logprob;
        if let Some(on_token) = &self.job.request.on_token {
            on_token(choice.id, logits);
        }
        if self.job.request.trace {
            self.logits.extend_from_slice(logits);
        }
        (self.job.request.beat)();
        if self.job.sampler.ends(choice.id) {
            Ok(Some(StopReason::EndToken))
        } else if self.tokens.len() == self.job.most {
            Ok(Some(StopReason::MaxTokens))
        } else {
            Ok(None)
        }
    }

    fn last(&self) -> i64 {
        *self.tokens.last().expect("a request in a slot has its first token")
    }

    /// Sends the outcome; a caller that no longer waits is no error.
    fn answer(mut self, outcome: Result<StopReason, EngineError>) {
        let trace = (outcome.is_ok() && self.job.request.trace).then(|| self.trace());
        self.elapsed.push(("decode", milliseconds(self.decoding)));
        let Row { job, tokens, logprobs, elapsed, .. } = self;
        let _ = job.reply.send(outcome.map(|stop| Answer { tokens, logprobs, stop, elapsed, trace }));
    }

    /// The tensors of `--trace`.
    fn trace(&self) -> Trace {
        let Prompt { patches, vision, ids, positions, .. } = &self.job.prompt;
        let mut trace = Trace::default();
        let (count, length) = (vision.patch_positions.len(), ids.len());
        trace.put_f32("pixel_values", &[count, patches.pixel_values.len() / count], &patches.pixel_values);
        trace.put_i64("image_grid_thw", &[1, 3], &patches.grid);
        trace.put_i64("input_ids", &[1, length], ids);
        trace.put_i64("position_ids", &[3, 1, length], &positions.ids.concat());
        let rows = vision.window_index.len();
        trace.put_f32("image_embeds", &[rows, self.image_embeds.len() / rows], &self.image_embeds);
        let steps = self.tokens.len();
        trace.put_i64("token_ids", &[steps], &self.tokens);
        trace.put_f32("logits", &[steps, self.logits.len() / steps], &self.logits);
        trace
    }
}

fn check_numbers(image_embeds: &[f32]) -> Result<(), EngineError> {
    match image_embeds.iter().filter(|value| !value.is_finite()).count() {
        0 => Ok(()),
        bad => Err(EngineError::Numbers(format!(
            "the vision tower gave {bad} of {} values that are no numbers; the weights are damaged, or the precision is too low for this model",
            image_embeds.len()
        ))),
    }
}
