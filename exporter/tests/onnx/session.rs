//! Graphs exported into a temporary folder and run in ONNX Runtime.

use mmlnb_exporter::{FewBits, OnnxGraph, export_decided, export_graph, export_lowered, lower_portable};
use mmlnb_models::{bundle::Precision, graph::Graph, weights::Weights};
use ort::{
    environment::Environment,
    ep,
    memory::Allocator,
    session::{Session, SessionInputValue},
    value::Tensor,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Numbers of an input.
#[derive(Clone, Debug)]
pub enum Data {
    F32(Vec<f32>),
    F16(Vec<half::f16>),
    I64(Vec<i64>),
    I32(Vec<i32>),
}

/// An input.
#[derive(Clone, Debug)]
pub struct Given {
    pub shape: Vec<usize>,
    pub data: Data,
}

impl Given {
    pub fn f32(shape: &[usize], values: Vec<f32>) -> Given {
        Given { shape: shape.to_vec(), data: Data::F32(values) }
    }

    pub fn i64(shape: &[usize], values: Vec<i64>) -> Given {
        Given { shape: shape.to_vec(), data: Data::I64(values) }
    }

    pub fn i32(shape: &[usize], values: Vec<i32>) -> Given {
        Given { shape: shape.to_vec(), data: Data::I32(values) }
    }

    fn value(self) -> SessionInputValue<'static> {
        let Given { shape, data } = self;
        match data {
            // Made in place: an array of nothing has no memory to point to.
            Data::F32(values) if values.is_empty() => {
                let shape = shape.iter().map(|size| *size as i64).collect::<Vec<_>>();
                Tensor::<f32>::new(&Allocator::default(), shape).unwrap().into()
            }
            Data::F32(values) => Tensor::from_array((shape, values)).unwrap().into(),
            Data::F16(values) => Tensor::from_array((shape, values)).unwrap().into(),
            Data::I64(values) => Tensor::from_array((shape, values)).unwrap().into(),
            Data::I32(values) => Tensor::from_array((shape, values)).unwrap().into(),
        }
    }
}

/// Results by name: shape and numbers.
pub type Results = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// How a network becomes a loaded graph.
pub type Read = fn(&Graph, &Weights<'_>, Precision) -> Onnx;

/// A loaded graph.
pub struct Onnx {
    session: Session,
}

impl Onnx {
    pub fn load(file: &Path) -> Onnx {
        let mut builder = Session::builder(environment()).unwrap().with_intra_threads(1).unwrap();
        if on_cuda() {
            let cuda = ep::CUDA::default().with_tf32(false).build().error_on_failure();
            builder = builder.with_execution_providers([cuda]).unwrap();
        }
        let session = builder.commit_from_file(file);
        Onnx { session: session.unwrap_or_else(|error| panic!("{}: {error}", file.display())) }
    }

    /// A network, exported and loaded.
    pub fn of(graph: &Graph, weights: &Weights<'_>, precision: Precision) -> Onnx {
        let folder = tempfile::tempdir().unwrap();
        Onnx::load(&export_graph(graph, weights, precision, folder.path(), "graph").unwrap().file)
    }

    /// A network in operators of the standard alone, exported and loaded.
    pub fn portable(graph: &Graph, weights: &Weights<'_>, precision: Precision) -> Onnx {
        Onnx::of_lowered(&lower_portable(graph, "graph", precision, &FewBits::default()).unwrap(), weights, precision)
    }

    /// A lowered graph, exported and loaded.
    pub fn of_lowered(graph: &OnnxGraph, weights: &Weights<'_>, precision: Precision) -> Onnx {
        let folder = tempfile::tempdir().unwrap();
        Onnx::load(&export_lowered(graph, weights, precision, folder.path(), &[], &|_| ()).unwrap().file)
    }

    /// A graph that was lowered with `few`, exported and loaded.
    pub fn of_decided(graph: &OnnxGraph, weights: &Weights<'_>, few: &FewBits, precision: Precision) -> Onnx {
        let folder = tempfile::tempdir().unwrap();
        Onnx::load(&export_decided(graph, (weights, few), precision, folder.path(), &[], &|_| ()).unwrap().file)
    }

    /// What ONNX Runtime says to inputs that it cannot work on.
    pub fn refuses(&mut self, inputs: Vec<(&str, Given)>) -> String {
        let inputs: Vec<(String, SessionInputValue<'static>)> =
            inputs.into_iter().map(|(name, given)| (name.to_string(), given.value())).collect();
        self.session.run(inputs).map(drop).expect_err("these inputs are wrong").to_string()
    }

    pub fn run(&mut self, inputs: Vec<(&str, Given)>) -> Results {
        let inputs: Vec<(String, SessionInputValue<'static>)> =
            inputs.into_iter().map(|(name, given)| (name.to_string(), given.value())).collect();
        let outputs = self.session.run(inputs).unwrap();
        let mut results = Results::new();
        for (name, value) in &outputs {
            let (shape, values) = match value.try_extract_tensor::<f32>() {
                Ok((shape, values)) => (shape.clone(), values.to_vec()),
                Err(_) => {
                    let (shape, values) = value.try_extract_tensor::<half::f16>().unwrap();
                    (shape.clone(), values.iter().map(|v| v.to_f32()).collect())
                }
            };
            results.insert(name.to_string(), (shape.iter().map(|size| *size as usize).collect(), values));
        }
        results
    }
}

/// Whether `MMLNB_DEVICE` asks for a GPU; then `MMLNB_ORT_LIB` names the CUDA build.
fn on_cuda() -> bool {
    std::env::var("MMLNB_DEVICE").is_ok_and(|device| device.starts_with("cuda"))
}

/// The one environment of this process.
fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let named = ["MMLNB_ORT_LIB", "ORT_DYLIB_PATH"].into_iter().find_map(std::env::var_os);
        let library = PathBuf::from(named.expect("run the tests with cargo, or name the library in MMLNB_ORT_LIB"));
        // Tests run in their crate's folder; the configured path is relative to the root.
        let library = if library.is_file() { library } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(library) };
        if on_cuda() {
            let nvidia = library.with_file_name("../../nvidia");
            let folders = ["cu13/lib", "cudnn/lib"].map(|folder| nvidia.join(folder));
            ep::cuda::preload_dylibs(Some(&folders[0]), Some(&folders[1])).unwrap();
        }
        ort::init_from(&library).unwrap().with_telemetry(false).build().unwrap()
    })
}

/// Asserts that `found` is `expected` up to `tolerance` times the largest expected value.
pub fn assert_near(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let largest = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let off = crate::golden_files::distance(found, expected);
    assert!(off <= tolerance * largest, "{what}: {off} off, largest {largest}, allowed {}", tolerance * largest);
}

/// Asserts that `found` is `expected` up to `tolerance`.
pub fn assert_within(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let off = crate::golden_files::distance(found, expected);
    assert!(off <= tolerance, "{what}: {off} off, allowed {tolerance}");
}

/// A tolerance of a `cases.json`.
pub fn tolerance(cases: &serde_json::Value, key: &str) -> f32 {
    cases["tolerance"][key].as_f64().unwrap_or_else(|| panic!("cases.json has no tolerance `{key}`")) as f32
}
