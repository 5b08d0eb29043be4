//! Memory of a training step whose blocks are computed again when their gradients are due (arXiv 1604.06174).
//!
//! Each block is followed as libtorch runs it: forward with what autograd keeps of every operator, then backward with the gradients that come up and the
//! kept results that go. Attention and norms are counted as the CPU's kernels spend memory; a GPU's fused kernels spend less.

use super::{CostError, bytes, concrete, elements, for_each_adapted, last, sizes};
use crate::{
    graph::{Graph, Kind, Op, Type, Value, Weight},
    weights::DType,
};
use std::collections::{BTreeMap, BTreeSet};

/// Memory of one step beside weights, their gradients and the optimiser.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Learning {
    /// Inputs and what stands between blocks, from the forward to the backward pass.
    pub kept_bytes: i64,
    /// Most that one block needs beside that.
    pub block_bytes: i64,
    /// A node of that block.
    pub block: String,
}

/// How a network learns.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Lesson {
    /// The type in which it computes.
    pub float: DType,
    /// Whether its own weights are trained, not only adapters.
    pub all: bool,
    /// Whether numbers are dropped before an adapter's A.
    pub dropout: bool,
    /// Whether 16-bit products are made in f32, on copies of their factors.
    pub widened: bool,
}

/// Memory of one step for inputs whose named sizes `size` gives.
///
/// # Errors
/// As [`super::cost`].
pub fn learning(graph: &Graph, size: &dyn Fn(&str) -> Option<i64>, lesson: Lesson) -> Result<Learning, CostError> {
    let mut types: Vec<Vec<Type>> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let inputs: Vec<&Type> = node.inputs.iter().map(|v| &types[v.node as usize][v.slot as usize]).collect();
        types.push(concrete(node, &inputs, size)?);
    }
    let float = lesson.float.size() as i64;
    let outside: BTreeSet<Value> = (0..graph.nodes.len())
        .flat_map(|i| graph.nodes[i].inputs.iter().filter(move |v| graph.nodes[v.node as usize].region != graph.nodes[i].region))
        .chain(graph.outputs.iter().map(|(_, v)| v))
        .copied()
        .collect();
    let kept_bytes = outside.iter().map(|v| bytes(&types[v.node as usize][v.slot as usize], float)).sum();
    let mut learning = Learning { kept_bytes, block_bytes: 0, block: String::new() };
    let regions: BTreeSet<u32> = graph.nodes.iter().filter_map(|node| node.region).collect();
    for region in regions {
        let nodes: Vec<usize> = (0..graph.nodes.len()).filter(|i| graph.nodes[*i].region == Some(region)).collect();
        let most = Tape { graph, types: &types, lesson, outside: &outside }.most(&nodes);
        if most > learning.block_bytes {
            (learning.block_bytes, learning.block) = (most, graph.nodes[nodes[0]].name.to_string());
        }
    }
    Ok(learning)
}

/// What autograd does with an operator, in bytes.
#[derive(Default)]
struct Record {
    /// New tensors that it keeps for its backward pass.
    kept: i64,
    /// Inputs that it keeps.
    inputs: &'static [usize],
    /// Whether it keeps its result.
    result: bool,
    /// What it needs for a moment going forward.
    forward: i64,
    /// And going backward, beside the gradients of its result and inputs.
    backward: i64,
}

struct Tape<'t> {
    graph: &'t Graph,
    types: &'t [Vec<Type>],
    lesson: Lesson,
    outside: &'t BTreeSet<Value>,
}

