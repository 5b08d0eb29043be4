//! The describer: one image alone, and several rows that write together.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::answer::{part, unanswered};
use super::args::Bench;
use super::figure::{Figure, Run, watched};
use super::question::Question;
use crate::engine::{Assessment, Engine, Mode, OnToken, Values};
use crate::error::Failure;

/// Fewest tokens that a row has to write while all rows write; a rate of fewer would be an accident.
const LEAST_TOGETHER: usize = 8;

/// The describer's part of the result; what cannot be measured is null and told in `warnings`.
///
/// # Errors
/// An engine that fails.
pub fn measure(args: &Bench, engine: &Engine, question: &Question, warnings: &mut Vec<String>) -> Result<Value, Failure> {
    let (prompt, read) = prompt_tokens(engine, question)?;
    let alone = (0..args.runs).map(|_| Alone::run(engine, question)).collect::<Result<Vec<_>, _>>()?;
    let figure = |value: fn(&Alone) -> f64| Figure::of(&alone.iter().map(|run| (value(run), run.waited)).collect::<Vec<Run>>());
    let speed: Vec<Run> = alone.iter().map(|run| (read as f64 / run.prefill, run.waited)).collect();
    let mut decode = Vec::new();
    for &rows in &args.rows {
        decode.push(json!({"rows": rows, "tokens_per_s": together(args, engine, question, usize::from(rows), warnings)?}));
    }
    Ok(json!({
        "prompt_tokens": prompt,
        "prompt_tokens_read": read,
        "prepare_s": figure(|run| run.prepare),
        "vision_s": figure(|run| run.vision),
        "prompt_tokens_per_s": Figure::of(&speed),
        "first_token_s": figure(|run| run.first_token),
        "decode": decode,
    }))
}

/// Tokens of the prompt, and those of them that are read for each image: what stands before the image was read at the start.
fn prompt_tokens(engine: &Engine, question: &Question) -> Result<(usize, usize), Failure> {
    let mut request = question.request(Mode::Describe, None);
    request.follow = request.follow.map(|tokens| tokens[..1].into());
    request.trace = true;
    let assessment = engine.assess(question.image.clone(), &request).map_err(unanswered)?;
    let Some((_, Values::I64(ids))) = assessment.trace.as_ref().and_then(|trace| trace.get("input_ids")) else {
        return Err(Failure::internal("the prompt's tokens were not counted", "the engine kept no input_ids"));
    };
    let opening = ids.iter().take_while(|id| **id != question.image_token).count();
    Ok((ids.len(), ids.len() - opening))
}

/// One image while nothing else runs, in seconds.
struct Alone {
    prepare: f64,
    vision: f64,
    prefill: f64,
    /// From the decoded image to the first token.
    first_token: f64,
    waited: Option<f64>,
}

impl Alone {
    fn run(engine: &Engine, question: &Question) -> Result<Alone, Failure> {
        let times = Times::default();
        let begun = Instant::now();
        let (assessment, waited) = watched(|| write(engine, question, &times));
        let assessment = assessment?;
        let first = times.taken().first().copied();
        let first = first.ok_or_else(|| Failure::internal("an image was not measured", "no token was written"))?;
        let first_token = first.duration_since(begun).as_secs_f64();
        Ok(Alone {
            prepare: part(&assessment, "prepare"),
            vision: part(&assessment, "vision"),
            prefill: part(&assessment, "prefill"),
            first_token,
            waited,
        })
    }
}

/// When each token of a row was written.
#[derive(Default, Clone)]
struct Times(Arc<Mutex<Vec<Instant>>>);

impl Times {
    fn watch(&self) -> OnToken {
        let times = self.clone();
        Arc::new(move |_, _| times.0.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now()))
    }

    fn taken(&self) -> Vec<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn write(engine: &Engine, question: &Question, times: &Times) -> Result<Assessment, Failure> {
    engine.assess(question.image.clone(), &question.request(Mode::Describe, Some(times.watch()))).map_err(unanswered)
}

/// Tokens a second of all rows while all of them write.
fn together(
    args: &Bench,
    engine: &Engine,
    question: &Question,
    rows: usize,
    warnings: &mut Vec<String>,
) -> Result<Option<Figure>, Failure> {
    let mut runs = Vec::new();
    for _ in 0..args.runs {
        let (times, waited) = watched(|| written_together(engine, question, rows));
        match Window::of(&times?) {
            Window { each, .. } if each < LEAST_TOGETHER => {
                warnings.push(format!(
                    "with --rows {rows} all wrote at once for only {each} of their {} tokens, too few for a rate; give more --tokens or fewer --rows",
                    question.tokens.len()
                ));
                return Ok(None);
            }
            Window { tokens, seconds, .. } => runs.push((tokens as f64 / seconds, waited)),
        }
    }
    Ok(Figure::of(&runs))
}

fn written_together(engine: &Engine, question: &Question, rows: usize) -> Result<Vec<Vec<Instant>>, Failure> {
    let times: Vec<Times> = (0..rows).map(|_| Times::default()).collect();
    std::thread::scope(|scope| {
        let started: Vec<_> = times.iter().map(|times| scope.spawn(|| write(engine, question, times))).collect();
        started.into_iter().try_for_each(|row| match row.join() {
            Ok(answer) => answer.map(|_| ()),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(times.iter().map(Times::taken).collect())
}

/// From the last row's first token to the first row's last.
struct Window {
    seconds: f64,
    /// Tokens of all rows in it.
    tokens: usize,
    /// Fewest tokens of a row in it.
    each: usize,
}

impl Window {
    fn of(rows: &[Vec<Instant>]) -> Window {
        let from = rows.iter().filter_map(|row| row.first()).max();
        let to = rows.iter().filter_map(|row| row.last()).min();
        let Some((from, to)) = from.zip(to) else { return Window { seconds: 0.0, tokens: 0, each: 0 } };
        let counts = rows.iter().map(|row| row.iter().filter(|time| *time > from && *time <= to).count());
        let (tokens, each) = (counts.clone().sum(), counts.min().unwrap_or(0));
        Window { seconds: to.saturating_duration_since(*from).as_secs_f64(), tokens, each }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_what_all_rows_write_together_is_counted() {
        let zero = Instant::now();
        let row = |from: u64, count: u64| (from..from + count).map(|at| zero + Duration::from_secs(at)).collect::<Vec<_>>();
        let window = Window::of(&[row(0, 10), row(4, 10)]);
        assert_eq!((window.seconds, window.tokens, window.each), (5.0, 10, 5), "seconds 5 to 9, two tokens each");
        let apart = Window::of(&[row(0, 3), row(10, 3)]);
        assert_eq!((apart.seconds, apart.each), (0.0, 0), "they never wrote together");
    }
}
