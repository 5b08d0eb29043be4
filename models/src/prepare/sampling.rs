//! From logits to the next token: penalty, temperature, top-k, top-p and a random stream that depends on nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::settings::GenerationSettings;
use crate::random::Draw;

/// Below this temperature the likeliest token is taken without drawing.
const COLDEST: f64 = 1e-5;

/// Logits that give no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogitsError {
    /// NaN or plus infinity.
    #[error("the logit of token {0} is not a number; the weights are damaged, or the precision is too low for this model")]
    NotANumber(usize),
    /// Nothing but minus infinity, or nothing at all.
    #[error("no token has a finite logit; the weights are damaged, or the precision is too low for this model")]
    AllImpossible,
    /// The token to follow has no logit, or there is none for this step.
    #[error("there is no token to follow at step {0}, or it lies beyond the vocabulary")]
    NothingToFollow(u64),
}

/// Why a description ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended it.
    EndToken,
    /// It reached `max_new_tokens`.
    MaxTokens,
}

impl StopReason {
    /// Its name in files, reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            StopReason::EndToken => "end_token",
            StopReason::MaxTokens => "max_tokens",
        }
    }
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its id.
    pub id: i64,
    /// Natural logarithm of its probability before any penalty, temperature or cut.
    pub logprob: f64,
}

/// Chooses the tokens of one description.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: GenerationSettings,
    image_hash: [u8; 32],
    seen: BTreeSet<i64>,
    step: u64,
    given: Option<Arc<[i64]>>,
}

impl Sampler {
    /// A sampler for the image of this SHA-256, after a prompt of these ids.
    pub fn new(settings: &GenerationSettings, image_hash: [u8; 32], prompt: &[i64]) -> Self {
        Sampler { settings: settings.clone(), image_hash, seen: prompt.iter().copied().collect(), step: 0, given: None }
    }

    /// The same on a given way: each step takes the next of `tokens`, whatever the logits are (teacher forcing).
    pub fn following(self, tokens: Arc<[i64]>) -> Self {
        Sampler { given: Some(tokens), ..self }
    }

    /// The next token for the raw logits of the last position. The draw depends on seed, image hash and step alone.
    pub fn next(&mut self, logits: &[f32]) -> Result<Choice, LogitsError> {
        check(logits)?;
        let id = match &self.given {
            Some(tokens) => given(tokens, self.step, logits.len())?,
            None => self.choose(logits),
        };
        self.step += 1;
        self.seen.insert(id as i64);
        Ok(Choice { id: id as i64, logprob: logprob(logits, id) })
    }

    fn choose(&self, logits: &[f32]) -> usize {
        let mut scores = logits.to_vec();
        penalise(&mut scores, self.seen.iter().copied(), self.settings.repetition_penalty);
        let greedy = !self.settings.do_sample || self.settings.temperature < COLDEST;
        if greedy {
            largest(&scores)
        } else {
            warp(&mut scores, &self.settings);
            drawn(&softmax(&scores), self.uniform())
        }
    }

    /// Whether a token ends the description.
    pub fn ends(&self, id: i64) -> bool {
        self.settings.end_tokens.contains(&id)
    }

    /// A number in 0..1 for this step.
    fn uniform(&self) -> f64 {
        let mut digest = Sha256::new();
        digest.update(self.settings.seed.to_le_bytes());
        digest.update(self.image_hash);
        digest.update(self.step.to_le_bytes());
        Draw::keyed(digest.finalize().into()).uniform()
    }
}

/// The distribution that a token is drawn from: penalty, temperature, top-k, top-p, softmax, in this order.
pub fn probabilities(logits: &[f32], previous: &[i64], settings: &GenerationSettings) -> Result<Vec<f32>, LogitsError> {
    check(logits)?;
    let mut scores = logits.to_vec();
    let seen: BTreeSet<i64> = previous.iter().copied().collect();
    penalise(&mut scores, seen.into_iter(), settings.repetition_penalty);
    warp(&mut scores, settings);
    Ok(softmax(&scores))
}

fn given(tokens: &[i64], step: u64, vocabulary: usize) -> Result<usize, LogitsError> {
    let token = tokens.get(step as usize).and_then(|token| usize::try_from(*token).ok());
    token.filter(|token| *token < vocabulary).ok_or(LogitsError::NothingToFollow(step))
}

fn check(logits: &[f32]) -> Result<(), LogitsError> {
    if let Some(index) = logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY) {
        return Err(LogitsError::NotANumber(index));
    }
    if logits.iter().all(|logit| *logit == f32::NEG_INFINITY) {
        return Err(LogitsError::AllImpossible);
    }
    Ok(())
}

/// Divides positive and multiplies negative logits of ids already seen, once an id.
fn penalise(scores: &mut [f32], seen: impl Iterator<Item = i64>, penalty: f64) {
    let penalty = penalty as f32;
    for id in seen {
        if let Some(score) = usize::try_from(id).ok().and_then(|id| scores.get_mut(id)) {
            *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
        }
    }
}

fn warp(scores: &mut [f32], settings: &GenerationSettings) {
    if settings.temperature != 1.0 {
        let temperature = settings.temperature.max(f64::from(f32::MIN_POSITIVE)) as f32;
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // Subtracting the largest first keeps a tiny temperature from overflowing; softmax does not see the difference.
        scores.iter_mut().for_each(|score| *score = (*score - most) / temperature);
    }
    if settings.top_k > 0 && settings.top_k < scores.len() {
        keep_largest(scores, settings.top_k);
    }
    if settings.top_p < 1.0 {
        keep_nucleus(scores, settings.top_p);
    }
}

/// A score below the k-th largest goes; ties with it stay.
fn keep_largest(scores: &mut [f32], count: usize) {
    let mut sorted = scores.to_vec();
    let (_, &mut least, _) = sorted.select_nth_unstable_by(count - 1, |one, other| other.total_cmp(one));
    scores.iter_mut().filter(|score| **score < least).for_each(|score| *score = f32::NEG_INFINITY);
}

/// From the least likely on, tokens go while their cumulated probability is at most 1 - p; the likeliest stays.
fn keep_nucleus(scores: &mut [f32], p: f64) {
    let shares = softmax(scores);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&one, &other| scores[one].total_cmp(&scores[other]));
    order.pop();
    let mut sum = 0.0;
    for id in order {
        sum += f64::from(shares[id]);
        if sum > 1.0 - p {
            return;
        }
        scores[id] = f32::NEG_INFINITY;
    }
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = scores.iter().map(|&score| f64::from(score - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

/// The first of the largest.
pub fn largest(scores: &[f32]) -> usize {
    scores.iter().enumerate().fold(0, |best, (id, score)| if *score > scores[best] { id } else { best })
}

/// The token in whose share of 0..1 the number falls.
fn drawn(shares: &[f32], uniform: f64) -> usize {
    let total: f64 = shares.iter().map(|&share| f64::from(share)).sum();
    let mut rest = uniform * total;
    for (id, &share) in shares.iter().enumerate() {
        rest -= f64::from(share);
        if rest < 0.0 {
            return id;
        }
    }
    largest(shares)
}

fn logprob(logits: &[f32], id: usize) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    f64::from(logits[id] - most) - sum.ln()
}
