//! Graph to graph: sweeping, the fusions across operators, adapters.

use super::{Dim, Graph, Node, Op, Parameter, Type, Value, Weight};
use std::collections::HashMap;

/// What an adapter does to one linear layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Adaption {
    /// Rank of A and B.
    pub rank: i64,
    /// Factor of B A.
    pub scale: f64,
    /// DoRA: rows are brought to stored lengths.
    pub magnitude: bool,
}

/// Modules of an adapter that match no linear layer of the network.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the adapter names modules that the network does not have: {}", .0.join(", "))]
pub struct NoSuchModule(pub Vec<String>);

impl Graph {
    /// The graph without nodes whose results nobody uses. Inputs stay: they are the interface.
    pub fn swept(&self) -> Graph {
        let mut used = vec![false; self.nodes.len()];
        for (_, value) in &self.outputs {
            used[value.node as usize] = true;
        }
        for i in (0..self.nodes.len()).rev() {
            used[i] |= matches!(self.nodes[i].op, Op::Input(_));
            if used[i] {
                self.nodes[i].inputs.iter().for_each(|v| used[v.node as usize] = true);
            }
        }
        let mut moved = HashMap::new();
        let mut nodes = Vec::new();
        for (i, node) in self.nodes.iter().enumerate().filter(|(i, _)| used[*i]) {
            moved.insert(i as u32, nodes.len() as u32);
            nodes.push(node.clone());
        }
        let graph = Graph { nodes, outputs: self.outputs.clone(), parameters: self.parameters.clone() };
        graph.with_values(|v| Value { node: moved[&v.node], ..v }).with_used_parameters()
    }

    /// The network for inputs of these sizes: every size of a tensor becomes a number where `size` gives one for all names in it.
    pub fn at_sizes(&self, size: &dyn Fn(&str) -> Option<i64>) -> Graph {
        let mut graph = self.clone();
        let dims = graph.nodes.iter_mut().flat_map(|node| &mut node.types).flat_map(|t| &mut t.dims);
        dims.for_each(|dim| *dim = dim.evaluate(size).map_or_else(|| dim.clone(), Dim::from));
        graph
    }

    /// Residual + norm: `norm(x + y)` becomes one node that gives the norm and the sum, wherever a norm takes a sum.
    pub fn fuse_residual_norms(&self) -> Graph {
        let mut graph = self.clone();
        let mut redirect: HashMap<Value, Value> = HashMap::new();
        for i in 0..self.nodes.len() {
            let norm = &self.nodes[i];
            let Some(fused) = norm.op.with_sum() else { continue };
            let sum = norm.inputs[0];
            // The fused node takes the sum's place, so that every other user of the sum comes after it; a second norm of one sum stays plain.
            if self.nodes[sum.node as usize].op != Op::Add || redirect.contains_key(&sum) {
                continue;
            }
            let node = &mut graph.nodes[sum.node as usize];
            node.op = fused;
            node.name = norm.name.clone();
            node.types = vec![norm.types[0].clone(), norm.types[0].clone()];
            redirect.insert(sum, Value { slot: 1, ..sum });
            redirect.insert(Value { node: i as u32, slot: 0 }, sum);
        }
        // A chain cannot arise: a redirected sum is slot 1 of a fused node, a redirected norm its slot 0.
        for node in &mut graph.nodes {
            node.inputs.iter_mut().for_each(|v| *v = redirect.get(v).copied().unwrap_or(*v));
        }
        graph.outputs.iter_mut().for_each(|(_, v)| *v = redirect.get(v).copied().unwrap_or(*v));
        graph.swept()
    }

    /// Linears of one input: their matrices become one stack, their results a split of one product.
    pub fn stack_linears(&self) -> Graph {
        self.stack_linears_of(2)
    }

