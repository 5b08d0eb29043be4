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
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
                // SAFETY: the processor has the instructions.
                return unsafe { self.next_with_avx512(logits) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: as above.
                return unsafe { self.next_with_avx2(logits) };
            }
        }
        self.next_of(logits)
    }

    /// The same numbers, most of them at once.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn next_with_avx512(&mut self, logits: &[f32]) -> Result<Choice, LogitsError> {
        self.next_of(logits)
    }

    /// The same numbers, more of them at once.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn next_with_avx2(&mut self, logits: &[f32]) -> Result<Choice, LogitsError> {
        self.next_of(logits)
    }

    #[inline(always)]
    fn next_of(&mut self, logits: &[f32]) -> Result<Choice, LogitsError> {
        let most = check(logits)?;
        let id = match &self.given {
            Some(tokens) => given(tokens, self.step, logits.len())?,
            None => self.choose(logits),
        };
        self.step += 1;
        self.seen.insert(id as i64);
        Ok(Choice { id: id as i64, logprob: f64::from(logits[id] - most) - sum_of_powers(logits, most).ln() })
    }

    fn choose(&self, logits: &[f32]) -> usize {
        let scores = Scores { logits, seen: &self.seen, penalty: self.settings.repetition_penalty as f32 };
        let greedy = !self.settings.do_sample || self.settings.temperature < COLDEST;
        if greedy { scores.largest() } else { drawn(&candidates(&scores, &self.settings), self.uniform()) }
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
    let seen = previous.iter().copied().collect();
    let scores = Scores { logits, seen: &seen, penalty: settings.repetition_penalty as f32 };
    let mut shares = vec![0.0; logits.len()];
    for candidate in candidates(&scores, settings) {
        shares[candidate.id] = candidate.share;
    }
    Ok(shares)
}

fn given(tokens: &[i64], step: u64, vocabulary: usize) -> Result<usize, LogitsError> {
    let token = tokens.get(step as usize).and_then(|token| usize::try_from(*token).ok());
    token.filter(|token| *token < vocabulary).ok_or(LogitsError::NothingToFollow(step))
}

/// The largest logit; every one is a number or minus infinity.
#[inline(always)]
fn check(logits: &[f32]) -> Result<f32, LogitsError> {
    // A sum keeps what is none of them, and needs no branch a number.
    let strange: u32 = logits.iter().map(|logit| u32::from(logit.is_nan() | (*logit == f32::INFINITY))).sum();
    if strange > 0 {
        let first = logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY);
        return Err(LogitsError::NotANumber(first.unwrap_or(0)));
    }
    let most = largest_of(logits);
    if most == f32::NEG_INFINITY { Err(LogitsError::AllImpossible) } else { Ok(most) }
}

/// Logits with the penalty for ids that were seen: positive ones are divided by it, negative ones multiplied. They are read where they lie: a
/// vocabulary is not copied for a few hundred of its ids.
struct Scores<'a> {
    logits: &'a [f32],
    seen: &'a BTreeSet<i64>,
    penalty: f32,
}

impl Scores<'_> {
    /// The ids that were seen and have a logit, ascending.
    fn seen(&self) -> impl Iterator<Item = usize> {
        self.seen.iter().filter_map(|id| usize::try_from(*id).ok()).filter(|id| *id < self.logits.len())
    }

    fn penalised(&self, id: usize) -> f32 {
        let logit = self.logits[id];
        if logit > 0.0 { logit / self.penalty } else { logit * self.penalty }
    }

    /// The first id of the largest score.
    fn largest(&self) -> usize {
        let mut best = (0, f32::NEG_INFINITY);
        let mut offer = |id: usize, score: f32| {
            if score > best.1 {
                best = (id, score);
            }
        };
        let mut from = 0;
        for id in self.seen().chain([self.logits.len()]) {
            let unseen = &self.logits[from..id];
            if !unseen.is_empty() {
                let first = largest(unseen);
                offer(from + first, unseen[first]);
            }
            if id < self.logits.len() {
                offer(id, self.penalised(id));
            }
            from = id + 1;
        }
        best.0
    }

    /// Calls with every id and its score, ascending.
    fn each(&self, mut with: impl FnMut(usize, f32)) {
        let mut from = 0;
        for id in self.seen().chain([self.logits.len()]) {
            (from..id).for_each(|id| with(id, self.logits[id]));
            if id < self.logits.len() {
                with(id, self.penalised(id));
            }
            from = id + 1;
        }
    }
}

/// A token that may be drawn.
struct Candidate {
    id: usize,
    share: f32,
}

