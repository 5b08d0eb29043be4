//! From a network and its weights to a file.

use crate::{
    error::ExportError,
    few_bits::{FewBits, Kept},
    lower::lower,
    nodes::{Initialiser, OnnxGraph, Port},
    write::{PRODUCER, write},
};
use mmlnb_models::{
    bundle::{self, Precision},
    graph::{Dim, Graph},
    weights::Weights,
};
use std::path::{Path, PathBuf};

/// A graph that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GraphInfo {
    /// The `.onnx` file.
    pub file: PathBuf,
    /// Its inputs, in order.
    pub inputs: Vec<Port>,
    /// Its outputs, in order.
    pub outputs: Vec<Port>,
    /// Elements of the checkpoint tensors used.
    pub parameters: u64,
}

/// How far an export is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// It begins to be decided how a graph's matrices come into few bits.
    Decide {
        /// Its name.
        name: &'a str,
        /// How often a matrix is looked at.
        matrices: u64,
    },
    /// So many more matrices were looked at.
    Decided(u64),
    /// A graph begins.
    Begin {
        /// Its name.
        name: &'a str,
        /// Bytes of its weights.
        bytes: u64,
    },
    /// So many more bytes of weights were written.
    Wrote(u64),
    /// All is decided, or the graph is whole; or it failed.
    End,
    /// Something that the user should know.
    Warning(&'a str),
}

/// Writes a network as `DIR/NAME.onnx` with its weights beside it; `out_dir` is made if need be. The same input gives the same bytes.
///
/// # Errors
/// Weights that the checkpoint lacks or f16 cannot hold, a file of this name by another program, a full disk.
pub fn export_graph(
    graph: &Graph,
    weights: &Weights<'_>,
    precision: Precision,
    out_dir: &Path,
    name: &str,
) -> Result<GraphInfo, ExportError> {
    export_lowered(&lower(graph, name, precision)?, weights, precision, out_dir, &[], &|_| ())
}

/// Writes a lowered graph. `progress` hears how many bytes of weights were just written.
///
/// # Errors
/// As [`export_graph`].
pub fn export_lowered(
    graph: &OnnxGraph,
    weights: &Weights<'_>,
    precision: Precision,
    out_dir: &Path,
    more_metadata: &[(&str, String)],
    progress: &dyn Fn(u64),
) -> Result<GraphInfo, ExportError> {
    export_decided(graph, (weights, &FewBits::default()), precision, out_dir, more_metadata, progress)
}

/// Writes a graph that was lowered with `few`.
///
/// # Errors
/// As [`export_graph`].
pub fn export_decided(
    graph: &OnnxGraph,
    (weights, few): (&Weights<'_>, &FewBits),
    precision: Precision,
    out_dir: &Path,
    more_metadata: &[(&str, String)],
    progress: &dyn Fn(u64),
) -> Result<GraphInfo, ExportError> {
    let mut metadata = vec![
        ("producer", PRODUCER.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_string()),
        ("network", graph.name.clone()),
        ("precision", precision.name().to_string()),
        ("parameters", graph.parameters.to_string()),
        ("source_sha256", weights.checkpoint().sha256()?.to_string()),
    ];
    if let Some(adapter) = weights.adapter() {
        metadata.push(("adapter_sha256", adapter.sha256()?.to_string()));
    }
    if !few.kept().is_empty() {
        metadata.push(("eight_bits", few.kept().iter().map(Kept::to_string).collect::<Vec<_>>().join("; ")));
    }
    metadata.extend(few.convolutions().told().map(|told| ("convolutions", told)));
    metadata.extend_from_slice(more_metadata);
    let file = write(graph, (weights, few), &metadata, out_dir, progress)?;
    Ok(GraphInfo { file, inputs: graph.inputs.clone(), outputs: graph.outputs.clone(), parameters: graph.parameters })
}

/// Bytes of weights and constants that writing a graph takes.
pub fn weight_bytes(graph: &OnnxGraph) -> u64 {
    graph.initialisers.iter().map(Initialiser::byte_len).sum()
}

impl GraphInfo {
    /// The graph as a manifest describes it, `file` being its path in the bundle.
    pub fn described(&self, file: &str) -> bundle::Graph {
        let ports = |ports: &[Port]| ports.iter().map(described_port).collect();
        bundle::Graph {
            file: file.to_string(),
            inputs: ports(&self.inputs),
            outputs: ports(&self.outputs),
            parameters: self.parameters,
        }
    }
}

fn described_port(port: &Port) -> bundle::Port {
    let shape = port.dims.iter().map(Dim::to_string).collect();
    bundle::Port { name: port.name.clone(), dtype: port.elem.name().to_string(), shape }
}
