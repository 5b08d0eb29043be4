//! The images of samples: pixels for a vision tower that learns, or what a frozen one made of them, computed once and kept on disk.

use super::{describer::image_embeds, items::Item, sample::Image};
use crate::{
    error::TrainError,
    generate::Prompter,
    run::{Progress, files::replace_file_by, stop_requested},
    torch::{Adapters, Plan, PlanOptions, Trainable},
};
use mmlnb_models::{
    hash, networks,
    prepare::decode::{Limits, Rgb8Image, decode},
    weights::Weights,
};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

const EMBEDS: &str = "image_embeds";

/// Where images come from.
#[derive(Debug)]
pub enum Images {
    /// Decoded and cut anew each time.
    Pixels,
    /// Out of this folder, one file an image.
    Cached(PathBuf),
}

/// Decodes an image file.
///
/// # Errors
/// A file that cannot be read or decoded.
pub fn decoded(path: &Path) -> Result<Rgb8Image, TrainError> {
    let bytes = std::fs::read(path).map_err(TrainError::io("read", path))?;
    decode(&bytes, &Limits::default()).map_err(|error| TrainError::file(path, error))
}

/// Pixels `[patches, ..]` of an image file.
///
/// # Errors
/// As [`decoded`], and an image that is much longer than wide.
pub fn pixels(path: &Path, prompter: &Prompter) -> Result<Tensor, TrainError> {
    let patches = prompter.processor.patches(&decoded(path)?);
    let patches = patches.map_err(|error| TrainError::file(path, error))?;
    let rows: i64 = patches.grid.iter().product();
    Ok(Tensor::f_from_slice(&patches.pixel_values)?.f_reshape([rows, -1])?)
}

impl Images {
    /// The image of an item.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn of(&self, item: &Item, prompter: &Prompter) -> Result<Image, TrainError> {
        match self {
            Images::Pixels => pixels(&item.image, prompter).map(Image::Pixels),
            Images::Cached(folder) => {
                let file = file(folder, item);
                let mut tensors = Tensor::read_safetensors(&file)?;
                let found = tensors.iter().position(|(name, _)| name == EMBEDS);
                let missing = || TrainError::file(&file, format!("it has no tensor {EMBEDS}; remove it"));
                Ok(Image::Embeds(tensors.swap_remove(found.ok_or_else(missing)?).1))
            }
        }
    }

    /// Runs the vision tower, which nothing trains, on every image that `cache` does not hold yet. It is loaded only if there is such an image, and dropped
    /// again. What is in the cache depends on the base (`base_sha256`), the image processor and the type.
    ///
    /// # Errors
    /// Images that cannot be read, what libtorch refuses, a folder that cannot be written, a wish to stop.
    pub fn cached(
        cache: &Path,
        items: &[&Item],
        prompter: &Prompter,
        (weights, base_sha256): (&Weights<'_>, &str),
        (device, kind): (Device, Kind),
    ) -> Result<Images, TrainError> {
        let made_by = format!("{base_sha256} {:?} {kind:?}", prompter.processor);
        let folder = cache.join(&hash::sha256_hex(made_by.as_bytes())[..16]);
        std::fs::create_dir_all(&folder).map_err(TrainError::io("create", &folder))?;
        let mut missing: Vec<&Item> = items.iter().copied().filter(|item| !file(&folder, item).exists()).collect();
        missing.sort_by(|a, b| a.sha256.cmp(&b.sha256));
        missing.dedup_by(|a, b| a.sha256 == b.sha256);
        if missing.is_empty() {
            return Ok(Images::Cached(folder));
        }
        let options = PlanOptions { device, kind, trainable: Trainable::Nothing, adapters: Adapters::Live, adapter_dropout: 0.0 };
        let vision = Plan::new(&networks::vision(&prompter.config.vision), weights, &options)?;
        let mut progress = Progress::new("images", missing.len() as u64, 0);
        for item in missing {
            if stop_requested() {
                return Err(TrainError::Interrupted);
            }
            let pixels = pixels(&item.image, prompter)?;
            let embeds = image_embeds(&prompter.config, &vision, &pixels, item.sample.grid)?.f_to_device(Device::Cpu)?;
            replace_file_by(&file(&folder, item), |path| -> Result<(), TrainError> {
                Ok(Tensor::write_safetensors(&[(EMBEDS, &embeds)], path)?)
            })?;
            progress.advance(1, &[]);
        }
        progress.end();
        Ok(Images::Cached(folder))
    }
}

fn file(folder: &Path, item: &Item) -> PathBuf {
    folder.join(format!("{}.safetensors", item.sha256))
}
