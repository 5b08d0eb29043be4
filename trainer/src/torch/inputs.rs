//! Binding named tensors to a graph's inputs, with every check before the first operator runs.

use super::{TorchError, first_line, run::Slots};
use mmlnb_models::graph::{Graph, Kind, Type};
use std::{borrow::Borrow, collections::HashMap};
use tch::{Device, Kind as TorchKind, TchError, Tensor};

/// A graph's inputs by name.
#[derive(Debug)]
pub(super) struct Inputs {
    known: HashMap<String, usize>,
    all: Vec<Input>,
    device: Device,
}

#[derive(Debug)]
struct Input {
    name: String,
    slot: usize,
    expected: Type,
}

impl Inputs {
    pub fn new(graph: &Graph, slots: &Slots, device: Device) -> Inputs {
        let all: Vec<Input> = graph
            .inputs()
            .map(|(name, value, t)| Input { name: name.into(), slot: slots.of(value), expected: t.clone() })
            .collect();
        let known = all.iter().enumerate().map(|(i, input)| (input.name.clone(), i)).collect();
        Inputs { known, all, device }
    }

    /// Puts every input on the device and into its slot.
    pub fn bind<S: AsRef<str>, T: Borrow<Tensor>>(
        &self,
        given: &[(S, T)],
        values: &mut [Option<Tensor>],
    ) -> Result<(), TorchError> {
        let refused = |name: &str, problem: String| TorchError::Input { name: name.into(), problem };
        let mut sizes: HashMap<&str, i64> = HashMap::new();
        for (name, tensor) in given {
            let (name, tensor) = (name.as_ref(), tensor.borrow());
            let input = self.known.get(name).map(|i| &self.all[*i]);
            let input = input.ok_or_else(|| refused(name, "the network has no such input".into()))?;
            input.fits(tensor, &mut sizes).map_err(|problem| refused(name, problem))?;
            let there = input.on(tensor, self.device).map_err(|error| refused(name, first_line(&error)))?;
            if values[input.slot].replace(there).is_some() {
                return Err(refused(name, "it is given twice".into()));
            }
        }
        for input in &self.all {
            let Some(tensor) = &values[input.slot] else { return Err(refused(&input.name, "it is not given".into())) };
            input.agrees(&tensor.size(), &sizes).map_err(|problem| refused(&input.name, problem))?;
        }
        Ok(())
    }
}

impl Input {
    /// Kind, rank and known sizes; learns the sizes that have names.
    fn fits<'s>(&'s self, tensor: &Tensor, sizes: &mut HashMap<&'s str, i64>) -> Result<(), String> {
        let found = tensor.size();
        let kind_fits = match (self.expected.kind, tensor.kind()) {
            (Kind::Float, kind) => matches!(kind, TorchKind::Float | TorchKind::Half | TorchKind::BFloat16 | TorchKind::Double),
            (Kind::Int, kind) => matches!(kind, TorchKind::Int64 | TorchKind::Int),
            (Kind::Bool, kind) => kind == TorchKind::Bool,
        };
        if !kind_fits || found.len() != self.expected.dims.len() {
            return Err(format!("it is {:?} {found:?}, the network takes {}", tensor.kind(), self.expected));
        }
        for (dim, size) in self.expected.dims.iter().zip(&found) {
            if let Some(name) = dim.name() {
                let known = *sizes.entry(name).or_insert(*size);
                if known != *size {
                    return Err(format!("`{name}` is {size} here, but {known} in another input"));
                }
            }
        }
        Ok(())
    }

    /// Sizes that are numbers or follow from named ones.
    fn agrees(&self, found: &[i64], sizes: &HashMap<&str, i64>) -> Result<(), String> {
        for (dim, size) in self.expected.dims.iter().zip(found) {
            match dim.evaluate(&|name| sizes.get(name).copied()) {
                Some(expected) if expected != *size => {
                    return Err(format!("its sizes are {found:?}, expected {}", self.expected));
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// Single numbers stay on the host: operators read them to cut tensors.
    fn on(&self, tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
        let tensor = match self.expected.kind {
            Kind::Int => tensor.f_to_kind(TorchKind::Int64)?,
            Kind::Float | Kind::Bool => tensor.shallow_clone(),
        };
        if self.expected.dims.is_empty() { Ok(tensor) } else { tensor.f_to_device(device) }
    }
}
