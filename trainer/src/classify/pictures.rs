//! The images of a data set as the classifier reads them: decoded, stain-normalised and resized once, kept while there is room.

use super::recipe::Recipe;
use crate::error::TrainError;
use mmlnb_models::{
    config::ImageInput,
    prepare::{
        classifier_image, colours,
        decode::{Limits, Rgb8Image, decode},
        resize::resize,
        scale,
        stain::StainJitter,
        tissue,
    },
    random::Draw,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Bytes of prepared images that are kept in memory; the others are decoded again in each epoch.
const ROOM: usize = 3 << 30;
const WHITE: u8 = 255;

/// What the verdict asks about an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seen {
    /// Share of the pixels that show stained tissue.
    pub tissue: f64,
    /// How it is stained.
    pub colours: [f64; colours::MEASURES],
    /// Width and height as given.
    pub size: [usize; 2],
    /// Micrometres a pixel, where the file states them.
    pub microns_per_pixel: Option<f64>,
    /// Its stain could not be normalised.
    pub stain_left: bool,
}

/// Images by row of the table.
#[derive(Debug)]
pub(super) struct Pictures {
    files: Vec<PathBuf>,
    input: ImageInput,
    blank: bool,
    kept: Vec<OnceLock<Arc<Rgb8Image>>>,
    seen: Vec<OnceLock<Seen>>,
    room: AtomicUsize,
}

/// How a training image is changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Augmentation {
    flips: bool,
    rotations: bool,
    stain: Option<StainJitter>,
    seed: u64,
}

impl Pictures {
    /// The images of these files; with `blank` each is white.
    pub fn new(files: Vec<PathBuf>, input: &ImageInput, blank: bool) -> Pictures {
        let (kept, seen) = files.iter().map(|_| (OnceLock::new(), OnceLock::new())).unzip();
        Pictures { files, input: input.clone(), blank, kept, seen, room: AtomicUsize::new(ROOM) }
    }

    /// `[3, height, width]` of a row's image, changed by `augmentation` for this epoch.
    ///
    /// # Errors
    /// A file that cannot be read or decoded.
    pub fn pixels(&self, row: usize, augmentation: Option<(&Augmentation, u64)>) -> Result<Vec<f32>, TrainError> {
        let image = self.resized(row)?;
        let plain = ImageInput { stain: None, ..self.input.clone() };
        Ok(match augmentation {
            None => classifier_image::pixel_values(&image, &plain),
            Some((augmentation, epoch)) => classifier_image::pixel_values(&augmentation.apply(&image, epoch, row), &plain),
        })
    }

    /// What the verdict asks about a row's image.
    ///
    /// # Errors
    /// A file that cannot be read or decoded.
    pub fn seen(&self, row: usize) -> Result<Seen, TrainError> {
        if self.seen[row].get().is_none() {
            self.load(row)?;
        }
        Ok(*self.seen[row].get().expect("loading a row's image fills it"))
    }

    fn resized(&self, row: usize) -> Result<Arc<Rgb8Image>, TrainError> {
        match self.kept[row].get() {
            Some(image) => Ok(Arc::clone(image)),
            None => self.load(row),
        }
    }

    fn load(&self, row: usize) -> Result<Arc<Rgb8Image>, TrainError> {
        let (image, bytes) = read(&self.files[row])?;
        let normalised = self.input.stain.as_ref().map(|stain| stain.apply(&image));
        let seen = Seen {
            tissue: tissue::share(&image),
            colours: colours::measures(&image),
            size: [image.width, image.height],
            microns_per_pixel: scale::microns_per_pixel(&bytes),
            stain_left: matches!(normalised, Some(None)),
        };
        let _ = self.seen[row].set(seen);
        let (width, height) = (self.input.width as usize, self.input.height as usize);
        let resized = match (self.blank, normalised.flatten()) {
            (true, _) => Rgb8Image { width, height, pixels: vec![WHITE; 3 * width * height] },
            (false, normalised) => resize(normalised.as_ref().unwrap_or(&image), width, height, self.input.resample),
        };
        let resized = Arc::new(resized);
        let size = resized.pixels.len();
        let fits = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(size)).is_ok();
        if fits {
            let _ = self.kept[row].set(Arc::clone(&resized));
        }
        Ok(resized)
    }
}

impl Augmentation {
    /// What the recipe wants; none when training images stay as they are.
    pub fn of(recipe: &Recipe) -> Option<Augmentation> {
        let width = recipe.stain_jitter as f32;
        let stain = (width > 0.0).then_some(StainJitter { alpha: width, beta: width / 2.0 });
        recipe.augments().then_some(Augmentation { flips: recipe.flips, rotations: recipe.rotations, stain, seed: recipe.seed })
    }

