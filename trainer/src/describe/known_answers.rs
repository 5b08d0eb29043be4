//! First tokens and logits of a few images, by which the machine that serves the describer can be checked.

use super::{
    describer::Describer,
    images::Images,
    sample::{Sample, UNLABELLED},
    setting::Training,
};
use crate::error::TrainError;
use mmlnb_models::{
    bundle::{KnownAnswer, KnownTokens},
    prepare::{chat, positions::expand_images},
};
use std::path::Path;
use tch::Kind;

/// Images.
const IMAGES: usize = 3;
/// Tokens of each, at most.
const TOKENS: usize = 8;
/// Share of the largest logit by which a 16-bit base may differ from the f32 that serves it.
const SIXTEEN_BITS: f32 = 0.05;

/// Writes `known_answers/` with images of the validation part, or of the training part where there is none.
///
/// # Errors
/// Images that cannot be read, what libtorch or the operating system refuses.
pub fn write(folder: &Path, training: &Training<'_>, describer: &Describer, images: &Images) -> Result<(), TrainError> {
    let items = if training.validation.is_empty() { training.train } else { training.validation };
    let prompter = training.prompter;
    let asked = chat::render(prompter.settings.system.as_deref(), 1, &prompter.settings.prompt);
    let asked = prompter.tokenizer().encode(&asked).map_err(|error| TrainError::Failed(error.to_string()))?;
    let mut answers = Vec::new();
    for item in items.iter().take(IMAGES) {
        let grid = item.sample.grid;
        let ids = expand_images(&asked, &[grid], &prompter.config).map_err(|error| TrainError::Failed(error.to_string()))?;
        let image = images.of(item, prompter)?;
        let mut known = KnownTokens::recorded(Vec::new(), Vec::new());
        let labels = vec![UNLABELLED; ids.len()];
        let mut sample = Sample { ids, labels, grid };
        while known.token_ids.len() < TOKENS {
            let logits = describer.next_logits(&sample, &image)?;
            let Some((token, logit, gap)) = best(&logits) else { break };
            let tolerance = tolerance(&known, logit, describer.kind());
            // Where two tokens are as good, another machine may rightly choose the other.
            if gap <= 2.0 * tolerance {
                break;
            }
            known.token_ids.push(token);
            known.logits.push(logit);
            known.tolerance = tolerance;
            if prompter.settings.generation.end_tokens.contains(&token) {
                break;
            }
            sample.ids.push(token);
            sample.labels.push(UNLABELLED);
        }
        let bytes = std::fs::read(&item.image).map_err(TrainError::io("read", &item.image))?;
        let extension = item.image.extension().map_or("img".into(), |extension| extension.to_string_lossy());
        let image = format!("{}.{extension}", &item.sha256[..16.min(item.sha256.len())]);
        if !known.token_ids.is_empty() && !answers.iter().any(|(other, _): &(KnownAnswer, Vec<u8>)| other.image == image) {
            answers.push((KnownAnswer { image, describer: Some(known), classifier: None }, bytes));
        }
    }
    KnownAnswer::write_all(folder, &answers).map_err(|error| TrainError::Failed(error.to_string()))
}

fn tolerance(known: &KnownTokens, logit: f32, kind: Kind) -> f32 {
    let logits: Vec<f32> = known.logits.iter().copied().chain([logit]).collect();
    let most = logits.iter().fold(1.0f32, |most, logit| most.max(logit.abs()));
    match kind {
        Kind::Float => KnownTokens::recorded(Vec::new(), logits).tolerance,
        _ => SIXTEEN_BITS * most,
    }
}

/// The first largest, and by how much.
fn best(logits: &[f32]) -> Option<(i64, f32, f32)> {
    let (token, logit) = logits.iter().copied().enumerate().reduce(|best, one| if one.1 > best.1 { one } else { best })?;
    let others = logits.iter().enumerate().filter(|(other, _)| *other != token);
    let second = others.map(|(_, logit)| *logit).fold(f32::NEG_INFINITY, f32::max);
    Some((token as i64, logit, logit - second))
}
