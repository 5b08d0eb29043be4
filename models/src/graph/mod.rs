//! Networks as values: a small graph of operators at paper level.
//!
//! A network is a function over a [`Builder`] that returns a [`Graph`]. Everything else (libtorch, ONNX, costs, text) is a reading of
//! that value. Nothing here knows a library, a precision or a weight.

mod builder;
mod dim;
mod op;
mod rewrite;
mod weight;

pub use builder::{Builder, X};
pub use dim::Dim;
pub use op::{AttentionKind, Op, infer};
pub use rewrite::{Adaption, NoSuchModule};
pub use weight::Weight;

use std::{fmt, panic::Location, sync::Arc};

/// What a tensor holds, logically: precision is the reader's policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Real numbers.
    Float,
    /// Whole numbers.
    Int,
    /// True or false.
    Bool,
}

/// Kind and sizes of a tensor.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Type {
    /// What it holds.
    pub kind: Kind,
    /// Its sizes, outermost first.
    pub dims: Vec<Dim>,
}

impl Type {
    /// A tensor of real numbers.
    pub fn float(dims: impl IntoIterator<Item = Dim>) -> Type {
        Type { kind: Kind::Float, dims: dims.into_iter().collect() }
    }

    /// The same with one size exchanged.
    pub fn with(&self, axis: usize, dim: Dim) -> Type {
        let mut t = self.clone();
        t.dims[axis] = dim;
        t
    }

    /// The same with the last size exchanged.
    pub fn with_last(&self, size: i64) -> Type {
        self.with(self.dims.len() - 1, Dim::from(size))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Float => "",
            Kind::Int => "int ",
            Kind::Bool => "bool ",
        };
        write!(f, "{kind}[{}]", self.dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(", "))
    }
}

/// One result of one node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Value {
    /// Index of the node in [`Graph::nodes`].
    pub node: u32,
    /// Which of its results.
    pub slot: u8,
}

/// An operator in its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// On which values.
    pub inputs: Vec<Value>,
    /// Types of its results.
    pub types: Vec<Type>,
    /// Unique name: scope and own name, as in the checkpoint's keys.
    pub name: Arc<str>,
    /// The block that training recomputes, if it belongs to one; blocks are numbered from 0.
    pub region: Option<u32>,
    /// The line of the network that made it.
    pub at: &'static Location<'static>,
}

/// A parameter that a network needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameter {
    /// Key in the checkpoint.
    pub key: String,
    /// Its sizes there.
    pub shape: Vec<i64>,
}

/// A network: nodes in order of use, each after its inputs.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Never changed in place; rewrites return new graphs.
    pub nodes: Vec<Node>,
    /// Names and values of the results.
    pub outputs: Vec<(String, Value)>,
    /// Every checkpoint tensor that the nodes use, once each, in order of first use.
    parameters: Vec<Parameter>,
}

impl Graph {
    /// Every checkpoint tensor that the network uses, once each, in order of first use: to be checked against a checkpoint before any
    /// weight is read.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// All nodes in one block; `None`: in no block, so that training computes nothing again.
    pub fn in_one_block(mut self, region: Option<u32>) -> Graph {
        self.nodes.iter_mut().for_each(|node| node.region = region);
        self
    }

    /// The type of a value.
    pub fn type_of(&self, value: Value) -> &Type {
        &self.nodes[value.node as usize].types[value.slot as usize]
    }

    /// Names and types of the inputs, in order.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, Value, &Type)> {
        self.nodes.iter().enumerate().filter_map(|(i, node)| {
            let Op::Input(name) = &node.op else { return None };
            Some((name.as_str(), Value { node: i as u32, slot: 0 }, &node.types[0]))
        })
    }

    /// For every node, how often its results are used by nodes and outputs.
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        let values = self.nodes.iter().flat_map(|n| &n.inputs).chain(self.outputs.iter().map(|(_, v)| v));
        values.for_each(|v| uses[v.node as usize] += 1);
        uses
    }

    /// The results of the nodes with these names as further outputs, under the nodes' names: traces, and bisecting one reading against another.
    ///
    /// # Errors
    /// The names that no node has.
    pub fn expose(&self, names: &[&str]) -> Result<Graph, Vec<String>> {
        let mut graph = self.clone();
        let mut unknown = Vec::new();
        for name in names {
            match self.nodes.iter().position(|n| &*n.name == *name) {
                Some(i) => graph.outputs.push((name.to_string(), Value { node: i as u32, slot: 0 })),
                None => unknown.push(name.to_string()),
            }
        }
        if unknown.is_empty() { Ok(graph) } else { Err(unknown) }
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.nodes.iter().enumerate() {
            let inputs: Vec<String> = node.inputs.iter().map(|v| self.label(*v)).collect();
            let types: Vec<String> = node.types.iter().map(Type::to_string).collect();
            let region = node.region.map_or(String::new(), |r| format!(" @{r}"));
            writeln!(f, "{i:4} {} = {}({}) -> {}{region}", node.name, node.op, inputs.join(", "), types.join(", "))?;
        }
        for (name, value) in &self.outputs {
            writeln!(f, "out  {name} = {}", self.label(*value))?;
        }
        Ok(())
    }
}

impl Graph {
    fn label(&self, value: Value) -> String {
        match value.slot {
            0 => value.node.to_string(),
            slot => format!("{}.{slot}", value.node),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Linear { weight, bias, .. } => {
                write!(f, "Linear[{weight}{}]", bias.as_ref().map_or(String::new(), |b| format!(" + {b}")))
            }
            Op::Embedding { table, .. } | Op::AddPositions { table } => write!(f, "{}[{table}]", self.title()),
            Op::LayerNorm { weight, eps, .. } | Op::RmsNorm { weight, eps } => write!(f, "{}[{weight}, {eps}]", self.title()),
            Op::AddLayerNorm { weight, eps, .. } | Op::AddRmsNorm { weight, eps } => {
                write!(f, "{}[{weight}, {eps}]", self.title())
            }
            Op::Input(_) | Op::AddRow { .. } | Op::Conv2d { .. } | Op::MaxPool2d | Op::Mean { .. } => write!(f, "{self:?}"),
            Op::Relu | Op::Gelu | Op::Tanh | Op::Sigmoid | Op::SwiGlu | Op::Add | Op::Blend => write!(f, "{self:?}"),
            Op::Mix { .. } | Op::Dropout { .. } | Op::Concat { .. } | Op::Split { .. } => write!(f, "{self:?}"),
            Op::FirstToken | Op::TakeRows | Op::PermuteGroups { .. } | Op::Unpermute => write!(f, "{self:?}"),
            Op::MergeRows { .. } | Op::AxialAngles { .. } | Op::Rotary { .. } | Op::Attention { .. } => write!(f, "{self:?}"),
            Op::WindowAttention { .. } | Op::ChannelsLast | Op::Windows { .. } => write!(f, "{self:?}"),
            Op::Unwindow { .. } | Op::MergePatches => write!(f, "{self:?}"),
        }
    }
}

impl Op {
    /// The operator's name alone.
    pub fn title(&self) -> String {
        let text = format!("{self:?}");
        text.split([' ', '(', '{']).next().unwrap_or(&text).to_string()
    }
}