    /// The image as this epoch shows it; the same for the same seed, epoch and row.
    fn apply(&self, image: &Rgb8Image, epoch: u64, row: usize) -> Rgb8Image {
        let mut draw = Draw::new(self.seed, "augmentation", &[epoch, row as u64]);
        let mut turned = image.clone();
        if self.flips && draw.below(2) == 1 {
            turned = moved(&turned, false, |x, y, width, _| (width - 1 - x, y));
        }
        if self.flips && draw.below(2) == 1 {
            turned = moved(&turned, false, |x, y, _, height| (x, height - 1 - y));
        }
        if self.rotations {
            // A quarter turn would change the size of an image that is not square: that one makes half turns only.
            let square = image.width == image.height;
            let quarters = if square { draw.below(4) } else { 2 * draw.below(2) };
            for _ in 0..quarters / 2 {
                turned = moved(&turned, false, |x, y, width, height| (width - 1 - x, height - 1 - y));
            }
            if quarters % 2 == 1 {
                turned = moved(&turned, true, |x, y, _, height| (y, height - 1 - x));
            }
        }
        match &self.stain {
            Some(stain) => stain.apply(&turned, draw.below(usize::MAX) as u64),
            None => turned,
        }
    }
}

/// Each pixel (x, y) of the result taken from `from(x, y, width, height)` of the image, whose width and height are given; `swapped`: the sides change places.
fn moved(image: &Rgb8Image, swapped: bool, from: impl Fn(usize, usize, usize, usize) -> (usize, usize)) -> Rgb8Image {
    let (width, height) = if swapped { (image.height, image.width) } else { (image.width, image.height) };
    let mut pixels = Vec::with_capacity(image.pixels.len());
    for y in 0..height {
        for x in 0..width {
            let (u, v) = from(x, y, image.width, image.height);
            let at = 3 * (v * image.width + u);
            pixels.extend_from_slice(&image.pixels[at..at + 3]);
        }
    }
    Rgb8Image { width, height, pixels }
}

/// An image file decoded as the appliance decodes it, and its bytes.
///
/// # Errors
/// A file that cannot be read or decoded.
pub(super) fn read(file: &Path) -> Result<(Rgb8Image, Vec<u8>), TrainError> {
    let bytes = fs::read(file).map_err(TrainError::io("read", file))?;
    let image = decode(&bytes, &Limits::default()).map_err(|error| TrainError::file(file, error))?;
    Ok((image, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Rgb8Image {
        Rgb8Image { width: 3, height: 2, pixels: (0..18).collect() }
    }

    fn firsts(image: &Rgb8Image) -> Vec<u8> {
        image.pixels.iter().step_by(3).copied().collect()
    }

    #[test]
    fn pixels_move_as_their_names_say() {
        let mirrored = moved(&picture(), false, |x, y, width, _| (width - 1 - x, y));
        assert_eq!(firsts(&mirrored), [6, 3, 0, 15, 12, 9]);
        let quarter = moved(&picture(), true, |x, y, _, height| (y, height - 1 - x));
        assert_eq!((quarter.width, quarter.height), (2, 3));
        assert_eq!(firsts(&quarter), [9, 0, 12, 3, 15, 6]);
    }

    #[test]
    fn an_augmented_image_depends_on_seed_epoch_and_row_and_keeps_its_size() {
        let all = Augmentation { flips: true, rotations: true, stain: Some(StainJitter { alpha: 0.2, beta: 0.1 }), seed: 3 };
        let image = Rgb8Image { width: 4, height: 4, pixels: (0..48).map(|v| 40 + 4 * v).collect() };
        assert_eq!(all.apply(&image, 5, 7), all.apply(&image, 5, 7));
        let others: Vec<Rgb8Image> = (0..8).map(|epoch| all.apply(&image, epoch, 7)).collect();
        assert!(others.iter().any(|other| other != &others[0]));
        let wide = all.apply(&picture(), 1, 1);
        assert_eq!((wide.width, wide.height), (3, 2));
        let turns = Augmentation { stain: None, ..all };
        for epoch in 0..8 {
            let mut pixels = firsts(&turns.apply(&picture(), epoch, 0));
            pixels.sort();
            assert_eq!(pixels, [0, 3, 6, 9, 12, 15], "pixels only move");
        }
    }
}
