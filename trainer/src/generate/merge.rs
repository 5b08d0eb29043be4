//! An adapter merged into its base as a checkpoint of its own, and what that changes.

use super::{
    Picture, Prompter,
    networks::{Networks, graphs},
};
use crate::{
    data::write_training_data,
    error::TrainError,
    run::{Progress, files},
    torch::{Adapters, PlanOptions},
};
use mmlnb_models::{
    prepare::decode::Rgb8Image,
    provenance::TrainingData,
    record::RECORD,
    weights::{Adapter, Checkpoint, Naming, Weights, check_merged, write_merged},
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
};
use tch::{Device, Tensor};

/// How far two sets of logits are apart.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Difference {
    /// Largest |a - b|.
    pub largest: f64,
    /// The same over the largest logit.
    pub relative: f64,
}

/// Writes `output`: the base's files, adapted matrices merged. The folder appears when it is whole, and nothing is left beside it.
///
/// `allow_partial` accepts an adapter that lacks modules that its configuration names. `compared` is the device on which the logits of base with adapter
/// and of what was written are compared before the folder appears; their difference is given back.
///
/// # Errors
/// A base or an adapter that is damaged or holds NaN or an infinity, an adapter that does not fit, is not whole or changes nothing, sums that the base's
/// type cannot hold (before anything is written), logits that are no numbers, an output that is there already or cannot be written.
pub fn merge(
    base: &Path,
    adapter: &Path,
    output: &Path,
    allow_partial: bool,
    compared: Option<Device>,
) -> Result<Option<Difference>, TrainError> {
    if output.exists() {
        return Err(TrainError::Asked(format!("{} is there already; name another --output or remove it", output.display())));
    }
    let prompter = Prompter::open(base, Some(adapter), None, None)?;
    let checkpoint = Checkpoint::open(base, Naming::Qwen)?;
    let adapter = Adapter::open(adapter)?.allowing_partial(allow_partial);
    let weights = Weights::with_adapter(&checkpoint, &adapter)?;
    let graphs = graphs(&prompter.config, &weights, true);
    checkpoint.check_all(graphs.iter().map(|graph| graph.parameters()))?;
    adapter.verify_changes(&weights, &graphs.iter().collect::<Vec<_>>())?;
    adapter.told_partial(&checkpoint).iter().for_each(|warning| eprintln!("warning: {warning}"));
    check_merged(&checkpoint, &adapter)?;
    let partial = Partial::beside(output, &[("--base", base), ("--adapter", adapter.path())])?;
    fill(&partial.path, base, &checkpoint, &adapter)?;
    let difference = compared.map(|device| compare(base, adapter.path(), &partial.path, device)).transpose()?;
    partial.finish(output)?;
    Ok(difference)
}

