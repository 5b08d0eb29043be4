//! A small data set that can be learned: the class tints the image and stands in the words.

use image::{Rgb, RgbImage};
use mmlnb_trainer::classify::{Options, Protocol, Recipe};
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};
use tch::Device;

pub const CLASSES: [&str; 3] = ["UD", "PD", "D"];
const WORDS: [&str; 3] = [
    "Sheets of small round blue cells, no neuropil.",
    "Nests of round cells with scant neuropil and a rosette.",
    "More than 5% of the cells show ganglionic differentiation.",
];
const SIDE: u32 = 40;

/// `images/` and `data.csv` of so many patients with four images each.
pub fn written(folder: &Path, patients: usize) -> (PathBuf, PathBuf) {
    let images = folder.join("images");
    fs::create_dir_all(&images).unwrap();
    let mut csv = String::from("file_name,description,class,group,site\n");
    for patient in 0..patients {
        for n in 0..4 {
            let class = patient % 3;
            let name = format!("{patient}-{n}.png");
            picture(patient as u32 * 4 + n, class).save(images.join(&name)).unwrap();
            let words = format!("{} Field {patient} {n}.", WORDS[class]);
            writeln!(csv, "{name},\"{words}\",{},P{patient},S{}", CLASSES[class], patient % 2).unwrap();
        }
    }
    fs::write(folder.join("data.csv"), csv).unwrap();
    (folder.join("data.csv"), images)
}

/// Stained-looking noise; the class sets how much of it is dark blue.
fn picture(seed: u32, class: usize) -> RgbImage {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    RgbImage::from_fn(SIDE, SIDE, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 27) as u8;
        match (state >> 8) % 10 < 3 + 2 * class as u32 {
            true => Rgb([70 + noise, 40 + noise, 130 + noise]),
            false => Rgb([210 + noise / 2, 150 + noise, 190 + noise]),
        }
    })
}

/// The golden classifier of the curriculum as a start: small, with a tokenizer.
pub fn start() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/curriculum/checkpoint")
}

/// Options for a quick run of a recipe with keys changed.
pub fn options(folder: &Path, output: &str, recipe: &str, changes: &str) -> Options {
    mmlnb_trainer::start::start().unwrap();
    let mut table: toml::Table = changes.parse().unwrap();
    table.entry("start").or_insert(start().to_string_lossy().into_owned().into());
    table.entry("epochs").or_insert(3.into());
    table.entry("batch_size").or_insert(8.into());
    table.entry("learning_rate").or_insert(1e-3.into());
    Options {
        data: folder.join("data.csv"),
        images: folder.join("images"),
        output: folder.join(output),
        recipe_name: recipe.into(),
        recipe: Recipe::with_changes(recipe, table).unwrap_or_else(|error| panic!("{recipe}: {error}")),
        describer: None,
        base: None,
        class_order: None,
        protocol: Protocol::Usual,
        split_seed: 1,
        allow_overlap: false,
        device: Device::Cpu,
        resume: false,
        dry_run: false,
    }
}
