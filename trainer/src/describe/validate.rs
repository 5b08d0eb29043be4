//! A look at the validation part: the loss of all of it, and what is written for some of it.

use super::{describer::Describer, images::Images, items::Item, loader::Loader, order::Micro, sample::Image, setting::Training};
use crate::{
    error::TrainError,
    generate::{Generated as Written, Generator, Prompt, StopReason},
    torch::{Adapters, PlanOptions, Trainable},
};
use mmlnb_models::{
    measures::{facts, generated, texts},
    weights::Weights,
};
use tch::Kind;

/// What is needed to look.
#[derive(Debug)]
pub struct Validation<'v> {
    /// The run.
    pub training: &'v Training<'v>,
    /// What is trained.
    pub describer: &'v Describer,
    /// Its images.
    pub images: &'v Images,
    /// The base with the adapter at its start.
    pub weights: &'v Weights<'v>,
}

/// What was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Validated {
    /// Negative log-likelihood a labelled token, over all items.
    pub nll: f64,
    /// The words, of a fixed subset; `None` when no description is asked for.
    pub texts: Option<Texts>,
}

/// Measures of generated descriptions.
#[derive(Clone, PartialEq, Debug)]
pub struct Texts {
    /// Shared words.
    pub overlap: texts::TextMeasures,
    /// Agreement of what is said.
    pub facts_f1: Option<f64>,
    /// How the texts behave.
    pub behaviour: generated::GeneratedMeasures,
    /// The texts.
    pub texts: Vec<String>,
}

impl Validated {
    /// By name, as `metrics.jsonl` has them.
    pub fn figures(&self) -> Vec<(&'static str, f64)> {
        let mut figures = vec![("nll", self.nll)];
        if let Some(Texts { overlap, facts_f1, behaviour, .. }) = &self.texts {
            figures.extend([
                ("bleu", overlap.bleu),
                ("rouge1", overlap.rouge1),
                ("rouge2", overlap.rouge2),
                ("rougeL", overlap.rouge_l),
                ("chrf", overlap.chrf),
                ("distinct", behaviour.distinct),
            ]);
            figures.extend(facts_f1.map(|value| ("facts_f1", value)));
            figures.extend(behaviour.stopped.map(|value| ("stopped", value)));
            figures.extend(behaviour.repetition.map(|value| ("repetition", value)));
        }
        figures
    }
}

impl Validation<'_> {
    /// Looks.
    ///
    /// # Errors
    /// Images that cannot be read, what libtorch refuses.
    pub fn run(&self) -> Result<Validated, TrainError> {
        let texts = if self.training.recipe.validation_texts > 0 { Some(self.texts()?) } else { None };
        Ok(Validated { nll: self.nll()?, texts })
    }

    fn nll(&self) -> Result<f64, TrainError> {
        let Training { recipe, prompter, validation, pad, .. } = self.training;
        let mut numbers: Vec<usize> = (0..validation.len()).collect();
        numbers.sort_by_key(|number| validation[*number].sample.ids.len());
        let windows: Vec<Vec<Micro>> = numbers.chunks(recipe.batch_size).map(|micro| vec![micro.to_vec()]).collect();
        let (mut sum, mut tokens) = (0.0, 0);
        let loader = Loader { items: validation, images: self.images, prompter, pad: *pad };
        loader.each(&windows, |batches| {
            for batch in &batches {
                sum += self.describer.nll(batch)?;
                tokens += batch.targets.len();
            }
            Ok(true)
        })?;
        Ok(sum / tokens as f64)
    }

    /// The items with the smallest hashes: the same ones in every epoch and every run, chosen by nobody.
    pub(super) fn subset(&self) -> Vec<&Item> {
        let mut items: Vec<&Item> = self.training.validation.iter().collect();
        items.sort_by(|a, b| a.sha256.cmp(&b.sha256));
        items.truncate(self.training.recipe.validation_texts);
        items
    }

    pub(super) fn texts(&self) -> Result<Texts, TrainError> {
        let items = self.subset();
        let written = self.written(&items)?;
        let texts: Vec<&str> = written.iter().map(|one| one.text.as_str()).collect();
        let references: Vec<&str> = items.iter().map(|item| item.description.as_str()).collect();
        let described: Vec<generated::Generated<'_>> = written
            .iter()
            .map(|one| generated::Generated {
                text: &one.text,
                tokens: Some(one.token_ids.len()),
                stopped: Some(one.stop_reason == StopReason::EndToken),
                tokens_cut: None,
            })
            .collect();
        let failed = |error: mmlnb_models::measures::MeasureError| TrainError::Failed(error.to_string());
        Ok(Texts {
            overlap: texts::measure(&texts, &references).map_err(failed)?,
            facts_f1: facts::measure(&texts, &references).map_err(failed)?.f1,
            behaviour: generated::measure(&described).map_err(failed)?,
            texts: texts.iter().map(|text| text.to_string()).collect(),
        })
    }

    /// Descriptions by the weights as they are now, which the generator shares.
    fn written(&self, items: &[&Item]) -> Result<Vec<Written>, TrainError> {
        let prompter = self.training.prompter.clone();
        let plans: Vec<_> = self.describer.plans().collect();
        let options = PlanOptions {
            device: self.describer.device(),
            kind: self.describer.kind(),
            trainable: Trainable::Nothing,
            adapters: Adapters::Live,
            adapter_dropout: 0.0,
        };
        let generator = match self.describer.vision {
            Some(_) => Generator::sharing(prompter, self.weights, &options, &plans)?,
            None => Generator::without_vision(prompter, self.weights, &options, &plans)?,
        };
        let generator = generator.with_batch(self.training.recipe.batch_size);
        let prompts = items.iter().map(|item| self.prompt(item)).collect::<Result<Vec<Prompt>, TrainError>>()?;
        let mut written: Vec<Option<Written>> = vec![None; items.len()];
        generator.describe(prompts, |number, description| {
            written[number] = Some(description);
            Ok(())
        })?;
        Ok(written.into_iter().map(|one| one.expect("describe gives each prompt's description or fails")).collect())
    }

    fn prompt(&self, item: &Item) -> Result<Prompt, TrainError> {
        let prompter = self.training.prompter;
        let rows = match (self.images.of(item, prompter)?, &self.describer.vision) {
            (Image::Embeds(rows), _) => rows,
            (Image::Pixels(pixels), Some(vision)) => {
                super::describer::image_embeds(&prompter.config, vision, &pixels, item.sample.grid)?
            }
            (Image::Pixels(_), None) => return Err(super::describer::not_loaded()),
        };
        let rows = Vec::<f32>::try_from(&rows.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?.f_flatten(0, -1)?)?;
        Ok(prompter.with_rows(item.sample.grid, rows, bytes_of(&item.sha256)))
    }
}

/// The 32 bytes of a hash in hex.
fn bytes_of(hex: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).ok();
        *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
    }
    bytes
}
