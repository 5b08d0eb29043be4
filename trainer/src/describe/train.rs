//! The loop: epochs of steps, a look at the validation part after each, the best and the last describer kept.

use super::{
    describer::{Describer, Trained},
    examples,
    images::Images,
    items::Item,
    loader::Loader,
    order::{Micro, windows},
    recipe::{BaseDtype, Method, Recipe},
    save::Saver,
    schedule::Schedule,
    setting::Training,
    step::{Stepped, step, without_gradient},
    validate::{Validated, Validation},
};
use crate::{
    diagnostics::{DescribeEpoch, Diagnostic, after_describe_epoch},
    error::TrainError,
    optimiser::{Optimiser, OptimiserOptions},
    report,
    run::{Kind, Progress, RunFolder, State, announce, stop_requested},
    torch::Leaf,
};
use mmlnb_models::weights::{Adapter, Checkpoint, DType, Weights};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path, time::Instant};
use tch::{Device, Kind as Number, Tensor};

/// Where a run stands.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Position {
    epoch: u64,
    window: usize,
    step: u64,
    micro: u64,
    best: Option<f64>,
    worse: u64,
    /// Sum of this epoch's negative log-likelihood, and its labelled tokens.
    learnt: (f64, usize),
    /// What diagnostics look at.
    history: Vec<DescribeEpoch>,
}

/// What a run came to.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// Epochs that were trained.
    pub epochs: u64,
    /// Smallest validation loss.
    pub best: Option<f64>,
}

/// The type in which a recipe's base computes. One that is stored in f16 computes in bf16, of the same size: a token's share of the gradient lies below
/// the smallest number of f16 where many tokens make a step, and would be lost.
pub fn base_kind(recipe: &Recipe, base: &Checkpoint) -> Number {
    match (recipe.base_dtype, base.tensor("model.embed_tokens.weight").map(|tensor| tensor.dtype)) {
        (BaseDtype::F32, _) | (BaseDtype::Checkpoint, None | Some(DType::F32)) => Number::Float,
        (BaseDtype::F16 | BaseDtype::Bf16, _) | (BaseDtype::Checkpoint, Some(DType::F16 | DType::BF16)) => Number::BFloat16,
    }
}

/// Which parts a recipe trains, and how.
pub fn trained(recipe: &Recipe) -> Trained {
    let Recipe { language, vision_blocks, merger, recompute, .. } = *recipe;
    Trained { adapters: recipe.method != Method::Full, language, vision_blocks, merger, recompute }
}