    /// The same, only where at least `least` linears have one input.
    pub fn stack_linears_of(&self, least: usize) -> Graph {
        let mut groups: HashMap<(Value, bool, Option<u32>), Vec<usize>> = HashMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            if let Op::Linear { weight: Weight::Key(_) | Weight::Adapted { .. }, bias, .. } = &node.op {
                groups.entry((node.inputs[0], bias.is_some(), node.region)).or_default().push(i);
            }
        }
        let mut first: HashMap<usize, Vec<usize>> = HashMap::new();
        groups.into_values().filter(|g| g.len() >= least.max(2)).for_each(|g| drop(first.insert(g[0], g)));
        let mut nodes: Vec<Node> = Vec::new();
        let mut moved: HashMap<Value, Value> = HashMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let own = Value { node: i as u32, slot: 0 };
            if moved.contains_key(&own) {
                continue;
            }
            let mut node = node.clone();
            node.inputs.iter_mut().for_each(|v| *v = moved[v]);
            let Some(group) = first.get(&i) else {
                for slot in 0..node.types.len() as u8 {
                    moved.insert(Value { slot, ..own }, Value { node: nodes.len() as u32, slot });
                }
                nodes.push(node);
                continue;
            };
            let (stacked, split) = stack(group.iter().map(|g| &self.nodes[*g]).collect(), &node, nodes.len() as u32);
            for (slot, g) in group.iter().enumerate() {
                let value = Value { node: nodes.len() as u32 + 1, slot: slot as u8 };
                moved.insert(Value { node: *g as u32, slot: 0 }, value);
            }
            nodes.extend([stacked, split]);
        }
        let outputs = self.outputs.iter().map(|(name, v)| (name.clone(), moved[v])).collect();
        Graph { nodes, outputs, parameters: self.parameters.clone() }.swept()
    }

    /// The network with an adapter beside the linear layers that `adaption` names by module path (a key without `.weight`).
    ///
    /// # Errors
    /// Modules in `expected` that are no linear layer here.
    pub fn adapt(&self, adaption: &dyn Fn(&str) -> Option<Adaption>, expected: &[String]) -> Result<Graph, NoSuchModule> {
        let mut graph = self.clone();
        let mut seen = Vec::new();
        for node in &mut graph.nodes {
            let Op::Linear { weight, .. } = &mut node.op else { continue };
            let Weight::Key(key) = &*weight else { continue };
            let module = key.trim_end_matches(".weight").to_string();
            let Some(Adaption { rank, scale, magnitude }) = adaption(&module) else { continue };
            seen.push(module.clone());
            *weight = Weight::Adapted { base: Box::new(weight.clone()), module, rank, scale_bits: scale.to_bits(), magnitude };
        }
        let missing: Vec<String> = expected.iter().filter(|m| !seen.contains(m)).cloned().collect();
        if missing.is_empty() { Ok(graph) } else { Err(NoSuchModule(missing)) }
    }

    fn with_values(mut self, map: impl Fn(Value) -> Value) -> Graph {
        self.nodes.iter_mut().flat_map(|n| n.inputs.iter_mut()).for_each(|v| *v = map(*v));
        self.outputs.iter_mut().for_each(|(_, v)| *v = map(*v));
        self
    }

    fn with_used_parameters(mut self) -> Graph {
        let used: Vec<String> =
            self.nodes.iter().flat_map(|n| n.op.weights()).flat_map(|w| w.keys()).map(str::to_string).collect();
        let used: std::collections::HashSet<&str> = used.iter().map(String::as_str).collect();
        self.parameters.retain(|Parameter { key, .. }| used.contains(key.as_str()));
        self
    }
}

/// One product for all of `group`, and the split of its result.
fn stack(group: Vec<&Node>, like: &Node, index: u32) -> (Node, Node) {
    let mut weights = Vec::new();
    let mut biases = Vec::new();
    let mut sizes = Vec::new();
    for node in &group {
        let Op::Linear { weight, bias, outputs } = &node.op else { unreachable!("groups hold linears only") };
        weights.push(weight.clone());
        biases.extend(bias.clone());
        sizes.push(*outputs);
    }
    let weight = Weight::Stack(weights);
    let bias = (!biases.is_empty()).then_some(Weight::Stack(biases));
    let outputs = sizes.iter().sum();
    let name = weight.name().trim_end_matches(".weight").to_string();
    let whole: Type = like.types[0].with_last(outputs);
    let axis = whole.dims.len() - 1;
    let split = Node {
        op: Op::Split { axis, sizes },
        inputs: vec![Value { node: index, slot: 0 }],
        types: group.iter().map(|n| n.types[0].clone()).collect(),
        name: format!("{name}.split").into(),
        ..like.clone()
    };
    (Node { op: Op::Linear { weight, bias, outputs }, types: vec![whole], name: name.into(), ..like.clone() }, split)
}

impl Op {
    /// The weights that the operator uses.
    pub fn weights(&self) -> Vec<&Weight> {
        match self {
            Op::Embedding { table, .. } | Op::AddPositions { table } | Op::AddRow { table, .. } => vec![table],
            Op::WindowAttention { table, .. } => vec![table],
            Op::Linear { weight, bias, .. } | Op::Conv2d { weight, bias, .. } => std::iter::once(weight).chain(bias).collect(),
            Op::LayerNorm { weight, bias, .. } | Op::AddLayerNorm { weight, bias, .. } => vec![weight, bias],
            Op::RmsNorm { weight, .. } | Op::AddRmsNorm { weight, .. } => vec![weight],
            Op::Input(_) | Op::MaxPool2d | Op::Mean { .. } | Op::Relu | Op::Gelu | Op::Tanh | Op::Sigmoid => vec![],
            Op::SwiGlu | Op::Add | Op::Blend | Op::Mix { .. } | Op::Dropout { .. } | Op::Concat { .. } | Op::Split { .. } => {
                vec![]
            }
            Op::FirstToken | Op::TakeRows | Op::PermuteGroups { .. } | Op::Unpermute => vec![],
            Op::MergeRows { .. } | Op::AxialAngles { .. } | Op::Rotary { .. } | Op::Attention { .. } => vec![],
            Op::ChannelsLast | Op::Windows { .. } | Op::Unwindow { .. } | Op::MergePatches => vec![],
        }
    }
}
