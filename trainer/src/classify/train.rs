//! The loop over epochs: order, steps, validation, the best epoch, the saved state.

use super::{
    corpus::{Corpus, Known, Opinion, judge},
    network::{Mode, Network},
    order::order,
    pictures::Augmentation,
    prefetch::prefetch,
    recipe::{ClassWeights, FrozenMode, Recipe},
    schedule::{Curriculum, Frozen},
    step::{StepOptions, StepResult, train_step},
    texts::Written,
};
use crate::{
    diagnostics::{ClassifyEpoch, after_classify_epoch},
    error::TrainError,
    optimiser::Optimiser,
    run::{self, Kind, Progress, RunFolder, State},
    torch::Randomness,
};
use mmlnb_models::measures::classes::{ClassMeasures, Predictions};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::Path,
    time::{Duration, Instant},
};
use tch::Tensor;

/// The state is saved when so much time has passed, and at every end of a stage.
const BETWEEN_SAVES: Duration = Duration::from_secs(60);
/// Steps after which the time of the whole is told.
const MEASURED_STEPS: u64 = 3;

/// The measure by which the best epoch is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Macro-F1 on the validation part.
    MacroF1,
    /// Weighted F1 on the reported part, as the paper's code does.
    WeightedF1,
}

/// Writes named tensors as a classifier's folder.
pub(super) type Save<'s> = dyn Fn(&Path, &[(String, Tensor)]) -> Result<(), TrainError> + 's;

/// What the loop works on.
pub(super) struct Training<'t> {
    pub recipe: &'t Recipe,
    pub network: &'t Network,
    pub corpus: &'t Corpus,
    /// Training rows.
    pub train: &'t [usize],
    /// Rows by which epochs are judged.
    pub watched: &'t [usize],
    pub choice: Choice,
    pub ordinal: bool,
    /// Writes a classifier's folder with the network's tensors.
    pub save: &'t Save<'t>,
}

/// Where the loop stands; everything else follows from the recipe and the tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Position {
    epoch: usize,
    /// Batches of the epoch that lie behind.
    batch: usize,
    step: u64,
    /// Sums over the epoch's items so far.
    loss: f64,
    correct: usize,
    shown: usize,
    best: Option<Best>,
    /// Epochs since the best one.
    stale: usize,
    history: Vec<ClassifyEpoch>,
    /// Training is over: what follows measures.
    over: bool,
}

/// The best epoch so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// From 0.
    pub epoch: usize,
    /// The measure by which it is the best.
    pub value: f64,
}

/// The loop's own state between saves.
struct Loop<'t, 'r> {
    training: &'t Training<'t>,
    run: &'r mut RunFolder,
    optimiser: Optimiser,
    position: Position,
    /// Tensors of the best epoch, where they are not in the folder `best` yet or were made by this process.
    best: Option<BTreeMap<String, Tensor>>,
    best_written: bool,
    saved: Instant,
    class_weights: Option<Tensor>,
    known: Known,
    frozen: Option<Frozen>,
}

/// Trains, or goes on from `state`; at the end the network holds the tensors of the best epoch.
///
/// # Errors
/// [`TrainError::Interrupted`] after a signal, with the state saved; what cannot be read, written or computed.
pub(super) fn train(training: &Training<'_>, run: &mut RunFolder, state: Option<State>) -> Result<Best, TrainError> {
    let mut work = Loop::new(training, run, state)?;
    let curriculum = training.recipe.curriculum();
    let batches = training.train.len().div_ceil(training.recipe.batch_size);
    let total = (curriculum.epochs * batches) as u64;
    let mut progress = Progress::new("training", total, work.position.step.min(total));
    while !work.position.over && work.position.epoch < curriculum.epochs {
        work.prepare(&curriculum)?;
        if work.epoch(&curriculum, &mut progress)?.is_break() {
            work.save()?;
            return Err(TrainError::Interrupted);
        }
        work.validate(&curriculum, &progress)?;
        let stage_ends = curriculum.frozen(work.position.epoch) != curriculum.frozen(work.position.epoch - 1);
        if stage_ends || work.saved.elapsed() >= BETWEEN_SAVES {
            work.save()?;
        }
        if training.recipe.patience > 0 && work.position.stale >= training.recipe.patience {
            progress.say(&format!("no better epoch for {}: training ends", work.position.stale));
            break;
        }
    }
    progress.end();
    work.conclude()
}

