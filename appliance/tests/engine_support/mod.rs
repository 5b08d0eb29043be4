//! Bundles of the reference checkpoints, and requests to an engine that serves them.

#![allow(dead_code, missing_docs, reason = "every test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mmlnb_appliance::engine::{Assessment, Engine, EngineError, EngineOptions, Mode, PatchImage, Request, Trace, Values};
use mmlnb_exporter::{Recipe, export_bundle};
use mmlnb_models::bundle::{Bundle, Precision};
use mmlnb_models::prepare::decode::Rgb8Image;
use mmlnb_models::prepare::settings::GenerationSettings;
use tempfile::TempDir;

/// A bundle in a folder that goes with it.
pub struct Exported {
    pub bundle: Bundle,
    pub folder: TempDir,
}

/// Exports a bundle of the given halves.
pub fn export(vlm: Option<&Path>, classifier: Option<&Path>, precision: Precision) -> Exported {
    export_as(vlm, classifier, precision, false)
}

/// Exports a bundle of operators of the ONNX standard alone.
pub fn export_portable(vlm: Option<&Path>, classifier: Option<&Path>, precision: Precision) -> Exported {
    export_as(vlm, classifier, precision, true)
}

fn export_as(vlm: Option<&Path>, classifier: Option<&Path>, precision: Precision, portable: bool) -> Exported {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("bundle");
    let recipe = Recipe {
        output: output.clone(),
        vlm: vlm.map(Path::to_path_buf),
        adapter: None,
        allow_partial: false,
        classifier: classifier.map(Path::to_path_buf),
        settings: None,
        precision,
        portable,
        calibration: None,
        image_size: None,
    };
    export_bundle(&recipe, &|_| ()).unwrap_or_else(|error| panic!("{vlm:?} {classifier:?}: {error}"));
    Exported { bundle: Bundle::open(&output).unwrap(), folder }
}

impl Exported {
    /// The same bundle with other generation settings.
    pub fn with(&self, change: impl FnOnce(&mut GenerationSettings)) -> Bundle {
        let mut bundle = self.bundle.clone();
        change(&mut bundle.manifest.describer.as_mut().expect("a bundle with a describer").generation);
        bundle
    }

    /// The same bundle with another prompt, for a reference case.
    pub fn asking(&self, text: &str, system: Option<&str>) -> Exported {
        let mut bundle = self.bundle.clone();
        let describer = bundle.manifest.describer.as_mut().expect("a bundle with a describer");
        describer.prompt = text.to_string();
        describer.system = system.map(str::to_string);
        Exported { bundle, folder: tempfile::tempdir().unwrap() }
    }

    /// Overwrites the weights of a graph with NaN.
    pub fn spoil(&self, graph: &str) {
        let file: PathBuf = self.bundle.path(&format!("{graph}.onnx.data"));
        let size = std::fs::metadata(&file).unwrap().len() as usize;
        std::fs::write(&file, vec![0xff; size]).unwrap();
    }
}

/// An engine with everything at its default but what `change` sets.
pub fn engine(bundle: &Bundle, change: impl FnOnce(&mut EngineOptions)) -> Result<Engine, EngineError> {
    let mut options = EngineOptions::default();
    change(&mut options);
    Engine::open(bundle, &options)
}

/// An engine for the describer alone.
pub fn describer(bundle: &Bundle, slots: usize) -> Engine {
    engine(bundle, |options| {
        options.load = Mode::Describe;
        options.slots = slots;
    })
    .unwrap()
}

/// An image whose hash is `number`.
pub fn patch(rgb: &Rgb8Image, number: u8) -> PatchImage {
    PatchImage { sha256: [number; 32], rgb: rgb.clone() }
}

/// A request with a trace.
pub fn traced(mode: Mode) -> Request {
    Request { trace: true, ..Request::new(mode) }
}

/// Describes with a trace.
pub fn describe(engine: &Engine, image: PatchImage) -> Assessment {
    engine.assess(image, &traced(Mode::Describe)).unwrap()
}

/// All images at once, each from a thread of its own; answers in the images' order.
pub fn together(engine: &Engine, images: &[PatchImage], request: impl Fn(usize) -> Request + Sync) -> Vec<Assessment> {
    let answers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (index, image) in images.iter().enumerate() {
            let (answers, request) = (&answers, &request);
            scope.spawn(move || {
                let answer = engine.assess(image.clone(), &request(index)).unwrap();
                answers.lock().unwrap().push((index, answer));
            });
        }
    });
    let mut answers = answers.into_inner().unwrap();
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The picture turned upside down.
pub fn flipped(image: &Rgb8Image) -> Rgb8Image {
    let mut rows: Vec<&[u8]> = image.pixels.chunks_exact(image.width * 3).collect();
    rows.reverse();
    Rgb8Image { pixels: rows.concat(), ..image.clone() }
}

pub fn floats(trace: &Trace, name: &str) -> (Vec<usize>, Vec<f32>) {
    match trace.get(name) {
        Some((shape, Values::F32(values))) => (shape.to_vec(), values.clone()),
        other => panic!("{name} is {other:?}, not f32"),
    }
}

pub fn integers(trace: &Trace, name: &str) -> (Vec<usize>, Vec<i64>) {
    match trace.get(name) {
        Some((shape, Values::I64(values))) => (shape.to_vec(), values.clone()),
        other => panic!("{name} is {other:?}, not i64"),
    }
}
