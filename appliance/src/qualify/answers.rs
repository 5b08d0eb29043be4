//! Known answers: checking those that a bundle has, and recording new ones at the precision that it is served with.

use std::collections::BTreeSet;

use mmlnb_models::bundle::{Bundle, KnownAnswer, KnownProbabilities, KnownTokens};
use mmlnb_models::measures::classes::softmax;

use super::items::Item;
use super::rows::{Half, Row};
use crate::assess::pipeline;
use crate::assess::reader::Reader;
use crate::engine::{Engine, Mode, PatchImage, Request, Values};
use crate::error::Failure;

/// Tokens of the describer's half.
const TOKENS: usize = 8;
/// Beginning of the names of images that a qualification put into a bundle.
pub const OURS: &str = "known_answers/qualified-";

/// An answer with the image's bytes.
pub type Recorded = (KnownAnswer, Vec<u8>);

/// Every known answer of a bundle that it does not give, in words; of the describer's halves, which take longest, at most `described` are looked at.
///
/// # Errors
/// An image of the bundle cannot be read or the engine failed.
pub fn check(bundle: &Bundle, engine: &Engine, reader: &mut Reader, described: usize) -> Result<Vec<String>, Failure> {
    let mut differences = Vec::new();
    let mut left = described;
    for answer in bundle.known_answers() {
        let image = pipeline::open(reader, &bundle.path(&answer.image))?.image();
        if let Some(expected) = answer.describer.as_ref().filter(|_| left > 0 && bundle.manifest.describer.is_some()) {
            left -= 1;
            let written = tokens(engine, &image, expected.token_ids.len())?;
            differences
                .extend(expected.difference(&written.ids, &written.rows()).map(|found| format!("{}: {found}", answer.image)));
        }
        if let Some(expected) = answer.classifier.as_ref().filter(|_| bundle.manifest.classifier.is_some()) {
            let found = probabilities(engine, &image, expected.description.as_deref())?;
            differences.extend(expected.difference(&found).map(|found| format!("{}: {found}", answer.image)));
        }
    }
    Ok(differences)
}

/// Records `count` answers, of different classes where that is possible, on rows that nothing is reported on.
///
/// # Errors
/// An image cannot be read or the engine failed.
pub fn record(
    bundle: &Bundle,
    engine: &Engine,
    reader: &mut Reader,
    all: &[(&Row, &Item)],
    count: usize,
) -> Result<Vec<Recorded>, Failure> {
    let manifest = &bundle.manifest;
    let mut recorded = Vec::new();
    for (row, item) in chosen(all, count) {
        let bytes = std::fs::read(&row.path).map_err(|error| Failure::io("the image cannot be read", &row.path, &error))?;
        let image = pipeline::open(reader, &row.path)?.image();
        let describer = match &manifest.describer {
            Some(_) => {
                let written = tokens(engine, &image, TOKENS)?;
                let own = written.ids.iter().zip(written.rows()).map(|(id, row)| row[*id as usize]).collect();
                Some(KnownTokens::recorded(written.ids, own))
            }
            None => None,
        };
        let classifier = match &manifest.classifier {
            Some(part) => {
                let written = item.text.as_ref().map(|text| text.words.as_str());
                let text = part.text.as_ref().and(written.or(row.description.as_deref()));
                Some(KnownProbabilities::recorded(text.map(str::to_owned), probabilities(engine, &image, text)?))
            }
            None => None,
        };
        let ending = row.path.extension().map_or("image".to_owned(), |ending| ending.to_string_lossy().to_lowercase());
        let name = format!("{OURS}{}.{ending}", recorded.len() + 1);
        let answer = KnownAnswer { image: name, describer, classifier };
        recorded.push((answer.of_its_own(manifest.precision), bytes));
    }
    Ok(recorded)
}

/// The first items of each class in turn.
fn chosen<'a>(all: &[(&'a Row, &'a Item)], count: usize) -> Vec<(&'a Row, &'a Item)> {
    let mut waiting: Vec<(&Row, &Item)> = all.iter().filter(|(row, _)| row.half == Half::Fitted).copied().collect();
    let mut taken = Vec::new();
    while taken.len() < count && !waiting.is_empty() {
        let mut classes = BTreeSet::new();
        let (round, rest) = waiting.into_iter().partition(|(row, _)| classes.insert(row.class));
        waiting = rest;
        taken.extend::<Vec<_>>(round);
    }
    taken.truncate(count);
    taken
}

/// Tokens with the raw logits of all tokens at each.
struct Written {
    ids: Vec<i64>,
    logits: Vec<f32>,
    vocabulary: usize,
}

impl Written {
    fn rows(&self) -> Vec<&[f32]> {
        self.logits.chunks_exact(self.vocabulary).collect()
    }
}

/// The first tokens that are the likeliest.
fn tokens(engine: &Engine, image: &PatchImage, count: usize) -> Result<Written, Failure> {
    let request = Request { probe: Some(count), trace: true, ..Request::new(Mode::Describe) };
    let failed = |problem: String| Failure::internal("a known answer cannot be computed", problem);
    let assessment = engine.assess(image.clone(), &request).map_err(|error| failed(error.to_string()))?;
    let trace = assessment.trace.unwrap_or_default();
    let (Some((_, Values::I64(ids))), Some((shape, Values::F32(logits)))) = (trace.get("token_ids"), trace.get("logits")) else {
        return Err(failed("the trace holds no tokens".to_owned()));
    };
    Ok(Written { ids: ids.clone(), logits: logits.clone(), vocabulary: shape[1] })
}

/// softmax(logits) at temperature 1.
fn probabilities(engine: &Engine, image: &PatchImage, text: Option<&str>) -> Result<Vec<f32>, Failure> {
    let request = Request { description: text.map(str::to_owned), ..Request::new(Mode::Classify) };
    let failed = |problem: String| Failure::internal("a known answer cannot be computed", problem);
    let assessment = engine.assess(image.clone(), &request).map_err(|error| failed(error.to_string()))?;
    let found = assessment.classification.ok_or_else(|| failed("the engine gave no classes".to_owned()))?;
    let logits: Vec<f64> = found.logits.iter().map(|logit| f64::from(*logit)).collect();
    Ok(softmax(&logits, 1.0).into_iter().map(|value| value as f32).collect())
}
