//! Which operators ONNX Runtime's CUDA provider has kernels for, in which versions and element types.

use mmlnb_exporter::nodes::{Attribute, Elem, OnnxGraph, OnnxNode};
use std::collections::HashMap;

const TABLE: &str = include_str!("kernels-1.28.0.tsv");
/// Where the pinned libraries stand.
const PINS: &str = include_str!("../../../../xtask/src/setup/wheels.rs");

/// Operators of the domain "" whose versions differ between the sets that are written; `onnx.defs.get_schema(name, set).since_version` of onnx 1.23.2.
const LAST_CHANGED: &[(&str, &[i64])] = &[
    ("Cast", &[21, 23]),
    ("Conv", &[11, 22]),
    ("Cos", &[7, 22]),
    ("Identity", &[21, 23]),
    ("MaxPool", &[12, 22]),
    ("Pad", &[21, 23]),
    ("QuantizeLinear", &[21, 23]),
    ("Reshape", &[21, 23]),
    ("Shape", &[21, 23]),
    ("Sin", &[7, 22]),
    ("Squeeze", &[21, 23]),
    ("Transpose", &[21, 23]),
    ("Unsqueeze", &[21, 23]),
];

/// One registered kernel, or several of one version.
pub struct Kernel {
    op: &'static str,
    from: i64,
    to: Option<i64>,
    inputs: Vec<&'static str>,
    outputs: Vec<&'static str>,
    pub host_inputs: Vec<usize>,
    pub host_outputs: Vec<usize>,
    /// Alternatives, each with the types of some constraints.
    types: Vec<HashMap<&'static str, Vec<&'static str>>>,
}

pub struct Kernels(Vec<Kernel>);

impl Kernels {
    pub fn read() -> Kernels {
        Kernels(TABLE.lines().filter(|line| !line.starts_with('#')).map(Kernel::read).collect())
    }

    /// The kernel for a node whose inputs have these types.
    pub fn find(&self, node: &OnnxNode, opset: i64, inputs: &[Option<Elem>], outputs: &[Option<Elem>]) -> Option<&Kernel> {
        let version = version(node, opset);
        self.0.iter().find(|kernel| kernel.op == node.op && kernel.serves(version) && kernel.takes(inputs, outputs))
    }
}

impl Kernel {
    fn read(line: &'static str) -> Kernel {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[op, from, to, inputs, outputs, host_inputs, host_outputs, types] = fields.as_slice() else {
            panic!("{line}: eight fields are expected")
        };
        let places = |text: &str| text.split(',').filter_map(|place| place.parse().ok()).collect();
        let constraint = |text: &'static str| {
            let (name, types) = text.split_once('=').unwrap_or_else(|| panic!("{line}: `{text}`"));
            (name, types.split(',').collect())
        };
        let alternative = |text: &'static str| text.split_whitespace().filter(|text| *text != "-").map(constraint).collect();
        Kernel {
            op,
            from: from.parse().unwrap(),
            to: to.parse().ok(),
            inputs: inputs.split(' ').collect(),
            outputs: outputs.split(' ').collect(),
            host_inputs: places(host_inputs),
            host_outputs: places(host_outputs),
            types: types.split('|').map(alternative).collect(),
        }
    }

    /// ONNX Runtime's rule (kernel_registry.cc, VerifyVersion): within the bounds; without an upper bound the very version.
    fn serves(&self, version: i64) -> bool {
        self.from == version || self.to.is_some_and(|to| (self.from..=to).contains(&version))
    }

    fn takes(&self, inputs: &[Option<Elem>], outputs: &[Option<Elem>]) -> bool {
        let bind = |names: &[&'static str], elems: &[Option<Elem>]| -> Vec<(&'static str, Elem)> {
            let name = |i: usize| {
                names.get(i).or(names.last().filter(|name| name.ends_with('*'))).map(|name| name.trim_end_matches('*'))
            };
            elems.iter().enumerate().filter_map(|(i, elem)| Some((name(i)?, (*elem)?))).collect()
        };
        let bound = [bind(&self.inputs, inputs), bind(&self.outputs, outputs)].concat();
        let alike = |(name, elem): &(&str, Elem)| bound.iter().all(|(other, found)| other != name || found == elem);
        let listed = |types: &HashMap<&str, Vec<&str>>, (name, elem): &(&str, Elem)| {
            types.get(name).is_none_or(|types| types.contains(&elem.name())) && (!is_type(name) || *name == elem.name())
        };
        bound.iter().all(alike) && self.types.iter().any(|types| bound.iter().all(|pair| listed(types, pair)))
    }
}

/// Whether the schema wants this very type and no constraint.
fn is_type(name: &str) -> bool {
    ["i64", "i32", "bool", "f32"].contains(&name)
}

/// In which operator set a node's operator last changed, as its graph sees it.
fn version(node: &OnnxNode, opset: i64) -> i64 {
    if node.domain() != Some("") {
        return 1;
    }
    let changed = LAST_CHANGED.iter().find(|(op, _)| *op == node.op).map(|(_, versions)| *versions);
    match changed {
        Some(versions) => *versions.iter().rfind(|version| **version <= opset).unwrap(),
        None => mmlnb_exporter::nodes::OPERATORS.iter().find(|(op, ..)| *op == node.op).unwrap().2,
    }
}

/// The element type of every value.
pub fn elements(graph: &OnnxGraph) -> HashMap<&str, Elem> {
    let given = graph.inputs.iter().map(|port| (port.name.as_str(), port.elem));
    let stored = graph.initialisers.iter().map(|initialiser| (initialiser.name.as_str(), initialiser.elem));
    let mut known: HashMap<&str, Elem> = given.chain(stored).collect();
    for node in &graph.nodes {
        let input = |index: usize| known[node.inputs[index].as_str()];
        let made = match node.op {
            "Cast" => cast_to(node),
            "Shape" => Elem::I64,
            "Less" | "GreaterOrEqual" | "Equal" | "And" => Elem::Bool,
            "Where" => input(1),
            // The result has the type of the scale.
            "RMSNormalization" => input(1),
            _ => input(0),
        };
        known.extend(node.outputs.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), made)));
    }
    for port in &graph.outputs {
        assert_eq!(known[port.name.as_str()], port.elem, "{}: output {}", graph.name, port.name);
    }
    known
}

fn cast_to(node: &OnnxNode) -> Elem {
    let elems = [Elem::F32, Elem::F16, Elem::Bf16, Elem::I64, Elem::I32, Elem::Bool, Elem::U8, Elem::I8];
    let [("to", Attribute::Int(code))] = node.attributes.as_slice() else { panic!("{node:?}: a cast says to what") };
    elems.into_iter().find(|elem| i64::from(elem.code()) == *code).unwrap_or_else(|| panic!("{node:?}: an unknown type"))
}

/// The types of a node's inputs and outputs; none where one is left out.
pub fn types_of(node: &OnnxNode, known: &HashMap<&str, Elem>) -> [Vec<Option<Elem>>; 2] {
    [&node.inputs, &node.outputs].map(|names| names.iter().map(|name| known.get(name.as_str()).copied()).collect())
}

#[test]
fn the_table_of_kernels_is_that_of_the_pinned_library() {
    let named = TABLE.split_once("sha256 ").and_then(|(_, rest)| rest.get(..64)).unwrap();
    assert!(PINS.contains(named), "the pinned CUDA build is another one: read its kernels anew");
}
