//! Work that never runs out: every slot is taken again as soon as it is free.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Instant;

use serde_json::{Value, json};

use super::answer::{part, unanswered};
use super::args::Bench;
use super::figure::{Figure, Run, watched};
use super::question::Question;
use crate::engine::{Engine, Mode, Request};
use crate::error::Failure;

/// Images that are counted for each slot; another one for each fills the slots before, and one keeps them full until the end.
const DESCRIBED: usize = 1;
/// The same where the classifier is alone, which takes less time.
const CLASSIFIED: usize = 2;

/// Images an hour through all that the bundle has, with every slot kept full.
///
/// # Errors
/// An engine that fails.
pub fn images_per_hour(args: &Bench, engine: &Engine, question: &Question, mode: Mode) -> Result<Option<Figure>, Failure> {
    let request = match mode {
        Mode::Classify => question.classify(),
        Mode::Describe | Mode::Both => question.request(mode, None),
    };
    let rates = (0..args.runs).map(|_| rate(engine, question, &request, usize::from(args.slots), DESCRIBED));
    Ok(Figure::of(&rates.map(|run| run.map(|(rate, waited)| (rate * 3600.0, waited))).collect::<Result<Vec<Run>, _>>()?))
}

/// The classifier's part of the result, with a text that is given: preparation alone, and images a second with it, as many together as the
/// engine has slots.
///
/// # Errors
/// An engine that fails.
pub fn classifier(args: &Bench, engine: &Engine, question: &Question) -> Result<Value, Failure> {
    let request = question.classify();
    let alone = (0..args.runs).map(|_| {
        let (assessment, waited) = watched(|| engine.assess(question.image.clone(), &request));
        Ok((part(&assessment.map_err(unanswered)?, "prepare"), waited))
    });
    let prepare = alone.collect::<Result<Vec<Run>, Failure>>()?;
    let rates = (0..args.runs).map(|_| rate(engine, question, &request, engine.slots(), CLASSIFIED));
    let rates = rates.collect::<Result<Vec<Run>, _>>()?;
    Ok(json!({"prepare_s": Figure::of(&prepare), "images_per_s": Figure::of(&rates)}))
}

/// Images a second with so many slots taken: the clock runs from the answer with which every slot has given one, and stops before slots stay empty.
fn rate(engine: &Engine, question: &Question, request: &Request, slots: usize, each: usize) -> Result<Run, Failure> {
    let counted = slots * each;
    let (times, waited) = watched(|| answered(engine, question, request, slots, slots + counted + slots));
    let times = times?;
    let seconds = times[slots + counted - 1].duration_since(times[slots - 1]).as_secs_f64();
    Ok((counted as f64 / seconds.max(1e-9), waited))
}

/// When each of so many images was answered, in order.
fn answered(
    engine: &Engine,
    question: &Question,
    request: &Request,
    slots: usize,
    images: usize,
) -> Result<Vec<Instant>, Failure> {
    let left = AtomicUsize::new(images);
    let (sender, answers) = channel();
    std::thread::scope(|scope| {
        for _ in 0..slots {
            let (sender, left) = (sender.clone(), &left);
            scope.spawn(move || {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    let answer = engine.assess(question.image.clone(), request).map(|_| Instant::now());
                    let failed = answer.is_err();
                    if sender.send(answer).is_err() || failed {
                        return;
                    }
                }
            });
        }
        drop(sender);
        answers.into_iter().collect::<Result<Vec<Instant>, _>>().map_err(unanswered)
    })
}