impl Tape<'_> {
    /// Most bytes alive while these nodes run forward and backward.
    fn most(&self, nodes: &[usize]) -> i64 {
        let records: BTreeMap<usize, Record> = nodes.iter().map(|i| (*i, self.record(*i))).collect();
        // Until when a result is needed: forward by its last user, backward by the first node that keeps it.
        let mut last_use: BTreeMap<Value, usize> = BTreeMap::new();
        let mut keeper: BTreeMap<Value, usize> = BTreeMap::new();
        for i in nodes {
            for (at, value) in self.graph.nodes[*i].inputs.iter().enumerate() {
                last_use.insert(*value, *i);
                if records[i].inputs.contains(&at) {
                    keeper.entry(*value).or_insert(*i);
                }
            }
            if records[i].result {
                keeper.insert(Value { node: *i as u32, slot: 0 }, *i);
            }
        }
        let inside = |value: &Value| nodes.contains(&(value.node as usize));
        let (mut alive, mut most) = (0, 0);
        for i in nodes {
            let node = &self.graph.nodes[*i];
            alive += self.results(*i) + records[i].kept;
            most = most.max(alive + records[i].forward);
            let dying = node.inputs.iter().collect::<BTreeSet<_>>().into_iter().filter(|v| inside(v) && last_use[v] == *i);
            alive -= dying.filter(|v| !keeper.contains_key(v) && !self.outside.contains(v)).map(|v| self.size(v)).sum::<i64>();
        }
        // The results' gradients, and what sends them in.
        let given: Vec<Value> = self.outside.iter().filter(|v| inside(v)).copied().collect();
        let mut gradients: BTreeSet<Value> = given.iter().copied().collect();
        alive += 2 * given.iter().map(|v| self.size(v)).sum::<i64>();
        most = most.max(alive);
        for i in nodes.iter().rev() {
            let node = &self.graph.nodes[*i];
            let floats = node.inputs.iter().filter(|v| self.is_float(v) && self.carries(v)).collect::<BTreeSet<_>>();
            let new: Vec<Value> = floats.iter().copied().filter(|v| !gradients.contains(v)).copied().collect();
            // A sum passes one gradient on to both sides.
            let shares = usize::from(matches!(node.op, Op::Add));
            let summed = floats.len() - new.len();
            alive += new.iter().skip(shares).map(|v| self.size(v)).sum::<i64>();
            let sums = floats.iter().take(summed).map(|v| self.size(v)).max().unwrap_or(0);
            most = most.max(alive + records[i].backward + sums);
            gradients.extend(new);
            if shares == 0 {
                alive -= self.results(*i);
            }
            alive -= records[i].kept;
            alive -= keeper.iter().filter(|(v, k)| **k == *i && inside(v)).map(|(v, _)| self.size(v)).sum::<i64>();
        }
        most
    }

    /// Bytes of a node's own results; parts of a split have none.
    fn results(&self, node: usize) -> i64 {
        if is_view(&self.graph.nodes[node].op) {
            return 0;
        }
        self.types[node].iter().map(|t| bytes(t, self.float())).sum()
    }

    fn size(&self, value: &Value) -> i64 {
        bytes(&self.types[value.node as usize][value.slot as usize], self.float())
    }

    fn float(&self) -> i64 {
        self.lesson.float.size() as i64
    }

    fn is_float(&self, value: &Value) -> bool {
        self.types[value.node as usize][value.slot as usize].kind == Kind::Float
    }

    /// Tables of positions carry no gradient.
    fn carries(&self, value: &Value) -> bool {
        use Op::*;
        let node = &self.graph.nodes[value.node as usize];
        match &node.op {
            Input(name) => name == "inputs_embeds",
            AxialAngles { .. } => false,
            PermuteGroups { .. } => node.inputs.first().is_some_and(|first| self.carries(first)),
            Embedding { .. } | AddPositions { .. } | AddRow { .. } | Linear { .. } | Conv2d { .. } | MaxPool2d => true,
            Mean { .. } | LayerNorm { .. } | RmsNorm { .. } | AddLayerNorm { .. } | AddRmsNorm { .. } => true,
            Relu | Gelu | Tanh | Sigmoid | SwiGlu | Add | Blend | Mix { .. } | Dropout { .. } | Concat { .. } => true,
            Split { .. } | FirstToken | TakeRows | Unpermute | MergeRows { .. } | Rotary { .. } | Attention { .. } => true,
            WindowAttention { .. } | ChannelsLast | Windows { .. } | Unwindow { .. } | MergePatches => true,
        }
    }

    fn record(&self, number: usize) -> Record {
        let node = &self.graph.nodes[number];
        let input = |at: usize| &self.types[node.inputs[at].node as usize][node.inputs[at].slot as usize];
        let own = &self.types[number][0];
        let (out, f) = (elements(own) as i64, self.float());
        let x = if node.inputs.is_empty() { 0 } else { elements(input(0)) as i64 };
        let wide = |count: i64| if f < 4 { 4 * count } else { 0 };
        match &node.op {
            Op::Linear { weight, .. } => self.linear(weight, (input(0), x), out),
            Op::RmsNorm { .. } | Op::AddRmsNorm { .. } | Op::LayerNorm { .. } | Op::AddLayerNorm { .. } => {
                let inputs: &[usize] = if f < 4 { &[] } else { &[0] };
                Record { kept: wide(x), inputs, forward: 8 * x, backward: 12 * x, ..Record::default() }
            }
            Op::Rotary { heads } => {
                let tables = if node.inputs.len() > 3 { 4 * x / heads } else { 0 };
                Record { kept: tables, forward: wide(x) + 8 * x, backward: 8 * x, ..Record::default() }
            }
            Op::Attention { .. } if self.lesson.widened => {
                let factors: i64 = (0..3).map(|at| elements(input(at)) as i64).sum();
                Record { kept: 4 * (factors + out), forward: 0, backward: 4 * (factors + out), ..Record::default() }
            }
            Op::Attention { .. } => Record { inputs: &[0, 1, 2], result: true, backward: f * out, ..Record::default() },
            Op::WindowAttention { heads, side, .. } => {
                let scores = sizes(own)[0] * heads * side.pow(4) * f;
                Record { kept: 2 * scores, inputs: &[0, 1, 2], backward: scores, ..Record::default() }
            }
            Op::SwiGlu => Record { kept: f * out, inputs: &[0, 1], backward: f * out, ..Record::default() },
            Op::Gelu => Record { inputs: &[0], ..Record::default() },
            Op::Relu | Op::Tanh | Op::Sigmoid => Record { result: true, ..Record::default() },
            Op::Mix { .. } => Record { forward: f * out, backward: f * out, ..Record::default() },
            Op::Blend => Record { kept: f * out, inputs: &[0, 1, 2], backward: 2 * f * out, ..Record::default() },
            Op::Dropout { .. } => Record { kept: f * out, ..Record::default() },
            Op::Conv2d { .. } | Op::MaxPool2d => Record { inputs: &[0], ..Record::default() },
            Op::Mean { .. } => Record { forward: wide(x), ..Record::default() },
            Op::Input(_) | Op::Embedding { .. } | Op::AddPositions { .. } | Op::AddRow { .. } | Op::Add => Record::default(),
            Op::Concat { .. } | Op::Split { .. } | Op::FirstToken | Op::TakeRows | Op::PermuteGroups { .. } => Record::default(),
            Op::Unpermute | Op::MergeRows { .. } | Op::AxialAngles { .. } | Op::ChannelsLast => Record::default(),
            Op::Windows { .. } | Op::Unwindow { .. } | Op::MergePatches => Record::default(),
        }
    }

    /// The base is frozen beside an adapter, and then keeps nothing; the adapter keeps its f32 input and what A makes of it.
    fn linear(&self, weight: &Weight, (input, x): (&Type, i64), out: i64) -> Record {
        let f = self.float();
        let width = last(input);
        let mut record = Record::default();
        let own = width * out / (x / width).max(1);
        let mut adapted = false;
        for_each_adapted(weight, &mut |_, _, rank, magnitude| {
            adapted = true;
            let copy = match (self.lesson.dropout, f < 4) {
                (true, narrow) => x * f + if narrow { 4 * x } else { x * f },
                (false, true) => 4 * x,
                (false, false) => 0,
            };
            let lengths = if magnitude { 4 * out + if f < 4 { 4 * out } else { 0 } } else { 0 };
            record.kept += copy + 4 * rank * x / width + lengths;
        });
        if adapted {
            if f == 4 && !self.lesson.dropout {
                record.inputs = &[0];
            }
            record.forward = 8 * out + f * out;
            record.backward = 8 * out + 4 * x + if f < 4 { f * x } else { 0 };
        } else if self.lesson.all {
            record.inputs = &[0];
            record.kept = if f < 4 { f * own } else { 0 };
            record.backward = 4 * own;
        }
        if self.lesson.widened {
            record.kept += 4 * own + if self.lesson.all { 4 * x } else { 0 };
            record.forward += 4 * (out + x);
            record.backward += 4 * (out + x);
        }
        record
    }
}

/// Whether a result is part of what is there already, and takes no memory of its own.
fn is_view(op: &Op) -> bool {
    use Op::*;
    match op {
        Split { .. } | Input(_) => true,
        Embedding { .. } | AddPositions { .. } | AddRow { .. } | Linear { .. } | Conv2d { .. } | MaxPool2d => false,
        Mean { .. } | LayerNorm { .. } | RmsNorm { .. } | AddLayerNorm { .. } | AddRmsNorm { .. } => false,
        Relu | Gelu | Tanh | Sigmoid | SwiGlu | Add | Blend | Mix { .. } | Dropout { .. } | Concat { .. } => false,
        FirstToken | TakeRows | PermuteGroups { .. } | Unpermute | MergeRows { .. } | AxialAngles { .. } => false,
        Rotary { .. } | Attention { .. } | WindowAttention { .. } | ChannelsLast | Windows { .. } => false,
        Unwindow { .. } | MergePatches => false,
    }
}
