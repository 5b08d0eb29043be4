//! A graph bound to its weights.

use super::{
    Leaf, PlanOptions, Randomness, TorchError, blocked,
    error::failed,
    inputs::Inputs,
    leaves::{Leaves, Parameter},
    partition::Partition,
    run::{Run, Slots},
};
use mmlnb_models::{
    graph::{Graph, Node},
    weights::Weights,
};
use std::borrow::Borrow;
use tch::{TchError, Tensor};

/// Is shown each node with what goes into it, before the node runs; between convolutions that may be in oneDNN's layout (`in_rows`).
pub type Watch<'w> = dyn FnMut(&Node, &[&Tensor]) -> Result<(), TchError> + 'w;

/// A graph bound to tensors on a device, ready to run.
#[derive(Debug)]
pub struct Plan {
    pub(super) graph: Graph,
    pub(super) slots: Slots,
    pub(super) inputs: Inputs,
    pub(super) leaves: Leaves,
    pub(super) parameters: Vec<Vec<Parameter>>,
    pub(super) partition: Partition,
    pub(super) options: PlanOptions,
    whole: Run,
}

impl Plan {
    /// Loads the weights that the graph uses. Check the checkpoint against `graph.parameters()` first: that lists everything that does not
    /// fit at once.
    ///
    /// # Errors
    /// Weights that are absent or cannot be loaded.
    pub fn new(graph: &Graph, weights: &Weights<'_>, options: &PlanOptions) -> Result<Plan, TorchError> {
        Plan::sharing(graph, weights, options, &[])
    }

    /// As [`Plan::new`], but a weight that one of `others` holds already is the same tensor here, whatever training has made of it: two readings
    /// of one network take the memory of one. `others` must have been made with the same device, kind and adapters.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn sharing(graph: &Graph, weights: &Weights<'_>, options: &PlanOptions, others: &[&Plan]) -> Result<Plan, TorchError> {
        let others: Vec<&Leaves> = others.iter().map(|plan| &plan.leaves).collect();
        let (leaves, parameters) = Leaves::load(graph, weights, options, &others)?;
        let slots = Slots::new(graph);
        let whole = Run::new(graph, &slots, 0..graph.nodes.len());
        let partition = Partition::new(graph, &slots);
        let inputs = Inputs::new(graph, &slots, options.device);
        Ok(Plan { graph: graph.clone(), slots, inputs, leaves, parameters, partition, options: *options, whole })
    }

    /// The tensors that it owns, in order of first use.
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves.all
    }

    /// Runs without gradients and without dropout; every tensor is dropped after its last use. `inputs`: every input by name, floats in any
    /// precision, integers as i64 or i32.
    ///
    /// # Errors
    /// Inputs that do not fit, and what libtorch refuses, with the node's name.
    pub fn forward<S: AsRef<str>, T: Borrow<Tensor>>(&self, inputs: &[(S, T)]) -> Result<Outputs, TorchError> {
        self.forward_watched(inputs, &mut |_, _| Ok(()))
    }

    /// As [`Plan::forward`]; `watch` is shown what goes into each node.
    ///
    /// # Errors
    /// As [`Plan::forward`], and those of `watch`.
    pub fn forward_watched<S: AsRef<str>, T: Borrow<Tensor>>(
        &self,
        inputs: &[(S, T)],
        watch: &mut Watch<'_>,
    ) -> Result<Outputs, TorchError> {
        let _inference = tch::no_grad_guard();
        let mut values = self.bind(inputs)?;
        let given = self.whole.take_inputs(&mut values);
        drop(values);
        let results = self.execute_watched(&self.whole, given, None, watch)?;
        Ok(self.named(|slot| self.whole.result(&results, slot)))
    }

    /// The inputs in their slots.
    pub(super) fn bind<S: AsRef<str>, T: Borrow<Tensor>>(&self, inputs: &[(S, T)]) -> Result<Vec<Option<Tensor>>, TorchError> {
        let mut values = self.slots.empty();
        self.inputs.bind(inputs, &mut values)?;
        Ok(values)
    }

    /// Outputs by name; every output has a value once all runs are done.
    pub(super) fn named<'t>(&self, value: impl Fn(usize) -> Option<&'t Tensor>) -> Outputs {
        let named = self.graph.outputs.iter().filter_map(|(name, v)| {
            let tensor = value(self.slots.of(*v))?;
            Some((name.clone(), tensor.shallow_clone()))
        });
        Outputs(named.collect())
    }

    /// Runs nodes on the run's inputs; the run's results in its order.
    pub(super) fn execute(
        &self,
        run: &Run,
        given: Vec<Tensor>,
        randomness: Option<Randomness>,
    ) -> Result<Vec<Tensor>, TorchError> {
        self.execute_watched(run, given, randomness, &mut |_, _| Ok(()))
    }

    fn execute_watched(
        &self,
        run: &Run,
        given: Vec<Tensor>,
        randomness: Option<Randomness>,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Tensor>, TorchError> {
        let mut values = self.slots.empty();
        run.place_inputs(given, &mut values);
        for step in &run.steps {
            let results = self.step(step.node, &values, randomness, watch)?;
            let first = self.slots.first(step.node);
            for (slot, result) in results.into_iter().enumerate() {
                values[first + slot] = Some(result);
            }
            step.last_uses.iter().for_each(|slot| values[*slot] = None);
        }
        let results = run.take_results(&mut values);
        let in_rows = |(slot, result): (&usize, Tensor)| {
            let node = || &self.graph.nodes[self.slots.node(*slot)];
            blocked::in_rows(result).map_err(|error| failed(node(), &[], &error))
        };
        run.results.iter().zip(results).map(in_rows).collect()
    }
}

/// A network's results by name, in the graph's order.
#[derive(Debug)]
pub struct Outputs(Vec<(String, Tensor)>);

impl Outputs {
    /// The result of this name.
    ///
    /// # Errors
    /// A name that the network does not have.
    pub fn get(&self, name: &str) -> Result<&Tensor, TorchError> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor).ok_or_else(|| TorchError::Output {
            name: name.into(),
            known: self.0.iter().map(|(known, _)| known.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// All results.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}