impl<'t, 'r> Loop<'t, 'r> {
    fn new(training: &'t Training<'t>, run: &'r mut RunFolder, state: Option<State>) -> Result<Loop<'t, 'r>, TrainError> {
        let mut optimiser = Optimiser::new(training.recipe.optimiser());
        let mut position = Position::default();
        if let Some(state) = &state {
            position = serde_json::from_value(state.progress.clone())
                .map_err(|error| TrainError::Failed(format!("the saved state is of another version: {error}")))?;
            let tensors: BTreeMap<String, Tensor> = state.tensors.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
            // More epochs than before, and not ended for want of a better one: the run goes on.
            let patient = training.recipe.patience == 0 || position.stale < training.recipe.patience;
            position.over &= position.epoch >= training.recipe.epochs || !patient;
            load(training.network, |name| tensors.get(&format!("weights.{name}")).map(Tensor::shallow_clone))?;
            let moments =
                tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix("optimiser.")?.to_string(), t.shallow_clone())));
            optimiser.restore(training.network.leaves(), &moments.collect()).map_err(TrainError::Failed)?;
        }
        let class_weights = match training.recipe.class_weights {
            ClassWeights::None => None,
            ClassWeights::Balanced => Some(balanced(training)?),
        };
        Ok(Loop {
            training,
            run,
            optimiser,
            position,
            best: None,
            best_written: true,
            saved: Instant::now(),
            class_weights,
            known: Known::nothing(),
            frozen: None,
        })
    }

    /// Freezes what the epoch freezes, and computes what stays the same from now on.
    fn prepare(&mut self, curriculum: &Curriculum) -> Result<(), TrainError> {
        let Training { network, corpus, train, watched, .. } = self.training;
        let frozen = curriculum.frozen(self.position.epoch);
        if self.frozen == Some(frozen) {
            return Ok(());
        }
        network.freeze(frozen);
        self.frozen = Some(frozen);
        let rows: Vec<usize> = watched.iter().chain(train.iter().filter(|_| !self.training.recipe.augments())).copied().collect();
        let mut rows_once = rows;
        rows_once.sort();
        rows_once.dedup();
        // What the frozen encoders say of the watched rows does not change, whatever drops in training.
        self.known = Known::compute(network, corpus, frozen.text, frozen.image.then_some(rows_once.as_slice()))?;
        Ok(())
    }

    /// What training may take from the features that are known: an image encoder has no dropout, a text encoder has.
    fn known_in_training(&self) -> Known {
        let recipe = self.training.recipe;
        self.known.only(!recipe.augments(), recipe.frozen_mode == FrozenMode::Eval)
    }

    /// The rest of an epoch's steps; breaks when somebody asks to stop.
    fn epoch(&mut self, curriculum: &Curriculum, progress: &mut Progress) -> Result<ControlFlow<()>, TrainError> {
        let Training { recipe, network, corpus, train, .. } = self.training;
        let epoch = self.position.epoch as u64;
        let items: Vec<(usize, usize)> = train.iter().map(|row| (*row, corpus.labels[*row])).collect();
        let rows = order(&items, recipe.sampling, recipe.seed, epoch);
        let batches: Vec<&[usize]> = rows.chunks(recipe.batch_size).skip(self.position.batch).collect();
        let augmentation = Augmentation::of(recipe);
        let augmentation = augmentation.as_ref().map(|augmentation| (augmentation, epoch));
        let known = self.known_in_training();
        let wanted = known.lacks_images();
        let mut timed = Vec::new();
        let mut stopped = ControlFlow::Continue(());
        prefetch(
            &batches,
            |rows| corpus.pixels(rows, augmentation, wanted),
            |rows, pixels| {
                let started = Instant::now();
                let text_of = |written: &Written, row: usize| written.trained(row, epoch);
                let batch = corpus.batch(network, rows, pixels, text_of, &known)?;
                let options = self.options(curriculum);
                let result = train_step(network, &mut self.optimiser, &batch, &options)?;
                let (lambda, learning_rate) = (options.lambda, options.learning_rate);
                self.count(rows.len(), &result, lambda, learning_rate, progress)?;
                timed.push(started.elapsed());
                if epoch == 0 && self.position.step == MEASURED_STEPS {
                    let fastest = timed.iter().min().copied().unwrap_or_default();
                    run::announce((curriculum.epochs * train.len().div_ceil(recipe.batch_size)) as u64, fastest);
                }
                if run::stop_requested() {
                    stopped = ControlFlow::Break(());
                }
                Ok(stopped)
            },
        )?;
        Ok(stopped)
    }

    fn options(&self, curriculum: &Curriculum) -> StepOptions {
        let recipe = self.training.recipe;
        StepOptions {
            lambda: curriculum.lambda(self.position.epoch),
            learning_rate: recipe.learning_rate,
            label_smoothing: recipe.label_smoothing,
            class_weights: self.class_weights.as_ref().map(Tensor::shallow_clone),
            mode: Mode {
                frozen: curriculum.frozen(self.position.epoch),
                frozen_drop: recipe.frozen_mode == FrozenMode::Train,
                randomness: Randomness { seed: recipe.seed, step: self.position.step },
            },
        }
    }
}

