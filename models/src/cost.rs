//! The reading of a network that counts: parameters, bytes of weights, work, and the memory that intermediate results need.

mod learning;

pub use learning::{Learning, Lesson, learning};

use crate::{
    graph::{AttentionKind, Dim, Graph, Kind, Node, Op, Type, Value, Weight, infer},
    weights::DType,
};
use std::collections::{BTreeMap, BTreeSet};

/// Numbers in the checkpoint tensors that these networks use together; one that several use counts once.
pub fn parameters(graphs: &[&Graph]) -> i64 {
    let all: BTreeMap<&str, i64> =
        graphs.iter().flat_map(|g| g.parameters()).map(|p| (p.key.as_str(), p.shape.iter().product())).collect();
    all.values().sum()
}

/// Bytes of those tensors when all are stored in one type.
pub fn weight_bytes(graphs: &[&Graph], dtype: DType) -> i64 {
    parameters(graphs) * dtype.size() as i64
}

/// Numbers in the adapters beside these networks' linear layers: A, B and DoRA's lengths.
pub fn adapter_parameters(graphs: &[&Graph]) -> i64 {
    let shapes: BTreeMap<&str, &[i64]> =
        graphs.iter().flat_map(|g| g.parameters()).map(|p| (p.key.as_str(), p.shape.as_slice())).collect();
    let mut modules = BTreeMap::new();
    for weight in graphs.iter().flat_map(|g| &g.nodes).flat_map(|node| node.op.weights()) {
        for_each_adapted(weight, &mut |base, module, rank, magnitude| {
            let shape = shapes[base.keys()[0]];
            let (outputs, inputs) = (shape[0], shape[1..].iter().product::<i64>());
            modules.insert(module.to_string(), rank * (inputs + outputs) + if magnitude { outputs } else { 0 });
        });
    }
    modules.values().sum()
}

/// Work and memory of one run.
#[derive(Clone, PartialEq, Debug)]
pub struct Cost {
    /// Floating-point operations; a multiplication with its addition counts as two. A layer with an adapter counts the adapter as a branch.
    pub flops: f64,
    /// Largest sum of bytes of the inputs and all intermediate results that are alive at one time, weights not included.
    pub peak_bytes: i64,
    /// The node at which that is.
    pub peak_node: String,
}

/// Why a run's cost is not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CostError {
    /// A size that inputs name was not given.
    #[error("the input `{input}` has the size {dim}, of which a part was not given")]
    UnknownSize {
        /// The input.
        input: String,
        /// The size.
        dim: String,
    },
    /// The sizes contradict each other.
    #[error("the sizes do not fit at `{node}`: {problem}")]
    Contradiction {
        /// The node.
        node: String,
        /// What does not fit.
        problem: String,
    },
}

/// Work and memory of one run without gradients, real numbers in `float`, for inputs whose named sizes `size` gives.
///
/// Memory is counted as libtorch spends it: a result lives until its last use, parts of a split share its memory, a cache is
/// changed in place, attention keeps no scores (except Swin's, whose bias needs them).
///
/// # Errors
/// A size that is not given, or sizes that contradict each other.
pub fn cost(graph: &Graph, size: &dyn Fn(&str) -> Option<i64>, float: DType) -> Result<Cost, CostError> {
    let mut types: Vec<Vec<Type>> = Vec::with_capacity(graph.nodes.len());
    let mut flops = 0.0;
    for node in &graph.nodes {
        let inputs: Vec<&Type> = node.inputs.iter().map(|v| &types[v.node as usize][v.slot as usize]).collect();
        let found = concrete(node, &inputs, size)?;
        flops += work(graph, node, &inputs, &found);
        types.push(found);
    }
    let (peak_bytes, peak_node) = peak(graph, &types, float.size() as i64);
    Ok(Cost { flops, peak_bytes, peak_node })
}

/// The node's results with numbers for all sizes.
fn concrete(node: &Node, inputs: &[&Type], size: &dyn Fn(&str) -> Option<i64>) -> Result<Vec<Type>, CostError> {
    let contradiction = |problem| CostError::Contradiction { node: node.name.to_string(), problem };
    if let Op::Input(input) = &node.op {
        let number = |dim: &Dim| {
            let unknown = || CostError::UnknownSize { input: input.clone(), dim: dim.to_string() };
            dim.evaluate(size).map(Dim::from).ok_or_else(unknown)
        };
        let dims = node.types[0].dims.iter().map(number).collect::<Result<Vec<_>, _>>()?;
        return Ok(vec![Type { kind: node.types[0].kind, dims }]);
    }
    let mut found = infer(&node.op, inputs).map_err(contradiction)?;
    // The shape rule names the number of windows; here it is counted.
    if let Op::Windows { side, .. } = &node.op {
        let map = sizes(inputs[0]);
        let each = (map[1] + side - 1) / side * ((map[2] + side - 1) / side);
        found[0].dims[0] = Dim::from(map[0] * each);
        found[1].dims[0] = Dim::from(each);
    }
    Ok(found)
}

