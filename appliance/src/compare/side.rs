//! A loaded bundle and what it says about one image: a greedy text of its own, the distributions on another's way, a report.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use mmlnb_models::bundle::Bundle;
use mmlnb_models::measures::divergence::kl;
use mmlnb_models::prepare::sampling::largest;

use super::scratch::Region;
use crate::assess::pipeline::Patch;
use crate::bundle;
use crate::engine::{Description, Engine, EngineError, EngineOptions, Mode, OnToken, Request};
use crate::error::{Exit, Failure};
use crate::ledger::NewReport;
use crate::verdict::{self, Rules};

/// A greedy text, by the raw logits.
pub struct Written {
    /// Its tokens, the end token among them where it was reached.
    pub tokens: Arc<[i64]>,
    /// Its words, and how it ended.
    pub description: Description,
}

/// What a bundle thinks on the way of another's tokens, one entry for each.
#[derive(Default)]
pub struct Along {
    /// Divergence of its distribution from the one that was kept, in nats.
    pub divergences: Vec<f64>,
    /// Whether its most likely token is the one on the way.
    pub same: Vec<bool>,
}

/// A loaded bundle.
pub struct Side {
    /// REFERENCE or BUNDLE.
    pub name: &'static str,
    engine: Engine,
    rules: Rules,
}

impl Side {
    /// Loads a bundle.
    ///
    /// # Errors
    /// As at every start.
    pub fn open(name: &'static str, of: &Bundle, options: &EngineOptions) -> Result<Side, Failure> {
        let engine = Engine::open(of, options).map_err(|error| bundle::failure(&error, &of.dir))?;
        of.check_untouched().map_err(|error| bundle::refused(&error, &of.dir))?;
        engine.provider().note.iter().for_each(|note| eprintln!("warning: {name}: {note}"));
        let rules =
            Rules { calibration: of.calibration().cloned(), indeterminate_below: 0.5, provider: engine.provider().clone() };
        Ok(Side { name, engine, rules })
    }

    /// Where it runs.
    pub fn provider(&self) -> &'static str {
        self.engine.provider().name
    }

    /// Images that it takes together.
    pub fn slots(&self) -> usize {
        self.engine.slots()
    }

    /// A greedy text; the logits of its tokens are kept where there is a region for them.
    ///
    /// # Errors
    /// [`Exit::Usage`]: the image's own fault.
    pub fn write(&self, patch: &Patch, kept: Option<Region>) -> Result<Written, Failure> {
        let request = Request { probe: Some(usize::MAX), ..Request::new(Mode::Describe) };
        let watch = move |tokens: &mut Vec<i64>, token: i64, logits: &[f32]| {
            let place = tokens.len();
            tokens.push(token);
            kept.as_ref().map_or(Ok(()), |region| region.keep(place, logits))
        };
        let (tokens, description) = self.describe(patch, request, watch)?;
        Ok(Written { tokens: tokens.into(), description })
    }

    /// What it thinks on the way of `tokens`, whose logits lie in `region`, and the text that it is led to write.
    ///
    /// # Errors
    /// As [`Side::write`].
    pub fn follow(&self, patch: &Patch, tokens: &Arc<[i64]>, region: Region) -> Result<(Along, Description), Failure> {
        let request = Request { follow: Some(tokens.clone()), ..Request::new(Mode::Describe) };
        self.describe(patch, request, move |along: &mut Along, token, logits| {
            let place = along.same.len();
            let divergence = kl(&region.recall(place)?, logits).ok_or_else(|| {
                let what = format!("the distributions of token {place} have no finite divergence: a logit is minus infinity");
                Failure::new(Exit::Usage, what, "", "")
            })?;
            along.divergences.push(divergence);
            along.same.push(largest(logits) as i64 == token);
            Ok(())
        })
    }

    /// The report on an image with this text, the classifier's own or none.
    ///
    /// # Errors
    /// As [`Side::write`].
    pub fn report(&self, patch: &Patch, written: Option<&Description>, given: Option<&str>) -> Result<NewReport, Failure> {
        let text = written.map(|written| written.text.as_str()).or(given);
        let request = Request { description: text.map(str::to_owned), ..Request::new(Mode::Classify) };
        let mut assessment = self.engine.assess(patch.image(), &request).map_err(failure)?;
        assessment.description = written.cloned();
        let none = || Failure::new(Exit::Usage, "the classifier's probabilities are no numbers", "", "");
        verdict::report(&assessment, &patch.decoded.appearance, &[], &self.rules).ok_or_else(none)
    }

    /// A description, whose every token with its logits is shown to `watch`; its first failure gives the image up.
    fn describe<T: Default + Send + 'static>(
        &self,
        patch: &Patch,
        request: Request,
        watch: impl Fn(&mut T, i64, &[f32]) -> Result<(), Failure> + Send + Sync + 'static,
    ) -> Result<(T, Description), Failure> {
        let seen: Arc<Mutex<(T, Option<Failure>)>> = Arc::default();
        let (shared, cancel) = (seen.clone(), request.cancel.clone());
        let on_token: OnToken = Arc::new(move |token, logits| {
            let (so_far, broken) = &mut *shared.lock().unwrap_or_else(PoisonError::into_inner);
            if broken.is_none()
                && let Err(failure) = watch(so_far, token, logits)
            {
                *broken = Some(failure);
                cancel.store(true, Ordering::Relaxed);
            }
        });
        let assessment = self.engine.assess(patch.image(), &Request { on_token: Some(on_token), ..request });
        let (seen, broken) = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(broken) = broken {
            return Err(broken);
        }
        let description = assessment.map_err(failure)?.description;
        Ok((seen, description.ok_or_else(|| Failure::internal("an image was not described", "the engine gave no text"))?))
    }
}

fn failure(error: EngineError) -> Failure {
    match error {
        EngineError::Image(message) | EngineError::Numbers(message) => Failure::new(Exit::Usage, message, "", ""),
        other => Failure::internal("an image was not assessed", other),
    }
}