impl Loop<'_, '_> {
    /// Books a step and logs it.
    fn count(
        &mut self,
        items: usize,
        result: &StepResult,
        lambda: f64,
        learning_rate: f64,
        progress: &mut Progress,
    ) -> Result<(), TrainError> {
        let position = &mut self.position;
        position.batch += 1;
        position.shown += items;
        position.correct += result.correct;
        position.loss += result.loss * items as f64;
        let accuracy = position.correct as f64 / position.shown as f64;
        let mut values = vec![("loss", result.loss), ("loss_fused", result.fused)];
        values.extend(result.image.map(|loss| ("loss_image", loss)));
        values.push(("lambda", lambda));
        if let Some(alpha) = &result.alpha {
            let (mean, spread) = mean_and_spread(alpha);
            values.extend([("alpha_mean", mean), ("alpha_std", spread)]);
        }
        values.extend([("learning_rate", learning_rate), ("train_accuracy", accuracy)]);
        self.run.log(Kind::Step, position.step, position.epoch as u64, &values)?;
        position.step += 1;
        progress.advance(1, &[("loss", result.loss), ("accuracy", accuracy)]);
        Ok(())
    }

    /// Judges the epoch on the watched rows, and goes to the next.
    fn validate(&mut self, curriculum: &Curriculum, progress: &Progress) -> Result<(), TrainError> {
        let Training { network, corpus, watched, choice, .. } = self.training;
        let opinions = judge(network, corpus, watched, &self.known)?;
        let measures = self.measures(&opinions, |opinion| Some(&opinion.logits))?;
        let measures = measures.ok_or_else(|| TrainError::Failed("no logits".into()))?;
        let accuracy = |of: fn(&Opinion) -> Option<&Vec<f64>>| -> Result<Option<f64>, TrainError> {
            Ok(self.measures(&opinions, of)?.map(|measures| measures.accuracy))
        };
        let text = accuracy(|opinion| opinion.text_logits.as_ref())?;
        let image = accuracy(|opinion| opinion.image_logits.as_ref())?;
        let alpha: Option<Vec<f64>> = opinions.iter().map(|opinion| opinion.alpha).collect();
        let alpha = alpha.map(|alpha| mean_and_spread(&alpha));
        let epoch = self.epoch_row(curriculum, &measures, (text, image), alpha);
        let mut values = vec![
            ("accuracy", measures.accuracy),
            ("macro_f1", measures.macro_f1),
            ("weighted_f1", measures.weighted_f1),
            ("nll", measures.nll),
        ];
        values.extend(alpha.map(|(mean, _)| ("alpha_mean", mean)));
        values.extend(text.map(|accuracy| ("text_accuracy", accuracy)));
        values.extend(image.map(|accuracy| ("image_accuracy", accuracy)));
        let (step, number) = (self.position.step, self.position.epoch);
        self.run.log(Kind::Validation, step, number as u64, &values)?;
        progress.say(&format!(
            "epoch {}: loss {:.4}, validation accuracy {:.3}, macro-F1 {:.3}",
            number + 1,
            epoch.loss,
            measures.accuracy,
            measures.macro_f1
        ));
        self.position.history.push(epoch);
        for found in after_classify_epoch(&self.position.history, curriculum.epochs as u64, &network.config().classes) {
            self.run.diagnose(step, number as u64, found.code, &found.message, found.remedy)?;
        }
        let value = match choice {
            Choice::MacroF1 => measures.macro_f1,
            Choice::WeightedF1 => measures.weighted_f1,
        };
        self.keep_if_best(value);
        let position = &mut self.position;
        (position.epoch, position.batch) = (position.epoch + 1, 0);
        (position.loss, position.correct, position.shown) = (0.0, 0, 0);
        Ok(())
    }

    /// Measures of one kind of logits on the watched rows; none where the network has no such logits.
    fn measures(
        &self,
        opinions: &[Opinion],
        of: impl Fn(&Opinion) -> Option<&Vec<f64>>,
    ) -> Result<Option<ClassMeasures>, TrainError> {
        let Some(logits) = opinions.iter().map(|opinion| of(opinion).cloned()).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let labels = self.training.watched.iter().map(|row| self.training.corpus.labels[*row]).collect();
        let classes = &self.training.network.config().classes;
        Predictions::from_logits(classes, self.training.ordinal, labels, &logits, 1.0)
            .map(|predictions| Some(predictions.measure()))
            .map_err(|error| TrainError::Failed(format!("the validation part cannot be measured: {error}")))
    }