/// Operations of one node.
fn work(graph: &Graph, node: &Node, inputs: &[&Type], found: &[Type]) -> f64 {
    let out = elements(&found[0]);
    match &node.op {
        Op::Linear { weight, outputs, .. } => {
            let width = last(inputs[0]);
            let rows = out / *outputs as f64;
            let mut branch = 0.0;
            for_each_adapted(weight, &mut |base, _, rank, _| {
                branch += 2.0 * rows * (rank * (width + rows_of(graph, base))) as f64
            });
            2.0 * out * width as f64 + branch
        }
        Op::Conv2d { kernel, .. } => 2.0 * out * (sizes(inputs[0])[1] * kernel * kernel) as f64,
        Op::Attention { kind, .. } => attention(*kind, inputs, out),
        Op::WindowAttention { side, .. } => 4.0 * out * (side * side) as f64,
        Op::LayerNorm { .. } => 8.0 * out,
        Op::RmsNorm { .. } => 4.0 * out,
        Op::AddLayerNorm { .. } => 9.0 * out,
        Op::AddRmsNorm { .. } => 5.0 * out,
        Op::Mean { .. } => elements(inputs[0]),
        Op::MaxPool2d | Op::SwiGlu | Op::Blend | Op::Mix { .. } | Op::Rotary { .. } | Op::Gelu | Op::Tanh | Op::Sigmoid => {
            4.0 * out
        }
        Op::AxialAngles { .. } => 2.0 * out,
        Op::Relu | Op::Add | Op::AddPositions { .. } | Op::AddRow { .. } => out,
        Op::Input(_) | Op::Embedding { .. } | Op::Dropout { .. } | Op::Concat { .. } | Op::Split { .. } | Op::FirstToken => 0.0,
        Op::TakeRows | Op::PermuteGroups { .. } | Op::Unpermute | Op::MergeRows { .. } | Op::ChannelsLast => 0.0,
        Op::Windows { .. } | Op::Unwindow { .. } | Op::MergePatches => 0.0,
    }
}

/// Scores and weighted sums: 4 operations for each number of the result and each key.
fn attention(kind: AttentionKind, inputs: &[&Type], out: f64) -> f64 {
    let k = sizes(inputs[1]);
    let tokens = k[k.len() - 2] as f64;
    match kind {
        AttentionKind::Full => 4.0 * out * tokens,
        AttentionKind::Causal => 4.0 * out * (tokens + 1.0) / 2.0,
        AttentionKind::Cached => 4.0 * out * sizes(inputs[3])[2] as f64,
        // As if all segments were of one length.
        AttentionKind::Segments => 4.0 * out * tokens / (sizes(inputs[3])[0] - 1).max(1) as f64,
    }
}

/// Largest bytes alive at one time, and the node at which they are.
fn peak(graph: &Graph, types: &[Vec<Type>], float: i64) -> (i64, String) {
    let owners = owners(graph);
    let mut last_use: BTreeMap<Value, usize> = BTreeMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        last_use.extend(node.inputs.iter().map(|v| (owners[v], i)));
    }
    let end = graph.nodes.len();
    let kept = graph.inputs().map(|(_, v, _)| v).chain(graph.outputs.iter().map(|(_, v)| owners[v]));
    last_use.extend(kept.map(|v| (v, end)));
    let mut alive: i64 = 0;
    let (mut most, mut at) = (0, String::new());
    for (i, node) in graph.nodes.iter().enumerate() {
        let own = |slot: usize| owners[&Value { node: i as u32, slot: slot as u8 }] == Value { node: i as u32, slot: slot as u8 };
        alive += (0..types[i].len()).filter(|slot| own(*slot)).map(|slot| bytes(&types[i][slot], float)).sum::<i64>();
        let now = alive + scratch(&node.op, &types[i], float);
        if now > most {
            (most, at) = (now, node.name.to_string());
        }
        let dying: BTreeSet<Value> = node.inputs.iter().map(|v| owners[v]).filter(|v| last_use[v] == i).collect();
        alive -= dying.iter().map(|v| bytes(&types[v.node as usize][v.slot as usize], float)).sum::<i64>();
        let unused = (0..types[i].len()).filter(|s| own(*s) && !last_use.contains_key(&Value { node: i as u32, slot: *s as u8 }));
        alive -= unused.map(|slot| bytes(&types[i][slot], float)).sum::<i64>();
    }
    (most, at)
}

