//! The folder of `--calibration`: what `mmlnb-train calibrate` wrote, checked against the checkpoint and its adapter.

use crate::{
    error::ExportError,
    source::{Network, Source},
};
use mmlnb_models::{bundle::Precision, graph::Graph, statistics::Statistics};
use std::path::Path;

/// Statistics that belong to a checkpoint.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// The numbers.
    pub statistics: Statistics,
}

/// Refuses a precision that has no use for statistics.
///
/// # Errors
/// [`ExportError::Asked`].
pub fn check_calibration(precision: Precision) -> Result<(), ExportError> {
    match precision.few_bits() {
        true => Ok(()),
        false => Err(ExportError::Asked(format!(
            "--calibration is for weights in few bits; at --precision {precision} it changes nothing: leave it out, or ask for int8, int4 or int4+int8"
        ))),
    }
}

impl Calibration {
    /// Reads a folder and compares it with the describer that it is to be used for.
    ///
    /// # Errors
    /// A damaged folder, statistics of another checkpoint or adapter, layers that are missing or surplus, all listed.
    pub fn open(folder: &Path, source: &Source) -> Result<Calibration, ExportError> {
        let statistics = Statistics::read(folder)
            .map_err(|error| ExportError::Checkpoint { path: error.file.clone(), problem: error.problem.clone() })?;
        let wrong = |problem: String| ExportError::Checkpoint { path: folder.to_path_buf(), problem };
        let gathered = &statistics.gathered;
        let mut problems = Vec::new();
        let checkpoint = source.checkpoint().sha256()?;
        if gathered.checkpoint_sha256 != checkpoint {
            problems.push(format!("it is of a checkpoint of SHA-256 {}, this one's is {checkpoint}", gathered.checkpoint_sha256));
        }
        let adapter = source.adapter().map(|adapter| adapter.sha256()).transpose()?;
        if gathered.adapter_sha256.as_deref() != adapter {
            let told = |sha256: Option<&str>| {
                sha256.map_or("no adapter".to_string(), |sha256| format!("an adapter of SHA-256 {sha256}"))
            };
            problems.push(format!(
                "it was gathered with {}, here is {}",
                told(gathered.adapter_sha256.as_deref()),
                told(adapter)
            ));
        }
        if !problems.is_empty() {
            return Err(wrong(format!("{}; calibrate this describer: mmlnb-train calibrate", problems.join("; "))));
        }
        let networks = [Network::Vision, Network::Decoder].map(|network| source.graph(network));
        let networks: Vec<Graph> = networks.into_iter().collect::<Result<_, _>>()?;
        let unfit = statistics.problems(&networks);
        match unfit.is_empty() {
            true => Ok(Calibration { statistics }),
            false => Err(wrong(format!("its layers are not those of the describer:\n  {}", unfit.join("\n  ")))),
        }
    }
}
