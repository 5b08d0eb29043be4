//! On which side of a GPU ONNX Runtime runs the nodes of a graph, and what it copies between the sides.

use super::kernels::{Kernel, Kernels, elements, types_of};
use mmlnb_exporter::nodes::{Elem, OnnxGraph};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Nodes on the processor and values that are copied, each run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    pub on_cpu: usize,
    pub down: usize,
    pub up: usize,
}

/// Initialisers up to this size count as at hand on both sides.
const SMALL: i64 = 100;

/// The rules of ONNX Runtime: nodes of constants are computed once, while loading; nodes without a CUDA kernel run on the processor; so do nodes that
/// only take what is there already and what their CUDA kernel would have uploaded (fallback_cpu_capability.cc, GetCpuPreferredNodes); each value
/// that is needed on the other side is copied once for each direction (transformer_memcpy.cc).
pub fn placement(graph: &OnnxGraph, kernels: &Kernels) -> Placement {
    let elems = elements(graph);
    let mut constants: HashSet<&str> = graph.initialisers.iter().map(|initialiser| initialiser.name.as_str()).collect();
    let small: HashSet<&str> = graph
        .initialisers
        .iter()
        .filter(|initialiser| initialiser.dims.iter().product::<i64>() <= SMALL)
        .map(|initialiser| initialiser.name.as_str())
        .collect();
    let mut folded = HashSet::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        if node.inputs.iter().all(|name| name.is_empty() || constants.contains(name.as_str())) {
            folded.insert(index);
            constants.extend(node.outputs.iter().map(String::as_str));
        }
    }
    let kernel_of = |index: usize| -> Option<&Kernel> {
        let node = &graph.nodes[index];
        let [inputs, outputs] = types_of(node, &elems);
        kernels.find(node, graph.opset(), &inputs, &outputs)
    };
    let live: Vec<usize> = (0..graph.nodes.len()).filter(|index| !folded.contains(index)).collect();
    let found: HashMap<usize, Option<&Kernel>> = live.iter().map(|index| (*index, kernel_of(*index))).collect();
    let users = |value: &str| {
        live.iter().copied().filter(|i| graph.nodes[*i].inputs.iter().any(|name| name == value)).collect::<Vec<_>>()
    };

    let mut on_host: HashSet<&str> = HashSet::new();
    let mut candidates: BTreeSet<usize> = BTreeSet::new();
    for index in &live {
        for (place, value) in graph.nodes[*index].outputs.iter().enumerate() {
            if found[index].is_none_or(|kernel| kernel.host_outputs.contains(&place)) {
                on_host.insert(value);
                candidates.extend(users(value));
            }
        }
    }
    let given: HashSet<&str> = graph.inputs.iter().map(|port| port.name.as_str()).collect();
    let mut on_cpu: HashSet<usize> = live.iter().copied().filter(|index| found[index].is_none()).collect();
    // Candidates come in the order of the graph, each once: what one of them adds comes after it.
    while let Some(index) = candidates.pop_first() {
        let (node, Some(kernel)) = (&graph.nodes[index], found[&index]) else { continue };
        let stays = |(place, value): (usize, &String)| {
            let value = value.as_str();
            let narrow = matches!(elems.get(value), Some(Elem::F16 | Elem::Bf16));
            let at_hand = small.contains(value) || given.contains(value);
            !narrow && (value.is_empty() || at_hand || (on_host.contains(value) && !kernel.host_inputs.contains(&place)))
        };
        if node.inputs.iter().enumerate().all(stays) {
            on_cpu.insert(index);
            for value in &node.outputs {
                on_host.insert(value);
                candidates.extend(users(value));
            }
        }
    }

    let (mut down, mut up) = (HashSet::new(), HashSet::new());
    for index in &live {
        for (place, value) in graph.nodes[*index].inputs.iter().enumerate() {
            let value = value.as_str();
            if value.is_empty() || constants.contains(value) || given.contains(value) {
                continue;
            }
            let wanted = on_cpu.contains(index) || found[index].is_some_and(|kernel| kernel.host_inputs.contains(&place));
            match (on_host.contains(value), wanted) {
                (true, false) => drop(up.insert(value)),
                (false, true) => drop(down.insert(value)),
                _ => {}
            }
        }
    }
    Placement { on_cpu: on_cpu.len(), down: down.len(), up: up.len() }
}