/// For every value the one whose memory it uses: itself, or what it is a view of.
fn owners(graph: &Graph) -> BTreeMap<Value, Value> {
    let mut owners = BTreeMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        for slot in 0..node.types.len() as u8 {
            let own = Value { node: i as u32, slot };
            let owner = shared(&node.op, slot).map_or(own, |input| owners[&node.inputs[input]]);
            owners.insert(own, owner);
        }
    }
    owners
}

/// Which input's memory a result uses, if it has none of its own.
fn shared(op: &Op, slot: u8) -> Option<usize> {
    match op {
        Op::Split { .. } | Op::Dropout { .. } | Op::FirstToken | Op::ChannelsLast | Op::MergeRows { .. } => Some(0),
        Op::Attention { kind: AttentionKind::Cached, .. } => (slot > 0).then_some(slot as usize + 2),
        Op::Attention { kind: AttentionKind::Full | AttentionKind::Causal | AttentionKind::Segments, .. } => None,
        Op::Input(_)
        | Op::Embedding { .. }
        | Op::AddPositions { .. }
        | Op::AddRow { .. }
        | Op::Linear { .. }
        | Op::Conv2d { .. } => None,
        Op::MaxPool2d | Op::Mean { .. } | Op::LayerNorm { .. } | Op::RmsNorm { .. } => None,
        Op::AddLayerNorm { .. } | Op::AddRmsNorm { .. } | Op::Relu | Op::Gelu | Op::Tanh | Op::Sigmoid => None,
        Op::SwiGlu | Op::Add | Op::Blend | Op::Mix { .. } | Op::Concat { .. } | Op::TakeRows | Op::PermuteGroups { .. } => None,
        Op::Unpermute | Op::AxialAngles { .. } | Op::Rotary { .. } | Op::WindowAttention { .. } => None,
        Op::Windows { .. } | Op::Unwindow { .. } | Op::MergePatches => None,
    }
}

/// Bytes that an operator needs beside its inputs and results.
fn scratch(op: &Op, found: &[Type], float: i64) -> i64 {
    let out = bytes(&found[0], float);
    match op {
        // The activated gate; the products with cos and sin; the two weighted sides.
        Op::SwiGlu => out,
        Op::Rotary { .. } | Op::Blend | Op::Mix { .. } => 2 * out,
        Op::WindowAttention { heads, side, .. } => sizes(&found[0])[0] * heads * side.pow(4) * float,
        Op::Input(_)
        | Op::Embedding { .. }
        | Op::AddPositions { .. }
        | Op::AddRow { .. }
        | Op::Linear { .. }
        | Op::Conv2d { .. } => 0,
        Op::MaxPool2d | Op::Mean { .. } | Op::LayerNorm { .. } | Op::RmsNorm { .. } => 0,
        Op::AddLayerNorm { .. } | Op::AddRmsNorm { .. } | Op::Relu | Op::Gelu | Op::Tanh | Op::Sigmoid => 0,
        Op::Add | Op::Dropout { .. } | Op::Concat { .. } | Op::Split { .. } | Op::FirstToken | Op::TakeRows => 0,
        Op::PermuteGroups { .. } | Op::Unpermute | Op::MergeRows { .. } | Op::AxialAngles { .. } | Op::Attention { .. } => 0,
        Op::ChannelsLast | Op::Windows { .. } | Op::Unwindow { .. } | Op::MergePatches => 0,
    }
}

/// Base, module, rank and whether DoRA, of every adapted matrix in a weight.
fn for_each_adapted(weight: &Weight, f: &mut dyn FnMut(&Weight, &str, i64, bool)) {
    match weight {
        Weight::Key(_) | Weight::Matrix(_) => {}
        Weight::Adapted { base, module, rank, magnitude, .. } => f(base, module, *rank, *magnitude),
        Weight::Stack(parts) => parts.iter().for_each(|part| for_each_adapted(part, f)),
    }
}

/// First size of a plain weight.
fn rows_of(graph: &Graph, weight: &Weight) -> i64 {
    let keys = weight.keys();
    let parameter = graph.parameters().iter().find(|p| p.key == keys[0]);
    parameter.expect("a graph lists every key that its nodes use").shape[0]
}

fn bytes(t: &Type, float: i64) -> i64 {
    let each = match t.kind {
        Kind::Float => float,
        Kind::Int => 8,
        Kind::Bool => 1,
    };
    sizes(t).iter().product::<i64>() * each
}

fn elements(t: &Type) -> f64 {
    sizes(t).iter().map(|size| *size as f64).product()
}

fn sizes(t: &Type) -> Vec<i64> {
    t.dims.iter().map(|dim| dim.known().expect("every size was made a number before")).collect()
}

fn last(t: &Type) -> i64 {
    sizes(t).last().copied().expect("a layer's input has a last axis")
}
