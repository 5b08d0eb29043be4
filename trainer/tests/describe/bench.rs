//! A tiny data set on a tiny base.

use mmlnb_models::{
    hash::sha256_hex,
    record::Record,
    weights::{Checkpoint, Naming},
};
use mmlnb_trainer::{
    data::{Part, Row, Table, TrainingData},
    describe::{Item, Outcome, Recipe, Templates, Training},
    error::TrainError,
    generate::Prompter,
    run::{Decided, Opened, RunFolder},
};
use std::path::{Path, PathBuf};
use tch::Device;
use tempfile::TempDir;

/// The tiny Qwen2.5-VL of the reference data.
pub fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/qwen2_5_vl")
}

const TEXTS: [&str; 4] = [
    "Sheets of small round blue cells, no neuropil.",
    "Neuropil and Homer Wright rosettes.",
    "Many ganglion-like cells in abundant neuropil.",
    "Necrosis.",
];

/// Images, table and everything opened.
pub struct Bench {
    pub folder: TempDir,
    pub table: Table,
    pub prompter: Prompter,
    pub base: Checkpoint,
}

/// A recipe that is quick here.
pub fn quick() -> Recipe {
    Recipe {
        rank: 2,
        alpha: 8.0,
        learning_rate: 3e-3,
        epochs: 2,
        batch_size: 2,
        accumulation: 2,
        image_size: Some([56, 56]),
        validation_texts: 2,
        max_new_tokens: Some(6),
        patience: 0,
        ..Recipe::default()
    }
}

impl Bench {
    pub fn new(images: usize, recipe: &Recipe) -> Bench {
        Bench::on(&base(), images, recipe)
    }

    pub fn on(base: &Path, images: usize, recipe: &Recipe) -> Bench {
        // Products are tiny here: more threads would only wait for each other.
        tch::set_num_threads(1);
        let folder = tempfile::tempdir().unwrap();
        let rows = (0..images).map(|number| row(folder.path(), number)).collect();
        let table = Table { file: "data.csv".into(), images: folder.path().into(), rows, classes: Vec::new(), ordinal: false };
        let prompter = Prompter::with_settings(base, None, recipe.settings(), recipe.image_size).unwrap();
        let base = Checkpoint::open(base, Naming::Qwen).unwrap();
        Bench { folder, table, prompter, base }
    }

    pub fn items(&self, recipe: &Recipe, part: Part) -> Vec<Item> {
        let parts: Vec<Part> = self.table.rows.iter().map(|row| row.split.unwrap()).collect();
        Templates::new(&self.prompter, recipe).unwrap().items(&self.table, &parts, part).unwrap()
    }

    /// Trains into `run`.
    pub fn train(&self, recipe: &Recipe, run: &Path, resume: bool) -> Result<Outcome, TrainError> {
        let decided = Decided::default().with("recipe", recipe).unwrap();
        let (folder, state) = match RunFolder::open(run, &decided, resume)? {
            Opened::Fresh(folder) => (folder, None),
            Opened::Resumed(folder, state) => (folder, Some(state)),
            Opened::Finished => return Ok(Outcome { epochs: recipe.epochs, best: None }),
        };
        let [train, validation] = [Part::Train, Part::Validation].map(|part| self.items(recipe, part));
        let record = Record { image_size: recipe.image_size, prompt: recipe.prompt.clone(), ..Record::default() };
        let training = Training {
            recipe,
            prompter: &self.prompter,
            base: &self.base,
            images: self.folder.path(),
            train: &train,
            validation: &validation,
            pad: Templates::new(&self.prompter, recipe).unwrap().pad(),
            device: Device::Cpu,
            record: &record,
            training_data: &TrainingData::default(),
        };
        training.run(folder, state)
    }
}

/// An image that differs from the others; every fourth is for validation.
fn row(folder: &Path, number: usize) -> Row {
    let file_name = format!("{number}.png");
    let colour = |x: u32, y: u32| image::Rgb([(x * 5 + number as u32 * 37) as u8, (y * 3) as u8, (number * 50) as u8]);
    let path = folder.join(&file_name);
    image::RgbImage::from_fn(50, 40, colour).save(&path).unwrap();
    let sha256 = sha256_hex(&std::fs::read(&path).unwrap());
    let split = Some(if number % 4 == 3 { Part::Validation } else { Part::Train });
    let description = Some(TEXTS[number % TEXTS.len()].to_string());
    Row {
        line: number as u64 + 2,
        file_name,
        description,
        class: None,
        group: None,
        site: None,
        split,
        sha256,
        width: 50,
        height: 40,
    }
}