/// What temperature, top-k and top-p leave of the scores, with softmax over it, by ascending id.
fn candidates(scores: &Scores<'_>, settings: &GenerationSettings) -> Vec<Candidate> {
    let mut most = f32::NEG_INFINITY;
    scores.each(|_, score| most = most.max(score));
    let temperature = settings.temperature.max(f64::from(f32::MIN_POSITIVE)) as f32;
    // Subtracting the largest first keeps a tiny temperature from overflowing; softmax does not see the difference.
    let cooled = |score: f32| if settings.temperature == 1.0 { score } else { (score - most) / temperature };
    let least = match settings.top_k {
        0 => f32::NEG_INFINITY,
        count if count >= scores.logits.len() => f32::NEG_INFINITY,
        count => kth_largest(scores, count, cooled),
    };
    let mut kept = Vec::new();
    scores.each(|id, score| {
        let score = cooled(score);
        if score >= least && score > f32::NEG_INFINITY {
            kept.push((id, score));
        }
    });
    if settings.top_p < 1.0 {
        keep_nucleus(&mut kept, settings.top_p);
    }
    let shares = softmax(&kept);
    kept.iter().zip(shares).map(|(&(id, _), share)| Candidate { id, share }).collect()
}

/// The k-th largest score; scores below it go, ties with it stay.
fn kth_largest(scores: &Scores<'_>, count: usize, cooled: impl Fn(f32) -> f32) -> f32 {
    let mut largest: Vec<f32> = Vec::with_capacity(2 * count);
    let mut least = f32::NEG_INFINITY;
    let keep = |largest: &mut Vec<f32>| {
        let (_, &mut least, _) = largest.select_nth_unstable_by(count - 1, |one, other| other.total_cmp(one));
        largest.truncate(count);
        least
    };
    scores.each(|_, score| {
        let score = cooled(score);
        if largest.len() < count || score > least {
            largest.push(score);
        }
        if largest.len() == 2 * count {
            least = keep(&mut largest);
        }
    });
    keep(&mut largest)
}

/// From the least likely on, tokens go while their cumulated probability is at most 1 - p; the likeliest stays.
fn keep_nucleus(kept: &mut Vec<(usize, f32)>, p: f64) {
    let shares = softmax(kept);
    let mut order: Vec<usize> = (0..kept.len()).collect();
    order.sort_by(|&one, &other| kept[one].1.total_cmp(&kept[other].1));
    order.pop();
    let mut gone = vec![false; kept.len()];
    let mut sum = 0.0;
    for place in order {
        sum += f64::from(shares[place]);
        if sum > 1.0 - p {
            break;
        }
        gone[place] = true;
    }
    let mut gone = gone.into_iter();
    kept.retain(|_| gone.next() != Some(true));
}