    fn epoch_row(
        &self,
        curriculum: &Curriculum,
        measures: &ClassMeasures,
        (text_accuracy, image_accuracy): (Option<f64>, Option<f64>),
        alpha: Option<(f64, f64)>,
    ) -> ClassifyEpoch {
        let Position { epoch, loss, correct, shown, .. } = self.position;
        let count = |of: &dyn Fn(usize) -> u64| (0..measures.classes.len()).map(|class| of(class) as usize).collect();
        ClassifyEpoch {
            epoch: epoch as u64,
            lambda: curriculum.lambda(epoch),
            loss: loss / shown as f64,
            train_accuracy: correct as f64 / shown as f64,
            accuracy: measures.accuracy,
            text_accuracy,
            image_accuracy,
            alpha_mean: alpha.map(|(mean, _)| mean),
            alpha_std: alpha.map(|(_, spread)| spread),
            truth: count(&|class| measures.confusion[class].iter().sum()),
            predicted: count(&|class| measures.confusion.iter().map(|row| row[class]).sum()),
        }
    }

    /// Keeps the network's tensors when the epoch is better than all before.
    fn keep_if_best(&mut self, value: f64) {
        if self.position.best.is_some_and(|best| value <= best.value) {
            self.position.stale += 1;
            return;
        }
        self.position.best = Some(Best { epoch: self.position.epoch, value });
        self.position.stale = 0;
        self.best = Some(self.training.network.leaves().map(|leaf| (leaf.name.clone(), leaf.tensor.detach().copy())).collect());
        self.best_written = false;
    }

    /// Writes `best` if it is new, then the state. A process that is killed in between goes on from the older state and writes the same `best` again.
    fn save(&mut self) -> Result<(), TrainError> {
        if let (Some(best), false) = (&self.best, self.best_written) {
            let tensors: Vec<(String, Tensor)> = best.iter().map(|(name, t)| (name.clone(), t.shallow_clone())).collect();
            self.run.replace("best", |folder| (self.training.save)(folder, &tensors))?;
            self.best_written = true;
        }
        let weights = self.training.network.leaves().map(|leaf| (format!("weights.{}", leaf.name), leaf.tensor.detach()));
        let moments = self.optimiser.state().into_iter().map(|(name, tensor)| (format!("optimiser.{name}"), tensor));
        let progress = serde_json::to_value(&self.position).map_err(|error| TrainError::Failed(error.to_string()))?;
        self.run.save(&State { progress, tensors: weights.chain(moments).collect() })?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Writes `last`, saves once more, and puts the best epoch's tensors into the network.
    fn conclude(mut self) -> Result<Best, TrainError> {
        let Training { network, save, .. } = self.training;
        if !self.position.over {
            let last: Vec<(String, Tensor)> =
                network.leaves().map(|leaf| (leaf.name.clone(), leaf.tensor.detach().copy())).collect();
            self.run.replace("last", |folder| save(folder, &last))?;
            self.position.over = true;
            self.save()?;
        }
        let best = self.position.best.ok_or_else(|| TrainError::Failed("no epoch was trained".into()))?;
        match &self.best {
            Some(tensors) => load(network, |name| tensors.get(name).map(Tensor::shallow_clone))?,
            None => {
                let file = self.run.path().join("best/model.safetensors");
                let unreadable = |error: tch::TchError| TrainError::file(&file, crate::torch::first_line(&error));
                let tensors: BTreeMap<String, Tensor> =
                    Tensor::read_safetensors(&file).map_err(unreadable)?.into_iter().collect();
                load(network, |name| tensors.get(name).map(Tensor::shallow_clone))?;
            }
        }
        Ok(best)
    }
}

/// Copies tensors into the network's own.
fn load(network: &Network, tensor: impl Fn(&str) -> Option<Tensor>) -> Result<(), TrainError> {
    let _constant = tch::no_grad_guard();
    for leaf in network.leaves() {
        let found = tensor(&leaf.name).filter(|found| found.size() == leaf.tensor.size());
        let found = found.ok_or_else(|| TrainError::Failed(format!("the saved tensors lack {} in its shape", leaf.name)))?;
        leaf.tensor.shallow_clone().f_copy_(&found)?;
    }
    Ok(())
}

/// Items / (classes * items of the class); a class without training items weighs 0.
fn balanced(training: &Training<'_>) -> Result<Tensor, TrainError> {
    let classes = training.network.config().classes.len();
    let mut counts = vec![0usize; classes];
    training.train.iter().for_each(|row| counts[training.corpus.labels[*row]] += 1);
    let weight = |count: &usize| if *count == 0 { 0.0 } else { training.train.len() as f32 / (classes * count) as f32 };
    let weights: Vec<f32> = counts.iter().map(weight).collect();
    Ok(Tensor::f_from_slice(&weights)?.f_to_device(training.corpus.device)?)
}

/// Mean and standard deviation.
fn mean_and_spread(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt())
}
