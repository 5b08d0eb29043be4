//! The other reading: exported, and run by ONNX Runtime.

use crate::{
    random::Draw,
    readings::ragged,
    shared::compare::{distance, largest},
};
use mmlnb_exporter::export_graph;
use mmlnb_models::{
    bundle::Precision,
    graph::{Graph, Kind as GraphKind, Op},
    networks,
    weights::{Naming, Weights},
};
use mmlnb_trainer::torch::{Plan, PlanOptions};
use ort::{
    environment::{Environment, GlobalThreadPoolOptions},
    session::{Session, SessionInputValue},
    value::{DynValue, TensorElementType},
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, OnceLock},
};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

/// Relative to the largest number of a tensor.
pub const TOLERANCE: f64 = 1e-4;

/// A network in ONNX Runtime, its weights from the exported files.
pub struct Onnx {
    session: RefCell<Session>,
    _files: TempDir,
}

fn environment() -> Environment {
    static ENVIRONMENT: OnceLock<Mutex<Environment>> = OnceLock::new();
    let shared = ENVIRONMENT.get_or_init(|| {
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let library = named("MMLNB_ORT_LIB").or_else(|| named("ORT_DYLIB_PATH")).expect("cargo sets ORT_DYLIB_PATH");
        let pool = GlobalThreadPoolOptions::default().with_intra_threads(1).unwrap().with_spin_control(false).unwrap();
        let builder = ort::init_from(&library).unwrap_or_else(|error| panic!("{}: {error}", library.display()));
        let builder = builder.with_name("laws").with_telemetry(false).with_global_thread_pool(pool);
        Mutex::new(builder.build().unwrap_or_else(|error| panic!("{error}")))
    });
    shared.lock().unwrap().clone()
}

impl Onnx {
    pub fn new(graph: &Graph, weights: &Weights<'_>) -> Onnx {
        let files = tempfile::tempdir().unwrap();
        let info = export_graph(graph, weights, Precision::F32, files.path(), "network").unwrap_or_else(|e| panic!("{e}"));
        let session = Session::builder(&environment()).unwrap().commit_from_file(&info.file);
        Onnx { session: RefCell::new(session.unwrap_or_else(|error| panic!("{error}"))), _files: files }
    }

    /// All outputs by name; integers are given in the type that the file declares.
    pub fn run(&self, inputs: &[(&str, Tensor)]) -> Vec<(String, Tensor)> {
        let mut session = self.session.borrow_mut();
        let declared: Vec<(String, Option<TensorElementType>)> =
            session.inputs().iter().map(|input| (input.name().to_string(), input.dtype().tensor_type())).collect();
        let values: Vec<(&str, SessionInputValue<'_>)> = inputs
            .iter()
            .map(|(name, tensor)| {
                let of = declared.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no input {name}"));
                (*name, value(tensor, of.1.expect("inputs are tensors")).into())
            })
            .collect();
        let outputs = session.run(values).unwrap_or_else(|error| panic!("{error}"));
        outputs.iter().map(|(name, value)| (name.to_string(), tensor(&value))).collect()
    }
}

fn value(tensor: &Tensor, element: TensorElementType) -> DynValue {
    let shape = tensor.size();
    let flat = tensor.contiguous().flatten(0, -1);
    match element {
        TensorElementType::Float32 => {
            ort::value::Tensor::from_array((shape, Vec::<f32>::try_from(flat.to_kind(Kind::Float)).unwrap())).unwrap().into_dyn()
        }
        TensorElementType::Int64 => {
            ort::value::Tensor::from_array((shape, Vec::<i64>::try_from(flat).unwrap())).unwrap().into_dyn()
        }
        TensorElementType::Int32 => {
            let narrow: Vec<i32> = Vec::<i64>::try_from(flat).unwrap().iter().map(|n| *n as i32).collect();
            ort::value::Tensor::from_array((shape, narrow)).unwrap().into_dyn()
        }
        other => panic!("no network takes {other:?}"),
    }
}

fn tensor(value: &ort::value::ValueRef<'_>) -> Tensor {
    let (shape, values) = value.try_extract_tensor::<f32>().unwrap();
    Tensor::from_slice(values).reshape(shape.iter().copied().collect::<Vec<i64>>())
}

/// Both readings of one network.
pub struct Both<'w> {
    graph: Graph,
    weights: Weights<'w>,
    plan: Plan,
    onnx: Onnx,
}

impl<'w> Both<'w> {
    pub fn new(graph: &Graph, weights: Weights<'w>) -> Both<'w> {
        weights.checkpoint().check(graph.parameters()).unwrap_or_else(|error| panic!("{error}"));
        Both::of_several(graph, weights)
    }

    /// The checkpoint holds other networks, too.
    pub fn of_several(graph: &Graph, weights: Weights<'w>) -> Both<'w> {
        let plan = Plan::new(graph, &weights, &PlanOptions::inference(Device::Cpu)).unwrap();
        Both { plan, onnx: Onnx::new(graph, &weights), graph: graph.clone(), weights }
    }

    /// Every output of both must be the same; a failure names the first node that is not.
    pub fn agree(&self, inputs: &[(&str, Tensor)], what: &str) {
        if let Some(difference) = self.difference(inputs) {
            let first = self.exposed().difference(inputs).unwrap_or_else(|| "none with all nodes exposed".into());
            panic!("{what}: {difference}; the first node that differs: {first}");
        }
    }

    /// The first output that differs, in the order of the nodes.
    fn difference(&self, inputs: &[(&str, Tensor)]) -> Option<String> {
        let expected = self.plan.forward(inputs).unwrap_or_else(|error| panic!("{error}"));
        let found: BTreeMap<String, Tensor> = self.onnx.run(inputs).into_iter().collect();
        assert_eq!(found.len(), expected.iter().count(), "number of outputs");
        expected.iter().find_map(|(name, expected)| {
            let off = distance(&found[name], expected, name);
            let allowed = TOLERANCE * largest(&expected.to_kind(Kind::Double));
            (off > allowed).then(|| format!("{name} is off by {off:.2e}, allowed {allowed:.2e}"))
        })
    }

    /// The same network whose every node is an output, in order.
    fn exposed(&self) -> Both<'w> {
        let computed = self.graph.nodes.iter().filter(|n| !matches!(n.op, Op::Input(_)) && n.types[0].kind == GraphKind::Float);
        let names: Vec<&str> = computed.map(|node| &*node.name).collect();
        let mut graph = self.graph.clone();
        graph.outputs.clear();
        Both::of_several(&graph.expose(&names).unwrap(), self.weights)
    }
}

#[test]
fn a_difference_is_traced_to_its_node() {
    let mut draw = Draw::new(6);
    let config = draw.bert();
    let graph = networks::bert(&config, "");
    let (_files, checkpoint) = draw.checkpoint(&[&graph], Naming::Bert);
    let (_other_files, other) = draw.checkpoint(&[&graph], Naming::Bert);
    let both = Both::new(&graph, Weights::new(&checkpoint));
    let inputs = [("input_ids", draw.ids(&[2, 7], config.vocabulary)), ("attention_mask", ragged(&mut draw, 2, 7))];
    assert_eq!(both.difference(&inputs), None);
    assert_eq!(both.exposed().difference(&inputs), None);
    // The first node that reads a weight is the first that differs between two checkpoints.
    let mut mixed = both.exposed();
    mixed.onnx = Onnx::new(&mixed.graph, &Weights::new(&other));
    let first = mixed.difference(&inputs).unwrap();
    assert!(first.starts_with("embeddings.word_embeddings is off"), "{first}");
}