fn softmax(scores: &[(usize, f32)]) -> Vec<f32> {
    let most = scores.iter().fold(f32::NEG_INFINITY, |most, (_, score)| most.max(*score));
    let powers: Vec<f64> = scores.iter().map(|(_, score)| f64::from(score - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

/// The id in whose share of 0..1 the number falls; the first likeliest where rounding leaves none.
fn drawn(candidates: &[Candidate], uniform: f64) -> usize {
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.share)).sum();
    let mut rest = uniform * total;
    for candidate in candidates {
        rest -= f64::from(candidate.share);
        if rest < 0.0 {
            return candidate.id;
        }
    }
    // Of equals the last one is the largest, so they are asked from behind.
    candidates.iter().rev().max_by(|one, other| one.share.total_cmp(&other.share)).map_or(0, |candidate| candidate.id)
}

/// Numbers that are worked on side by side.
const LANES: usize = 8;

/// The first place of the largest number; 0 where all are minus infinity.
pub fn largest(logits: &[f32]) -> usize {
    let most = largest_of(logits);
    logits.iter().position(|logit| *logit == most).unwrap_or(0)
}

/// The largest number; minus infinity of none.
#[inline(always)]
fn largest_of(logits: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (most, logit) in most.iter_mut().zip(chunk) {
            *most = if *logit > *most { *logit } else { *most };
        }
    }
    most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum of `exp(logit - most)`.
#[inline(always)]
fn sum_of_powers(logits: &[f32], most: f32) -> f64 {
    // As many as keep a processor's units busy: a power is a long chain of operations of which each waits for the one before.
    const TOGETHER: usize = 8 * LANES;
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = logits.as_chunks::<TOGETHER>();
    for chunk in chunks {
        add(&mut lanes, &powers(chunk, most));
    }
    let (chunks, rest) = rest.as_chunks::<LANES>();
    for chunk in chunks {
        add(&mut lanes, &powers(chunk, most));
    }
    lanes.iter().sum::<f64>() + rest.iter().flat_map(|logit| powers(&[*logit], most)).sum::<f64>()
}

/// Adds every lane's numbers up, in their order.
#[inline(always)]
fn add(lanes: &mut [f64; LANES], numbers: &[f64]) {
    for chunk in numbers.as_chunks::<LANES>().0 {
        lanes.iter_mut().zip(chunk).for_each(|(lane, number)| *lane += number);
    }
}

/// `exp(logit - most)` for what is not above 0, to 1e-14 of itself, without a branch or a call, so that the compiler does several at once: `2^n exp(r)`,
/// with the Taylor polynomial for |r| <= ln(2) / 2.
#[inline(always)]
fn powers<const COUNT: usize>(logits: &[f32; COUNT], most: f32) -> [f64; COUNT] {
    // Adding this rounds to a whole number, which then stands in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // ln(2) as a sum, the first part of few bits: n times it is exact.
    const LN2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
    // 1 / k! for k from 11 down to 0.
    const FACTORS: [f64; 12] = [
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let (mut rests, mut scales, mut powers) = ([0.0; COUNT], [0.0; COUNT], [0.0; COUNT]);
    for index in 0..COUNT {
        let x = f64::from(logits[index] - most);
        // Below, the power is next to nothing; it counts as this one.
        let x = if x > -700.0 { x } else { -700.0 };
        let shifted = x * std::f64::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        rests[index] = (x - n * LN2[0]) - n * LN2[1];
        scales[index] = f64::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023) << 52);
    }
    for factor in FACTORS {
        for index in 0..COUNT {
            powers[index] = powers[index] * rests[index] + factor;
        }
    }
    powers.iter_mut().zip(scales).for_each(|(power, scale)| *power *= scale);
    powers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_those_of_the_library() {
        let power = |x: f32| powers(&[x], 0.0)[0];
        let worst = (0..700_000u32)
            .map(|step| -(step as f32) * 1e-3)
            .fold(0.0, |worst: f64, x| worst.max((power(x) / f64::from(x).exp() - 1.0).abs()));
        assert!(worst < 1e-13, "{worst}");
        assert!(power(f32::NEG_INFINITY) < 1e-300 && power(-1e5) < 1e-300 && power(0.0) == 1.0);
    }

    fn sampler(do_sample: bool) -> Sampler {
        let settings = GenerationSettings {
            max_new_tokens: 9,
            do_sample,
            temperature: 0.7,
            top_k: 50,
            top_p: 0.9,
            repetition_penalty: 1.1,
            seed: 1,
            end_tokens: vec![],
        };
        Sampler::new(&settings, [3; 32], &[5, 9])
    }

    /// The same code for wider registers gives the same choice and the same bits.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn wide_registers_change_no_number() {
        type Next = unsafe fn(&mut Sampler, &[f32]) -> Result<Choice, LogitsError>;
        let wide: [(bool, Next); 2] = [
            (is_x86_feature_detected!("avx2"), Sampler::next_with_avx2),
            (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq"), Sampler::next_with_avx512),
        ];
        let mut logits: Vec<f32> = (0..1_003u32).map(|id| ((id.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6) - 9.0).collect();
        logits[17] = f32::NEG_INFINITY;
        let mut spoilt = logits.clone();
        spoilt[1_002] = f32::NAN;
        for next in wide.into_iter().filter_map(|(here, next)| here.then_some(next)) {
            for do_sample in [false, true] {
                let sampler = sampler(do_sample);
                // SAFETY: the processor has the instructions.
                let wide = unsafe { next(&mut sampler.clone(), &logits) }.unwrap();
                let plain = sampler.clone().next_of(&logits).unwrap();
                assert!(wide.id == plain.id && wide.logprob.to_bits() == plain.logprob.to_bits());
            }
            // SAFETY: as above.
            assert_eq!(unsafe { next(&mut sampler(false), &spoilt) }, Err(LogitsError::NotANumber(1_002)));
        }
    }

    #[test]
    fn the_sum_of_a_vocabulary_is_that_of_the_library() {
        let logits: Vec<f32> = (0..151_937u32).map(|id| ((id.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6) - 9.0).collect();
        let most = largest_of(&logits);
        let exact: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
        assert!((sum_of_powers(&logits, most) / exact - 1.0).abs() < 1e-12);
    }
}
