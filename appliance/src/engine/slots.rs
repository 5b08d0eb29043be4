//! The describer's thread: it decodes all requests together, one token a step, or a lone one with drafts.
//!
//! Requests join whenever a slot is free and leave when they end; those who write stay in front, the last one moves into a gap. A prompt is read
//! between the steps of the others, in pieces. The rows of a batch do not see each other, a prompt gives the same numbers however it is cut, and a draft
//! is kept only as far as it is what the sampler chooses from the logits, so the tokens of a request do not depend on what else runs or ran.

use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use mmlnb_kernels::{Spawned, each_part};
use mmlnb_models::prepare::sampling::Sampler;

use super::decoder::{Decoder, Room};
use super::drafts::Drafts;
use super::line::{Asks, Line};
use super::pace::Pace;
use super::prompt::{Opening, Prompt};
use super::runtime::Runtime;
use super::table::Table;
use super::vision::Tower;
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
    /// Of them, those that were kept of drafts.
    pub accepted: usize,
    /// Sum of their log-probabilities.
    pub logprobs: f64,
    pub stop: StopReason,
    /// Milliseconds of each part.
    pub elapsed: Vec<(&'static str, f64)>,
    pub trace: Option<Trace>,
}

/// The networks and the requests in their slots: `writing[i]` has slot i, the one whose prompt is being read the slot after them. All slots hold
/// the opening of the prompts at all times.
pub(super) struct Worker {
    runtime: Runtime,
    tower: Tower,
    table: Table,
    decoder: Decoder,
    room: Room,
    /// Absent: nothing is drafted.
    drafts: Option<Drafts>,
    image_token: i64,
    /// Tokens of the opening.
    opening: usize,
    pace: Pace,
    waiting: Line<Job>,
    reading: Option<Reading>,
    writing: Vec<Row>,
}

/// A request in a slot.
struct Row {
    job: Job,
    /// Tokens in the cache.
    length: usize,
    tokens: Vec<i64>,
    accepted: usize,
    logprobs: f64,
    elapsed: Vec<(&'static str, f64)>,
    /// When its present part began.
    since: Instant,
    /// Kept for the trace only.
    image_embeds: Vec<f32>,
    /// Kept for the trace only.
    logits: Vec<f32>,
}

/// A request whose prompt is being read.
struct Reading {
    row: Row,
    /// The prompt's rows `[tokens, hidden]`.
    embeds: Vec<f32>,
}

impl Worker {
    /// A thread's state without requests.
    pub fn new(runtime: Runtime, tower: Tower, table: Table, decoder: Decoder, room: Room, image_token: i64) -> Worker {
        let pace = Pace::new(runtime.provider.name == "cuda");
        Worker {
            runtime,
            tower,
            table,
            decoder,
            room,
            drafts: (room.draft > 0).then(Drafts::default),
            image_token,
            opening: 0,
            pace,
            waiting: Line::default(),
            reading: None,
            writing: Vec::new(),
        }
    }

    /// Reads the opening into every slot, and takes one step with every slot taken and one draft of the longest: the memory for them is there from the
    /// start on, and does not have to be found once all slots meet.
    pub fn warm_up(&mut self, opening: &Opening) -> Result<(), EngineError> {
        self.read_opening(opening)
            .and_then(|()| self.full_step())
            .and_then(|()| self.full_draft())
            .map_err(|error| self.runtime.error("the language model failed", &error))
    }

    fn read_opening(&mut self, opening: &Opening) -> ort::Result<()> {
        self.opening = opening.ids.len();
        if self.opening > 0 {
            self.decoder.place(0, 0, &opening.angles);
            let (width, embeds) = (self.table.width(), self.table.rows(&opening.ids));
            let mut from = 0;
            while from < self.opening {
                let to = from + self.pace.piece(self.opening - from, true);
                self.decoder.read(0, from, &embeds[from * width..to * width], width)?;
                from = to;
            }
            (1..self.room.slots).try_for_each(|slot| self.decoder.relocate(0, slot, self.opening))?;
        }
        Ok(())
    }

    fn full_step(&mut self) -> ort::Result<()> {
        self.decoder.step(self.table.rows(&vec![0; self.room.slots]), &vec![self.opening; self.room.slots]).map(|_| ())
    }

    fn full_draft(&mut self) -> ort::Result<()> {
        if self.drafts.is_none() {
            return Ok(());
        }
        let embeds = self.table.rows(&vec![0; 1 + self.room.draft]);
        self.decoder.read_draft(self.opening, embeds, self.room.draft).map(|_| ())
    }

    /// Serves requests until nobody can send any more.
    pub fn serve(mut self, queue: &Receiver<Job>) {
        loop {
            if self.writing.is_empty() && self.reading.is_none() && self.waiting.is_empty() {
                match queue.recv() {
                    Ok(job) => self.waiting.join([job]),
                    Err(_) => return,
                }
            }
            self.waiting.join(queue.try_iter());
            self.dismiss();
            self.admit();
            self.read_on();
            self.waiting.show_life();
            self.dismiss();
            self.step();
        }
    }

