//! Collecting ONNX nodes, constants and parameters under unique names.

use crate::nodes::{Attribute, Content, Elem, Initialiser, OnnxNode, Port};
use mmlnb_models::graph::Weight;
use std::collections::{HashMap, HashSet};

/// The ONNX graph that is being made.
#[derive(Default)]
pub(super) struct Emitter {
    pub inputs: Vec<Port>,
    pub nodes: Vec<OnnxNode>,
    pub initialisers: Vec<Initialiser>,
    /// Prefix of the names of intermediate values.
    pub scope: String,
    counts: HashMap<String, u32>,
    constants: HashMap<(Elem, Vec<i64>, Vec<u8>), String>,
    parameters: HashSet<String>,
}

impl Emitter {
    /// A node whose only result has this name, made unique.
    pub fn named(&mut self, op: &'static str, inputs: &[&str], attributes: Vec<(&'static str, Attribute)>, name: &str) -> String {
        let output = self.unique(name);
        self.node(op, inputs, attributes, vec![output.clone()]);
        output
    }

    /// A node within the network's node that is being lowered.
    pub fn op(&mut self, op: &'static str, inputs: &[&str]) -> String {
        self.op_with(op, inputs, vec![])
    }

    /// The same with attributes.
    pub fn op_with(&mut self, op: &'static str, inputs: &[&str], attributes: Vec<(&'static str, Attribute)>) -> String {
        let name = format!("{}/{}", self.scope, op.to_lowercase());
        self.named(op, inputs, attributes, &name)
    }

    /// A node with these results.
    pub fn node(&mut self, op: &'static str, inputs: &[&str], attributes: Vec<(&'static str, Attribute)>, outputs: Vec<String>) {
        let inputs = inputs.iter().map(|name| name.to_string()).collect();
        self.nodes.push(OnnxNode { op, inputs, outputs, attributes });
    }

    /// This name, or the name with a number behind it when it is taken.
    pub fn unique(&mut self, name: &str) -> String {
        let count = self.counts.entry(name.to_string()).or_insert(0);
        *count += 1;
        if *count == 1 { name.to_string() } else { format!("{name}_{count}") }
    }

    /// A vector of i64.
    pub fn ints(&mut self, values: &[i64]) -> String {
        self.constant(Elem::I64, vec![values.len() as i64], values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// One i64.
    pub fn int(&mut self, value: i64) -> String {
        self.constant(Elem::I64, vec![], value.to_le_bytes().to_vec())
    }

    /// f32 of these sizes.
    pub fn floats(&mut self, dims: &[i64], values: &[f32]) -> String {
        self.constant(Elem::F32, dims.to_vec(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// One f32.
    pub fn float(&mut self, value: f32) -> String {
        self.floats(&[], &[value])
    }

    /// One byte.
    pub fn byte(&mut self, value: u8) -> String {
        self.constant(Elem::U8, vec![], vec![value])
    }

    /// A float zero of this type.
    pub fn zero(&mut self, elem: Elem) -> String {
        self.constant(elem, vec![], vec![0; elem.size()])
    }

    /// A parameter; one initialiser serves all who use it.
    pub fn parameter(&mut self, weight: &Weight, elem: Elem, dims: Vec<i64>, transposed: bool) -> String {
        let content = if transposed { Content::Transposed(weight.clone()) } else { Content::Rows(weight.clone()) };
        self.content(&weight.name(), elem, dims, content)
    }

    /// What is made of a parameter; one initialiser serves all who use the same.
    pub fn content(&mut self, name: &str, elem: Elem, dims: Vec<i64>, content: Content) -> String {
        let mut name = name.to_string();
        if self.parameters.contains(&name) {
            let same = |i: &&Initialiser| i.content == content && i.elem == elem && i.dims == dims;
            if let Some(found) = self.initialisers.iter().find(same) {
                return found.name.clone();
            }
            name =
                format!("{name}/{}{}", if matches!(content, Content::Transposed(_)) { "transposed_" } else { "" }, elem.name());
        }
        self.parameters.insert(name.clone());
        self.initialisers.push(Initialiser { name: name.clone(), elem, dims, content });
        name
    }

    fn constant(&mut self, elem: Elem, dims: Vec<i64>, bytes: Vec<u8>) -> String {
        let key = (elem, dims.clone(), bytes.clone());
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = format!("constant_{}", self.constants.len());
        self.constants.insert(key, name.clone());
        self.initialisers.push(Initialiser { name: name.clone(), elem, dims, content: Content::Bytes(bytes) });
        name
    }
}
