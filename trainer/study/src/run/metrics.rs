//! `metrics.jsonl`: one object a line, as the run goes.

use super::files::fault;
use crate::error::StudyError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// Its name in a run's folder.
pub const FILE: &str = "metrics.jsonl";

/// What a line of `metrics.jsonl` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One step of the optimiser.
    Step,
    /// Measured on the validation part.
    Validation,
    /// Measured on the test part.
    Test,
    /// Something that a reader should know, with what to do about it.
    Diagnostic,
}

impl Kind {
    /// As the files spell it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Step => "step",
            Kind::Validation => "validation",
            Kind::Test => "test",
            Kind::Diagnostic => "diagnostic",
        }
    }
}

/// How much of what only grows belongs to a saved state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Bytes of `metrics.jsonl`.
    pub metrics: u64,
    /// The step that has not been logged yet.
    pub next_step: u64,
}

/// A file that only grows, and is cut back to a known length on resume.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    written: Written,
}

impl Metrics {
    /// Keeps what a saved state belongs to.
    ///
    /// # Errors
    /// A file that is shorter than that, and what the operating system refuses.
    pub fn open(run: &Path, written: Written) -> Result<Metrics, StudyError> {
        let keep = written.metrics;
        let path = run.join(FILE);
        fault::point(&path)?;
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(StudyError::io("write", &path))?;
        let length = file.metadata().map_err(StudyError::io("read", &path))?.len();
        if length < keep {
            let problem = format!(
                "it has {length} bytes, the saved state belongs to {keep}: somebody shortened it; start anew with another --output"
            );
            return Err(StudyError::File { path, problem });
        }
        file.set_len(keep).map_err(StudyError::io("write", &path))?;
        Ok(Metrics { path, file, written })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn write(
        &mut self,
        kind: Kind,
        step: u64,
        epoch: u64,
        values: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<(), StudyError> {
        let mut line = Map::new();
        line.insert("kind".into(), json!(kind.name()));
        line.insert("step".into(), json!(step));
        line.insert("epoch".into(), json!(epoch));
        line.extend(values);
        let line = format!("{}\n", Value::Object(line));
        if let Err(killed) = fault::point(&self.path) {
            // What a process leaves that is killed while it writes.
            self.file.write_all(&line.as_bytes()[..line.len() / 2]).map_err(StudyError::io("write", &self.path))?;
            return Err(killed);
        }
        self.file.write_all(line.as_bytes()).map_err(StudyError::io("write", &self.path))?;
        self.written.metrics += line.len() as u64;
        self.written.next_step = step + 1;
        Ok(())
    }

    /// Brings the lines to the disk: the state that follows relies on them.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn sync(&mut self) -> Result<Written, StudyError> {
        self.file.sync_all().map_err(StudyError::io("write", &self.path))?;
        Ok(self.written)
    }
}
