//! Training that keeps only what stands between blocks and computes each block again when its gradients are due.
//!
//! All nodes up to the last block are cut into runs of equal block. A run goes forward without gradients; what later runs use of it becomes a
//! leaf. Backward, from the last run to the first, each is computed again on the same inputs and receives its leaf's gradient. Inputs are
//! leaves of earlier runs, so that gradients of a value with several users add up by themselves. (Chen et al., arXiv 1604.06174.)

use super::{
    Outputs, Plan, Randomness, TorchError, first_line,
    leaves::{Leaves, Parameter},
    run::Run,
};
use std::borrow::Borrow;
use tch::{Kind, TchError, Tensor};

/// A forward pass that waits for its gradients.
#[must_use = "gradients reach the weights in `backward`"]
#[derive(Debug)]
pub struct Pass<'p> {
    plan: &'p Plan,
    outputs: Outputs,
    values: Vec<Option<Tensor>>,
    /// Runs that have something to learn.
    tape: Vec<usize>,
    /// Inputs that carry gradients: as given, and the slot of the leaf that stands for it.
    carried: Vec<(Tensor, usize)>,
    randomness: Randomness,
}

impl Plan {
    /// Runs for training: with dropout, and with outputs from which a loss can be made. Which leaves are trained is read off the leaves
    /// themselves, so that parts can be frozen between steps.
    ///
    /// # Errors
    /// As [`Plan::forward`].
    pub fn forward_for_training<S: AsRef<str>, T: Borrow<Tensor>>(
        &self,
        inputs: &[(S, T)],
        randomness: Randomness,
    ) -> Result<Pass<'_>, TorchError> {
        let mut values = self.bind(inputs)?;
        let carried = if self.partition.runs.is_empty() { Vec::new() } else { cut_off(&mut values)? };
        let mut tape = Vec::new();
        for (number, run) in self.partition.runs.iter().enumerate() {
            let given = run.inputs_of(&values);
            let learns = given.iter().any(Tensor::requires_grad) || self.is_trained(run);
            let results = tch::no_grad(|| self.execute(run, given, Some(randomness)))?;
            for (slot, result) in run.results.iter().zip(results) {
                values[*slot] = Some(if learns { as_leaf(&result)? } else { result });
            }
            if learns {
                tape.push(number);
            }
        }
        let tail = &self.partition.tail;
        let results = self.execute(tail, tail.inputs_of(&values), Some(randomness))?;
        let outputs = self.named(|slot| tail.result(&results, slot).or(values[slot].as_ref()));
        Ok(Pass { plan: self, outputs, values, tape, carried, randomness })
    }

    fn is_trained(&self, run: &Run) -> bool {
        run.steps.iter().flat_map(|step| &self.parameters[step.node]).any(|p| is_trained(p, &self.leaves))
    }
}

impl Pass<'_> {
    /// The results. Those that depend on trained weights carry gradients.
    pub fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// Sends a loss's gradient to every trained leaf and every input that carries gradients; they add up over passes.
    ///
    /// # Errors
    /// What libtorch refuses, and which block it was.
    pub fn backward(self, loss: &Tensor) -> Result<(), TorchError> {
        loss.f_backward().map_err(|error| failed("from the loss", &error))?;
        self.propagate()
    }

    /// The second half of [`Pass::backward`], for a plan whose outputs went into another plan: call it when the later plan's backward pass is
    /// done, so that gradients have reached this plan's outputs.
    ///
    /// # Errors
    /// As [`Pass::backward`].
    pub fn propagate(mut self) -> Result<(), TorchError> {
        // Outputs hold the tail's memory, whose work is done.
        self.outputs = self.plan.named(|_| None);
        while let Some(number) = self.tape.pop() {
            let run = &self.plan.partition.runs[number];
            let name = || self.plan.graph.nodes[run.steps[0].node].name.to_string();
            let gradients: Vec<Tensor> = run.results.iter().map(|slot| gradient(self.values[*slot].take())).collect();
            if gradients.iter().any(Tensor::defined) {
                let again = self.plan.execute(run, run.inputs_of(&self.values), Some(self.randomness))?;
                push(&again, &gradients).map_err(|error| failed(&name(), &error))?;
            }
        }
        for (given, slot) in &self.carried {
            let gradient = gradient(self.values[*slot].take());
            push(std::slice::from_ref(given), &[gradient]).map_err(|error| failed("to the inputs", &error))?;
        }
        Ok(())
    }
}

/// Replaces inputs that carry gradients by leaves; what they were, and where.
fn cut_off(values: &mut [Option<Tensor>]) -> Result<Vec<(Tensor, usize)>, TorchError> {
    let mut carried = Vec::new();
    for (slot, value) in values.iter_mut().enumerate() {
        if let Some(given) = value.take_if(|tensor| tensor.requires_grad()) {
            *value = Some(as_leaf(&given)?);
            carried.push((given, slot));
        }
    }
    Ok(carried)
}

/// The same numbers, gradients ending there; integers have none.
fn as_leaf(tensor: &Tensor) -> Result<Tensor, TorchError> {
    let real = matches!(tensor.kind(), Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double);
    let leaf = tensor.f_detach().and_then(|leaf| leaf.f_set_requires_grad(real));
    leaf.map_err(|error| failed("between blocks", &error))
}

fn gradient(leaf: Option<Tensor>) -> Tensor {
    leaf.filter(Tensor::requires_grad).map_or_else(Tensor::new, |leaf| leaf.grad())
}

/// Sends gradients into tensors: the derivative of `sum(tensor * gradient)` is the gradient.
fn push(tensors: &[Tensor], gradients: &[Tensor]) -> Result<(), TchError> {
    let mut sum: Option<Tensor> = None;
    for (tensor, gradient) in tensors.iter().zip(gradients).filter(|(t, g)| t.requires_grad() && g.defined()) {
        let part = tensor.f_mul(gradient)?.f_sum(Kind::Float)?;
        sum = Some(match sum {
            Some(sum) => sum.f_add(&part)?,
            None => part,
        });
    }
    sum.map_or(Ok(()), |sum| sum.f_backward())
}

fn is_trained(parameter: &Parameter, leaves: &Leaves) -> bool {
    let trained = |leaf: usize| leaves.leaf(leaf).requires_grad();
    match parameter {
        Parameter::Leaf(leaf) | Parameter::Matrix(leaf) => trained(*leaf),
        Parameter::Adapted { branch, .. } => {
            trained(branch.a) || trained(branch.b) || branch.magnitude.as_ref().is_some_and(|m| trained(m.leaf))
        }
        Parameter::Stack(parts) => parts.iter().any(|part| is_trained(part, leaves)),
    }
}

fn failed(part: &str, error: &TchError) -> TorchError {
    TorchError::Backward { part: part.into(), problem: first_line(error) }
}