    /// Answers those that were given up.
    fn dismiss(&mut self) {
        let cancelled = self.waiting.leave_cancelled();
        cancelled.into_iter().for_each(|job| Row::new(job, 0).answer(Err(EngineError::Cancelled)));
        if let Some(reading) = self.reading.take_if(|reading| reading.row.job.request.is_cancelled()) {
            reading.row.answer(Err(EngineError::Cancelled));
        }
        for slot in (0..self.writing.len()).rev() {
            if self.writing[slot].job.request.is_cancelled() {
                self.leave(slot, Err(EngineError::Cancelled));
            }
        }
    }

    /// If a slot is free and no prompt is being read, the next in line takes it: its image is seen, in one piece. One image at most between two steps.
    fn admit(&mut self) {
        if self.reading.is_some() || self.writing.len() == self.room.slots {
            return;
        }
        let Some(job) = self.waiting.take_first() else { return };
        let mut row = Row::new(job, self.opening);
        row.part("queue", row.job.queued);
        match self.see(&row.job.prompt) {
            Ok(image) => self.reading = Some(self.begin(row, image)),
            Err(error) => row.answer(Err(error)),
        }
        // Those who write have waited for it.
        self.writing.iter().for_each(|row| (row.job.request.beat)());
    }

    fn see(&mut self, prompt: &Prompt) -> Result<Vec<f32>, EngineError> {
        let image = self.tower.see(&prompt.patches.pixel_values, &prompt.vision);
        let image = image.map_err(|error| self.runtime.error("the vision tower failed", &error))?;
        check_numbers(&image).map(|()| image)
    }

    /// Takes the slot behind those who write.
    fn begin(&mut self, mut row: Row, image: Vec<f32>) -> Reading {
        row.part("vision", row.since);
        (row.job.request.beat)();
        let Prompt { ids, angles, .. } = &row.job.prompt;
        self.decoder.place(self.writing.len(), 0, angles);
        let width = self.table.width();
        let mut embeds = self.table.rows(ids);
        let places = embeds.chunks_exact_mut(width).zip(ids).filter(|(_, id)| **id == self.image_token);
        places.zip(image.chunks_exact(width)).for_each(|((place, _), token)| place.copy_from_slice(token));
        if row.job.request.trace {
            row.image_embeds = image;
        }
        Reading { row, embeds }
    }

    /// Reads a piece of the prompt that is being read; after the last one the first token is written.
    fn read_on(&mut self) {
        let Some(mut reading) = self.reading.take() else { return };
        let (width, from, slot) = (self.table.width(), reading.row.length, self.writing.len());
        let left = reading.row.job.prompt.ids.len() - from;
        let tokens = self.pace.piece(left, self.writing.is_empty());
        let started = Instant::now();
        let logits = match self.decoder.read(slot, from, &reading.embeds[from * width..(from + tokens) * width], width) {
            Ok(logits) => logits,
            Err(error) => {
                let error = self.runtime.error("the language model failed on the prompt", &error);
                return reading.row.answer(Err(error));
            }
        };
        self.pace.read(tokens, started.elapsed());
        reading.row.length += tokens;
        if tokens < left {
            (reading.row.job.request.beat)();
            self.reading = Some(reading);
            return;
        }
        let Reading { mut row, .. } = reading;
        row.part("prefill", row.since);
        match row.write(logits) {
            Ok(None) => self.writing.push(row),
            Ok(Some(stop)) => row.answer(Ok(stop)),
            Err(error) => {
                self.forget(slot, &error);
                row.answer(Err(error));
            }
        }
    }

    /// One more token for everyone who writes, or as many for the only one as its draft foresaw.
    fn step(&mut self) {
        match self.draft() {
            Some(draft) => self.step_drafted(&draft),
            None if self.writing.is_empty() => {}
            None => self.step_all(),
        }
    }

    /// What the only one who writes will probably write next. One that follows given tokens does not choose.
    fn draft(&mut self) -> Option<Vec<i64>> {
        let (Some(drafts), [row]) = (&mut self.drafts, &self.writing[..]) else { return None };
        if row.job.request.follow.is_some() {
            return None;
        }
        // One token comes beside those of the draft.
        let room = row.job.most.saturating_sub(row.tokens.len() + 1);
        Some(drafts.propose(&row.tokens, room)).filter(|draft| !draft.is_empty())
    }

    /// The tokens that the only one who writes chooses, as long as they are those of the draft, and one more.
    fn step_drafted(&mut self, draft: &[i64]) {
        let row = &mut self.writing[0];
        let ids: Vec<i64> = std::iter::once(row.last()).chain(draft.iter().copied()).collect();
        let started = Instant::now();
        let logits = match self.decoder.read_draft(row.length, self.table.rows(&ids), draft.len()) {
            Ok(logits) => logits,
            Err(error) => return self.fail(&error),
        };
        let time = started.elapsed();
        let accepted = row.accepted;
        let outcome = row.write_drafted(logits, draft);
        let accepted = row.accepted - accepted;
        if let Some(drafts) = &mut self.drafts {
            drafts.read(draft.len(), accepted, time);
        }
        if let Some(outcome) = outcome.transpose() {
            self.leave(0, outcome);
        }
    }