impl Training<'_> {
    /// Trains in `run`, from the state of an earlier process if there is one.
    ///
    /// # Errors
    /// Whatever stops the training; [`TrainError::Interrupted`] after a signal, with everything saved.
    pub fn run(&self, mut run: RunFolder, resumed: Option<State>) -> Result<Outcome, TrainError> {
        let adapter = self.start(&mut run)?;
        let weights = match &adapter {
            Some(adapter) => Weights::with_adapter(self.base, adapter)?,
            None => Weights::new(self.base),
        };
        let place = (self.device, base_kind(self.recipe, self.base));
        let trained = trained(self.recipe);
        let images = self.prepared(run.path(), place, trained)?;
        let with_vision = !trained.vision_is_frozen();
        let describer = Describer::new(&self.prompter.config, &weights, place, trained, self.recipe.dropout, with_vision)?;
        let mut optimiser = Optimiser::new(OptimiserOptions {
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: self.recipe.weight_decay,
            decoupled: true,
        });
        let mut position = Position::default();
        if let Some(state) = resumed {
            position = restore(state, &describer, &mut optimiser)?;
        }
        if self.base.tensor("model.embed_tokens.weight").is_some_and(|tensor| tensor.dtype == DType::F16) {
            let kind = if place.1 == Number::Float { "f32" } else { "bf16" };
            eprintln!("the base is stored in f16 and trains in {kind}: gradients underflow in f16");
        }
        say_what_is_trained(&describer, self.base, &self.prompter.config);
        let saver = Saver { training: self, start: adapter.as_ref(), describer: &describer, images: &images };
        let validation = Validation { training: self, describer: &describer, images: &images, weights: &weights };
        if position.step == 0 {
            examples::keep_base(&mut run, &validation)?;
        }
        self.epochs(&mut run, &mut position, &mut optimiser, (&describer, &images), (&saver, &validation))?;
        let outcome = Outcome { epochs: position.epoch, best: position.best };
        report::write(run.path(), self.images)?;
        run.finish()?;
        Ok(outcome)
    }

    /// The adapter at its start; the same one when a run goes on.
    fn start(&self, run: &mut RunFolder) -> Result<Option<Adapter>, TrainError> {
        if self.recipe.method == Method::Full {
            return Ok(None);
        }
        let folder = run.path().join("start");
        if !folder.exists() {
            run.replace("start", |folder| super::adapter::write_start(folder, self.recipe, &self.prompter.config, self.base))?;
        }
        Ok(Some(Adapter::open(&folder)?))
    }

    /// The vision tower's work, where it is done once.
    fn prepared(&self, run: &Path, place: (Device, Number), trained: Trained) -> Result<Images, TrainError> {
        if !trained.vision_is_frozen() {
            return Ok(Images::Pixels);
        }
        let items: Vec<&Item> = self.train.iter().chain(self.validation).collect();
        let base = (&Weights::new(self.base), self.base.sha256()?);
        Images::cached(&run.join("cache"), &items, self.prompter, base, place)
    }

    fn windows(&self, epoch: u64) -> Vec<Vec<Micro>> {
        let lengths: Vec<usize> = self.train.iter().map(|item| item.sample.ids.len()).collect();
        windows(&lengths, (self.recipe.seed, epoch), self.recipe.batch_size, self.recipe.accumulation)
    }

    fn schedule(&self) -> Schedule {
        let each = self.train.len().div_ceil(self.recipe.batch_size).div_ceil(self.recipe.accumulation) as u64;
        let steps = each * self.recipe.epochs;
        let warmup = (self.recipe.warmup * steps as f64).ceil() as u64;
        Schedule { peak: self.recipe.learning_rate, warmup, steps, shape: self.recipe.schedule }
    }

    fn epochs(
        &self,
        run: &mut RunFolder,
        position: &mut Position,
        optimiser: &mut Optimiser,
        (describer, images): (&Describer, &Images),
        (saver, validation): (&Saver<'_>, &Validation<'_>),
    ) -> Result<(), TrainError> {
        let schedule = self.schedule();
        let mut progress = Progress::new("training", schedule.steps, position.step);
        while position.epoch < self.recipe.epochs && !self.has_stopped(position) {
            let windows = self.windows(position.epoch);
            let loader = Loader { items: self.train, images, prompter: self.prompter, pad: self.pad };
            loader.each(&windows[position.window..], |window| {
                let begun = Instant::now();
                let rate = schedule.rate(position.step);
                let key = (self.recipe.seed, position.micro);
                let done = step(describer, optimiser, &window, (rate, self.recipe.clip), key)?;
                if position.step == 0 {
                    check_gradients(describer)?;
                    announce(schedule.steps - 1, begun.elapsed());
                }
                let seconds = begun.elapsed().as_secs_f64();
                log_step(run, position, &done, rate, seconds)?;
                progress.advance(1, &[("loss", done.loss)]);
                position.learnt.0 += done.loss * done.answer_tokens as f64;
                position.learnt.1 += done.answer_tokens;
                position.step += 1;
                position.window += 1;
                position.micro += window.len() as u64;
                let due = self.recipe.save_steps > 0 && position.step.is_multiple_of(self.recipe.save_steps);
                if due || stop_requested() {
                    save(run, position, describer, optimiser)?;
                }
                if stop_requested() { Err(TrainError::Interrupted) } else { Ok(true) }
            })?;
            self.end_epoch(run, position, saver, validation, &progress)?;
            save(run, position, describer, optimiser)?;
            if stop_requested() && position.epoch < self.recipe.epochs {
                return Err(TrainError::Interrupted);
            }
        }
        progress.end();
        Ok(())
    }

    fn has_stopped(&self, position: &Position) -> bool {
        self.recipe.patience > 0 && position.worse >= self.recipe.patience
    }

    /// Looks at the validation part, and keeps what is best and what is last.
    fn end_epoch(
        &self,
        run: &mut RunFolder,
        position: &mut Position,
        saver: &Saver<'_>,
        validation: &Validation<'_>,
        progress: &Progress,
    ) -> Result<(), TrainError> {
        let found = if self.validation.is_empty() { None } else { Some(validation.run()?) };
        let better = found.as_ref().is_none_or(|found| position.best.is_none_or(|best| found.nll < best));
        if let Some(found) = &found {
            run.log(Kind::Validation, position.step, position.epoch, &found.figures())?;
            progress.say(&spoken(position.epoch, found, better));
            position.best = if better { Some(found.nll) } else { position.best };
            position.worse = if better { 0 } else { position.worse + 1 };
        }
        if better {
            run.replace("best", |folder| saver.write(folder))?;
            if let Some(texts) = found.as_ref().and_then(|found| found.texts.as_ref()) {
                examples::write(run, validation, &texts.texts)?;
            }
        }
        run.replace("last", |folder| saver.write(folder))?;
        diagnose(run, position, found.as_ref())?;
        position.epoch += 1;
        position.window = 0;
        position.learnt = (0.0, 0);
        Ok(())
    }
}

