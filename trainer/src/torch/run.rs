//! Stretches of a graph: which values go in, which come out, and when each is used last.

use mmlnb_models::graph::{Graph, Op, Value};
use std::{collections::BTreeSet, ops::Range};
use tch::Tensor;

/// Numbers all results of all nodes, so that values stand in one flat list.
#[derive(Debug)]
pub(super) struct Slots {
    firsts: Vec<usize>,
    count: usize,
}

impl Slots {
    pub fn new(graph: &Graph) -> Slots {
        let mut count = 0;
        let mut firsts = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            firsts.push(count);
            count += node.types.len();
        }
        Slots { firsts, count }
    }

    /// Number of a node's first result.
    pub fn first(&self, node: usize) -> usize {
        self.firsts[node]
    }

    /// The node that makes a result.
    pub fn node(&self, slot: usize) -> usize {
        self.firsts.partition_point(|first| *first <= slot) - 1
    }

    /// Number of a value.
    pub fn of(&self, value: Value) -> usize {
        self.firsts[value.node as usize] + usize::from(value.slot)
    }

    /// A place for every value, all empty.
    pub fn empty(&self) -> Vec<Option<Tensor>> {
        std::iter::repeat_with(|| None).take(self.count).collect()
    }
}

/// A stretch of nodes.
#[derive(Debug)]
pub(super) struct Run {
    /// Its nodes, in order.
    pub steps: Vec<Step>,
    /// Slots made before it that it uses.
    pub inputs: Vec<usize>,
    /// Slots that it makes and that later nodes or the graph's outputs use.
    pub results: Vec<usize>,
}

/// A node, and the slots that nothing in the run needs after it.
#[derive(Debug)]
pub(super) struct Step {
    pub node: usize,
    pub last_uses: Vec<usize>,
}

impl Run {
    /// The nodes of `range`, the graph's inputs left out: those are given.
    pub fn new(graph: &Graph, slots: &Slots, range: Range<usize>) -> Run {
        let mut made = BTreeSet::new();
        let mut inputs = BTreeSet::new();
        let mut steps = Vec::new();
        for node in range.clone().filter(|n| !matches!(graph.nodes[*n].op, Op::Input(_))) {
            inputs.extend(graph.nodes[node].inputs.iter().map(|v| slots.of(*v)).filter(|slot| !made.contains(slot)));
            made.extend(slots.first(node)..slots.first(node) + graph.nodes[node].types.len());
            steps.push(Step { node, last_uses: Vec::new() });
        }
        let later = graph.nodes[range.end..].iter().flat_map(|n| &n.inputs).chain(graph.outputs.iter().map(|(_, v)| v));
        let later: BTreeSet<usize> = later.map(|v| slots.of(*v)).collect();
        // A graph may give an input back unchanged.
        let whole = range == (0..graph.nodes.len());
        let passed = later.iter().copied().filter(|slot| whole && !made.contains(slot));
        inputs.extend(passed);
        let results: BTreeSet<usize> =
            later.iter().copied().filter(|s| made.contains(s) || (whole && inputs.contains(s))).collect();
        let mut run = Run { steps, inputs: inputs.into_iter().collect(), results: results.into_iter().collect() };
        run.find_last_uses(graph, slots);
        run
    }

    fn find_last_uses(&mut self, graph: &Graph, slots: &Slots) {
        let mut needed: BTreeSet<usize> = self.results.iter().copied().collect();
        for step in self.steps.iter_mut().rev() {
            let node = &graph.nodes[step.node];
            let first = slots.first(step.node);
            let touched = node.inputs.iter().map(|v| slots.of(*v)).chain(first..first + node.types.len());
            step.last_uses = touched.filter(|slot| needed.insert(*slot)).collect();
        }
    }

    /// Its inputs out of the graph's values, which keep them.
    pub fn inputs_of(&self, values: &[Option<Tensor>]) -> Vec<Tensor> {
        self.inputs.iter().map(|slot| values[*slot].as_ref().expect("earlier runs made it").shallow_clone()).collect()
    }

    /// Its inputs out of the graph's values, which lose them.
    pub fn take_inputs(&self, values: &mut [Option<Tensor>]) -> Vec<Tensor> {
        self.inputs.iter().map(|slot| values[*slot].take().expect("every input was bound")).collect()
    }

    /// Puts inputs, in the order of `inputs`, into their slots.
    pub fn place_inputs(&self, given: Vec<Tensor>, values: &mut [Option<Tensor>]) {
        self.inputs.iter().zip(given).for_each(|(slot, tensor)| values[*slot] = Some(tensor));
    }

    /// Its results in order.
    pub fn take_results(&self, values: &mut [Option<Tensor>]) -> Vec<Tensor> {
        self.results.iter().map(|slot| values[*slot].take().expect("the run's nodes made it")).collect()
    }

    /// The result in this slot.
    pub fn result<'t>(&self, results: &'t [Tensor], slot: usize) -> Option<&'t Tensor> {
        self.results.iter().position(|s| *s == slot).map(|i| &results[i])
    }
}