    fn step_all(&mut self) {
        let ids: Vec<i64> = self.writing.iter().map(Row::last).collect();
        let lengths: Vec<usize> = self.writing.iter().map(|row| row.length).collect();
        let started = Instant::now();
        let logits = match self.decoder.step(self.table.rows(&ids), &lengths) {
            Ok(logits) => logits,
            Err(error) => return self.fail(&error),
        };
        let time = started.elapsed();
        self.pace.stepped(time);
        if let (Some(drafts), 1) = (&mut self.drafts, ids.len()) {
            drafts.stepped(time);
        }
        let width = logits.len() / ids.len();
        let mut outcomes: Vec<_> = ids.iter().map(|_| None).collect();
        let rows = self.writing.iter_mut().zip(logits.chunks_exact(width)).zip(&mut outcomes).collect();
        each_part(rows, &Spawned(self.runtime.threads), |((row, logits), outcome)| {
            row.length += 1;
            *outcome = row.write(logits).transpose();
        });
        let ended = outcomes.into_iter().enumerate().filter_map(|(slot, outcome)| Some((slot, outcome?)));
        let ended: Vec<_> = ended.collect();
        for (slot, outcome) in ended.into_iter().rev() {
            self.leave(slot, outcome);
        }
    }

    /// After a call that failed, answers all who were in it or wait behind it.
    fn fail(&mut self, error: &ort::Error) {
        let error = self.runtime.error("the language model failed", error);
        let all = self.writing.drain(..).chain(self.reading.take().map(|reading| reading.row));
        all.for_each(|row| row.answer(Err(error.clone())));
    }

    /// Answers the request of a slot; the last one that writes moves into the gap, and the one that is being read behind it.
    fn leave(&mut self, slot: usize, outcome: Result<StopReason, EngineError>) {
        if let Err(error) = &outcome {
            self.forget(slot, error);
        }
        let row = self.writing.swap_remove(slot);
        if let (Some(drafts), Ok(_), true) = (&mut self.drafts, &outcome, row.job.request.is_description()) {
            drafts.learn(&row.tokens);
        }
        row.answer(outcome);
        let last = self.writing.len();
        let moved = if slot < last { self.decoder.relocate(last, slot, self.writing[slot].length) } else { Ok(()) };
        if let Some(reading) = self.reading.take() {
            match self.decoder.relocate(last + 1, last, reading.row.length) {
                Ok(()) => self.reading = Some(reading),
                Err(error) => reading.row.answer(Err(self.unmoved(&error))),
            }
        }
        if let Err(error) = moved {
            self.leave(slot, Err(self.unmoved(&error)));
        }
    }

    /// After numbers that are none, the slot holds some of them: what comes after must not read them.
    fn forget(&mut self, slot: usize, error: &EngineError) {
        if matches!(error, EngineError::Numbers(_))
            && let Err(error) = self.decoder.clear(slot, self.opening)
        {
            // Requests that meet them will end in the same error, and in no wrong answer.
            tracing::error!(event = "slot_not_cleared", slot, %error);
        }
    }

    fn unmoved(&self, error: &ort::Error) -> EngineError {
        self.runtime.error("a request could not be moved to another slot", error)
    }
}

impl Row {
    fn new(job: Job, length: usize) -> Row {
        let (tokens, elapsed, image_embeds, logits) = Default::default();
        Row { job, length, tokens, accepted: 0, logprobs: 0.0, elapsed, since: Instant::now(), image_embeds, logits }
    }

    /// A part that began at `since` ends, and the next one begins.
    fn part(&mut self, name: &'static str, since: Instant) {
        self.elapsed.push((name, milliseconds(since)));
        self.since = Instant::now();
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

    /// Chooses a token for each row of `logits` `[1 + draft, vocabulary]` as long as those before are the draft's; says whether the last one chosen ends the
    /// text.
    fn write_drafted(&mut self, logits: &[f32], draft: &[i64]) -> Result<Option<StopReason>, EngineError> {
        for (place, logits) in logits.chunks_exact(logits.len() / (1 + draft.len())).enumerate() {
            self.length += 1;
            let stop = self.write(logits)?;
            let kept = draft.get(place) == Some(&self.last());
            self.accepted += usize::from(kept);
            if stop.is_some() || !kept || self.job.request.is_cancelled() {
                return Ok(stop);
            }
        }
        Ok(None)
    }

    fn last(&self) -> i64 {
        *self.tokens.last().expect("a request in a slot has its first token")
    }

    /// Sends the outcome; a caller that no longer waits is no error.
    fn answer(mut self, outcome: Result<StopReason, EngineError>) {
        let trace = (outcome.is_ok() && self.job.request.trace).then(|| self.trace());
        self.part("decode", self.since);
        let Row { job, tokens, accepted, logprobs, elapsed, .. } = self;
        let _ = job.reply.send(outcome.map(|stop| Answer { tokens, accepted, logprobs, stop, elapsed, trace }));
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
