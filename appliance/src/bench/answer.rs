//! What the engine answers, or why it does not.

use crate::engine::{Assessment, EngineError};
use crate::error::{Exit, Failure};

/// Seconds of a part of an answer, which is 0 where it was not needed.
pub fn part(assessment: &Assessment, name: &str) -> f64 {
    assessment.elapsed.iter().filter(|(known, _)| *known == name).map(|(_, milliseconds)| milliseconds / 1e3).sum()
}

/// A failure of an image's own, or of the engine.
pub fn unanswered(error: EngineError) -> Failure {
    match error {
        EngineError::Image(message) | EngineError::Numbers(message) => Failure::new(
            Exit::Usage,
            message,
            "",
            "give another --image; a bundle that fails on every image has to be exported again",
        ),
        other => Failure::internal("an image was not assessed", other),
    }
}