/// Says what can be seen going wrong.
fn diagnose(run: &mut RunFolder, position: &mut Position, found: Option<&Validated>) -> Result<(), TrainError> {
    let texts = found.and_then(|found| found.texts.as_ref());
    let (sum, tokens) = position.learnt;
    position.history.push(DescribeEpoch {
        epoch: position.epoch,
        loss: sum / tokens.max(1) as f64,
        nll: found.map(|found| found.nll),
        texts: texts.map(|texts| texts.texts.clone()).unwrap_or_default(),
        stopped: texts.and_then(|texts| texts.behaviour.stopped),
        repetition: texts.and_then(|texts| texts.behaviour.repetition),
    });
    for Diagnostic { code, message, remedy } in after_describe_epoch(&position.history) {
        run.diagnose(position.step, position.epoch, code, &message, remedy)?;
    }
    Ok(())
}

fn spoken(epoch: u64, found: &Validated, better: bool) -> String {
    let note = if better { " (the best so far)" } else { "" };
    let figures = found.figures();
    let figures = figures.iter().map(|(name, value)| format!("{name} {value:.4}")).collect::<Vec<_>>().join(", ");
    format!("epoch {}: {figures}{note}", epoch + 1)
}

fn log_step(run: &mut RunFolder, position: &Position, done: &Stepped, rate: f64, seconds: f64) -> Result<(), TrainError> {
    let values = [
        ("loss", done.loss),
        ("learning_rate", rate),
        ("gradient_norm", done.gradient_norm),
        ("tokens_per_second", done.tokens as f64 / seconds.max(1e-9)),
    ];
    run.log(Kind::Step, position.step + 1, position.epoch, &values)
}

/// A tensor that is meant to learn and cannot is a mistake in the set-up that no later loss shows.
fn check_gradients(describer: &Describer) -> Result<(), TrainError> {
    let without = without_gradient(describer);
    if without.is_empty() {
        return Ok(());
    }
    Err(TrainError::Failed(format!(
        "after the first step {} trained tensors have no gradient and would never change: {}",
        without.len(),
        without.join(", ")
    )))
}

fn say_what_is_trained(describer: &Describer, base: &Checkpoint, config: &mmlnb_models::config::QwenConfig) {
    let trained: usize = describer.trained_leaves().iter().map(|leaf| leaf.tensor.numel()).sum();
    let graphs = super::describer::graphs(config, &Weights::new(base));
    let graphs: Vec<_> = graphs.iter().collect();
    let own = mmlnb_models::cost::parameters(&graphs) as usize;
    let is_base = |leaf: &&&Leaf| leaf.name.ends_with(".weight") || leaf.name.ends_with(".bias");
    let of_base: usize = describer.trained_leaves().iter().filter(is_base).map(|leaf| leaf.tensor.numel()).sum();
    let total = own + trained - of_base;
    eprintln!("trained parameters: {trained} of {total} ({:.2} %)", 100.0 * trained as f64 / total as f64);
}

fn save(run: &mut RunFolder, position: &Position, describer: &Describer, optimiser: &Optimiser) -> Result<(), TrainError> {
    let leaves = describer.trained_leaves().into_iter().map(|leaf| (leaf.name.clone(), leaf.tensor.detach()));
    let moments = optimiser.state().into_iter().map(|(name, tensor)| (format!("optimiser.{name}"), tensor));
    let progress = serde_json::to_value(position).map_err(|error| TrainError::Failed(error.to_string()))?;
    run.save(&State { progress, tensors: leaves.chain(moments).collect() })
}

fn restore(state: State, describer: &Describer, optimiser: &mut Optimiser) -> Result<Position, TrainError> {
    let damaged = |problem: String| TrainError::Failed(format!("the saved state does not fit: {problem}"));
    let position = serde_json::from_value(state.progress.clone()).map_err(|error| damaged(error.to_string()))?;
    let leaves = describer.trained_leaves();
    let _constant = tch::no_grad_guard();
    for leaf in &leaves {
        let saved = state.tensor(&leaf.name).ok_or_else(|| damaged(format!("{} is missing", leaf.name)))?;
        leaf.tensor.shallow_clone().f_copy_(saved)?;
    }
    let moments: BTreeMap<String, Tensor> =
        state.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix("optimiser.")?.into(), t.shallow_clone()))).collect();
    optimiser.restore(leaves, &moments).map_err(damaged)?;
    Ok(position)
}