/// The merged weights, and what lies beside the base's and the adapter's.
fn fill(folder: &Path, base: &Path, checkpoint: &Checkpoint, adapter: &Adapter) -> Result<(), TrainError> {
    let mut progress: Option<Progress> = None;
    let mut told = 0;
    write_merged(checkpoint, adapter, folder, &mut |done, total| {
        let (done, total) = (done >> 20, total >> 20);
        if done > told {
            progress.get_or_insert_with(|| Progress::new("merge, MiB", total, 0)).advance(done - told, &[]);
            told = done;
        }
    })?;
    progress.into_iter().for_each(Progress::end);
    let question = Some(adapter.path().join(RECORD)).filter(|file| file.exists());
    for file in beside_the_weights(base)?.into_iter().chain(question) {
        let target = folder.join(file.file_name().unwrap_or(OsStr::new("")));
        fs::copy(&file, &target).map_err(TrainError::io("copy", &file))?;
    }
    // What either of them has seen, the merged checkpoint has seen.
    if let Some(seen) = TrainingData::of_describer(base, Some(adapter.path()))? {
        write_training_data(&seen, folder)?;
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(TrainError::io("write", folder))
}

/// The output's folder under another name; removed, with the folders that were made for it, unless finished.
struct Partial {
    path: PathBuf,
    /// Folders around it that were made, the innermost first.
    around: Vec<PathBuf>,
}

impl Partial {
    fn beside(output: &Path, inputs: &[(&str, &Path)]) -> Result<Partial, TrainError> {
        let name = output.file_name().ok_or_else(|| TrainError::Asked(format!("--output {} has no name", output.display())))?;
        let path = output.with_file_name(format!(".{}.partial", name.to_string_lossy()));
        files::not_an_input(&path, inputs)?;
        if path.exists() {
            fs::remove_dir_all(&path).map_err(TrainError::io("remove", &path))?;
        }
        let absent = path.ancestors().skip(1).take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let around = absent.map(Path::to_path_buf).collect();
        let partial = Partial { path, around };
        fs::create_dir_all(&partial.path).map_err(TrainError::io("create", &partial.path))?;
        Ok(partial)
    }

    fn finish(mut self, output: &Path) -> Result<(), TrainError> {
        fs::rename(&self.path, output).map_err(TrainError::io("rename", &self.path))?;
        self.around.clear();
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After `finish` nothing lies there; before it, the error that brought us here is the one to tell.
        drop(fs::remove_dir_all(&self.path));
        self.around.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

/// Configuration, index, tokenizer, template, licence: every small file that is no weight.
fn beside_the_weights(base: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(base).map_err(TrainError::io("read", base))? {
        let path = entry.map_err(TrainError::io("read", base))?.path();
        let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        let licence = path.file_stem().is_some_and(|stem| ["LICENSE", "NOTICE"].iter().any(|name| stem == *name));
        if path.is_file() && (licence || ["json", "jinja", "txt", "model"].contains(&ending)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Logits of base with adapter against those of the merged checkpoint, in f32, at every token of a sample prompt with an image. One model is in memory
/// at a time.
///
/// # Errors
/// Folders that cannot be read, and what libtorch refuses.
pub fn compare(base: &Path, adapter: &Path, merged: &Path, device: Device) -> Result<Difference, TrainError> {
    // Whether it is whole, merging has asked.
    let live = logits(base, Some(adapter), device)?;
    let merged = logits(merged, None, device)?;
    let largest = live.f_sub(&merged)?.f_abs()?.f_max()?.f_double_value(&[])?;
    let scale = live.f_abs()?.f_max()?.f_double_value(&[])?;
    if !(largest.is_finite() && scale.is_finite()) {
        let problem = "with it the logits are no numbers: its lora_alpha or its tensors are far too large, or it belongs to another base; give the \
                       adapter as its training left it";
        return Err(TrainError::file(adapter, problem));
    }
    Ok(Difference { largest, relative: largest / scale.max(f64::MIN_POSITIVE) })
}

fn logits(base: &Path, adapter: Option<&Path>, device: Device) -> Result<Tensor, TrainError> {
    let prompter = Prompter::open(base, adapter, None, None)?;
    let checkpoint = Checkpoint::open(base, Naming::Qwen)?;
    let adapter = adapter.map(Adapter::open).transpose()?.map(|adapter| adapter.allowing_partial(true));
    let weights = match &adapter {
        Some(adapter) => Weights::with_adapter(&checkpoint, adapter)?,
        None => Weights::new(&checkpoint),
    };
    let options = PlanOptions { adapters: Adapters::Live, ..PlanOptions::inference(device) };
    let networks = Networks::new(&prompter.config, &weights, &options, &[], true)?;
    let prompt = prompter.prepare(&sample()).map_err(|error| TrainError::Failed(error.to_string()))?;
    networks.all_logits(&prompt)
}

/// Waves of colour, 252 x 252: something to see, the same everywhere.
fn sample() -> Picture {
    let side = 252_usize;
    let wave = |x: usize, y: usize, channel: usize| {
        let phase = (x * (channel + 1)) as f64 / 17.0 + (y * (3 - channel)) as f64 / 29.0;
        (127.5 + 120.0 * phase.sin()) as u8
    };
    let pixels = (0..side * side).flat_map(|at| [0, 1, 2].map(|channel| wave(at % side, at / side, channel))).collect();
    Picture { sha256: [0; 32], rgb: Rgb8Image { width: side, height: side, pixels } }
}
